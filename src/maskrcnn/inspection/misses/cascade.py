"""What became of every true object of a photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.errors import InputError
from maskrcnn.images import ImageLike, load_image
from maskrcnn.inspection.misses.advice import advise
from maskrcnn.inspection.misses.evidence import Evidence, Limits, overlaps
from maskrcnn.inspection.misses.heads import found_or_mask_misses, lost_in_heads
from maskrcnn.inspection.misses.outcome import Loss, ObjectOutcome
from maskrcnn.inspection.misses.rpn import lost_in_rpn
from maskrcnn.inspection.places import plain_box
from maskrcnn.inspection.trace import Trace
from maskrcnn.ops import boxes as box_ops
from maskrcnn.structures import Detections, Target
from maskrcnn.targets import check_target

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN


def explain(
    model: MaskRCNN,
    photo: ImageLike,
    target: Target | Mapping[str, Any],
    *,
    score_threshold: float = 0.5,
    iou: float = 0.5,
    mask_iou: float = 0.5,
) -> list[ObjectOutcome]:
    """Return what became of every true object of a photo: found, or the stage at which it was lost.

    An object is found by a detection of its class whose score, box and mask reach the three limits. A detection
    serves one object: they are given out best first, each to the free object that it overlaps most, as in COCO's
    evaluation. Any other object is followed from all anchors to the detections, up to the last stage at which some
    box still lies on it. A proposal lies on an object from the IoU on that the head was trained with
    (`box.matching.positive_iou`), or from `iou` on if that is less; one farther off counts where the head sees the
    object in it and moves its box there.

    Args:
        model: the network.
        photo: as for `predict`.
        target: its objects, in the frame of the photo, with the network's labels. Crowds are left aside. Without masks
            boxes alone are compared.
        score_threshold: least score of a detection.
        iou: least IoU of its box.
        mask_iou: least IoU of its mask.

    Raises:
        InputError: target or photo is wrong, or a number out of range.
        ImageFileError: the photo cannot be read.

    Example:
        >>> from maskrcnn.config import Config
        >>> from maskrcnn.data import ShapesDataset
        >>> from maskrcnn.model import MaskRCNN
        >>> model = MaskRCNN(Config.preset("small-fpn", class_names=ShapesDataset.class_names)).eval()
        >>> photo, target = ShapesDataset(1)[0]
        >>> outcomes = explain(model, photo, target)  # of random weights
        >>> len(outcomes) == len(target), any(outcome.found for outcome in outcomes)
        (True, False)
    """
    pixels = load_image(photo)
    limits = _checked(score_threshold, iou, mask_iou)
    checked = _checked_target(target, model, (pixels.shape[0], pixels.shape[1]))
    return explain_trace(model.trace(pixels), checked, *limits)


def explain_trace(
    trace: Trace, target: Target, score_threshold: float = 0.5, iou: float = 0.5, mask_iou: float = 0.5
) -> list[ObjectOutcome]:
    """Return the same of a run that was traced already; see `explain`.

    Args:
        trace: a whole one, from `model.trace(photo)`.
        target: checked ground truth in the frame of the photo.
        score_threshold: least score of a detection.
        iou: least IoU of its box.
        mask_iou: least IoU of its mask.
    """
    limits = _checked(score_threshold, iou, mask_iou)
    crowd = torch.zeros(len(target), dtype=torch.bool) if target.crowd is None else target.crowd
    numbers = (~crowd).nonzero()[:, 0].tolist()
    evidence = Evidence(trace, target.without_crowds(), limits)
    found = match_detections(evidence.detections, evidence.target, limits)
    matched = {detection: g for g, detection in enumerate(found) if detection is not None}
    outcomes = []
    for g, detection in enumerate(found):
        if detection is not None:
            loss = found_or_mask_misses(evidence, g, detection)
        else:
            loss = lost_in_heads(evidence, g, matched) or lost_in_rpn(evidence, g)
        outcomes.append(_outcome(evidence, g, numbers[g], loss, detection))
    return outcomes


def match_detections(detections: Detections, target: Target, limits: Limits) -> list[int | None]:
    """Return which detection each object is found by, if any: greedily by score and within a class, as COCO does."""
    found: list[int | None] = [None] * len(target)
    each = overlaps(detections.boxes, target.boxes)
    for d in range(len(detections)):
        if float(detections.scores[d]) < limits.score:
            continue
        right = target.labels == detections.labels[d]
        free = torch.tensor([other is None for other in found], dtype=torch.bool)
        reached = torch.where(right & free & (each[d] >= limits.iou), each[d], -1.0)
        if len(reached) and float(reached.max()) >= 0:
            found[int(reached.argmax())] = d
    return found


def _outcome(evidence: Evidence, g: int, number: int, loss: Loss, detection: int | None) -> ObjectOutcome:
    target = evidence.target
    label = int(target.labels[g])
    return ObjectOutcome(
        index=number,
        label=label,
        name=evidence.config.class_names[label],
        box=plain_box(target.boxes[g]),
        area=float(_areas(target)[g]),
        stage=loss.stage,
        sentence=loss.sentence,
        advice=advise(loss.stage, [loss.numbers], evidence.config),
        detection=detection,
        numbers=loss.numbers,
    )


def _areas(target: Target) -> Float[Tensor, " G"]:
    if target.area is not None:
        return target.area
    return box_ops.area(target.boxes) if target.masks is None else target.masks.sum((1, 2)).float()


def _checked(score_threshold: float, iou: float, mask_iou: float) -> Limits:
    limits = Limits(score_threshold, iou, mask_iou)
    for name, value, low in (
        ("score_threshold", limits.score, 0.0),
        ("iou", limits.iou, 1e-6),
        ("mask_iou", limits.mask_iou, 0.0),
    ):
        if not low <= value <= 1:
            raise InputError(f"{name} must be {'over ' if low else ''}0 and at most 1; got {value}.")
    return limits


def _checked_target(target: Target | Mapping[str, Any], model: MaskRCNN, size: tuple[int, int]) -> Target:
    masks = target.masks if isinstance(target, Target) else target.get("masks") if isinstance(target, Mapping) else None
    checked = check_target(target, size, model.config.num_classes, model.config.masks and masks is not None, "target")
    return replace(checked, boxes=checked.boxes.cpu(), labels=checked.labels.cpu())
