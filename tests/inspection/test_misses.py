"""Every way in which an object can be lost, made on purpose; the sentences and numbers that tell of it."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
import pytest
import torch
from rich.console import Console
from torch import Tensor

from inspection.oracle import PHOTO, oracle, truth
from maskrcnn.errors import DatasetError, ImageFileError, InputError
from maskrcnn.inspection.misses import (
    STAGES,
    Limits,
    MissReport,
    ObjectOutcome,
    explain,
    explain_dataset,
    match_detections,
    miss_picture,
    outcomes_table,
)
from maskrcnn.model import MaskRCNN
from maskrcnn.ops import boxes as box_ops
from maskrcnn.structures import Detections, Target
from tiny import SIDE, tiny_data, tiny_model

ONE = truth([(10, 10, 30, 30)])
APART = truth([(4, 4, 20, 20), (36, 36, 60, 60)])
CLOSE = truth([(10, 10, 30, 30), (18, 10, 38, 30)])  # IoU 12 · 20 / (28 · 20) = 0.43


def only(outcomes: list[ObjectOutcome]) -> ObjectOutcome:
    [outcome] = outcomes
    return outcome


def background(logits: Tensor, boxes: Tensor) -> Tensor:
    """Say background with 0.9, and share the rest."""
    return torch.tensor([0.1 / 3] * 3 + [0.9]).log().expand(len(logits), -1).clone()


def sharing(*probabilities: float) -> Any:
    """Say these probabilities of every proposal that is on an object."""
    return lambda logits, boxes: torch.where(logits[:, -1:] > 0, logits, torch.tensor(probabilities).log())


def test_an_object_that_is_found() -> None:
    outcome = only(explain(oracle(ONE), PHOTO, ONE))
    assert (outcome.stage, outcome.found, outcome.detection, outcome.advice) == ("found", True, 0, "")
    assert outcome.numbers["box_iou"] == pytest.approx(1, abs=1e-4)
    assert outcome.numbers["mask_iou"] > 0.9
    assert outcome.sentence.startswith("Detection 0 (0.980) finds it, with IoU 1.00 of the boxes and")


def test_no_anchor_overlaps_it() -> None:
    far = ((40,), (44,), (48,), (52,), (56,))
    small = truth([(10, 10, 18, 18)])
    model = oracle(small, rpn_deltas=lambda deltas, boxes: 0 * deltas, anchors__sizes=far, anchors__ratios=(1.0,))
    outcome = only(explain(model, PHOTO, small))
    assert outcome.stage == "no_anchor"
    # The object lies in anchors of 40 × 40; clipping at the photo's border leaves less of them.
    assert outcome.numbers["anchor_iou"] == pytest.approx(64 / 1600, abs=1e-5)
    assert outcome.numbers["anchor_level"] == "p2"
    assert outcome.numbers["refined_iou"] > outcome.numbers["anchor_iou"]
    assert "the object is 8 × 8 pixels" in outcome.sentence
    assert outcome.advice.startswith("anchors.sizes start at 40 px in the input, and the object is 8 px: use smaller")


def test_advice_on_anchors_of_another_shape_and_size() -> None:
    wide = truth([(2, 20, 62, 26)])
    model = oracle(wide, rpn_deltas=lambda deltas, boxes: 0 * deltas)
    outcome = only(explain(model, PHOTO, wide))
    assert outcome.stage == "no_anchor"
    assert "anchors.ratios are 0.5 to 2, and it is 10.0 times as wide as high" in outcome.advice
    large = truth([(0, 0, 64, 64)])
    sizes = ((4,), (5,), (6,), (7,), (8,))
    model = oracle(large, rpn_deltas=lambda deltas, boxes: 0 * deltas, anchors__sizes=sizes)
    assert (
        "anchors.sizes end at 8 px in the input, and the object is 64 px" in only(explain(model, PHOTO, large)).advice
    )


def test_the_rpn_moves_its_boxes_off() -> None:
    def off(deltas: Tensor, boxes: Tensor) -> Tensor:
        return deltas + torch.tensor([0.0, 0.0, -3.0, -3.0])

    target = truth([(8, 8, 24, 24)])  # an anchor of p3
    outcome = only(explain(oracle(target, rpn_deltas=off), PHOTO, target))
    assert outcome.stage == "rpn_box"
    assert outcome.numbers["anchor_iou"] == pytest.approx(1)
    assert outcome.numbers["refined_iou"] < 0.5


def test_the_rpn_scores_it_too_low() -> None:
    model = oracle(ONE, objectness=lambda logits, boxes: -logits, rpn__pre_nms_top_n=5)
    outcome = only(explain(model, PHOTO, ONE))
    assert outcome.stage == "rpn_score"
    numbers = outcome.numbers
    assert numbers["rank"] > 5 and numbers["pre_nms_top_n"] == 5
    trace = model.trace(PHOTO)
    logit = trace["rpn_objectness"][0, numbers["anchor"]]
    assert numbers["objectness"] == pytest.approx(float(logit.sigmoid()))
    assert (
        f"rank {numbers['rank']:,} of {numbers['anchors']:,} on {numbers['level']}, where the first 5"
        in outcome.sentence
    )
    assert "rpn.pre_nms_top_n over 5" in outcome.advice


def test_a_rank_among_equal_scores_is_beyond_the_limit() -> None:
    model = oracle(ONE, objectness=lambda logits, boxes: 0 * logits, rpn__pre_nms_top_n=1)
    outcome = only(explain(model, PHOTO, ONE))
    assert outcome.stage == "rpn_score"
    assert outcome.numbers["rank"] == outcome.numbers["anchors"]


def test_without_levels_the_rank_is_among_all_anchors() -> None:
    model = oracle(ONE, objectness=lambda logits, boxes: -logits, rpn__pre_nms_top_n=5, rpn__per_level=False)
    outcome = only(explain(model, PHOTO, ONE))
    assert outcome.stage == "rpn_score"
    assert outcome.numbers["anchors"] == len(model.trace(PHOTO)["anchors"])
    assert "on all levels" in outcome.sentence


def test_its_proposals_are_too_small() -> None:
    outcome = only(explain(oracle(ONE, rpn__min_size=21.0), PHOTO, ONE))
    assert outcome.stage == "rpn_too_small"
    assert outcome.numbers == {"side": pytest.approx(20, abs=1e-3), "min_size": 21}
    assert outcome.advice == "Lower rpn.min_size."


def test_the_rpns_nms_removes_it() -> None:
    def first_better(logits: Tensor, boxes: Tensor) -> Tensor:
        return torch.where(boxes[:, 0] + boxes[:, 2] < 48, logits, logits - 2)

    model = oracle(CLOSE, objectness=first_better, rpn__nms_threshold=0.4, rpn__per_level=False)
    first, second = explain(model, PHOTO, CLOSE)
    assert (first.stage, second.stage) == ("found", "rpn_nms")
    assert second.numbers["iou_with_remover"] == pytest.approx(3 / 7, abs=1e-3)
    assert second.numbers["remover_iou"] == pytest.approx(3 / 7, abs=1e-3)
    assert second.numbers["removed_by"] == pytest.approx([10, 10, 30, 30], abs=1e-2)
    assert second.numbers["removed_by_objectness"] >= second.numbers["objectness"]
    assert second.sentence.endswith("but the object by 0.43 only. It lies on object 0 (circle).")
    assert "raise rpn.nms_threshold over 0.4" in second.advice


def test_too_many_proposals_are_better() -> None:
    def first_better(logits: Tensor, boxes: Tensor) -> Tensor:
        return torch.where(boxes[:, 0] < 24, logits, logits - 10)

    outcomes = explain(oracle(APART, objectness=first_better, rpn__post_nms_top_n=1), PHOTO, APART)
    assert [outcome.stage for outcome in outcomes] == ["found", "rpn_cut"]
    numbers = outcomes[1].numbers
    assert numbers["rank"] >= 2 and numbers["post_nms_top_n"] == 1
    assert numbers["lowest_proposal"] > numbers["objectness"]
    assert outcomes[1].advice == "Raise rpn.post_nms_top_n over 1."


def test_it_is_taken_for_background() -> None:
    outcome = only(explain(oracle(ONE, class_logits=background), PHOTO, ONE))
    assert outcome.stage == "background"
    assert outcome.numbers["taken_for_probability"] == pytest.approx(0.9)
    assert outcome.numbers["probability"] == pytest.approx(0.1 / 3)
    assert outcome.numbers["proposal_iou"] == pytest.approx(1, abs=1e-3)
    assert "takes what is there for background (0.900); circle gets 0.033" in outcome.sentence
    assert "threshold" not in outcome.advice  # 0.033 is under box.score_threshold


def test_a_lower_threshold_is_named_where_one_would_do() -> None:
    outcome = only(explain(oracle(ONE, class_logits=sharing(0.3, 0.05, 0.05, 0.6)), PHOTO, ONE))
    assert outcome.stage == "background"
    assert "A score threshold of 0.3 would show it." in outcome.advice.replace("0.29", "0.3")


def test_it_is_taken_for_something_else() -> None:
    outcome = only(explain(oracle(ONE, class_logits=sharing(0.2, 0.7, 0.05, 0.05)), PHOTO, ONE))
    assert outcome.stage == "other_class"
    assert outcome.numbers["taken_for"] == "square"
    assert "for square (0.700); circle gets 0.200" in outcome.sentence
    assert "(seen as: square)" in outcome.advice


def test_its_score_is_under_the_threshold() -> None:
    outcome = only(explain(oracle(ONE, class_logits=sharing(0.4, 0.2, 0.2, 0.2)), PHOTO, ONE))
    assert outcome.stage == "score"
    assert outcome.numbers["score"] == pytest.approx(0.4)
    assert outcome.sentence.startswith("It is seen as circle, but with 0.400, under the threshold of 0.5.")
    assert "Lower box.score_threshold" not in outcome.advice


def test_its_score_is_under_the_networks_own_threshold() -> None:
    model = oracle(ONE, class_logits=sharing(0.4, 0.2, 0.2, 0.2), box__score_threshold=0.45)
    outcome = only(explain(model, PHOTO, ONE, score_threshold=0.1))
    assert outcome.stage == "score"
    assert "under the threshold of 0.45" in outcome.sentence
    assert "Lower box.score_threshold (now 0.45)" in outcome.advice


def test_the_threshold_that_is_asked_for_decides() -> None:
    model = oracle(ONE, class_logits=sharing(0.4, 0.2, 0.2, 0.2))
    assert only(explain(model, PHOTO, ONE, score_threshold=0.39)).stage == "found"


def test_the_likeliest_class_alone_may_count() -> None:
    model = oracle(ONE, class_logits=sharing(0.4, 0.5, 0.05, 0.05), box__classes_per_roi="best")
    assert only(explain(model, PHOTO, ONE, score_threshold=0.3)).stage == "other_class"


def test_the_head_moves_its_box_off() -> None:
    def off(deltas: Tensor, boxes: Tensor) -> Tensor:
        return deltas + torch.tensor([5.0, 0.0, 0.0, 0.0])  # half a width, at a delta weight of 10

    outcome = only(explain(oracle(ONE, box_deltas=off), PHOTO, ONE))
    assert outcome.stage == "box"
    assert outcome.numbers["score"] > 0.9
    assert outcome.numbers["proposal_iou"] == pytest.approx(1, abs=0.5)
    assert outcome.numbers["box_iou"] < 0.5
    assert f"the refined box {outcome.numbers['box_iou']:.2f}; 0.5 is needed" in outcome.sentence


@pytest.mark.parametrize(
    ("probabilities", "stage"),
    [((0.4, 0.2, 0.2, 0.2), "score"), ((0.3, 0.0, 0.0, 0.7), "no_anchor")],
    ids=["the head sees it", "background to the head, as trained"],
)
def test_a_proposal_that_is_farther_off_counts_if_the_head_sees_the_object(
    probabilities: tuple[float, ...], stage: str
) -> None:
    """Anchors of 40 × 40 reach the object by IoU 0.25 at most, and only the head moves their boxes onto it."""
    one = ((40,),) * 5

    def shared(logits: Tensor, boxes: Tensor) -> Tensor:
        near = (boxes - torch.tensor([2.0, 2, 42, 42])).abs().amax(1) < 10
        spread = torch.tensor(probabilities).clamp(min=1e-6).log()
        return torch.where(near[:, None], spread, torch.tensor([-9.0, -9, -9, 9]))

    def onto_it(deltas: Tensor, boxes: Tensor) -> Tensor:
        moved = box_ops.encode(boxes, ONE.boxes.expand(len(boxes), -1), (10.0, 10.0, 5.0, 5.0))
        return moved[:, None].expand_as(deltas).clone()

    model = oracle(
        ONE,
        rpn_deltas=lambda deltas, boxes: 0 * deltas,
        class_logits=shared,
        box_deltas=onto_it,
        anchors__sizes=one,
        anchors__ratios=(1.0,),
    )
    assert only(explain(model, PHOTO, ONE)).stage == stage


def test_its_box_is_too_small() -> None:
    outcome = only(explain(oracle(ONE, box__min_size=25.0), PHOTO, ONE))
    assert outcome.stage == "too_small"
    assert outcome.numbers == {"side": pytest.approx(20, abs=1e-3), "min_size": 25}


def test_nms_within_the_class_removes_it() -> None:
    def first_better(logits: Tensor, boxes: Tensor) -> Tensor:
        return torch.where(boxes[:, :1] + boxes[:, 2:3] < 48, logits, 0.8 * logits)

    model = oracle(CLOSE, class_logits=first_better, box__nms_threshold=0.4)
    first, second = explain(model, PHOTO, CLOSE)
    assert (first.stage, second.stage) == ("found", "class_nms")
    numbers = second.numbers
    assert numbers["removed_by"] == pytest.approx([10, 10, 30, 30], abs=1e-2)
    assert numbers["remover_object"] == 0 and numbers["nms_threshold"] == 0.4
    assert numbers["remover_iou"] == pytest.approx(3 / 7, abs=1e-3)
    assert numbers["box_iou"] == pytest.approx(1, abs=1e-3)
    assert numbers["removed_by_score"] > numbers["score"] > 0.5
    assert second.sentence.startswith("NMS among circle removed its box")
    assert second.sentence.endswith("only. It lies on object 0 (circle).")
    assert "raise box.nms_threshold over 0.4" in second.advice


def test_a_worse_box_on_the_same_object_removes_it() -> None:
    def two_boxes(deltas: Tensor, boxes: Tensor) -> Tensor:
        off = ~(boxes - ONE.boxes).abs().amax(1).le(1e-2)
        return deltas + off[:, None, None] * torch.tensor([4.0, 0.0, 0.0, 0.0])  # at a weight of 10: IoU 0.43

    def worse_is_surer(logits: Tensor, boxes: Tensor) -> Tensor:
        exact = (boxes - ONE.boxes).abs().amax(1).le(1e-2)
        return torch.where(exact[:, None] & (logits[:, -1:] == 0), 0.8 * logits, logits)

    def half_exact(deltas: Tensor, boxes: Tensor) -> Tensor:
        return torch.where(boxes[:, :1] + boxes[:, 2:3] < 34, 0.6 * deltas, deltas)

    model = oracle(
        ONE, rpn_deltas=half_exact, class_logits=worse_is_surer, box_deltas=two_boxes, box__nms_threshold=0.4
    )
    outcome = only(explain(model, PHOTO, ONE))
    assert outcome.stage == "class_nms"
    assert outcome.numbers["remover_object"] is None and outcome.numbers["remover_iou"] < 0.5
    assert outcome.sentence.endswith("It lies on the same object.")
    assert outcome.advice.startswith("Train longer, so that what fits better also scores higher")


def test_another_class_does_not_remove_it() -> None:
    both = truth([(10, 10, 30, 30), (18, 10, 38, 30)], [0, 1])
    assert [o.stage for o in explain(oracle(both, box__nms_threshold=0.4), PHOTO, both)] == ["found", "found"]


def test_too_many_detections_are_better() -> None:
    def first_better(logits: Tensor, boxes: Tensor) -> Tensor:
        return torch.where(boxes[:, :1] < 24, logits, 0.8 * logits)

    outcomes = explain(oracle(APART, class_logits=first_better, box__detections_per_image=1), PHOTO, APART)
    assert [outcome.stage for outcome in outcomes] == ["found", "cut"]
    assert outcomes[1].numbers["rank"] == outcomes[1].numbers["kept"] == 2
    assert outcomes[1].advice == "Raise box.detections_per_image over 1."


def test_one_detection_covers_two_objects() -> None:
    both = truth([(10, 10, 30, 30), (13, 10, 33, 30)])  # IoU 17 · 20 / (23 · 20) = 0.74

    def onto_the_first(deltas: Tensor, boxes: Tensor) -> Tensor:
        moved = box_ops.encode(boxes, both.boxes[:1].expand(len(boxes), -1), (10.0, 10.0, 5.0, 5.0))
        return moved[:, None].expand_as(deltas).clone()

    first, second = explain(oracle(both, box_deltas=onto_the_first), PHOTO, both)
    assert (first.stage, second.stage) == ("found", "taken")
    assert second.numbers["detection"] == first.detection == 0
    assert second.numbers["box_iou"] == pytest.approx(17 / 23, abs=1e-3)
    assert second.numbers["other_iou"] == pytest.approx(1, abs=1e-3)
    assert "counts for object 0 (circle)" in second.sentence
    assert second.numbers["own_iou"] is None
    assert second.advice.endswith("the network has no box for each of them.")


def test_a_box_of_its_own_that_nms_removed_is_told_of() -> None:
    both = truth([(10, 10, 30, 30), (13, 10, 33, 30)])

    def first_better(logits: Tensor, boxes: Tensor) -> Tensor:
        return torch.where(boxes[:, :1] + boxes[:, 2:3] < 43, logits, 0.8 * logits)

    _, second = explain(oracle(both, class_logits=first_better, rpn__nms_threshold=1.0), PHOTO, both)
    assert second.stage == "taken"
    assert second.numbers["own_iou"] == pytest.approx(1, abs=1e-3)
    assert second.sentence.endswith("NMS removed a box of its own, of IoU 1.00.")
    assert "raise box.nms_threshold over 0.5" in second.advice


def test_its_mask_misses() -> None:
    def left_third(logits: Tensor, boxes: Tensor) -> Tensor:
        logits = torch.full_like(logits, -9.0)
        logits[..., : logits.shape[-1] // 4] = 9.0
        return logits

    outcome = only(explain(oracle(ONE, mask_logits=left_third), PHOTO, ONE))
    assert (outcome.stage, outcome.found, outcome.detection) == ("mask", False, 0)
    assert outcome.numbers["mask_iou"] == pytest.approx(0.25, abs=0.01)
    assert (outcome.numbers["mask_area"], outcome.numbers["true_area"]) == (100, 400)
    assert "but the masks have 0.25: 100 pixels, where the object has 400" in outcome.sentence
    assert only(explain(oracle(ONE, mask_logits=left_third), PHOTO, ONE, mask_iou=0.2)).found


def test_boxes_alone_are_compared_without_masks() -> None:
    bare = Target(boxes=ONE.boxes, labels=ONE.labels)
    blank = oracle(ONE, mask_logits=lambda logits, boxes: logits - 99)
    outcome = only(explain(blank, PHOTO, bare))
    assert outcome.found and "mask_iou" not in outcome.numbers


def test_a_higher_iou_is_asked_of_boxes_but_not_of_proposals() -> None:
    def off(deltas: Tensor, boxes: Tensor) -> Tensor:
        return deltas + torch.tensor([1.5, 0.0, 0.0, 0.0])  # 0.15 widths: IoU 0.85 / 1.15 = 0.74

    model = oracle(ONE, box_deltas=off)
    assert only(explain(model, PHOTO, ONE)).found
    assert only(explain(model, PHOTO, ONE, iou=0.9)).stage == "box"


MANY = {"rpn__pre_nms_top_n": 1000, "rpn__post_nms_top_n": 1000}


@pytest.mark.parametrize(
    "overrides",
    [
        {"box_corners": "centers"},
        {"box_corners": "inclusive"},
        {"image__padding": "square", "image__padding_place": "center", "image__max_size": 128},
    ],
    ids=["centers", "inclusive", "centred padding"],
)
def test_frames_of_other_implementations(overrides: dict[str, Any]) -> None:
    """A network that knows nothing: of the true box itself the anchor's overlap is 1, whatever the frame."""
    model = tiny_model(
        anchors__sizes=((16,), (16,), (16,), (16,), (16,)), anchors__ratios=(1.0,), **MANY, **overrides
    ).eval()
    trace = model.trace(PHOTO)
    anchor = next(box for box in trace.run.to_photo(trace["anchors"]).tolist() if min(box) >= 8 and max(box) <= 56)
    outcome = only(explain(model, PHOTO, truth([anchor]), score_threshold=0.99))
    model.rpn.deltas.weight.data.zero_()
    model.rpn.deltas.bias.data.fill_(3.0)
    lost = only(explain(model, PHOTO, truth([anchor])))
    assert outcome.stage in ("background", "other_class", "score")
    assert lost.stage == "rpn_box" and lost.numbers["anchor_iou"] == pytest.approx(1, abs=1e-4)


