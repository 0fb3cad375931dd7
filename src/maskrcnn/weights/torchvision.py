"""torchvision's `fasterrcnn_*`, `maskrcnn_*` and `keypointrcnn_*` checkpoints: names, and what they do not tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.weights.importing import (
    Assumption,
    Imported,
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
    (r"backbone\.body\.(.*)", r"backbone.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.(.*)", r"fpn.lateral<1+2>.conv.\2"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.(.*)", r"fpn.lateral<1+2>.norm.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.(.*)", r"fpn.output<1+2>.conv.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.(.*)", r"fpn.output<1+2>.norm.\2"),
    (r"rpn\.head\.conv\.(\d)\.0\.(.*)", r"rpn.convs.\1.\2"),
    (r"rpn\.head\.cls_logits\.(.*)", r"rpn.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(.*)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(.*)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_head\.fc7\.(.*)", r"box_head.fcs.1.\1"),
    (r"roi_heads\.box_head\.(\d)\.0\.(.*)", r"box_head.convs.\1.conv.\2"),
    (r"roi_heads\.box_head\.(\d)\.1\.(.*)", r"box_head.convs.\1.norm.\2"),
    (r"roi_heads\.box_head\.\d\.(weight|bias)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.*)", r"box_head.class_logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.*)", r"box_head.box_deltas.\1"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(.*)", r"mask_head.convs.\1.conv.\2"),
    (r"roi_heads\.mask_head\.(\d)\.1\.(.*)", r"mask_head.convs.\1.norm.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.*)", r"mask_head.deconv.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.*)", r"mask_head.predictor.\1"),
    (r"roi_heads\.keypoint_head\.(\d)\.0\.(.*)", r"keypoint_head.convs.\1.conv.\2"),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(.*)", r"keypoint_head.deconv.\1"),
)

DIALECT: dict[str, Any] = {
    "image": {"resize": "float"},
    "anchors": {"rounding": "corners", "stride": "measured"},
    "roi_align": {"aligned": False},
    "mask": {"paste": "integer_box", "binary_targets": False},
    "keypoint": {"scores": "logit", "pixel_offset": 0.0},
}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of torchvision's two-stage detectors on ResNet-FPN."""
    return "backbone.body.conv1.weight" in tensors and any(k.startswith(("rpn.head.", "roi_heads.")) for k in tensors)


def convert(tensors: dict[str, Tensor], file: str, partial: bool = False) -> Imported:
    """Return the checkpoint in our terms.

    Which eps the frozen norms ran with no tensor tells: 0 is assumed for a ResNet-50 with the 91 classes of the
    released COCO weights (or the one class and 17 keypoints), which torchvision runs so, and 1e-5, what people's own
    models have, otherwise.

    Raises:
        CheckpointError: a tensor is missing, or the backbone is none of ours.
    """
    ours, unused = rename_all(tensors, our_name, (), file, partial)
    background_to_end(ours)
    values = architecture(ours)
    num_classes = num_classes_of(ours)
    num_keypoints = len(values.get("keypoint_names", ()))
    assumed = []
    if values["backbone"]["norm"] == "frozen_batch":
        backbone = values["backbone"]
        alike = (backbone["depth"], backbone["groups"], backbone["width_per_group"]) == (50, 1, 64)
        released = alike and (num_classes == 90 or (num_classes, num_keypoints) == (1, 17))
        why = "torchvision runs its released COCO weights so" if released else "torchvision's default; 0.0 if yours "
        why += "" if released else "were fine-tuned from its COCO weights"
        assumed.append(Assumption("backbone.norm_eps", 0.0 if released else 1e-5, why))
        values["backbone"]["norm_eps"] = assumed[0].value
    config = Config.build(merged({"class_names": names_for(num_classes, num_keypoints)}, DIALECT, values))
    assumed += usual(config, "torchvision")
    return Imported(file, f"torchvision's {described(config)}", config, ours, unused, assumed, names_known=False)


def our_name(key: str) -> str | None:
    """Return our name of a tensor or parameter of torchvision's; None if no part of ours corresponds to it.

    Example:
        >>> our_name("backbone.fpn.inner_blocks.0.0.weight")
        'fpn.lateral2.conv.weight'
    """
    return renamed(_modern(key), RENAMES)


def _modern(key: str) -> str:
    """Return a tensor's present name if an older torchvision wrote it; keypoint layers count as the masks' do."""
    key = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    key = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
    keypoint_conv = re.match(r"^roi_heads\.keypoint_head\.(\d+)\.(weight|bias)$", key)
    if keypoint_conv:  # every other layer is a ReLU
        return f"roi_heads.keypoint_head.{int(keypoint_conv[1]) // 2}.0.{keypoint_conv[2]}"
    older_mask = re.match(r"^roi_heads\.mask_head\.mask_fcn(\d)\.(.*)$", key)
    return f"roi_heads.mask_head.{int(older_mask[1]) - 1}.0.{older_mask[2]}" if older_mask else key
