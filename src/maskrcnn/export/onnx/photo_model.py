"""Networks out of ONNX files that take photos as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import InputError
from maskrcnn.export.onnx.session import run_session
from maskrcnn.images import ImageLike, load_image
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.keypoints import read_heatmaps
from maskrcnn.ops.masks import paste_masks
from maskrcnn.ops.rle import RLE, encode_masks, paste_rles
from maskrcnn.prediction import Predictor
from maskrcnn.structures import Detections, ImageBatch, MaskForm

PHOTO = "photo"
"""Name of the graph's input, uint8 [1, H, W, 3], RGB."""


class PhotoModel(Predictor):
    """A network that `maskrcnn export --with-preprocessing` wrote: everything but reading files is in its graph."""

    def __init__(self, config: Config, session: Any) -> None:
        self.config = config
        self.session = session

    def detect(self, images: ImageBatch) -> NoReturn:
        """Raise `InputError`: it takes photos, not what is prepared of them."""
        raise InputError("This file has its preprocessing inside; give photos to its predict.")

    def found_in(
        self, photos: Sequence[ImageLike], first: int, score_threshold: float, masks: MaskForm
    ) -> list[Detections]:
        """Return what is found in the photos of one batch, which go through the graph one by one."""
        return [
            self._found_in(load_image(photo, f"images[{i}]"), score_threshold, masks)
            for i, photo in enumerate(photos, first)
        ]

    def _found_in(self, photo: np.ndarray, score_threshold: float, form: MaskForm) -> Detections:
        config = self.config
        names = [output.name for output in self.session.get_outputs()]
        found = run_session(self.session, names, {PHOTO: np.ascontiguousarray(photo[None])})
        found = {name: tensor[found["scores"] >= score_threshold] for name, tensor in found.items()}
        size = (int(photo.shape[0]), int(photo.shape[1]))
        masks, rles = self._masks(found, size, form) if config.masks else (None, None)
        keypoints = None
        if config.keypoint_names:  # read in the photo, where `MaskRCNN.predict` reads them in the network's input
            keypoints = read_heatmaps(found["keypoint_logits"], found["boxes"], config.keypoint.scores)
        return Detections(
            boxes=found["boxes"],
            labels=found["labels"],
            scores=found["scores"],
            masks=masks,
            rles=rles,
            image_size=size,
            class_names=config.class_names,
            keypoints=keypoints,
            keypoint_names=config.keypoint_names,
            keypoint_scores=config.keypoint.scores,
            skeleton=config.keypoint.skeleton if config.keypoint_names else (),
        )

    def _masks(
        self, found: dict[str, Tensor], size: tuple[int, int], form: MaskForm
    ) -> tuple[Tensor | None, tuple[RLE, ...] | None]:
        """Return masks in the form that is wanted, as the graph laid them on the photo or as probabilities."""
        masks, config = found["masks"], self.config
        if masks.dtype == torch.bool:
            return (masks, None) if form == "pixels" else (None, tuple(encode_masks(masks)))
        ends = -1.0 if config.box_corners == "inclusive" else 0.0  # the rule was written for the last pixel
        laid = box_ops.move_ends(found["boxes"], ends)
        rule, threshold = config.mask.paste, config.mask.threshold
        if form == "rle":
            return None, tuple(paste_rles(masks, laid, size, rule, threshold))
        return paste_masks(masks, laid, size, rule, threshold), None
