"""Matterport's checkpoints (Keras `.h5`): Mask R-CNN on ResNet-50-FPN and ResNet-101-FPN.

TensorFlow stores a convolution as (height, width, in, out), a transposed one as (height, width, out, in) and a dense
layer as (in, out). Its boxes and deltas are (y, x, h, w), and class 0 is background.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import CheckpointError
from maskrcnn.weights.importing import (
    Assumption,
    Imported,
    Renames,
    Tensors,
    architecture,
    background_to_end,
    described,
    merged,
    names_for,
    num_classes_of,
    renamed,
)

BACKBONE_LAYERS = (
    (r"conv1", r"backbone.conv1"),
    (r"bn_conv1", r"backbone.bn1"),
    (r"res(\d)([a-z]+)_branch1", r"backbone.layer<1-1>.{\2}.downsample.0"),
    (r"bn(\d)([a-z]+)_branch1", r"backbone.layer<1-1>.{\2}.downsample.1"),
    (r"res(\d)([a-z]+)_branch2([abc])", r"backbone.layer<1-1>.{\2}.conv{\3}"),
    (r"bn(\d)([a-z]+)_branch2([abc])", r"backbone.layer<1-1>.{\2}.bn{\3}"),
)
RENAMES = (
    *BACKBONE_LAYERS,
    (r"fpn_c(\d)p\d", r"fpn.lateral\1.conv"),
    (r"fpn_p(\d)", r"fpn.output\1.conv"),
    (r"rpn_conv_shared", r"rpn.convs.0"),
    (r"rpn_class_raw", r"rpn.objectness"),
    (r"rpn_bbox_pred", r"rpn.deltas"),
    (r"mrcnn_class_conv(\d)", r"box_head.fcs.<1-1>"),
    (r"mrcnn_class_bn(\d)", r"box_head.norms.<1-1>"),
    (r"mrcnn_class_logits", r"box_head.class_logits"),
    (r"mrcnn_bbox_fc", r"box_head.box_deltas"),
    (r"mrcnn_mask_conv(\d)", r"mask_head.convs.<1-1>.conv"),
    (r"mrcnn_mask_bn(\d)", r"mask_head.convs.<1-1>.norm"),
    (r"mrcnn_mask_deconv", r"mask_head.deconv"),
    (r"mrcnn_mask", r"mask_head.predictor"),
)
"""By layer; a letter in braces is a number, a for 0 in a block's name and for 1 in a convolution's."""

PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    **{"W": "weight", "b": "bias", "running_mean": "running_mean", "running_std": "running_var"},
}
"""What Keras calls the parts of a layer; the last four until 2017, when `running_std` held the variance."""
NORM_EPS = 1e-3
SIDE = 1024

DIALECT: dict[str, Any] = {
    "box_corners": "centers",
    "image": {
        "min_size": 800,
        "max_size": SIDE,
        "resize": "skimage",
        "pixel_scale": 1.0,
        "mean": (123.7, 116.8, 103.9),
        "std": (1.0, 1.0, 1.0),
        "padding": "square",
        "padding_place": "center",
        "padding_fill": "black",
        "size_divisor": 64,
    },
    "backbone": {"stride_in_1x1": True, "norm_eps": NORM_EPS, "stem_padding": "end", "frozen_stages": 0},
    "anchors": {"ratios": (2.0, 1.0, 0.5)},
    "rpn": {
        "delta_weights": (10.0, 10.0, 5.0, 5.0),
        "max_log_scale": None,
        "per_level": False,
        "clip": "input",
        "min_size": None,
        "pre_nms_top_n": 6000,
        "pre_nms_top_n_training": 6000,
        "loss": {"beta": 1.0},
    },
    "roi_align": {
        "method": "crop_and_resize",
        "canonical_size": 224 * (SIDE - 1) / SIDE,
        "level_rounding": "nearest",
        "level_epsilon": 0.0,
    },
    "box": {
        "max_log_scale": None,
        "classes_per_roi": "best",
        "score_threshold": 0.7,
        "nms_threshold": 0.3,
        "min_size": None,
        "round_boxes": True,
        "loss": {"beta": 1.0},
        "matching": {
            "positive_iou": 0.5,
            "negative_iou": 0.5,
            "low_quality_matches": False,
            "samples_per_image": 200,
            "positive_fraction": 0.33,
        },
    },
    "mask": {"norm_eps": NORM_EPS},
}
"""Anchors are its, with h = s / √r; levels use sides as shares of the image, whose sides count 1023 there."""

ASSUMED = (
    Assumption("image.min_size", 800, "IMAGE_MIN_DIM of its Config"),
    Assumption("image.max_size", SIDE, "IMAGE_MAX_DIM of its Config"),
    Assumption("image.mean", (123.7, 116.8, 103.9), "MEAN_PIXEL of its Config"),
    Assumption("anchors.sizes", ((32,), (64,), (128,), (256,), (512,)), "RPN_ANCHOR_SCALES of its Config"),
    Assumption("box.score_threshold", 0.7, "DETECTION_MIN_CONFIDENCE of its Config"),
    Assumption("box.nms_threshold", 0.3, "DETECTION_NMS_THRESHOLD of its Config"),
)


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of Matterport's model."""
    return "conv1/conv1/kernel:0" in tensors and any(key.startswith(("mrcnn_", "rpn_model/")) for key in tensors)


