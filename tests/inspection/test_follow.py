"""The way of one detection: every number is that of the stage it was read from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import InputError
from maskrcnn.inspection.follow import ObjectTrail, follow
from maskrcnn.inspection.places import anchor_place, detection_slots, level_maps
from maskrcnn.inspection.trace import Trace
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.masks import paste_masks
from tiny import TINY, tiny_data, tiny_model

PLAIN = {
    key: value for key, value in TINY.items() if not key.startswith(("fpn", "anchors", "roi_align", "box.fc_channels"))
} | {"backbone.norm": "group", "backbone.frozen_stages": 0, "box.pool_size": 6, "mask.pool_size": 6}
VARIANTS: dict[str, dict[str, Any]] = {
    "FPN": {},
    "one list of anchors": {"rpn__per_level": False, "rpn__clip": "input", "rpn__min_size": None},
    "class-agnostic": {"box__class_agnostic": True, "mask__class_agnostic": True},
    "no masks": {"masks": False},
    "keypoints": {"keypoint_names": ("nose", "tail")},
    "centers": {"box_corners": "centers", "roi_align__method": "crop_and_resize"},
    "centred padding": {"image__padding": "square", "image__padding_place": "center", "image__max_size": 128},
    "best class": {"box__classes_per_roi": "best", "box__min_size": None},
    "two sizes": {"anchors__sizes": ((8, 10), (16, 20), (24, 28), (32, 40), (48, 56))},
}


def lively(model: MaskRCNN) -> MaskRCNN:
    """Give the predictors weights large enough for different answers."""
    with torch.no_grad():
        for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits, model.box_head.box_deltas):
            layer.weight.mul_(30)
    return model.eval()


def trace_of(model: MaskRCNN) -> Trace:
    return model.trace(tiny_data()[0][0])


@pytest.fixture(scope="module", params=[*VARIANTS, "plain"])
def trace(request: pytest.FixtureRequest) -> Trace:
    if request.param == "plain":
        torch.manual_seed(0)
        model = MaskRCNN(Config.preset("resnet18", class_names=["cat", "dog", "owl"], overrides=PLAIN))
    else:
        model = tiny_model(rpn__nms_threshold=0.3, box__nms_threshold=0.2, **VARIANTS[request.param])
    return trace_of(lively(model))


@pytest.fixture(scope="module")
def trails(trace: Trace) -> list[ObjectTrail]:
    assert trace.run.detections is not None and len(trace.run.detections) >= 3
    return [follow(trace, number) for number in range(len(trace.run.detections))]


def near(box: Any, other: Any) -> None:
    torch.testing.assert_close(torch.tensor(box), torch.as_tensor(other), atol=1e-3, rtol=1e-4)


def test_it_is_the_detection_of_that_number(trace: Trace, trails: list[ObjectTrail]) -> None:
    found = trace.run.detections
    assert found is not None
    for number, trail in enumerate(trails):
        assert (trail.number, trail.label, trail.name) == (number, int(found.labels[number]), found.names[number])
        near(trail.box, found.boxes[number])
        assert trail.score == float(found.scores[number])
        assert dict(trail.class_scores)[trail.name] == pytest.approx(trail.score)


def test_anchor_level_and_cell_agree_with_the_box(trace: Trace, trails: list[ObjectTrail]) -> None:
    run, offset = trace.run, trace.run.config.anchors.offset
    last = 1 if run.config.box_corners == "centers" else 0
    for trail in trails:
        a = trail.anchor
        near(a.box, trace["anchors"][a.index])
        x1, y1, x2, y2 = a.box
        assert ((x1 + x2 + last) / 2, (y1 + y2 + last) / 2) == pytest.approx(
            ((a.column + offset) * a.stride, (a.row + offset) * a.stride), abs=1e-3
        )
        assert (y2 - y1 + last) / (x2 - x1 + last) == pytest.approx(a.ratio, rel=1e-4)
        assert ((y2 - y1 + last) * (x2 - x1 + last)) ** 0.5 == pytest.approx(a.size, rel=1e-4)
        assert run.strides[a.level] == a.stride


def test_ranks_count_the_anchors_that_score_higher(trace: Trace, trails: list[ObjectTrail]) -> None:
    logits = trace["rpn_objectness"][0].tolist()
    places = [anchor_place(i, level_maps(trace), trace.run.config).level for i in range(len(logits))]
    for trail in trails:
        own = logits[trail.anchor.index]
        assert trail.anchor.objectness == own
        assert trail.anchor.rank == 1 + sum(v > own for v in logits)
        on_level = [v for v, level in zip(logits, places, strict=True) if level == trail.anchor.level]
        assert trail.anchor.rank_on_level == 1 + sum(v > own for v in on_level)
        assert (trail.anchor.anchors_on_level, trail.anchor.anchors) == (len(on_level), len(logits))


def test_anchor_and_deltas_give_the_proposal_and_it_the_detection(trace: Trace, trails: list[ObjectTrail]) -> None:
    rpn, box = trace.run.config.rpn, trace.run.config.box
    for trail in trails:
        for step, config, window in (
            (trail.rpn_refinement, rpn, trace.run.batch.windows(rpn.clip)),
            (trail.head_refinement, box, trace.run.batch.windows()),
        ):
            moved = box_ops.decode(
                torch.tensor(step.before), torch.tensor(step.deltas), config.delta_weights, config.max_log_scale
            )
            near(step.after, box_ops.clip(moved[None, None], window, trace.run.config.box_corners)[0, 0])
        near(trail.rpn_refinement.before, trail.anchor.box)
        near(trail.rpn_refinement.after, trace["proposals"][0, trail.proposal])
        near(trail.head_refinement.before, trail.rpn_refinement.after)
        inside = torch.tensor(trail.head_refinement.after_in_photo).clamp(0, 64)
        near(trail.box, inside)


def test_crops_are_the_rows_of_the_stages(trace: Trace, trails: list[ObjectTrail]) -> None:
    slots = detection_slots(trace).tolist()
    for slot, trail in zip(slots, trails, strict=True):
        assert torch.equal(trail.box_crop.values, trace["box_features"][trail.proposal])
        assert trail.box_crop.level == trace.run.roi_levels[int(trace["roi_levels"][0, trail.proposal])]
        if trail.mask_crop is not None:
            assert torch.equal(trail.mask_crop.values, trace["mask_features"][slot])


def test_the_level_is_that_of_equation_1(trace: Trace, trails: list[ObjectTrail]) -> None:
    rule, names = trace.run.config.roi_align, trace.run.roi_levels
    for trail in trails:
        x1, y1, x2, y2 = trail.rpn_refinement.after
        if len(names) == 1:
            assert trail.box_crop.level_number is None
            continue
        side = ((x2 - x1) * (y2 - y1)) ** 0.5
        number = rule.canonical_level + np.log2(side / rule.canonical_size)
        assert trail.box_crop.level_number == pytest.approx(number, abs=1e-4)
        assert trail.box_crop.level == f"p{min(max(int(np.floor(number + 1e-6)), 2), 5)}"


def test_the_mask_is_pasted_from_the_logits(trace: Trace, trails: list[ObjectTrail]) -> None:
    rule = trace.run.config.mask
    for trail in trails:
        if trail.mask is None or trail.mask_logits is None:
            assert not trace.run.config.masks and trail.mask_area is None
            continue
        [pasted] = paste_masks(
            trail.mask_logits.sigmoid()[None], torch.tensor([trail.box]), (64, 64), rule.paste, rule.threshold
        )
        assert torch.equal(pasted, trail.mask)
        assert trail.mask_area == int(pasted.sum())


def _greedy(boxes: Tensor, valid: list[bool], threshold: float) -> dict[int, list[int]]:
    """NMS box by box: what each kept box removes."""
    left, removed = [i for i, v in enumerate(valid) if v], {}
    overlaps = box_ops.iou(boxes, boxes)
    while left:
        best, *rest = left
        removed[best] = [i for i in rest if overlaps[best, i] > threshold]
        left = [i for i in rest if i not in removed[best]]
    return removed


def test_what_the_rpns_nms_removed(trace: Trace, trails: list[ObjectTrail]) -> None:
    config = trace.run.config.rpn
    scores, boxes = trace["top_scores"][0], trace["proposals_before_nms"][0]
    length = len(scores) // (len(trace.run.strides) if config.per_level else 1)
    some = 0
    for trail in trails:
        place = int(trace["proposal_places"][0, trail.proposal])
        begin = place // length * length
        part = slice(begin, begin + length)
        valid = (box_ops.large_enough(boxes[part], config.min_size) & scores[part].isfinite()).tolist()
        expected = [begin + i for i in _greedy(boxes[part], valid, config.nms_threshold)[place - begin]]
        assert [r.box for r in trail.rpn_removed] == [tuple(boxes[i].tolist()) for i in expected]
        assert [r.score for r in trail.rpn_removed] == pytest.approx(scores[expected].sigmoid().tolist())
        assert all(r.iou > config.nms_threshold for r in trail.rpn_removed)
        some += len(expected)
    assert some


def test_what_nms_within_the_class_removed(trace: Trace, trails: list[ObjectTrail]) -> None:
    config = trace.run.config.box
    labels, scores = trace["candidate_labels"][0], trace["candidate_scores"][0]
    some = 0
    for slot, trail in zip(detection_slots(trace).tolist(), trails, strict=True):
        place = int(trace["detection_places"][0, slot])
        boxes = trace["detections_before_nms"][0]
        valid = (scores > config.score_threshold) & box_ops.large_enough(boxes, config.min_size)
        removed = _greedy(boxes, (valid & (labels == trail.label)).tolist(), config.nms_threshold)[place]
        assert [r.box for r in trail.class_removed] == [tuple(boxes[i].tolist()) for i in removed]
        some += len(removed)
    assert some


def test_the_summary_is_plain_values(trails: list[ObjectTrail]) -> None:
    for trail in trails:
        summary = json.loads(json.dumps(trail.summary(), allow_nan=False))
        assert summary["anchor"]["level"] == trail.anchor.level
        assert summary["box_crop"]["shape"] == list(trail.box_crop.values.shape)
        assert len(summary["class_scores"]) == 4


def test_the_table_tells_every_step(trace: Trace, trails: list[ObjectTrail]) -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(trails[0].table())
    told = captured.get()
    assert f"Detection 0: {trails[0].name}" in told
    assert f"{trails[0].anchor.index:,} on {trails[0].anchor.level}" in told
    assert ("Mask logits" in told) == trace.run.config.masks
    assert ("Keypoints" in told) == bool(trace.run.config.keypoint_names)


def test_keypoints_come_along() -> None:
    trail = follow(trace_of(lively(tiny_model(keypoint_names=("nose", "tail")))), 1)
    assert trail.keypoints is not None and trail.keypoints.shape == (2, 3)
    assert trail.keypoint_logits is not None and trail.keypoint_logits.shape == (2, 56, 56)
    assert trail.keypoint_crop is not None and trail.keypoint_crop.values.shape[1:] == (14, 14)
    assert trail.keypoint_crop.level == (trail.mask_crop.level if trail.mask_crop else "")


def test_equal_scores_share_a_rank() -> None:
    model = lively(tiny_model())
    model.rpn.objectness.weight.data.zero_()
    trail = follow(trace_of(model), 2)
    assert (trail.anchor.rank_on_level, trail.anchor.rank) == (1, 1)


def test_slots_that_are_empty_in_the_photo_are_passed_over() -> None:
    """A photo of 4 pixels enlarged to 64: rounded to whole pixels of the photo, small boxes vanish."""
    model = lively(tiny_model(box__round_boxes=True, box__detections_per_image=30, rpn__nms_threshold=1.0))
    trace = model.trace(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    slots = detection_slots(trace).tolist()
    found = trace.run.detections
    assert found is not None and 0 < len(found) == len(slots) < 30
    assert slots != list(range(len(slots)))
    for number in range(len(found)):
        trail = follow(trace, number)
        assert trail.score == float(found.scores[number])
        assert int(trace["detections"][0, slots[number], 4]) == trail.label


@pytest.mark.parametrize("number", [-1, 10])
def test_a_number_out_of_range(number: int) -> None:
    with pytest.raises(InputError, match=rf"There is no detection {number}; of 10 detections choose 0 to 9\."):
        follow(trace_of(lively(tiny_model())), number)


def test_nothing_was_found() -> None:
    trace = trace_of(tiny_model(box__score_threshold=1.0).eval())
    with pytest.raises(InputError, match="Nothing was found in this image, so there is no object to follow"):
        follow(trace, 0)


def test_a_part_of_a_trace_is_not_enough() -> None:
    trace = tiny_model().eval().trace(tiny_data()[0][0], ["p2", "anchors"])
    with pytest.raises(InputError, match=r"lacks the stages rpn_objectness, .*; make it with model.trace\(photo\)"):
        follow(trace, 0)


def test_a_trace_of_training_finds_nothing() -> None:
    photo, target = tiny_data()[0]
    with pytest.raises(InputError, match="trace the photo without targets"):
        follow(tiny_model().trace(photo, targets=target), 0)


def test_there_are_so_many_anchors() -> None:
    trace = trace_of(tiny_model().eval())
    with pytest.raises(InputError, match="There is no anchor 9999999; there are"):
        anchor_place(9999999, level_maps(trace), trace.run.config)
