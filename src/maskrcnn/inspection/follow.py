"""Following one detection back through the network: from its anchor to its mask, with every number on the way."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import InputError, counted
from maskrcnn.heads.box import of_class
from maskrcnn.inspection.places import (
    NMSList,
    anchor_place,
    class_list,
    detection_slots,
    level_maps,
    level_number,
    need,
    only,
    plain_box,
    rpn_list,
    valid_proposals,
)
from maskrcnn.inspection.trace import Run, Trace
from maskrcnn.inspection.trail import AnchorOf, Crop, ObjectTrail, Refinement, Removed
from maskrcnn.roi_align import assign_levels

__all__ = ["AnchorOf", "Crop", "ObjectTrail", "Refinement", "Removed", "follow"]

STAGES = (
    *("anchors", "rpn_objectness", "rpn_deltas", "top_anchors", "top_scores", "proposals_before_refinement"),
    *("proposals_before_nms", "top_kept", "proposal_places", "proposals", "proposal_scores", "roi_levels"),
    *("box_features", "class_logits", "box_deltas", "candidate_rois", "candidate_labels", "candidate_scores"),
    *("detections_before_nms", "candidates_kept", "detection_places", "detections"),
)
BACKGROUND = "background"


def follow(trace: Trace, number: int) -> ObjectTrail:
    """Return the way of one detection: its anchor, proposal, crops, scores, refinements, logits and mask.

    Args:
        trace: a whole one, from `model.trace(photo)`.
        number: which of `trace.run.detections`, from 0, best first.

    Raises:
        InputError: there is no such detection, or the trace lacks stages or is of a run of training.

    Example:
        >>> import numpy as np
        >>> from maskrcnn.model import MaskRCNN
        >>> overrides = {"box.score_threshold": 0.0}
        >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"], overrides=overrides)).eval()
        >>> trail = follow(model.trace(np.zeros((120, 160, 3), np.uint8)), 0)
        >>> trail.name, tuple(trail.box_crop.values.shape), len(trail.class_scores)
        ('cat', (64, 7, 7), 2)
    """
    need(trace, STAGES)
    run = trace.run
    assert run.detections is not None  # need() makes sure
    slot = _slot(trace, number)
    candidate = int(only(trace, "detection_places")[slot])
    label = int(only(trace, "candidate_labels")[candidate])
    proposal = int(only(trace, "candidate_rois")[candidate])
    place = int(only(trace, "proposal_places")[proposal])
    detection = run.detections[number]
    probabilities = trace["class_logits"][proposal].float().softmax(-1).cpu()
    by_class, members = class_list(trace, label)
    own = int((members == candidate).nonzero()[0, 0])
    by_rpn, own_in_rpn = rpn_list(trace, place)
    rpn_scores = only(trace, "top_scores")[place - own_in_rpn :][: len(by_rpn.boxes)].sigmoid()
    return ObjectTrail(
        number=number,
        label=label,
        name=detection.names[0],
        score=float(detection.scores[0]),
        box=plain_box(detection.boxes[0]),
        anchor=_anchor(trace, int(only(trace, "top_anchors")[place])),
        proposal=proposal,
        proposals=int(valid_proposals(trace).sum()),
        rpn_refinement=_refinement(
            run,
            only(trace, "proposals_before_refinement")[place],
            only(trace, "rpn_deltas")[int(only(trace, "top_anchors")[place])],
            only(trace, "proposals_before_nms")[place],
        ),
        rpn_removed=_removed(run, by_rpn, own_in_rpn, rpn_scores),
        box_crop=_crop(trace, "box_features", "roi_levels", proposal, only(trace, "proposals")[proposal]),
        class_scores=_class_scores(probabilities, run.config),
        head_refinement=_refinement(
            run,
            only(trace, "proposals")[proposal],
            of_class(trace["box_deltas"][proposal : proposal + 1].cpu(), torch.tensor([label]))[0],
            only(trace, "detections_before_nms")[candidate],
        ),
        class_removed=_removed(run, by_class, own, only(trace, "candidate_scores")[members]),
        **_mask_of(trace, slot, number, label),
        **_keypoints_of(trace, slot, number),
    )


def _slot(trace: Trace, number: int) -> int:
    slots = detection_slots(trace)
    if not len(slots):
        raise InputError("Nothing was found in this image, so there is no object to follow.")
    if not 0 <= number < len(slots):
        allowed = "0" if len(slots) == 1 else f"0 to {len(slots) - 1}"
        raise InputError(f"There is no detection {number}; of {counted(len(slots), 'detection')} choose {allowed}.")
    return int(slots[number])


def _anchor(trace: Trace, index: int) -> AnchorOf:
    run = trace.run
    place = anchor_place(index, level_maps(trace), run.config)
    logits = only(trace, "rpn_objectness")
    logit = logits[index]
    on_level = logits[place.first : place.first + place.total]
    box = trace["anchors"][index].cpu()
    level = list(run.strides).index(place.level)
    return AnchorOf(
        index=index,
        level=place.level,
        stride=run.strides[place.level],
        row=place.row,
        column=place.column,
        size_number=place.size_number,
        ratio_number=place.ratio_number,
        size=run.config.anchors.sizes[level][place.size_number],
        ratio=run.config.anchors.ratios[place.ratio_number],
        box=plain_box(box),
        box_in_photo=plain_box(run.to_photo(box[None])[0]),
        objectness=float(logit),
        probability=float(logit.sigmoid()),
        rank_on_level=1 + int((on_level > logit).sum()),
        anchors_on_level=place.total,
        rank=1 + int((logits > logit).sum()),
        anchors=len(logits),
    )


def _refinement(
    run: Run, before: Float[Tensor, "4"], deltas: Float[Tensor, "4"], after: Float[Tensor, "4"]
) -> Refinement:
    in_photo = run.to_photo(torch.stack((before, after)))
    return Refinement(
        plain_box(before), plain_box(deltas), plain_box(after), plain_box(in_photo[0]), plain_box(in_photo[1])
    )


def _removed(run: Run, boxes: NMSList, place: int, scores: Float[Tensor, " R"]) -> tuple[Removed, ...]:
    removed = boxes.removed_by(place)
    overlaps = boxes.overlaps(place)
    in_photo = run.to_photo(boxes.boxes[removed])
    return tuple(
        Removed(plain_box(boxes.boxes[other]), plain_box(box), float(scores[other]), float(overlaps[other]))
        for other, box in zip(removed, in_photo, strict=True)
    )


def _crop(trace: Trace, features: str, levels: str, row: int, roi: Float[Tensor, "4"]) -> Crop:
    level = trace.run.roi_levels[int(only(trace, levels)[row])]
    return Crop(level, level_number(roi, trace.run.config), trace[features][row].float().cpu().clone())


def _class_scores(probabilities: Float[Tensor, " K1"], config: Config) -> tuple[tuple[str, float], ...]:
    names = [*config.class_names, BACKGROUND]
    order = probabilities.argsort(descending=True, stable=True).tolist()
    return tuple((names[k], float(probabilities[k])) for k in order)


def _mask_of(trace: Trace, slot: int, number: int, label: int) -> dict[str, Any]:
    found = trace.run.detections
    if found is None or found.masks is None:
        return {"mask_crop": None, "mask_logits": None, "mask": None}
    need(trace, ("mask_features", "mask_roi_levels", "mask_logits"))
    logits = of_class(trace["mask_logits"][slot : slot + 1].cpu(), torch.tensor([label]))[0]
    roi = only(trace, "detections")[slot, :4]
    return {
        "mask_crop": _crop(trace, "mask_features", "mask_roi_levels", slot, roi),
        "mask_logits": logits.float().clone(),
        "mask": found.masks[number].clone(),
    }


def _keypoints_of(trace: Trace, slot: int, number: int) -> dict[str, Any]:
    found = trace.run.detections
    if found is None or found.keypoints is None:
        return {"keypoint_crop": None, "keypoint_logits": None, "keypoints": None}
    need(trace, ("keypoint_features", "keypoint_logits"))
    run, roi = trace.run, only(trace, "detections")[slot, :4]
    level = int(assign_levels(roi, [run.strides[name] for name in run.roi_levels], run.config.roi_align))
    return {
        "keypoint_crop": Crop(
            run.roi_levels[level], level_number(roi, run.config), trace["keypoint_features"][slot].float().cpu().clone()
        ),
        "keypoint_logits": trace["keypoint_logits"][slot].float().cpu().clone(),
        "keypoints": found.keypoints[number].clone(),
    }
