"""The types at the network's doors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.config import ImageConfig
from maskrcnn.errors import InputError
from maskrcnn.ops.rle import encode_masks
from maskrcnn.structures import Detections, ImageBatch, Losses, Target, TargetBatch

# Detections


def detections(count: int = 4, masks: bool = True) -> Detections:
    """Detection k has k for x1, label k % 2 and score 0.9 − k / 10, and its mask is pixel k of row 0."""
    numbers = torch.arange(count)
    pixels = torch.zeros(count, 3, 8, dtype=torch.bool)
    pixels[numbers, 0, numbers] = True
    return Detections(
        boxes=torch.stack((numbers, numbers, numbers + 2, numbers + 3), dim=1).float(),
        labels=numbers % 2,
        scores=0.9 - numbers / 10,
        masks=pixels if masks else None,
        image_size=(3, 8),
        class_names=("cat", "dog"),
    )


def numbers(found: Detections) -> list[int]:
    """Which of `detections()` these are; all fields must agree on it."""
    x1 = found.boxes[:, 0].int().tolist()
    assert found.labels.tolist() == [k % 2 for k in x1]
    torch.testing.assert_close(found.scores, 0.9 - torch.tensor(x1) / 10)
    if found.masks is not None:
        assert found.masks[:, 0].nonzero()[:, 1].tolist() == x1
    assert found.image_size == (3, 8) and found.class_names == ("cat", "dog")
    return x1


@pytest.mark.parametrize("count", [0, 1, 4])
def test_length(count: int) -> None:
    assert len(detections(count)) == count


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
@pytest.mark.parametrize(
    ("index", "expected"),
    [
        pytest.param(0, [0], id="first"),
        pytest.param(3, [3], id="last"),
        pytest.param(-1, [3], id="from the end"),
        pytest.param(-4, [0], id="first from the end"),
        pytest.param(slice(1, 3), [1, 2], id="slice"),
        pytest.param(slice(None, None, 2), [0, 2], id="every second"),
        pytest.param(slice(2, 2), [], id="empty slice"),
        pytest.param([2, 0], [2, 0], id="list"),
        pytest.param([], [], id="empty list"),
        pytest.param(torch.tensor([3, 1]), [3, 1], id="index tensor"),
        pytest.param(torch.tensor([True, False, False, True]), [0, 3], id="boolean tensor"),
        pytest.param(torch.zeros(4, dtype=torch.bool), [], id="none of them"),
        pytest.param(np.array([1, 1]), [1, 1], id="index array"),
        pytest.param(np.array([False, True, False, False]), [1], id="boolean array"),
    ],
)
def test_indexing_gives_detections(index: Any, expected: list[int], masks: bool) -> None:
    picked = detections(masks=masks)[index]
    assert numbers(picked) == expected
    assert (picked.masks is not None) == masks


@pytest.mark.parametrize(
    "index",
    [torch.tensor(2), np.int64(2), np.array(2), detections().boxes[:, 0].argsort()[2]],
    ids=["tensor", "numpy", "array", "from a tensor"],
)
def test_a_number_of_any_kind_picks_one(index: Any) -> None:
    assert numbers(detections()[index]) == [2]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (slice(None, None, -1), [3, 2, 1, 0]),
        (np.array([3, 1])[::-1], [1, 3]),
        (np.array([]), []),
        (np.array([2, 0], np.uint8), [2, 0]),
        (torch.tensor([2, 0], dtype=torch.uint8), [2, 0]),
        (range(1, 3), [1, 2]),
        ([True, False, False, True], [0, 3]),
        ([-1], [3]),
    ],
    ids=["backwards", "strided", "nothing", "uint8", "uint8 tensor", "range", "mask", "from the end"],
)
def test_indices_of_many_kinds(index: Any, expected: list[int]) -> None:
    assert numbers(detections()[index]) == expected


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (4, "detection 4 of 4"),
        ([0, -5], "detection -5 of 4"),
        (np.array([0.5]), "picked by whole numbers; got torch.float64"),
        (torch.ones(3, dtype=torch.bool), r"a mask of \[3\] for 4 detections"),
        (True, r"a mask of \[\] for 4 detections"),
    ],
)
def test_indices_that_are_none(index: Any, said: str) -> None:
    with pytest.raises(IndexError, match=said):
        detections()[index]


def test_detections_compare_by_identity() -> None:
    found = detections()
    assert found == found and found != detections()


def test_labels_without_a_name_are_shown_by_number() -> None:
    found = replace(detections(2), class_names=())
    assert found.names == ["class 0", "class 1"]
    assert "class 0 0.90, class 1 0.80" in repr(found)


@pytest.mark.parametrize("index", [4, -5])
def test_index_out_of_range(index: int) -> None:
    with pytest.raises(IndexError, match=f"detection {index} of 4"):
        detections()[index]


def test_iteration_gives_one_at_a_time() -> None:
    assert [numbers(d) for d in detections()] == [[0], [1], [2], [3]]
    assert list(detections(0)) == []


@pytest.mark.parametrize(("score", "expected"), [(0.0, 4), (0.7, 3), (0.75, 2), (1.0, 0)])
def test_above_includes_the_score_itself(score: float, expected: int) -> None:
    found = detections()
    exact = float(found.scores[2]) if score == 0.7 else score
    assert len(found.above(exact)) == expected


def test_names_of_labels() -> None:
    assert detections().names == ["cat", "dog", "cat", "dog"]
    assert detections(0).names == []


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "Detections(0 in 8 × 3)"),
        (2, "Detections(2 in 8 × 3: cat 0.90, dog 0.80)"),
        (6, "Detections(6 in 8 × 3: cat 0.90, dog 0.80, cat 0.70, dog 0.60, cat 0.50, …)"),
    ],
)
def test_repr_names_the_best(count: int, text: str) -> None:
    assert repr(detections(count)) == text


def test_empty() -> None:
    found = Detections.empty((3, 8), ("cat", "dog"))
    assert numbers(found) == [] and found.masks.shape == (0, 3, 8)
    assert found.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        pytest.param("labels", torch.zeros(3, dtype=torch.int64), "shape [4] ", id="labels"),
        pytest.param("scores", torch.zeros(5), "shape [4] ", id="scores"),
        pytest.param("masks", torch.zeros(4, 8, 3, dtype=torch.bool), "shape [4, 3, 8] ", id="masks turned"),
        pytest.param("masks", torch.zeros(2, 3, 8, dtype=torch.bool), "shape [4, 3, 8] ", id="too few masks"),
    ],
)
def test_fields_must_agree(field: str, value: torch.Tensor, rule: str) -> None:
    found = detections()
    object.__setattr__(found, field, value)  # past the checks of shapes that the tests run with
    with pytest.raises(InputError) as error:
        found.__post_init__()
    message = f"Detections.{field} must have {rule}for 4 boxes in an image of 3 × 8 pixels; got "
    assert str(error.value) == f"{message}{list(value.shape)}."


def encoded(found: Detections) -> Detections:
    """The same detections with their masks as run lengths."""
    return replace(found, masks=None, rles=tuple(encode_masks(found.masks)))


@pytest.mark.parametrize("index", [2, slice(1, 3), [3, 0], torch.tensor([False, True, False, True]), []])
def test_run_lengths_are_picked_with_the_rest(index: Any) -> None:
    found = encoded(detections())[index]
    assert found.masks is None and len(found.rles) == len(found)
    assert numbers(found.with_masks()) == numbers(detections()[index])


def test_masks_are_drawn_from_run_lengths() -> None:
    drawn = encoded(detections()).with_masks()
    assert drawn.rles is None
    torch.testing.assert_close(drawn.masks, detections().masks)
    plain = detections()
    assert plain.with_masks() is plain


@pytest.mark.parametrize(
    ("size", "count", "got"),
    [((3, 8), 3, "3 of size [3, 8]"), ((8, 3), 4, "4 of size [8, 3]"), ((3, 8), 0, "0")],
)
def test_run_lengths_must_be_one_for_each_box_and_of_the_image(size: tuple[int, int], count: int, got: str) -> None:
    rles = tuple({"size": [*size], "counts": "h0"} for _ in range(count))
    with pytest.raises(InputError) as error:
        replace(detections(masks=False), rles=rles)
    assert str(error.value) == f"Detections.rles must be 4 of size [3, 8], one for each box; got {got}."


# ImageBatch


def test_tensor_becomes_a_batch_without_padding() -> None:
    tensor = torch.randn(2, 3, 64, 96)
    batch = ImageBatch.of(tensor, ImageConfig())
    assert batch.tensor is tensor
    assert batch.sizes.tolist() == batch.original_sizes.tolist() == [[64, 96], [64, 96]]


def test_batch_stays_as_it_is() -> None:
    sizes = torch.tensor([[60, 90]])
    batch = ImageBatch(torch.randn(1, 3, 64, 96), sizes, sizes * 2)
    assert ImageBatch.of(batch, ImageConfig()) is batch


@pytest.mark.parametrize(
    ("images", "message"),
    [
        pytest.param(
            torch.zeros(3, 64, 64),
            "images must be a prepared tensor [N, 3, H, W] or an ImageBatch; got [3, 64, 64]. For photos, use "
            "model.predict(photos), or images.prepare(photos, model.config.image).",
            id="one image",
        ),
        pytest.param(
            torch.zeros(1, 64, 64, 3),
            "images must be a prepared tensor [N, 3, H, W] or an ImageBatch; got [1, 64, 64, 3].",
            id="channels last",
        ),
        pytest.param(
            torch.zeros(1, 1, 64, 64),
            "images must be a prepared tensor [N, 3, H, W] or an ImageBatch; got [1, 1, 64, 64].",
            id="grey",
        ),
        pytest.param(
            torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
            "images must be normalised floating point; got torch.uint8. images.prepare does that for photos.",
            id="uint8",
        ),
        pytest.param(
            torch.zeros(1, 3, 64, 70),
            "images must have sides that are multiples of 32 (image.size_divisor); got 64 × 70. "
            "images.prepare pads them.",
            id="not padded",
        ),
    ],
)
def test_tensors_that_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError) as error:
        ImageBatch.of(images, ImageConfig())
    assert str(error.value).startswith(message)


def test_batch_of_another_size_is_refused() -> None:
    sizes = torch.tensor([[64, 70]])
    with pytest.raises(InputError, match="multiples of 32"):
        ImageBatch.of(ImageBatch(torch.zeros(1, 3, 64, 70), sizes, sizes), ImageConfig())


def test_batches_move_to_a_device_whole() -> None:
    sizes = torch.tensor([[64, 64]])
    batch = ImageBatch(torch.zeros(1, 3, 64, 64), sizes, sizes, torch.zeros_like(sizes)).to("meta")
    assert all(t.device.type == "meta" for t in batch)
    assert ImageBatch(torch.zeros(1, 3, 64, 64), sizes, sizes).to("meta").offsets is None
    valid = torch.ones(1, 2).bool()
    targets = TargetBatch(torch.zeros(1, 2, 4), torch.zeros(1, 2).long(), torch.zeros(1, 2, 0, 0).bool(), valid)
    assert all(t.device.type == "meta" for t in targets.to("meta") if t is not None)
    assert targets._replace(keypoints=torch.zeros(1, 2, 3, 3)).to("meta").keypoints.device.type == "meta"


# Targets and losses


def target(**fields: Any) -> Target:
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 4], [2, 2, 6, 6]])
    return Target(boxes, torch.tensor([0, 1, 2]), **fields)


def test_without_crowds_drops_them_from_every_field() -> None:
    full = target(
        masks=torch.eye(3).bool()[:, None].expand(3, 2, 3),
        crowd=torch.tensor([False, True, False]),
        area=torch.tensor([4.0, 9, 16]),
    )
    rest = full.without_crowds()
    assert len(full) == 3 and len(rest) == 2
    assert rest.labels.tolist() == [0, 2] and rest.area.tolist() == [4, 16]
    torch.testing.assert_close(rest.boxes, full.boxes[[0, 2]])
    torch.testing.assert_close(rest.masks, full.masks[[0, 2]])
    assert rest.crowd.tolist() == [False, False]


def test_without_crowds_where_none_are_marked() -> None:
    plain = target()
    assert plain.without_crowds() is plain
    assert plain.masks is None and plain.area is None


def test_all_of_a_target_may_be_crowd() -> None:
    assert len(target(crowd=torch.ones(3).bool()).without_crowds()) == 0


def test_select_by_index() -> None:
    assert target().select(torch.tensor([2, 0])).labels.tolist() == [2, 0]


def test_total_is_the_plain_sum_of_the_losses() -> None:
    losses = Losses(*(torch.tensor(2.0**k) for k in range(6)))
    torch.testing.assert_close(losses.total, torch.tensor(63.0))
    assert {name: value.item() for name, value in losses.named().items()} == {
        "rpn_objectness": 1,
        "rpn_box": 2,
        "class": 4,
        "box": 8,
        "mask": 16,
        "keypoint": 32,
    }


def test_a_batch_whose_sizes_do_not_fit_is_refused() -> None:
    sizes = torch.tensor([[64, 64]])
    with pytest.raises(
        InputError, match=r"images.sizes must be \[2, 2\], \(height, width\) of each image; got \[1, 2\]"
    ):
        ImageBatch.of(ImageBatch(torch.zeros(2, 3, 64, 64), sizes, sizes), ImageConfig())
