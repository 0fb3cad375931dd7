"""The smallest network and data that training, evaluation and the command line can be tested with."""

from __future__ import annotations

import torch

from maskrcnn.config import Config
from maskrcnn.data import ShapesDataset
from maskrcnn.model import MaskRCNN

SIDE = 64
TINY = {
    "image.min_size": SIDE,
    "image.max_size": SIDE,
    "backbone.width": 8,
    "fpn.channels": 16,
    "anchors.sizes": ((8,), (16,), (24,), (32,), (48,)),
    "rpn.channels": 16,
    "rpn.pre_nms_top_n": 50,
    "rpn.pre_nms_top_n_training": 50,
    "rpn.post_nms_top_n": 30,
    "rpn.post_nms_top_n_training": 30,
    "rpn.matching.samples_per_image": 32,
    "roi_align.canonical_size": 32.0,
    "box.fc_channels": 32,
    "box.candidates": 40,
    "box.detections_per_image": 10,
    "box.matching.samples_per_image": 16,
    "mask.channels": 16,
}
"""Overrides of the preset small-fpn: 0.2 million weights, a step of two images in 0.05 s."""

PAPERS = {"optimizer": "sgd", "learning_rate": 0.0025, "schedule": "step", "clip_norm": 0.0}
"""Training options of the papers."""


def tiny_data(length: int = 6, seed: int = 0, empty_fraction: float = 0.0) -> ShapesDataset:
    """Return made images of 64 × 64 pixels."""
    return ShapesDataset(length, (SIDE, SIDE), seed=seed, empty_fraction=empty_fraction)


def tiny_model(seed: int = 0, **overrides: object) -> MaskRCNN:
    """Return the network with random weights; `overrides` are fields with __ for the dot."""
    changes = {**TINY, **{key.replace("__", "."): value for key, value in overrides.items()}}
    torch.manual_seed(seed)
    return MaskRCNN(Config.preset("small-fpn", class_names=ShapesDataset.class_names, overrides=changes))
