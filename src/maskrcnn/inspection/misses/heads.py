"""Why no detection came of an object that proposals lie on, and whether a detection's mask is on it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from maskrcnn.errors import counted
from maskrcnn.inspection.misses.evidence import Evidence, overlaps
from maskrcnn.inspection.misses.outcome import Loss
from maskrcnn.inspection.places import boxes_as_found, class_list, detection_slots, only


def lost_in_heads(evidence: Evidence, g: int, matched: dict[int, int]) -> Loss | None:
    """Return where the heads lost an object; None if no proposal lies on it.

    Args:
        evidence: run and truth.
        g: the object.
        matched: which object each detection was given to.
    """
    label = int(evidence.target.labels[g])
    scores, refined = evidence.scores(label), evidence.refined(label)
    boxes = overlaps(evidence.target.boxes[g : g + 1], refined)[0]
    on_it = evidence.proposal_overlaps[g] >= evidence.roi_iou
    # One that lies farther off is background to the head, and rightly so, unless the head knows better.
    seen = (evidence.likeliest == label) & (scores > evidence.config.box.score_threshold)
    told = (boxes >= evidence.limits.iou) & (seen | evidence.confident(scores))
    rois = ((on_it | told) & evidence.valid).nonzero()[:, 0]
    if not len(rois):
        return None
    sure = rois[evidence.confident(scores[rois])]
    placed = sure[boxes[sure] >= evidence.limits.iou]
    if len(placed):
        return _after_the_head(evidence, g, placed[scores[placed].argsort(descending=True, stable=True)], matched)
    if len(sure):
        return _misplaced(evidence, g, sure[boxes[sure].argmax()], scores, boxes)
    return _unsure(evidence, g, rois, boxes)


def _unsure(evidence: Evidence, g: int, rois: Int64[Tensor, " E"], boxes: Float[Tensor, " P"]) -> Loss:
    """No proposal on the object gets its class with the score that is asked for."""
    label = int(evidence.target.labels[g])
    own = rois[evidence.proposal_overlaps[:, rois].argmax(0) == g]  # a neighbour's proposals may be on it, too
    pool = own if len(own) else rois
    probabilities, likeliest = evidence.probabilities[pool], evidence.likeliest[pool]
    placed = boxes[pool] >= evidence.limits.iou
    numbers = {
        "proposals": len(pool),
        "proposal_iou": float(evidence.proposal_overlaps[g, pool].max()),
        "probability": float(probabilities[:, label].max()),
        "placed_score": float(torch.where(placed, evidence.scores(label)[pool], 0.0).max()),
        "threshold": max(evidence.limits.score, evidence.config.box.score_threshold),
    }
    name = evidence.config.class_names[label]
    if (likeliest == label).any():
        right = pool[likeliest == label]
        right = pool[(likeliest == label) & placed] if ((likeliest == label) & placed).any() else right
        best = right[evidence.probabilities[right, label].argmax()]
        score = float(evidence.probabilities[best, label])
        return Loss(
            "score",
            f"It is seen as {name}, but with {score:.3f}, under the threshold of {numbers['threshold']:g}. "
            f"Its box has IoU {float(boxes[best]):.2f}.",
            {**numbers, "score": score, "box_iou": float(boxes[best]), "proposal": int(best)},
        )
    best = pool[(1 - probabilities[:, -1]).argmax()]  # which the head takes for an object, if any
    taken_for = int(evidence.likeliest[best])
    probability = float(evidence.probabilities[best, taken_for])
    numbers |= {"taken_for_probability": probability, "proposal": int(best)}
    on_it = f"{counted(len(pool), 'proposal')} {'lies' if len(pool) == 1 else 'lie'} on it (the best by IoU "
    on_it += f"{numbers['proposal_iou']:.2f})"
    gets = f"{name} gets {numbers['probability']:.3f}" + (" at most." if len(pool) > 1 else ".")
    if taken_for == len(evidence.config.class_names):
        return Loss(
            "background",
            f"{on_it}, but the class head takes what is there for background ({probability:.3f}); {gets}",
            {**numbers, "taken_for": None},
        )
    other = evidence.config.class_names[taken_for]
    return Loss(
        "other_class",
        f"{on_it}, but the class head takes what is there for {other} ({probability:.3f}); {gets}",
        {**numbers, "taken_for": other},
    )


def _misplaced(
    evidence: Evidence, g: int, roi: Int64[Tensor, ""], scores: Float[Tensor, " P"], boxes: Float[Tensor, " P"]
) -> Loss:
    numbers = {
        "score": float(scores[roi]),
        "proposal": int(roi),
        "proposal_iou": float(evidence.proposal_overlaps[g, roi]),
        "box_iou": float(boxes[roi]),
        "wanted_iou": evidence.limits.iou,
    }
    return Loss(
        "box",
        f"It has the right class ({numbers['score']:.3f}), but the head moves the box off it: the proposal had IoU "
        f"{numbers['proposal_iou']:.2f}, the refined box {numbers['box_iou']:.2f}; {evidence.limits.iou:g} is needed.",
        numbers,
    )


def _after_the_head(evidence: Evidence, g: int, rois: Int64[Tensor, " E"], matched: dict[int, int]) -> Loss:
    """Right class, score and box: what became of these candidates, the best first?"""
    trace, label = evidence.trace, int(evidence.target.labels[g])
    of_class = only(trace, "candidate_labels") == label
    numbers_of = only(trace, "candidate_rois")
    places = [place for roi in rois.tolist() for place in (of_class & (numbers_of == roi)).nonzero()[:, 0].tolist()]
    if not places:
        best = float(evidence.scores(label)[rois[0]])
        most = evidence.config.box.candidates
        return Loss(
            "cut",
            f"It has the right class and box, but its score of {best:.3f} is not among the {most:,} of box.candidates.",
            {"score": best, "limit": "box.candidates", "limited_to": most, "rank": None},
        )
    found = only(trace, "detection_places")[detection_slots(trace)].tolist()
    shared = [found.index(place) for place in places if place in found]
    if shared:
        return _taken(evidence, g, shared[0], matched, [place for place in places if place not in found])
    kept = only(trace, "candidates_kept")
    if kept[places].any():
        return _cut(evidence, next(place for place in places if kept[place]))
    candidates, members = class_list(trace, label)
    for place in places:
        own = int((members == place).nonzero()[0, 0])
        if candidates.valid[own]:
            return _removed(evidence, g, own)
    return _too_small(evidence, places)


def _taken(evidence: Evidence, g: int, detection: int, matched: dict[int, int], lost: list[int]) -> Loss:
    """A detection on the object counts for another; had the object a box of its own among the candidates `lost`?"""
    other = matched[detection]
    box_iou = _detection_iou(evidence, g, detection)
    numbers = {
        "detection": detection,
        "score": float(evidence.detections.scores[detection]),
        "box_iou": box_iou,
        "other_object": other,
        "other_iou": _detection_iou(evidence, other, detection),
        "own_iou": None,
    }
    boxes = boxes_as_found(only(evidence.trace, "detections_before_nms")[lost], evidence.run)
    each = overlaps(boxes, evidence.target.boxes)
    own = each[each.argmax(1) == g, g]
    told = ""
    if len(own) and float(own.max()) > box_iou:
        numbers["own_iou"] = float(own.max())
        told = f" NMS removed a box of its own, of IoU {numbers['own_iou']:.2f}."
    return Loss(
        "taken",
        f"Detection {detection} ({numbers['score']:.3f}) lies on it by IoU {box_iou:.2f}, but counts for "
        f"{evidence.called(other)}, which it fits by {numbers['other_iou']:.2f}: one detection covers two objects."
        f"{told}",
        numbers,
    )


def _detection_iou(evidence: Evidence, g: int, detection: int) -> float:
    box = evidence.detections.boxes[detection : detection + 1]
    return float(overlaps(evidence.target.boxes[g : g + 1], box)[0, 0])


def _cut(evidence: Evidence, place: int) -> Loss:
    kept, scores = only(evidence.trace, "candidates_kept"), only(evidence.trace, "candidate_scores")
    most = evidence.config.box.detections_per_image
    rank = int((scores[kept] >= scores[place]).sum())
    numbers = {
        "score": float(scores[place]),
        "rank": rank,
        "kept": int(kept.sum()),
        "limit": "box.detections_per_image",
        "limited_to": most,
    }
    return Loss(
        "cut",
        f"It has the right class and box, but its score of {numbers['score']:.3f} has rank {rank:,} of "
        f"{numbers['kept']:,}, of which box.detections_per_image lets {most:,} through.",
        numbers,
    )


def _removed(evidence: Evidence, g: int, own: int) -> Loss:
    """A better box of the same class removed the object's, and lies too far from the object."""
    trace, label = evidence.trace, int(evidence.target.labels[g])
    candidates, members = class_list(trace, label)
    scores = only(trace, "candidate_scores")[members]
    remover = candidates.remover_of(own)
    if remover is None:  # IoU on the threshold, as another device rounds it
        remover = int(torch.where(candidates.kept, candidates.overlaps(own), -1.0).argmax())
    pair = boxes_as_found(candidates.boxes[[own, remover]], evidence.run)
    box_iou, remover_iou = overlaps(pair, evidence.target.boxes[g : g + 1])[:, 0].tolist()
    other, on_other = evidence.nearest(pair[1], evidence.target.boxes)
    numbers = {
        "score": float(scores[own]),
        "box_iou": box_iou,
        "removed_by": pair[1].tolist(),
        "removed_by_score": float(scores[remover]),
        "iou_with_remover": float(candidates.overlaps(own)[remover]),
        "remover_iou": remover_iou,
        "remover_object": other if on_other > 0 and other != g else None,
        "nms_threshold": candidates.threshold,
    }
    whose = "It lies on the same object."
    if numbers["remover_object"] is not None:
        whose = f"It lies on {evidence.called(other)}."
    return Loss(
        "class_nms",
        f"NMS among {evidence.config.class_names[label]} removed its box ({numbers['score']:.3f}, IoU {box_iou:.2f}): "
        f"a better one ({numbers['removed_by_score']:.3f}) overlaps that by {numbers['iou_with_remover']:.2f}, over "
        f"box.nms_threshold {candidates.threshold:g}, but the object by {remover_iou:.2f} only. {whose}",
        numbers,
    )


