"""Mask R-CNN that people can run, train, ship and see through."""

from __future__ import annotations

from maskrcnn.config import Config
from maskrcnn.errors import MaskRCNNError
from maskrcnn.model import MaskRCNN
from maskrcnn.ops.boxes import xywh_to_xyxy
from maskrcnn.structures import DetectionBatch, Detections, ImageBatch, Losses, Target, TargetBatch
from maskrcnn.weights import load, pretrained

__version__ = "0.1.0"

__all__ = [
    "Config",
    "DetectionBatch",
    "Detections",
    "ImageBatch",
    "Losses",
    "MaskRCNN",
    "MaskRCNNError",
    "Target",
    "TargetBatch",
    "load",
    "pretrained",
    "xywh_to_xyxy",
]
