"""Which detections of two runs count as the same."""

import pytest
import torch

from maskrcnn import DetectionBatch, Detections
from maskrcnn.export.agreement import agreement, agreement_in_photo
from maskrcnn.ops.rle import encode_masks


def found(*rows, slots=4):
    """One image's detections, given as (box, label, score); the other slots are empty."""
    batch = DetectionBatch(
        torch.zeros(1, slots, 4),
        torch.zeros(1, slots, dtype=torch.int64),
        torch.zeros(1, slots),
        torch.zeros(1, slots, 0, 0),
        torch.zeros(1, slots, dtype=torch.bool),
        torch.zeros(1, slots, 0, 0, 0),
    )
    for i, (box, label, score) in enumerate(rows):
        batch.boxes[0, i], batch.labels[0, i], batch.scores[0, i] = torch.tensor(box), label, score
        batch.valid[0, i] = True
    return batch


CAT = ([0.0, 0, 100, 100], 0, 0.9)


@pytest.mark.parametrize(
    ("other", "matched", "total", "holds"),
    [
        (CAT, 2, 2, True),
        (([0.0, 0, 100, 100], 1, 0.9), 0, 2, False),
        (([0.0, 0, 100, 98.0], 0, 0.9), 0, 2, False),
        (([0.0, 0, 100, 99.5], 0, 0.9), 2, 2, True),
        (([0.0, 0, 100, 100], 0, 0.9002), 2, 2, False),
    ],
    ids=["the same", "another class", "IoU 0.98", "IoU 0.995", "another score"],
)
def test_detections_are_compared_by_class_box_and_score(other, matched, total, holds):
    result = agreement(found(CAT), found(other), 0.05)
    assert (result.matched, result.detections, result.holds) == (matched, total, holds)


def test_order_does_not_matter():
    dog = ([50.0, 50, 80, 80], 1, 0.9)
    assert agreement(found(CAT, dog), found(dog, CAT), 0.05).holds


def test_what_one_run_has_alone_is_no_match():
    result = agreement(found(CAT), found(), 0.05)
    assert str(result) == "0 of 1 detections matched (0.0 %), scores within 0.0e+00"
    assert not result.holds


def test_what_lies_at_the_threshold_may_be_missing():
    edge = ([50.0, 50, 80, 80], 0, 0.05005)
    assert agreement(found(CAT, edge), found(CAT), 0.05).holds


def test_the_last_of_full_slots_may_be_another():
    one, other = ([50.0, 50, 80, 80], 0, 0.3), ([10.0, 50, 40, 80], 0, 0.3)
    assert agreement(found(CAT, one, slots=2), found(CAT, other, slots=2), 0.05).holds
    assert not agreement(found(CAT, one), found(CAT, other), 0.05).holds


def test_nothing_found_by_both_holds():
    assert agreement(found(), found(), 0.05).holds


def test_an_agreement_on_nothing_says_so():
    assert str(agreement(found(), found(), 0.05)) == "nothing to compare, since neither found anything"


def with_masks(value, field="mask_logits"):
    """What is found with a map of its own, whose upper half has this logit and whose lower half its opposite."""
    maps = torch.full((1, 4, 1, 6, 6) if field == "keypoint_logits" else (1, 4, 6, 6), float(value))
    maps[..., 3:, :] *= -1
    return found(CAT)._replace(**{field: maps})


@pytest.mark.parametrize("field", ["mask_logits", "keypoint_logits"])
def test_masks_and_heatmaps_of_twins_are_compared(field):
    same = agreement(with_masks(4, field), with_masks(4.01, field), 0.05)
    assert same.holds and 0 < same.mask_difference < 0.001
    turned = agreement(with_masks(4, field), with_masks(-4, field), 0.05)
    assert turned.matched == turned.detections == 2 and not turned.holds
    assert "masks within" in str(turned)


def in_photo(mask):
    """A photo's detection with a mask as run lengths."""
    return Detections(
        boxes=torch.tensor([CAT[0]]),
        labels=torch.tensor([0]),
        scores=torch.tensor([0.9]),
        masks=None,
        rles=tuple(encode_masks(mask[None])),
        image_size=(100, 100),
        class_names=("cat",),
    )


def test_pasted_masks_are_compared_by_the_pixels_that_only_one_has():
    mask, more = torch.zeros(2, 100, 100, dtype=torch.bool)
    mask[:50], more[:60] = True, True
    result = agreement_in_photo(in_photo(mask), in_photo(more), 0.05)
    assert (result.matched, result.detections) == (2, 2)
    assert result.mask_difference == pytest.approx(1 - 5 / 6)
    empty = torch.zeros_like(mask)
    assert agreement_in_photo(in_photo(empty), in_photo(empty), 0.05).mask_difference == 0.0
