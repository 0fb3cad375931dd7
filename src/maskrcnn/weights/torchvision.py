"""torchvision's `fasterrcnn_*` and `maskrcnn_*` checkpoints: their tensors' names, and what these tell.

A state dict does not hold the whole configuration. Depth, widths, classes, heads and normalisation show in
names and shapes; the rest is torchvision's own rules, below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import CheckpointError
from maskrcnn.weights.coco_names import coco_names

CLASSES = "roi_heads.box_predictor.cls_score.weight"
DEPTHS = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
"""ResNet depth by blocks in c4 and whether they are bottlenecks."""

RENAMES = (
    (r"backbone\.body\.(.*)", r"backbone.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.(.*)", r"fpn.lateral{1+2}.conv.\2"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.(.*)", r"fpn.lateral{1+2}.norm.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.(.*)", r"fpn.output{1+2}.conv.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.(.*)", r"fpn.output{1+2}.norm.\2"),
    (r"rpn\.head\.conv\.(\d)\.0\.(.*)", r"rpn.convs.{1+0}.\2"),
    (r"rpn\.head\.cls_logits\.(.*)", r"rpn.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(.*)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(.*)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_head\.fc7\.(.*)", r"box_head.fcs.1.\1"),
    (r"roi_heads\.box_head\.(\d)\.0\.(.*)", r"box_head.convs.{1+0}.conv.\2"),
    (r"roi_heads\.box_head\.(\d)\.1\.(.*)", r"box_head.convs.{1+0}.norm.\2"),
    (r"roi_heads\.box_head\.\d\.(weight|bias)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.*)", r"box_head.class_logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.*)", r"box_head.box_deltas.\1"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(.*)", r"mask_head.convs.{1+0}.conv.\2"),
    (r"roi_heads\.mask_head\.(\d)\.1\.(.*)", r"mask_head.convs.{1+0}.norm.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.*)", r"mask_head.deconv.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.*)", r"mask_head.predictor.\1"),
)


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of torchvision's two-stage detectors on ResNet-FPN."""
    return CLASSES in tensors and "backbone.body.conv1.weight" in tensors


def convert(
    tensors: Mapping[str, Tensor], class_names: Sequence[str] | None, name: str
) -> tuple[Config, dict[str, Tensor]]:
    """Return the configuration and the state dict in our names.

    Background moves from the first class channel to the last, and its box deltas and mask are dropped.
    Which eps the frozen norms ran with no tensor tells: 0 is assumed for the 91 classes of the released
    COCO weights, which torchvision runs so, and 1e-5, what people's own models have, otherwise.

    Raises:
        CheckpointError: a tensor has an unknown name, or the number of names is not that of the classes.
    """
    renamed = _Tensors(name)
    for key, tensor in tensors.items():
        renamed[our_name(key, name)] = tensor
    for suffix in ("weight", "bias"):
        logits = renamed[f"box_head.class_logits.{suffix}"]
        renamed[f"box_head.class_logits.{suffix}"] = torch.cat((logits[1:], logits[:1]))
        renamed[f"box_head.box_deltas.{suffix}"] = renamed[f"box_head.box_deltas.{suffix}"][4:]
        if f"mask_head.predictor.{suffix}" in renamed:
            renamed[f"mask_head.predictor.{suffix}"] = renamed[f"mask_head.predictor.{suffix}"][1:]
    return _config(renamed, class_names, name), renamed


class _Tensors(dict[str, Tensor]):
    """Tensors by our names; one that is missing is a fault of the file."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def __missing__(self, key: str) -> Tensor:
        raise CheckpointError(f"{self.file} lacks: {key}.")


def our_name(key: str, name: str = "the checkpoint") -> str:
    """Return our name of a tensor or parameter of torchvision's.

    Raises:
        CheckpointError: no part of ours corresponds to it.

    Example:
        >>> our_name("backbone.fpn.inner_blocks.0.0.weight")
        'fpn.lateral2.conv.weight'
    """
    key = _modern(key)
    for pattern, ours in RENAMES:
        found = re.fullmatch(pattern, key)
        if found:
            first = int(found[1]) if "{1+" in ours else 0
            return found.expand(ours.replace("{1+0}", str(first)).replace("{1+2}", str(first + 2)))
    raise CheckpointError(f"{name}: no part of a Mask R-CNN corresponds to torchvision's tensor {key!r}.")


def _modern(key: str) -> str:
    """Return the present name of a tensor from a file written by an older torchvision."""
    key = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    key = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
    older_mask = re.match(r"^roi_heads\.mask_head\.mask_fcn(\d)\.(.*)$", key)
    return f"roi_heads.mask_head.{int(older_mask[1]) - 1}.0.{older_mask[2]}" if older_mask else key


def _config(tensors: Mapping[str, Tensor], class_names: Sequence[str] | None, name: str) -> Config:
    num_classes = len(tensors["box_head.class_logits.bias"]) - 1
    class_names = coco_names(num_classes) if class_names is None else tuple(class_names)
    if len(class_names) != num_classes:
        raise CheckpointError(
            f"{name} has {num_classes} classes besides background; class_names has {len(class_names)}."
        )
    masks = "mask_head.predictor.weight" in tensors
    trained_norm = "backbone.bn1.num_batches_tracked" in tensors
    box_convs = _count(tensors, "box_head.convs")
    values: dict[str, Any] = {
        "class_names": class_names,
        "masks": masks,
        "image": {"resize": "float"},
        "backbone": {
            "depth": _depth(tensors, name),
            "norm": "batch" if trained_norm else "frozen_batch",
            "norm_eps": 0.0 if num_classes == 90 and not trained_norm else 1e-5,
        },
        "fpn": {"channels": len(tensors["fpn.output2.conv.weight"]), "norm": _norm(tensors, "fpn.output2")},
        "anchors": {"rounded": True, "stride": "measured"},
        "rpn": {"num_convs": _count(tensors, "rpn.convs"), "channels": len(tensors["rpn.convs.0.weight"])},
        "roi_align": {"aligned": False},
        "box": {
            "num_convs": box_convs,
            "num_fcs": _count(tensors, "box_head.fcs"),
            "fc_channels": len(tensors["box_head.fcs.0.weight"]),
            "norm": _norm(tensors, "box_head.convs.0"),
        },
        "mask": {"paste": "integer_box", "binary_targets": False},
    }
    if masks:
        values["mask"]["num_convs"] = _count(tensors, "mask_head.convs")
        values["mask"]["norm"] = _norm(tensors, "mask_head.convs.0")
    return Config.build({**values, "backbone": {"kind": "resnet", **values["backbone"]}})


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) + 1 :].split(".")[0] for key in tensors if key.startswith(prefix + ".")})


def _norm(tensors: Mapping[str, Tensor], layer: str) -> str:
    return "batch" if f"{layer}.norm.running_mean" in tensors else "none"


def _depth(tensors: Mapping[str, Tensor], name: str) -> int:
    found = (_count(tensors, "backbone.layer3"), "backbone.layer1.0.conv3.weight" in tensors)
    if found not in DEPTHS:
        raise CheckpointError(f"{name}: a ResNet with {found[0]} blocks in its fourth stage is none of 18 … 152.")
    return DEPTHS[found]
