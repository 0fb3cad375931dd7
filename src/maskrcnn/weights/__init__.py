"""Weights files: ours (weights, configuration and class names in one), and other implementations'."""

from __future__ import annotations

from maskrcnn.weights.files import load, save
from maskrcnn.weights.published import pretrained

__all__ = ["load", "pretrained", "save"]