def test_objects_in_a_photo_of_another_size_than_the_input() -> None:
    model = tiny_model().eval()
    photo = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    target = Target(boxes=torch.tensor([[20.0, 20, 26, 28]]), labels=torch.tensor([0]))
    model.rpn.deltas.weight.data.zero_()
    model.rpn.deltas.bias.data.fill_(-3.0)
    outcome = only(explain(model, photo, target))
    assert outcome.stage == "no_anchor"
    assert (outcome.numbers["width"], outcome.numbers["height"]) == (3, 4)
    assert outcome.area == 48


def test_weights_of_nan_lose_everything_and_say_where() -> None:
    model = tiny_model().eval()
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    outcome = only(explain(model, PHOTO, truth([(8, 8, 16, 16)])))
    assert outcome.stage == "rpn_box" and outcome.numbers["refined_iou"] == 0


@pytest.mark.parametrize(
    "overrides",
    [{"masks": False}, {"box__class_agnostic": True, "mask__class_agnostic": True}, {"box__round_boxes": True}],
    ids=["no masks", "class-agnostic", "rounded boxes"],
)
def test_other_networks(overrides: dict[str, Any]) -> None:
    model = tiny_model(box__score_threshold=0.0, **overrides).eval()
    photo, target = tiny_data()[0]
    for outcome in explain(model, photo, target, score_threshold=0.0, iou=0.1):
        assert outcome.stage in STAGES and outcome.sentence


