"""A network that is told the truth: it finds every object, until a test takes one of its steps away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.heads.box import of_class
from maskrcnn.model import MaskRCNN
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.masks import crop_masks
from maskrcnn.rpn import RPNOutput
from maskrcnn.stages import stage
from maskrcnn.structures import Target
from tiny import SIDE, tiny_model

SURE = 5.0
"""Logit that the oracle gives what it knows."""
PHOTO = np.full((SIDE, SIDE, 3), 120, np.uint8)


def truth(boxes: Sequence[Sequence[float]], labels: Sequence[int] | None = None) -> Target:
    """Objects that fill their boxes, in a photo that the network sees as it is."""
    masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64),
        masks=masks,
    )


def nothing(tensor: Tensor, boxes: Tensor) -> Tensor:
    """Change nothing of what a step gives."""
    return tensor


Change = Callable[[Tensor, Tensor], Tensor]


def oracle(
    target: Target,
    *,
    objectness: Change = nothing,
    rpn_deltas: Change = nothing,
    class_logits: Change = nothing,
    box_deltas: Change = nothing,
    mask_logits: Change = nothing,
    **overrides: Any,
) -> MaskRCNN:
    """Return a network that knows the objects of `PHOTO`.

    Anchors and proposals are moved onto the object that they overlap most; the RPN scores them by IoU, from −5 to
    5, the class head is sure of the object's class from IoU 0.3 on. The changes get [R, …] and the anchors or
    proposals [R, 4]; `overrides` are fields of the configuration.
    """
    model = tiny_model(**{"rpn__pre_nms_top_n": 50, **overrides}).eval()
    config = model.config
    rpn_forward, model_boxes, model_masks = model.rpn.forward, model.boxes, model.masks

    def nearest(boxes: Tensor) -> tuple[Tensor, Tensor]:
        best, index = box_ops.iou(boxes, target.boxes).max(1)
        return best, index

    def rpn(features: Any, images: Any, training: bool = False) -> RPNOutput:
        out = rpn_forward(features, images, training)
        best, index = nearest(out.anchors)
        logits = objectness(10 * best - 5, out.anchors)
        moved = box_ops.encode(out.anchors, target.boxes[index], config.rpn.delta_weights)
        moved = rpn_deltas(torch.where(best[:, None] > 0.2, moved, 0.0), out.anchors)
        return out._replace(objectness=stage("rpn_objectness", logits[None]), deltas=stage("rpn_deltas", moved[None]))

    def boxes(pyramid: Any, rois: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = (torch.zeros_like(t) for t in model_boxes(pyramid, rois))
        best, index = nearest(rois[0])
        on_it = best >= 0.3
        logits[torch.arange(len(best)), torch.where(on_it, target.labels[index], config.num_classes)] = SURE
        moved = box_ops.encode(rois[0], target.boxes[index], config.box.delta_weights)
        deltas[:] = torch.where(on_it[:, None], moved, 0.0)[:, None]
        return (
            stage("class_logits", class_logits(logits, rois[0])),
            stage("box_deltas", box_deltas(deltas, rois[0])),
        )

    def masks(pyramid: Any, rois: Tensor, labels: Tensor) -> Tensor:
        size = model_masks(pyramid, rois, labels).shape[-1]
        _, index = nearest(rois[0])
        shares = crop_masks(target.masks[None], index[None], rois, size, aligned=True)
        logits = ((shares - 0.5) * 20)[:, None].expand(-1, config.num_classes, -1, -1).clone()
        return of_class(stage("mask_logits", mask_logits(logits, rois[0])), labels.flatten())

    model.rpn.forward = rpn  # type: ignore[method-assign]
    model.boxes = boxes  # type: ignore[method-assign]
    model.masks = masks  # type: ignore[method-assign]
    return model