def convert(tensors: dict[str, Tensor], file: str, partial: bool = False) -> Imported:
    """Return the checkpoint in our terms, exactly: only parameters are written differently.

    The bias of a convolution before a norm goes into the norm's mean; the norms of the box head, whose convolutions
    are our linear layers, go into these; of the RPN's two logits per anchor their difference is ours. What is taken
    leaves `tensors`, to save memory.

    Raises:
        CheckpointError: a tensor is missing, or the backbone is none of ours.
    """
    ours, unused = Tensors(file, partial=partial), []
    for key in list(tensors):
        name = our_name(key)
        if name is None:
            unused.append(key)
        else:
            ours[name], ours.origin[name] = torch_layout(tensors.pop(key)), key
    _merge_box_head(ours)
    fold_biases(ours)
    _rpn_to_ours(ours)
    background_to_end(ours)
    config = Config.build(merged({"class_names": names_for(num_classes_of(ours))}, DIALECT, architecture(ours)))
    return Imported(file, f"Matterport's {described(config)}", config, ours, unused, list(ASSUMED), names_known=False)


def our_name(key: str, layers: Renames = RENAMES) -> str | None:
    """Return our name of a dataset by its path in the file; None if no part of ours corresponds to it.

    Example:
        >>> our_name("res4b_branch2c/res4b_branch2c/kernel:0")
        'backbone.layer3.1.conv3.weight'
    """
    *_, layer, part = key.split("/") if "/" in key else ("", "", "")
    part = part.removesuffix(":0").removesuffix("_1").removeprefix(f"{layer}_")
    name = renamed(layer, layers) if part in PARTS else None
    if name is None:
        return None
    name = re.sub(r"\.\{([a-z])\}", lambda m: f".{ord(m[1]) - ord('a')}", name)
    name = re.sub(r"\{([abc])\}", lambda m: str(ord(m[1]) - ord("a") + 1), name)
    return f"{name}.{PARTS[part]}"


def torch_layout(tensor: Tensor) -> Tensor:
    """Return a kernel of TensorFlow's in PyTorch's layout."""
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()  # of a transposed convolution, too: its last axis is its input
    return tensor.T.contiguous() if tensor.dim() == 2 else tensor


def _merge_box_head(tensors: Tensors) -> None:
    """Turn each 7 × 7 or 1 × 1 convolution and its norm into one linear layer on the flattened crop."""
    for number in range(tensors.count("box_head.norms")):
        norm = {part: tensors.pop(f"box_head.norms.{number}.{part}") for part in dict.fromkeys(PARTS.values())}
        scale = norm["weight"] / (norm["running_var"] + NORM_EPS).sqrt()
        if tensors.partial and f"box_head.fcs.{number}.weight" not in tensors:
            continue
        weight, bias = tensors[f"box_head.fcs.{number}.weight"], tensors[f"box_head.fcs.{number}.bias"]
        tensors[f"box_head.fcs.{number}.weight"] = weight.flatten(1).mul_(scale[:, None])
        tensors[f"box_head.fcs.{number}.bias"] = (bias - norm["running_mean"]) * scale + norm["bias"]


def fold_biases(tensors: Tensors) -> None:
    """Put the bias of every convolution before a norm into the norm's mean: x + b − m is x − (m − b)."""
    for key in [key for key in tensors if key.endswith(".running_mean")]:
        conv = key.removesuffix(".running_mean")
        for norm_name, conv_name in (
            (r"\.bn(\d)$", r".conv\1"),
            (r"downsample\.1$", "downsample.0"),
            (r"\.norm$", ".conv"),
        ):
            conv = re.sub(norm_name, conv_name, conv)
        if tensors.partial and f"{conv}.bias" not in tensors:
            continue
        mean, bias = tensors[key], tensors[f"{conv}.bias"]
        if mean.shape != bias.shape:
            raise CheckpointError(
                f"{tensors.file}: {key} is {list(mean.shape)} and {conv}.bias {list(bias.shape)}; they must be alike."
            )
        tensors[key] = mean - bias
        del tensors[f"{conv}.bias"]


def _rpn_to_ours(tensors: Tensors) -> None:
    """Take foreground − background as the logit, whose sigmoid is their softmax; deltas as (x, y, w, h)."""
    for suffix in ("weight", "bias"):
        both = tensors.get(f"rpn.objectness.{suffix}")
        if both is not None and both.dim() and len(both) % 2 == 0:
            tensors[f"rpn.objectness.{suffix}"] = both[1::2] - both[::2]
        for name in ("rpn.deltas", "box_head.box_deltas"):
            deltas = tensors.get(f"{name}.{suffix}")
            if deltas is None or deltas.dim() == 0 or len(deltas) % 4:
                continue  # what is missing, or does not fit, is told later
            swapped = deltas.reshape(-1, 4, *deltas.shape[1:])[:, [1, 0, 3, 2]]
            tensors[f"{name}.{suffix}"] = swapped.flatten(0, 1)
