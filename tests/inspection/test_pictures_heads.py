"""Pictures of anchors, of what the heads say, and of a run of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.drawing import color
from maskrcnn.errors import InputError
from maskrcnn.inspection import pictures
from maskrcnn.inspection.pictures import NothingToShowError, anchors, colors, heads
from maskrcnn.inspection.trace import Trace
from maskrcnn.structures import Target
from tiny import tiny_data, tiny_model

PLAIN = {"fpn": None, "anchors__sizes": ((8, 16, 24),)}
CENTERS = {"box_corners": "centers", "roi_align__method": "crop_and_resize"}


def photo_and_target() -> tuple[np.ndarray, Target]:
    return tiny_data()[0]


def traced(training: bool = False, **overrides: Any) -> Trace:
    photo, target = photo_and_target()
    return tiny_model(**overrides).trace(photo, targets=target if training else None)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return traced()


@pytest.fixture(scope="module")
def training() -> Trace:
    return traced(training=True)


def changed(trace: Trace, **tensors: torch.Tensor) -> Trace:
    return Trace({**trace, **tensors}, trace.run)


def colors_in(picture: Any) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))


# Anchors


def test_anchors_are_drawn_around_their_cell(trace: Trace) -> None:
    picture = np.asarray(pictures.anchors_at(trace, "p3", [(4, 4)])).astype(int)  # 16 pixels around (32, 32), times 8
    inside = (picture == np.array(colors.LEVEL_COLORS["p3"])).all(-1)
    rows, columns = np.nonzero(inside)
    tall = 16 * 2**0.5 * 8 / 2  # half the height of the tallest
    assert abs(rows.min() - (256 - tall)) < 4 and abs(columns.max() - (256 + tall)) < 4


def test_anchors_over_the_border_make_the_picture_larger(trace: Trace) -> None:
    assert pictures.anchors_at(trace, "p3", [(4, 4)]).size == (512, 512)
    width, height = pictures.anchors_at(trace, "p6", [(0, 0)]).size
    assert 512 < width <= 1024 and 512 < height <= 1024


def test_the_best_cell_is_shown_by_default(trace: Trace) -> None:
    logits = torch.full_like(trace["rpn_objectness"], -9.0)
    logits[0, 16 * 16 * 3 + (2 * 8 + 5) * 3 + 2] = 9.0
    best = changed(trace, rpn_objectness=logits)
    assert pictures.anchors_at(best, "p3").tobytes() == pictures.anchors_at(best, "p3", [(2, 5)]).tobytes()


def test_sizes_of_one_cell_have_colours_of_their_own() -> None:
    level = pictures.anchors.levels_of(traced(**PLAIN))[0]
    inks = anchors._inks(traced(**PLAIN), level)
    assert len(inks) == 9 and len(set(inks)) == 3


def test_the_sheet_has_panels_of_one_size_for_all_levels(trace: Trace) -> None:
    assert min(pictures.anchor_sheet(trace).size) > 900


def test_a_cell_that_is_not_there_is_refused(trace: Trace) -> None:
    with pytest.raises(InputError, match=r"p5 has no cell \(2, 0\); its rows are 0 to 1, its columns 0 to 1"):
        pictures.anchors_at(trace, "p5", [(2, 0)])


# Class and box head


def test_the_bar_of_a_class_is_as_long_as_its_probability(trace: Trace) -> None:
    logits = trace["class_logits"].clone()
    logits[3] = torch.tensor([0.0, 2.0, 0.0, 0.0])
    picture = np.asarray(pictures.class_scores(changed(trace, class_logits=logits), [3], classes=1, width=720))
    bar = (picture == np.array(color(1))).all(-1)[:, 300:].sum(1).max()
    assert abs(bar / 360 - float(logits[3].softmax(-1)[1])) < 0.01


def test_the_bar_of_background_is_grey(trace: Trace) -> None:
    logits = torch.zeros_like(trace["class_logits"])
    logits[:, -1] = 20.0
    inks = colors_in(pictures.class_scores(changed(trace, class_logits=logits), [0], classes=1))
    assert heads.BACKGROUND in inks and color(0) not in inks


def test_a_thousand_classes_are_no_trouble() -> None:
    trace = traced(class_names=[f"a rather long name of the class {k}" for k in range(1000)])
    assert pictures.class_scores(trace).width == 720
    assert pictures.mask_logits(traced(class_names=["only"], box__score_threshold=0.0)).size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rois": [30]}, "There is no RoI 30; there are 30, counted from 0"),
        ({"top": 0}, "top and classes must be at least 1; got 0 and 5"),
        ({"classes": 0}, "got 6 and 0"),
    ],
)
def test_rois_that_are_not_there_are_refused(trace: Trace, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pictures.class_scores(trace, **arguments)


@pytest.mark.parametrize("corners", ["edges", "centers"])
def test_the_refined_box_is_where_the_detection_is(corners: str) -> None:
    trace = traced(**(CENTERS if corners == "centers" else {}))
    assert trace.run.detections is not None
    x1, y1, x2, y2 = (8 * float(v) for v in trace.run.detections.boxes[0])
    picture = np.asarray(pictures.box_refinement(trace, top=1))
    ink = (picture == np.array(color(0))).all(-1)
    assert ink[round((y1 + y2) / 2), max(round(x1) - 2, 0) : round(x1) + 3].any()
    assert ink[round((y1 + y2) / 2), round(x2) - 3 : round(x2) + 3].any()


# Masks and keypoints


def test_the_masks_own_class_comes_first_and_is_framed(trace: Trace) -> None:
    one = np.asarray(pictures.mask_logits(trace, 0, classes=1))
    three = np.asarray(pictures.mask_logits(trace, 0, classes=3))
    assert three.shape[0] > one.shape[0]
    framed = [(part == np.array(colors.INK)).all(-1).sum(0).max() for part in (one, three)]
    assert min(framed) >= 224 and max(framed) < 2 * 224


def test_a_mask_for_all_classes_has_one_tile() -> None:
    trace = traced(mask__class_agnostic=True)
    assert pictures.mask_logits(trace, classes=3).size == pictures.mask_logits(trace, classes=1).size


@pytest.mark.parametrize("rule", ["continuous", "integer_box"])
@pytest.mark.parametrize("corners", ["edges", "inclusive", "centers"])
def test_what_is_laid_on_the_photo_is_cut_to_the_runs_mask(rule: str, corners: str, monkeypatch: Any) -> None:
    trace = traced(mask__paste=rule, box_corners=corners)
    laid: list[torch.Tensor] = []
    paste = heads.paste_probabilities

    def kept(*arguments: Any) -> torch.Tensor:
        laid.append(paste(*arguments))
        return laid[-1]

    monkeypatch.setattr(heads, "paste_probabilities", kept)
    pictures.pasted_mask(trace, 1)
    assert trace.run.detections is not None and trace.run.detections.masks is not None
    mask = trace.run.detections.masks[1]
    box = heads.found_box(trace, heads.found_slots(trace)[1])
    _, part, _ = pictures.photo_part(trace, box, 420)
    left, top, right, bottom = (int(v) for v in part)
    assert torch.equal(laid[0][0] >= 0.5, mask[top:bottom, left:right])


def test_the_final_picture_has_every_detection_in_the_colour_of_its_number(trace: Trace) -> None:
    inks = colors_in(pictures.final_overlay(trace, 0.0))
    assert {color(0), color(1), color(2)} <= inks


def test_nothing_over_the_threshold_leaves_the_photo_alone(trace: Trace) -> None:
    assert pictures.final_overlay(trace, 1.0).tobytes() == pictures.photo_view(trace)[0].tobytes()


def test_keypoints_have_their_heatmaps() -> None:
    trace = traced(masks=False, keypoint_names=("nose", "left eye"), keypoint__num_convs=1, keypoint__channels=8)
    assert pictures.keypoint_heatmaps(trace).size and pictures.final_overlay(trace, 0.0).size


@pytest.mark.parametrize("draw", [pictures.mask_logits, pictures.pasted_mask, pictures.keypoint_heatmaps])
def test_without_a_head_there_is_nothing_of_it(draw: Any) -> None:
    with pytest.raises(NothingToShowError, match="no (mask|keypoint) head"):
        draw(traced(masks=False))


@pytest.mark.parametrize("draw", [pictures.box_refinement, pictures.mask_logits, pictures.pasted_mask])
def test_nothing_found_is_told(draw: Any) -> None:
    with pytest.raises(NothingToShowError, match="Nothing was found"):
        draw(traced(box__score_threshold=0.99))


@pytest.mark.parametrize("draw", [pictures.box_refinement, pictures.mask_logits, pictures.final_overlay])
def test_a_run_of_training_finds_nothing(training: Trace, draw: Any) -> None:
    with pytest.raises(NothingToShowError, match="A run of training finds nothing"):
        draw(training)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda t: pictures.mask_logits(t, 10), "There is no detection 10; there are 10"),
        (lambda t: pictures.mask_logits(t, classes=0), "classes must be at least 1; got 0"),
        (lambda t: pictures.pasted_mask(t, -1), "There is no detection -1"),
        (lambda t: pictures.box_refinement(t, 0), "top must be at least 1; got 0"),
        (lambda t: pictures.final_overlay(t, 1.5), "threshold must be 0 to 1; got 1.5"),
    ],
)
def test_wrong_numbers_are_refused(trace: Trace, draw: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(trace)


# Training


def count_of(trace: Trace, kind: str) -> int:
    return int(trace[f"matched_{kind}"].sum())


def test_positive_anchors_are_boxes_in_their_colour(training: Trace) -> None:
    assert count_of(training, "positive") > 0
    assert colors.POSITIVE in colors_in(pictures.matched_anchors(training).crop((0, 0, 512, 512)))
    none = changed(training, matched_positive=torch.zeros_like(training["matched_positive"]))
    assert colors.POSITIVE not in colors_in(pictures.matched_anchors(none).crop((0, 0, 512, 512)))


def test_a_level_shows_its_own_anchors_alone(training: Trace) -> None:
    whole, of_level = (pictures.matched_anchors(training, level) for level in (None, "p2"))
    assert whole.tobytes() != of_level.tobytes()
    with pytest.raises(InputError, match="no level 'p9'"):
        pictures.matched_anchors(training, "p9")


@pytest.mark.parametrize("corners", ["edges", "centers"])
def test_the_ground_truth_is_where_it_is_in_the_photo(corners: str) -> None:
    trace = traced(training=True, **(CENTERS if corners == "centers" else {}))
    _, target = photo_and_target()
    boxes = pictures.training._truth_boxes(trace, pictures.training._truth(trace), 1.0)
    torch.testing.assert_close(torch.tensor(boxes), target.boxes, atol=1e-3, rtol=0)


def test_drawn_rois_are_positive_and_negative(training: Trace) -> None:
    inks = colors_in(pictures.sampled_rois(training).crop((0, 0, 512, 512)))
    assert colors.POSITIVE in inks


def test_mask_targets_are_shown_beside_the_photo(training: Trace) -> None:
    few, more = pictures.mask_targets(training, most=1), pictures.mask_targets(training, most=4)
    assert few.width > 400 and more.height * more.width > few.height * few.width


def test_an_image_without_objects_has_no_mask_targets_but_anchors() -> None:
    photo, _ = photo_and_target()
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 64, 64, dtype=torch.bool))
    trace = tiny_model().trace(photo, targets=empty)
    assert pictures.matched_anchors(trace).size and pictures.sampled_rois(trace).size
    with pytest.raises(NothingToShowError, match="No RoI is positive"):
        pictures.mask_targets(trace)


@pytest.mark.parametrize("draw", [pictures.matched_anchors, pictures.sampled_rois, pictures.mask_targets])
def test_what_belongs_to_training_needs_targets(trace: Trace, draw: Any) -> None:
    with pytest.raises(NothingToShowError, match="no run of training; model.trace"):
        draw(trace)


def test_no_mask_target_at_all_is_refused(training: Trace) -> None:
    with pytest.raises(InputError, match="most must be at least 1; got 0"):
        pictures.mask_targets(training, 0)
