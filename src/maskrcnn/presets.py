"""Named starting points for a `Config`: plain values, every one of them a field you can change."""

from __future__ import annotations

from typing import Any

SQUARE_1024 = {"min_size": 800, "max_size": 1024, "padding": "square"}
SINGLE_SCALE_ANCHORS = {"sizes": ((32, 64, 128, 256, 512),)}
SINGLE_SCALE_RPN = {
    "pre_nms_top_n": 6000,
    "pre_nms_top_n_training": 12000,
    "post_nms_top_n": 1000,
    "post_nms_top_n_training": 2000,
}


def _resnet_fpn(depth: int) -> dict[str, Any]:
    return {"image": SQUARE_1024, "backbone": {"kind": "resnet", "depth": depth}}


def _resnet_c4(depth: int) -> dict[str, Any]:
    """Mask R-CNN, figure 4 left: RPN on c4, stage five on every crop, no mask convolutions."""
    return {
        "image": {"size_divisor": 16},
        "backbone": {"kind": "resnet", "depth": depth},
        "fpn": None,
        "anchors": SINGLE_SCALE_ANCHORS,
        "rpn": {**SINGLE_SCALE_RPN, "channels": 1024 if depth >= 50 else 256},
        "box": {"pool_size": 14, "num_fcs": 0},
        "mask": {"pool_size": 14, "num_convs": 0},
    }


VGG_PLAIN: dict[str, Any] = {
    "image": {"min_size": 600, "max_size": 1000, "size_divisor": 16},
    "backbone": {"kind": "vgg"},
    "fpn": None,
    "anchors": {"sizes": ((128, 256, 512),)},
    "rpn": {**SINGLE_SCALE_RPN, "channels": 512},
    "box": {"fc_channels": 4096},
}

SMALL: dict[str, Any] = {
    "image": {"min_size": 320, "max_size": 480},
    "backbone": {"kind": "resnet", "depth": 18, "width": 32, "norm": "group", "frozen_stages": 0},
    "fpn": {"channels": 64, "norm": "group"},
    "anchors": {"sizes": ((16,), (32,), (64,), (128,), (256,))},
    "rpn": {
        "channels": 64,
        "pre_nms_top_n": 400,
        "pre_nms_top_n_training": 400,
        "post_nms_top_n": 200,
        "post_nms_top_n_training": 400,
    },
    "roi_align": {"canonical_size": 112.0},
    "box": {
        "fc_channels": 256,
        "candidates": 500,
        "matching": {
            "positive_iou": 0.5,
            "negative_iou": 0.5,
            "low_quality_matches": False,
            "samples_per_image": 64,
            "positive_fraction": 0.25,
        },
    },
    "mask": {"channels": 64, "num_convs": 2},
}
"""For a CPU: the same code with narrow layers and small images, to be trained from random weights."""

PRESETS: dict[str, dict[str, Any]] = {
    **{f"resnet{depth}-fpn": _resnet_fpn(depth) for depth in (101, 50, 152, 34, 18)},
    **{f"resnet{depth}": _resnet_c4(depth) for depth in (101, 50, 152, 34, 18)},
    "vgg16-fpn": {"image": SQUARE_1024, "backbone": {"kind": "vgg"}},
    "vgg16": VGG_PLAIN,
    "small-fpn": SMALL,
}
