"""Triton's kernels in tests: on a GPU where there is one, elsewhere on the CPU under Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
import torch

from maskrcnn import MaskRCNN
from tiny import tiny_model

FEW = {
    "box__pool_size": 2,
    "mask__pool_size": 2,
    "roi_align__sampling_ratio": 1,
    "rpn__pre_nms_top_n": 20,
    "rpn__pre_nms_top_n_training": 20,
    "rpn__post_nms_top_n": 6,
    "rpn__post_nms_top_n_training": 6,
    "box__candidates": 12,
    "box__detections_per_image": 4,
    "box__matching__samples_per_image": 4,
}
"""Overrides of the tiny network: the interpreter takes milliseconds for each bin."""

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if DEVICE.type == "cpu":
    if "triton" not in sys.modules:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    import triton.language

    if type(triton.language.sum).__name__ != "InterpretedFunction":
        pytest.skip("Triton was imported before TRITON_INTERPRET=1 was set", allow_module_level=True)


def take_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package take Triton's kernels on the device that tests have."""
    from maskrcnn.ops import triton as twins

    monkeypatch.setattr(twins, "_fits", lambda values, boxes: boxes.dtype == torch.float32)
    monkeypatch.setattr(twins, "_found", [True])


def few_rois(**overrides: object) -> MaskRCNN:
    """Return a network with few and small crops, whose random predictors are strong enough to find something."""
    model = tiny_model(**{**FEW, **overrides}).eval()
    with torch.no_grad():
        for layer in (model.rpn.deltas, model.rpn.objectness, model.box_head.class_logits):
            layer.weight.mul_(20)
    return model
