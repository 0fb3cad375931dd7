"""Detectron2's checkpoints (model zoo `.pkl`, `.pth`): Faster, Mask and Keypoint R-CNN on FPN, C4 and DC5."""

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
    add_statistics,
    architecture,
    described,
    merged,
    names_for,
    num_classes_of,
    rename_all,
    renamed,
    usual,
)

_BODY = r"backbone\.(?:bottom_up\.)?"
RENAMES = (
    (_BODY + r"stem\.conv1\.norm\.(.*)", r"backbone.bn1.\1"),
    (_BODY + r"stem\.conv1\.(.*)", r"backbone.conv1.\1"),
    (_BODY + r"res(\d)\.(\d+)\.shortcut\.norm\.(.*)", r"backbone.layer<1-1>.\2.downsample.1.\3"),
    (_BODY + r"res(\d)\.(\d+)\.shortcut\.(.*)", r"backbone.layer<1-1>.\2.downsample.0.\3"),
    (_BODY + r"res(\d)\.(\d+)\.conv(\d)\.norm\.(.*)", r"backbone.layer<1-1>.\2.bn\3.\4"),
    (_BODY + r"res(\d)\.(\d+)\.conv(\d)\.(.*)", r"backbone.layer<1-1>.\2.conv\3.\4"),
    (r"roi_heads\.res5\.(\d+)\.shortcut\.norm\.(.*)", r"stage5.\1.downsample.1.\2"),
    (r"roi_heads\.res5\.(\d+)\.shortcut\.(.*)", r"stage5.\1.downsample.0.\2"),
    (r"roi_heads\.res5\.(\d+)\.conv(\d)\.norm\.(.*)", r"stage5.\1.bn\2.\3"),
    (r"roi_heads\.res5\.(\d+)\.conv(\d)\.(.*)", r"stage5.\1.conv\2.\3"),
    (r"backbone\.fpn_(lateral|output)(\d)\.norm\.(.*)", r"fpn.\1\2.norm.\3"),
    (r"backbone\.fpn_(lateral|output)(\d)\.(.*)", r"fpn.\1\2.conv.\3"),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d)\.(.*)", r"rpn.convs.\1.\2"),
    (r"proposal_generator\.rpn_head\.conv\.(.*)", r"rpn.convs.0.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(.*)", r"rpn.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(.*)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.conv(\d)\.norm\.(.*)", r"box_head.convs.<1-1>.norm.\2"),
    (r"roi_heads\.box_head\.conv(\d)\.(.*)", r"box_head.convs.<1-1>.conv.\2"),
    (r"roi_heads\.box_head\.fc(\d)\.(.*)", r"box_head.fcs.<1-1>.\2"),
    (r"roi_heads\.box_predictor\.cls_score\.(.*)", r"box_head.class_logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.*)", r"box_head.box_deltas.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.norm\.(.*)", r"mask_head.convs.<1-1>.norm.\2"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(.*)", r"mask_head.convs.<1-1>.conv.\2"),
    (r"roi_heads\.mask_head\.(deconv|predictor)\.(.*)", r"mask_head.\1.\2"),
    (r"roi_heads\.keypoint_head\.conv_fcn(\d)\.(.*)", r"keypoint_head.convs.<1-1>.conv.\2"),
    (r"roi_heads\.keypoint_head\.score_lowres\.(.*)", r"keypoint_head.deconv.\1"),
)
IGNORED = (r".*anchor_generator\.cell_anchors\.\d+", r"pixel_mean", r"pixel_std")
"""Buffers of older files; the pixel statistics are read for themselves."""

BGR_MEAN = (103.53, 116.28, 123.675)
RESNEXT_STD = (57.375, 57.12, 58.395)

DIALECT: dict[str, Any] = {
    "image": {"resize": "pil", "pixel_scale": 1.0},
    "rpn": {"min_size": 0.0, "post_nms_top_n_training": 1000, "loss": {"beta": 0.0, "normalizer": "configured"}},
    "roi_align": {"aligned": True, "sampling_ratio": 0, "level_epsilon": 0.0},
    "box": {"min_size": None, "loss": {"beta": 0.0}},
}
WITHOUT_FPN: dict[str, Any] = {
    "image": {"size_divisor": 1},
    "rpn": {"pre_nms_top_n": 6000, "pre_nms_top_n_training": 12000, "post_nms_top_n_training": 2000},
}

KEYPOINTS: dict[str, Any] = {
    "rpn": {"post_nms_top_n_training": 1500},
    "box": {"loss": {"beta": 0.5}},
    "keypoint": {"scores": "softmax"},
}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of Detectron2's GeneralizedRCNN on a ResNet."""
    stem = any(f"backbone.{prefix}stem.conv1.weight" in tensors for prefix in ("", "bottom_up."))
    return stem and any(key.startswith(("proposal_generator.", "roi_heads.")) for key in tensors)


