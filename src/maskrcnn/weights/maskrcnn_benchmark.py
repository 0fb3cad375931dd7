"""maskrcnn-benchmark's checkpoints (`.pth`): Faster and Mask R-CNN on FPN and C4, in the manner of Detectron 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.weights.importing import (
    Assumption,
    Imported,
    Tensors,
    architecture,
    background_to_end,
    described,
    merged,
    names_for,
    num_classes_of,
    rename_all,
    renamed,
    usual,
)

RENAMES = (
    (r"backbone\.body\.stem\.(.*)", r"backbone.\1"),
    (r"backbone\.body\.(layer.*)", r"backbone.\1"),
    (r"backbone\.fpn\.fpn_inner(\d)\.(.*)", r"fpn.lateral<1+1>.conv.\2"),
    (r"backbone\.fpn\.fpn_layer(\d)\.(.*)", r"fpn.output<1+1>.conv.\2"),
    (r"rpn\.head\.conv\.(.*)", r"rpn.convs.0.\1"),
    (r"rpn\.head\.cls_logits\.(.*)", r"rpn.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(.*)", r"rpn.deltas.\1"),
    (r"roi_heads\.box\.feature_extractor\.head\.layer4\.(.*)", r"stage5.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc6\.(.*)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc7\.(.*)", r"box_head.fcs.1.\1"),
    (r"roi_heads\.box\.predictor\.cls_score\.(.*)", r"box_head.class_logits.\1"),
    (r"roi_heads\.box\.predictor\.bbox_pred\.(.*)", r"box_head.box_deltas.\1"),
    (r"roi_heads\.mask\.feature_extractor\.mask_fcn(\d)\.(.*)", r"mask_head.convs.<1-1>.conv.\2"),
    (r"roi_heads\.mask\.predictor\.conv5_mask\.(.*)", r"mask_head.deconv.\1"),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits\.(.*)", r"mask_head.predictor.\1"),
)
IGNORED = (
    r"rpn\.anchor_generator\.cell_anchors\.\d+",
    r"roi_heads\.mask\.feature_extractor\.head\.layer4\..*",  # of C4: the box head's, once more
)

DIALECT: dict[str, Any] = {
    "box_corners": "inclusive",
    "image": {
        "resize": "pil_floor",
        "channel_order": "bgr",
        "pixel_scale": 1.0,
        "mean": (102.9801, 115.9465, 122.7717),
        "std": (1.0, 1.0, 1.0),
    },
    "backbone": {"norm_eps": 0.0},
    "anchors": {"rounding": "base", "offset": 0.5},
    "rpn": {"min_size": None},
    "roi_align": {"aligned": False, "sampling_ratio": 2},
    "box": {"min_size": None, "loss": {"beta": 1.0}},
    "mask": {"paste": "integer_box", "binary_targets": True},
}
WITHOUT_FPN: dict[str, Any] = {
    "image": {"size_divisor": 1},
    "rpn": {"pre_nms_top_n": 6000, "pre_nms_top_n_training": 12000},
    "roi_align": {"sampling_ratio": 0},
}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of maskrcnn-benchmark's GeneralizedRCNN on a ResNet."""
    return "backbone.body.stem.conv1.weight" in tensors and any(
        key.startswith(("rpn.head.", "roi_heads.")) for key in tensors
    )


def convert(tensors: dict[str, Tensor], file: str, partial: bool = False) -> Imported:
    """Return the checkpoint in our terms.

    Where the bottlenecks halve the map is assumed: in the 3 × 3 for ResNeXt, in the 1 × 1 otherwise, as in its
    configurations.

    Raises:
        CheckpointError: a tensor is missing, or the backbone is none of ours.
    """
    ours, unused = rename_all(tensors, our_name, IGNORED, file, partial)
    background_to_end(ours)
    values = architecture(ours)
    num_classes = num_classes_of(ours)
    resnext = values["backbone"]["groups"] > 1
    why = "as its ResNeXt" if resnext else "as its ResNets, which are MSRA's"
    assumed = [Assumption("backbone.stride_in_1x1", not resnext, why)]
    values["backbone"]["stride_in_1x1"] = not resnext
    dialect = merged({"class_names": names_for(num_classes)}, DIALECT)
    if values["fpn"] is None:
        dialect = merged(dialect, WITHOUT_FPN)
        _size_major(ours, len(values["anchors"]["sizes"][0]))
    config = Config.build(merged(dialect, values))
    assumed += usual(config, "maskrcnn-benchmark")
    return Imported(file, f"maskrcnn-benchmark's {described(config)}", config, ours, unused, assumed, names_known=False)


def our_name(key: str) -> str | None:
    """Return our name of a tensor of maskrcnn-benchmark's; None if no part of ours corresponds to it.

    Example:
        >>> our_name("backbone.fpn.fpn_inner1.weight")
        'fpn.lateral2.conv.weight'
    """
    return renamed(key, RENAMES)


def _size_major(tensors: Tensors, sizes: int) -> None:
    """Order the RPN's channels by size, then ratio; Detectron 1 has them by ratio, then size."""
    for name, numbers in (("objectness", 1), ("deltas", 4)):
        for suffix in ("weight", "bias"):
            tensor = tensors.get(f"rpn.{name}.{suffix}")
            if tensor is None or tensor.dim() == 0 or len(tensor) % (sizes * numbers):
                continue  # what is missing, or does not fit, is told later
            split = tensor.reshape(-1, sizes, numbers, *tensor.shape[1:])
            tensors[f"rpn.{name}.{suffix}"] = split.transpose(0, 1).reshape(tensor.shape)