def test_crowds_are_left_aside_and_keep_their_numbers() -> None:
    target = truth([(10, 10, 30, 30), (36, 36, 60, 60)])
    target.crowd = torch.tensor([True, False])
    outcome = only(explain(oracle(APART), PHOTO, target))
    assert outcome.index == 1 and outcome.box == (36, 36, 60, 60)


def test_no_objects_no_outcomes() -> None:
    assert explain(tiny_model().eval(), PHOTO, truth([])) == []


def test_sizes_are_cocos() -> None:
    def sized(area: float) -> ObjectOutcome:
        return ObjectOutcome(0, 0, "cat", (0.0, 0.0, 1.0, 1.0), float(area), "found", "", "", 0, {})

    assert [sized(a).size for a in (1023, 1024, 9215, 9216)] == ["small", "medium", "medium", "large"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"score_threshold": 1.5}, "score_threshold must be 0 and at most 1; got 1.5."),
        ({"iou": 0.0}, "iou must be over 0 and at most 1; got 0.0."),
        ({"mask_iou": -1.0}, "mask_iou must be 0 and at most 1; got -1.0."),
    ],
    ids=["score", "iou", "mask iou"],
)
def test_limits_out_of_range(limits: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        explain(tiny_model().eval(), PHOTO, ONE, **limits)


def test_labels_that_the_network_does_not_know_are_refused() -> None:
    with pytest.raises(InputError, match=r"target.labels\[0\] must be 0 to 2 for 3 classes; got 7"):
        explain(tiny_model().eval(), PHOTO, truth([(1, 1, 9, 9)], [7]))


def test_detections_are_given_out_as_coco_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        corner = torch.from_numpy(rng.integers(0, 20, (12, 2))).float()
        boxes = torch.cat((corner, corner + torch.from_numpy(rng.integers(8, 20, (12, 2))).float()), 1)
        labels = torch.from_numpy(rng.integers(0, 2, 12))
        target = Target(boxes=boxes[:5], labels=labels[:5])
        scores = torch.from_numpy(np.sort(rng.random(7))[::-1].copy()).float()
        found = Detections(boxes[5:], labels[5:], scores, None, (64, 64), ("cat", "dog"))
        ours = match_detections(found, target, Limits(0.3, 0.5, 0.5))
        assert sum(d is not None for d in ours) == _found_by_coco(found.above(0.3), target)


def _found_by_coco(found: Detections, target: Target) -> int:
    """How many objects pycocotools finds at IoU 0.5."""

    def entries(boxes: Tensor, labels: Tensor) -> list[dict[str, Any]]:
        return [
            {"id": i + 1, "image_id": 1, "category_id": int(k) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
             "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            for i, ((x1, y1, x2, y2), k) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True))
        ]  # fmt: skip

    scored = [{**e, "score": s} for e, s in zip(entries(found.boxes, found.labels), found.scores.tolist(), strict=True)]
    sets = []
    for objects in (entries(target.boxes, target.labels), scored):
        coco = pycocotools.coco.COCO()
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        coco.dataset = {"images": [{"id": 1}], "annotations": objects, "categories": categories}
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        sets.append(coco)
    evaluation = pycocotools.cocoeval.COCOeval(*sets, "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    of_all_sizes = [e for e in evaluation.evalImgs if e is not None and e["aRng"] == evaluation.params.areaRng[0]]
    return sum(int((e["gtMatches"][0] > 0).sum()) for e in of_all_sizes)


class Album:
    """Photos of the oracle's."""

    class_names = ("square", "circle", "triangle")

    def __init__(self, targets: list[Target], broken: int | None = None) -> None:
        self.targets, self.broken = targets, broken

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Target]:
        if index == self.broken:
            raise ImageFileError("1.png: not an image.")
        return PHOTO, self.targets[index]

    def image_name(self, index: int) -> str:
        return f"{index}.png"


def _shown(renderable: object) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


@pytest.fixture
def mixed() -> tuple[MaskRCNN, Album]:
    """A network that takes everything on the right for background, and data with other labels for its classes."""
    targets = [truth([(4, 4, 20, 20), (36, 36, 60, 60)], [1, 1]), truth([(4, 4, 20, 20)], [1])]

    def right_is_background(logits: Tensor, boxes: Tensor) -> Tensor:
        return torch.where(boxes[:, :1] > 30, background(logits, boxes), logits)

    return oracle(APART, class_logits=right_is_background), Album(targets)


def test_losses_of_a_data_set(mixed: tuple[MaskRCNN, Album]) -> None:
    seen: list[tuple[int, int]] = []
    report = explain_dataset(*mixed, collect=lambda index, pixels, target, found: seen.append((index, len(found))))
    assert seen == [(0, 2), (1, 1)]
    counts = report.counts()
    assert counts["found"] == {"small": 2, "medium": 0, "large": 0}
    assert counts["background"] == {"small": 1, "medium": 0, "large": 0}
    assert sum(sum(row.values()) for row in counts.values()) == 3
    told = _shown(report.table())
    assert "What became of 3 objects in 2 images" in told
    assert "classified as background" in told and "33 %" in told and "no anchor" not in told
    [advice] = report.advice()
    assert advice.startswith("1 of 3 small objects: classified as background. Train longer")
    summary = json.loads(json.dumps(report.summary()))
    assert (summary["objects"], summary["found"], summary["unreadable"]) == (3, 2, 0)
    assert [o["image"] for o in summary["outcomes"]] == ["0.png", "0.png", "1.png"]


def test_advice_begins_with_the_largest_loss(mixed: tuple[MaskRCNN, Album]) -> None:
    def lost(stage: Any, count: int, **numbers: Any) -> list[ObjectOutcome]:
        return [
            ObjectOutcome(0, 0, "cat", (0.0, 0.0, 9.0, 9.0), 81.0, stage, "", "", None, numbers) for _ in range(count)
        ]

    outcomes = lost("found", 2) + lost("no_anchor", 3, side=5.0, ratio=1.0) + lost("rpn_cut", 1)
    outcomes += lost("class_nms", 2, remover_object=1)
    report = MissReport({"1.png": outcomes}, mixed[0].config)
    first, second = report.advice(most=2)
    assert first == (
        "3 of 8 small objects: no anchor overlaps them enough. anchors.sizes start at 8 px in the input, and these "
        "objects are 5 px (median): use smaller anchors.sizes, or a larger image.min_size (now 64), and train again."
    )
    assert second.startswith("2 of 8 small objects: removed by NMS within their class.")


def test_an_image_that_cannot_be_read_is_left_out(mixed: tuple[MaskRCNN, Album]) -> None:
    mixed[1].broken = 1
    report = explain_dataset(*mixed)
    assert (report.unreadable, list(report.outcomes)) == (1, ["0.png"])
    mixed[1].broken, mixed[1].targets = 0, mixed[1].targets[:1]
    with pytest.raises(DatasetError, match=r"None of the images can be read\."):
        explain_dataset(*mixed)


def test_classes_that_the_network_does_not_know_are_refused(mixed: tuple[MaskRCNN, Album]) -> None:
    mixed[1].class_names = ("square", "disc", "triangle")
    with pytest.raises(DatasetError, match=r"does not know: disc\. It knows circle, square, triangle\."):
        explain_dataset(*mixed)


def test_data_without_objects_are_refused() -> None:
    with pytest.raises(DatasetError, match="No object is annotated in these images"):
        explain_dataset(oracle(ONE), Album([truth([])]))


def test_a_picture_shows_what_was_missed_in_red(mixed: tuple[MaskRCNN, Album]) -> None:
    from maskrcnn.inspection.misses.picture import FOUND, MISSED

    target = APART
    outcomes = explain(mixed[0], PHOTO, target)
    picture = miss_picture(PHOTO, target, outcomes)
    assert picture.width == 10 * SIDE and picture.height > 10 * SIDE  # the sentences stand below
    assert [o.stage for o in outcomes] == ["found", "background"]
    assert picture.getpixel((40, 100)) == FOUND and picture.getpixel((360, 500)) == MISSED


def test_the_table_of_an_image_has_the_sentences(mixed: tuple[MaskRCNN, Album]) -> None:
    told = _shown(outcomes_table("a[b].png", explain(mixed[0], PHOTO, APART)))
    assert "a[b].png: 1 of 2 objects found" in told
    assert "classified as background" in told and "0.033" in told