def convert(tensors: dict[str, Tensor], file: str, partial: bool = False) -> Imported:
    """Return the checkpoint in our terms.

    No tensor tells where the bottlenecks halve the map, nor (in newer files) the order and the statistics of the
    pixels. Where the file says that pixels are divided by their deviation, it is taken for a network of torchvision's
    kind, otherwise for one of the zoo's, which go back to MSRA's; see `_pixels`.

    Raises:
        CheckpointError: a tensor is missing, or the backbone is none of ours.
    """
    if "roi_heads.box_predictor.0.cls_score.weight" in tensors:
        raise CheckpointError(f"{file} is a Cascade R-CNN, with three box heads one after the other; ours has one.")
    ours, unused = rename_all(tensors, our_name, IGNORED, file, partial)
    add_statistics(ours)
    values = architecture(ours)
    num_classes = num_classes_of(ours)
    num_keypoints = len(values.get("keypoint_names", ()))
    trained_from_scratch = values["fpn"] is not None and values["fpn"]["norm"] != "none"
    if trained_from_scratch and values["backbone"]["norm"] == "frozen_batch":
        values["backbone"]["norm"] = "batch"
    for section in ("fpn", "box", "mask"):  # a frozen norm outside the backbone is a trained one without its count
        if values.get(section) and values[section]["norm"] == "frozen_batch":
            values[section]["norm"] = "batch"
    values["backbone"]["frozen_stages"] = 0 if trained_from_scratch else 2
    image, assumed = _pixels(tensors, values, file)
    values["backbone"]["stride_in_1x1"] = assumed[0].value
    dialect = merged({"class_names": names_for(num_classes, num_keypoints)}, DIALECT, {"image": image})
    if num_keypoints:
        dialect = merged(dialect, KEYPOINTS)
    if values["fpn"] is None:
        dialect = merged(dialect, WITHOUT_FPN)
    anchors = _stored_anchors(tensors)
    config = Config.build(merged(dialect, values, anchors))
    assumed += [a for a in usual(config, "Detectron2") if not (anchors and a.field == "anchors.sizes")]
    return Imported(file, f"Detectron2's {described(config)}", config, ours, unused, assumed, names_known=False)


def our_name(key: str) -> str | None:
    """Return our name of a tensor or parameter of Detectron2's; None if no part of ours corresponds to it.

    Example:
        >>> our_name("backbone.bottom_up.res3.0.shortcut.norm.weight")
        'backbone.layer2.0.downsample.1.weight'
    """
    return renamed(key, RENAMES)


def _stored_anchors(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return sizes and ratios of the anchors that older files hold, level by level."""
    levels = sorted(key for key in tensors if re.fullmatch(IGNORED[0], key))
    sizes, ratios = [], []
    for key in levels:
        boxes = tensors[key].double()
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            return {}
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
        sizes.append(tuple(dict.fromkeys(round(v, 2) for v in sides.prod(1).sqrt().tolist())))
        ratios.append(tuple(dict.fromkeys(round(v, 2) for v in (sides[:, 1] / sides[:, 0]).tolist())))
        if len(sizes[-1]) * len(ratios[-1]) != len(boxes):
            return {}
    if len(set(ratios)) != 1:
        return {}
    return {"anchors": {"sizes": tuple(sizes), "ratios": ratios[0]}}


def _pixels(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], file: str
) -> tuple[dict[str, Any], list[Assumption]]:
    """Return the pixel statistics, and what of them and of the stride is assumed (the stride first).

    Of the zoo's networks that are normed in the FPN too, GroupNorm's and the one with SyncBN have their stride in the
    3 × 3; the new baselines, whose RPN has two convolutions, in the 1 × 1.
    """
    if "pixel_std" in tensors and "pixel_mean" in tensors:
        mean, std = (tuple(round(float(v), 4) for v in tensors[k].flatten()) for k in ("pixel_mean", "pixel_std"))
        if len(mean) != 3 or len(std) != 3 or not all(v > 0 for v in std):
            raise CheckpointError(f"{file}: pixel_mean and pixel_std must be three numbers; got {mean} and {std}.")
        divided = std != (1.0, 1.0, 1.0)
        order = "bgr" if mean[0] < mean[-1] else "rgb"
        why = "the file divides pixels by their deviation, as torchvision does" if divided else "as MSRA's ResNets"
        return {"channel_order": order, "mean": mean, "std": std}, [
            Assumption("backbone.stride_in_1x1", not divided, why)
        ]
    resnext = values["backbone"]["groups"] > 1
    image = {"channel_order": "bgr", "mean": BGR_MEAN, "std": RESNEXT_STD if resnext else (1.0, 1.0, 1.0)}
    exception = ""
    if resnext:
        exception = "ResNeXt"
    elif values["backbone"]["norm"] == "group":
        exception = "networks with GroupNorm"
    elif values["fpn"] is not None and values["fpn"]["norm"] == "batch" and values["rpn"]["num_convs"] == 1:
        exception = "network with SyncBN"
    why = "as the zoo's ResNets, which are MSRA's; false for torchvision's"
    pixels = [Assumption(f"image.{name}", value, "as in the model zoo") for name, value in image.items()]
    stride = Assumption("backbone.stride_in_1x1", not exception, f"as the zoo's {exception}" if exception else why)
    return image, [stride, *pixels]