def _too_small(evidence: Evidence, places: list[int]) -> Loss:
    boxes = only(evidence.trace, "detections_before_nms")[places]
    side = float((boxes[:, 2:] - boxes[:, :2]).amin(1).max())
    least = evidence.config.box.min_size or 0.0
    return Loss(
        "too_small",
        f"Its box is {side:.1f} pixels on the shorter side in the network's input, and box.min_size drops what is "
        f"under {least:g}.",
        {"side": side, "min_size": least},
    )


def found_or_mask_misses(evidence: Evidence, g: int, detection: int) -> Loss:
    """Return that an object was found, or by how much the mask of its detection misses it."""
    box_iou = _detection_iou(evidence, g, detection)
    numbers = {"score": float(evidence.detections.scores[detection]), "box_iou": box_iou}
    truth, masks = evidence.target.masks, evidence.detections.masks
    mask = ""
    if truth is not None and masks is not None:
        one, other = truth[g].cpu(), masks[detection]
        mask_iou = int((one & other).sum()) / max(int((one | other).sum()), 1)
        numbers |= {"mask_iou": mask_iou, "mask_area": int(other.sum()), "true_area": int(one.sum())}
        if mask_iou < evidence.limits.mask_iou:
            return Loss(
                "mask",
                f"Detection {detection} ({numbers['score']:.3f}) finds it with IoU {box_iou:.2f} of the boxes, but the "
                f"masks have {mask_iou:.2f}: {numbers['mask_area']:,} pixels, where the object has "
                f"{numbers['true_area']:,}.",
                numbers,
            )
        mask = f" of the boxes and {mask_iou:.2f} of the masks"
    return Loss(
        "found", f"Detection {detection} ({numbers['score']:.3f}) finds it, with IoU {box_iou:.2f}{mask}.", numbers
    )
