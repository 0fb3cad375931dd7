"""Why the RPN proposes no box on an object: followed from all anchors down to the proposals."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskrcnn.errors import counted
from maskrcnn.inspection.misses.evidence import Evidence, overlaps
from maskrcnn.inspection.misses.outcome import Loss
from maskrcnn.inspection.places import anchor_place, level_maps, only, rpn_list


def lost_in_rpn(evidence: Evidence, g: int) -> Loss:
    """Return where the RPN lost an object that no proposal lies on."""
    refined = overlaps(evidence.truth[g : g + 1], evidence.moved_anchors)[0]
    reaching = refined >= evidence.roi_iou
    if not reaching.any():
        return _no_box(evidence, g, refined)
    places = torch.where(reaching, evidence.top_places, -1)
    if not (places >= 0).any():
        return _scored_too_low(evidence, reaching, refined)
    entered = places[places >= 0].sort().values  # best first on each level
    scores, kept = only(evidence.trace, "top_scores"), only(evidence.trace, "top_kept")
    entered = entered[scores[entered].argsort(descending=True, stable=True)]
    if kept[entered].any():
        return _cut(evidence, entered[kept[entered]], scores, kept)
    for place in entered.tolist():
        candidates, own = rpn_list(evidence.trace, place)
        if candidates.valid[own]:
            return _removed(evidence, g, place, len(entered))
    return _too_small(evidence, entered)


def _no_box(evidence: Evidence, g: int, refined: Float[Tensor, " A"]) -> Loss:
    """No refined box reaches the object: were the anchors too far off, or what the RPN made of them?"""
    raw = overlaps(evidence.truth[g : g + 1], evidence.anchors)[0]
    index = int(raw.argmax())
    place = anchor_place(index, level_maps(evidence.trace), evidence.config)
    anchors = evidence.config.anchors
    level = list(evidence.run.strides).index(place.level)
    x1, y1, x2, y2 = evidence.truth[g].tolist()
    width, height = x2 - x1, y2 - y1
    numbers = {
        "anchor": index,
        "anchor_level": place.level,
        "anchor_size": anchors.sizes[level][place.size_number],
        "anchor_ratio": anchors.ratios[place.ratio_number],
        "anchor_iou": float(raw[index]),
        "refined_iou": float(refined.max()),
        "wanted_iou": evidence.roi_iou,
        "width": width,
        "height": height,
        "side": (width * height) ** 0.5,
        "ratio": height / max(width, 1e-6),
    }
    where = f"(on {place.level}, size {numbers['anchor_size']:g}, ratio {numbers['anchor_ratio']:g})"
    if numbers["anchor_iou"] < evidence.roi_iou:
        return Loss(
            "no_anchor",
            f"No anchor overlaps it enough: the best {where} has IoU {numbers['anchor_iou']:.2f}, and the best box "
            f"that the RPN makes of any anchor {numbers['refined_iou']:.2f}; {evidence.roi_iou:g} is needed. "
            f"In the network's input the object is {width:.0f} × {height:.0f} pixels.",
            numbers,
        )
    return Loss(
        "rpn_box",
        f"An anchor overlaps it {where}, by IoU {numbers['anchor_iou']:.2f}, but the RPN moves all such anchors off "
        f"it: the best box it makes of any has IoU {numbers['refined_iou']:.2f}; {evidence.roi_iou:g} is needed.",
        numbers,
    )


def _scored_too_low(evidence: Evidence, reaching: Bool[Tensor, " A"], refined: Float[Tensor, " A"]) -> Loss:
    rpn, logits = evidence.config.rpn, evidence.objectness
    index = int(torch.where(reaching, logits, -torch.inf).argmax())
    place = anchor_place(index, level_maps(evidence.trace), evidence.config)
    part = slice(place.first, place.first + place.total) if rpn.per_level else slice(None)
    compared = logits[part]
    rank = int((compared >= logits[index]).sum())  # among equals the last: it did not get in
    numbers = {
        "anchor": index,
        "level": place.level,
        "objectness": float(logits[index].sigmoid()),
        "rank": rank,
        "anchors": len(compared),
        "pre_nms_top_n": rpn.pre_nms_top_n,
        "refined_iou": float(refined[index]),
        "reaching_anchors": int(reaching.sum()),
    }
    who = f"the boxes of {counted(int(reaching.sum()), 'anchor')} reach it, and the best of them scores"
    return Loss(
        "rpn_score",
        f"The RPN scores it too low: {who} {_score(numbers['objectness'])}, rank {rank:,} of {len(compared):,} on "
        f"{place.level if rpn.per_level else 'all levels'}, where the first {rpn.pre_nms_top_n:,} go on.",
        numbers,
    )


def _too_small(evidence: Evidence, entered: Int64[Tensor, " E"]) -> Loss:
    boxes = only(evidence.trace, "proposals_before_nms")[entered]
    side = float((boxes[:, 2:] - boxes[:, :2]).amin(1).max())
    least = evidence.config.rpn.min_size or 0.0
    return Loss(
        "rpn_too_small",
        f"Its proposals are {side:.1f} pixels on the shorter side in the network's input, and rpn.min_size drops what "
        f"is under {least:g}.",
        {"side": side, "min_size": least},
    )


def _removed(evidence: Evidence, g: int, place: int, entered: int) -> Loss:
    """The best box on the object was removed by a better one that lies too far from it."""
    candidates, own = rpn_list(evidence.trace, place)
    scores = only(evidence.trace, "top_scores")[place - own :].sigmoid()
    remover = candidates.remover_of(own)
    if remover is None:  # IoU on the threshold, as another device rounds it
        remover = int(torch.where(candidates.kept, candidates.overlaps(own), -1.0).argmax())
    better = candidates.boxes[remover]
    on_object = float(overlaps(better[None], evidence.truth[g : g + 1])[0, 0])
    other, on_other = evidence.nearest(better, evidence.truth)
    numbers = {
        "objectness": float(scores[own]),
        "candidates": entered,
        "removed_by": [float(v) for v in evidence.run.to_photo(better[None])[0]],
        "removed_by_objectness": float(scores[remover]),
        "iou_with_remover": float(candidates.overlaps(own)[remover]),
        "remover_iou": on_object,
        "remover_object": other if on_other > 0 and other != g else None,
        "nms_threshold": candidates.threshold,
    }
    whose = "It lies on no other object."
    if numbers["remover_object"] is not None:
        whose = f"It lies on {evidence.called(other)}."
    return Loss(
        "rpn_nms",
        f"The RPN's NMS removed its box, which scored {_score(numbers['objectness'])}: a better one "
        f"({_score(numbers['removed_by_objectness'])}) overlaps that by {numbers['iou_with_remover']:.2f}, over "
        f"rpn.nms_threshold {candidates.threshold:g}, but the object by {on_object:.2f} only. {whose}",
        numbers,
    )


def _cut(
    evidence: Evidence, entered: Int64[Tensor, " E"], scores: Float[Tensor, " T"], kept: Bool[Tensor, " T"]
) -> Loss:
    """NMS kept a box on the object, but too many others score higher."""
    best = scores[entered[0]]
    rank = int((scores[kept] >= best).sum())
    limit = evidence.config.rpn.post_nms_top_n
    lowest = float(scores[kept].topk(min(limit, int(kept.sum()))).values[-1].sigmoid())
    numbers = {
        "objectness": float(best.sigmoid()),
        "rank": rank,
        "kept": int(kept.sum()),
        "post_nms_top_n": limit,
        "lowest_proposal": lowest,
    }
    return Loss(
        "rpn_cut",
        f"Its box came through the RPN's NMS, but scores {_score(numbers['objectness'])}: rank {rank:,} of "
        f"{numbers['kept']:,}, of which the first {limit:,} become proposals (down to {_score(lowest)}).",
        numbers,
    )


def _score(probability: Any) -> str:
    """Return an objectness with three digits behind the point, or as many as a small one needs."""
    return f"{probability:.3f}" if probability >= 0.001 else f"{probability:.1g}"
