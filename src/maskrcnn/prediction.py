"""From photos to detections in the photos' own frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import InputError
from maskrcnn.images import ImageLike, prepare
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.masks import paste_masks
from maskrcnn.stages import stage
from maskrcnn.structures import DetectionBatch, Detections, ImageBatch

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN


def predict(
    model: MaskRCNN, images: ImageLike | Sequence[ImageLike], score_threshold: float, batch_size: int
) -> list[Detections]:
    """Return the detections of each image; see `MaskRCNN.predict`."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}.")
    if not 0 <= score_threshold <= 1:
        raise InputError(f"score_threshold must be 0 to 1; got {score_threshold}.")
    several: Sequence[ImageLike] = list(images) if isinstance(images, (list, tuple)) else [images]  # type: ignore[list-item]
    found: list[Detections] = []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(several), batch_size):
                batch = prepare(several[start : start + batch_size], model.config.image, first=start)
                batch = batch.to(model.device, model.dtype)
                found += unbatch(model(batch), batch, model.config, score_threshold)
    finally:
        model.train(was_training)
    return found


def unbatch(
    detections: DetectionBatch, images: ImageBatch, config: Config, score_threshold: float = 0.0
) -> list[Detections]:
    """Return one `Detections` per image, on the CPU, in the frame of the original photo, with masks pasted."""
    scale = (images.original_sizes / images.sizes).flip(-1).repeat(1, 2)[:, None]  # x, y, x, y
    boxes = box_ops.clip(detections.boxes * scale, images.original_sizes)
    keep = detections.valid & (detections.scores >= score_threshold) & box_ops.large_enough(boxes, 0.0)
    found = []
    for n, (height, width) in enumerate(images.original_sizes.tolist()):
        chosen = keep[n]
        masks: Tensor | None = None
        if config.masks:
            probabilities = detections.mask_logits[n, chosen].sigmoid()
            rule, threshold = config.mask.paste, config.mask.threshold
            masks = stage("masks", paste_masks(probabilities, boxes[n, chosen], (height, width), rule, threshold))
        found.append(
            Detections(
                boxes=boxes[n, chosen].cpu(),
                labels=detections.labels[n, chosen].cpu(),
                scores=detections.scores[n, chosen].cpu(),
                masks=None if masks is None else masks.cpu(),
                image_size=(height, width),
                class_names=config.class_names,
            )
        )
    return found
