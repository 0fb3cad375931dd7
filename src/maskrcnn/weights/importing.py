"""What all importers share: renaming, and reading a network's shape from the tensors under our names.

An importer turns another implementation's tensors into ours and says what no tensor tells: its dialect, as
fields of `Config`. Nothing beyond an importer knows foreign names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import CheckpointError, counted
from maskrcnn.keypoints import COCO_KEYPOINTS, COCO_SKELETON
from maskrcnn.weights.coco_names import coco_names

DEPTHS = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
"""ResNet depth by blocks in c4 and whether they are bottlenecks."""

Renames = Sequence[tuple[str, str]]
"""Pairs of a pattern for a foreign name and ours; `<1+2>` in ours is the first group plus 2."""


@dataclass(frozen=True)
class Assumption:
    """A configuration field that no tensor tells, what is taken for it, and by which rule."""

    field: str
    value: object
    reason: str

    def __str__(self) -> str:
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return f"{self.field} = {value} ({self.reason})"


@dataclass
class Imported:
    """A checkpoint in our terms."""

    kind: str
    """What it is, in words: implementation and network."""
    config: Config
    tensors: dict[str, Tensor]
    """By our names."""
    unused: list[str] = field(default_factory=list)
    """The file's tensors, by its own names, that no part of the network takes."""
    assumed: list[Assumption] = field(default_factory=list)
    names_known: bool = True
    """Whether the class names come with the file; else they are COCO's by number, or mere numbers."""


class Tensors(dict[str, Tensor]):
    """Tensors by our names; one that is missing is a fault of the file."""

    def __init__(self, file: str, tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(tensors or {})
        self.file = file

    def __missing__(self, key: str) -> Tensor:
        raise CheckpointError(f"{self.file} lacks: {key}.")

    def count(self, prefix: str) -> int:
        """Return how many numbered parts there are under a name."""
        return len({key[len(prefix) + 1 :].split(".")[0] for key in self if key.startswith(f"{prefix}.")})


def renamed(key: str, renames: Renames) -> str | None:
    """Return our name of a tensor, or None if there is none.

    Example:
        >>> renamed("fpn_lateral2.weight", [(r"fpn_lateral(\\d)\\.(.*)", r"fpn.lateral\\1.conv.\\2")])
        'fpn.lateral2.conv.weight'
    """
    for pattern, ours in renames:
        found = re.fullmatch(pattern, key)
        if found:
            shifted = re.sub(r"<(\d)([+-]\d+)>", lambda m, f=found: str(int(f[int(m[1])]) + int(m[2])), ours)  # type: ignore[misc]
            return found.expand(shifted)
    return None


def rename_all(
    tensors: Mapping[str, Tensor], name_of: Callable[[str], str | None], ignored: Iterable[str], file: str
) -> tuple[Tensors, list[str]]:
    """Return the tensors under our names, and the names of those that have none.

    Args:
        tensors: by foreign names.
        name_of: gives our name, or None.
        ignored: patterns of names without ours that every such file may hold, as stored anchors.
        file: its name, for errors.
    """
    ours, unused = Tensors(file), []
    for key, tensor in tensors.items():
        name = name_of(key)
        if name is not None:
            ours[name] = tensor
        elif not any(re.fullmatch(pattern, key) for pattern in ignored):
            unused.append(key)
    return ours, unused


def architecture(tensors: Tensors) -> dict[str, Any]:
    """Return the configuration fields that names and shapes tell, as nested values.

    Raises:
        CheckpointError: a tensor is missing, or the network is none of ours.
    """
    class_logits, box_deltas = tensors["box_head.class_logits.weight"], tensors["box_head.box_deltas.weight"]
    num_classes = len(class_logits) - 1
    masks = any(key.startswith("mask_head.") for key in tensors)
    has_fpn = any(key.startswith("fpn.") for key in tensors)
    fcs = tensors.count("box_head.fcs")
    convs = tensors.count("box_head.convs")
    values: dict[str, Any] = {
        "masks": masks,
        "backbone": {
            **{"kind": "resnet", "dilate_c5": not has_fpn and "backbone.layer4.0.conv1.weight" in tensors},
            **resnet(tensors),
        },
        "fpn": None,
        "rpn": {"num_convs": tensors.count("rpn.convs"), "channels": len(tensors["rpn.convs.0.weight"])},
        "box": {
            "num_convs": convs,
            "num_fcs": fcs,
            "norm": norm_of(tensors, "box_head.convs.0.norm"),
            "class_agnostic": num_classes > 1 and len(box_deltas) == 4,
        },
    }
    if has_fpn:
        channels = len(tensors["fpn.output2.conv.weight"])
        values["fpn"] = {"channels": channels, "norm": norm_of(tensors, "fpn.output2.norm")}
    else:
        values["anchors"] = {"sizes": ((32, 64, 128, 256, 512),)}
    if convs:
        values["box"]["conv_channels"] = len(tensors["box_head.convs.0.conv.weight"])
    if fcs:
        crop_channels = values["box"].get("conv_channels") or tensors["rpn.convs.0.weight"].shape[1]
        first = tensors["box_head.fcs.0.weight"]
        values["box"]["fc_channels"] = len(first)
        values["box"]["pool_size"] = max(round((first.shape[1] / crop_channels) ** 0.5), 1)
    else:
        values["box"]["pool_size"] = 14
    if any(key.startswith("keypoint_head.") for key in tensors):
        deconv = tensors["keypoint_head.deconv.weight"]
        values |= keypoints_for(deconv.shape[1])
        values["keypoint"] |= {"num_convs": tensors.count("keypoint_head.convs"), "channels": len(deconv)}
    if masks:
        predictor = tensors["mask_head.predictor.weight"]
        values["mask"] = {
            "num_convs": tensors.count("mask_head.convs"),
            "channels": predictor.shape[1],
            "norm": norm_of(tensors, "mask_head.convs.0.norm"),
            "class_agnostic": num_classes > 1 and len(predictor) == 1,
        }
    return values


def resnet(tensors: Tensors) -> dict[str, Any]:
    """Return depth, widths and norm of the ResNet under `backbone.`.

    Raises:
        CheckpointError: a tensor is missing, or no ResNet has so many blocks.
    """
    blocks, bottleneck = tensors.count("backbone.layer3"), "backbone.layer1.0.conv3.weight" in tensors
    if (blocks, bottleneck) not in DEPTHS:
        raise CheckpointError(
            f"{tensors.file}: a ResNet with {blocks} blocks in its fourth stage is none of 18, 34, 50, 101 and 152."
        )
    width = len(tensors["backbone.conv1.weight"])
    inner, per_group = tensors["backbone.layer1.0.conv2.weight"].shape[:2]
    groups = inner // per_group if bottleneck else 1
    return {
        "depth": DEPTHS[blocks, bottleneck],
        "width": width,
        "groups": groups,
        "width_per_group": inner * 64 // (width * groups) if bottleneck else 64,
        "norm": norm_of(tensors, "backbone.bn1"),
    }


def add_statistics(tensors: Tensors) -> None:
    """Give norms of a ResNet that hold scale and shift alone, as Caffe2's did, mean 0 and variance 1.

    What looks the same and is a GroupNorm is left alone: those stand in the FPN as well.
    """
    if any(key.startswith("fpn.lateral2.norm.") for key in tensors):
        return
    for key in [key for key in tensors if key.endswith(".weight")]:
        layer = key.removesuffix(".weight")
        is_norm = key.startswith(("backbone.", "stage5.")) and tensors[key].dim() == 1
        if is_norm and f"{layer}.running_mean" not in tensors:
            tensors[f"{layer}.running_mean"] = torch.zeros_like(tensors[key])
            tensors[f"{layer}.running_var"] = torch.ones_like(tensors[key])


def norm_of(tensors: Mapping[str, Tensor], layer: str) -> str:
    """Return which normalisation a layer is, by what it holds.

    Running statistics that count batches are those of a BatchNorm that was trained; without the count, of a frozen
    one. Scale and shift alone are a GroupNorm's.
    """
    if f"{layer}.running_mean" in tensors:
        return "batch" if f"{layer}.num_batches_tracked" in tensors else "frozen_batch"
    return "group" if f"{layer}.weight" in tensors else "none"


def background_to_end(tensors: Tensors, masks: bool = True) -> None:
    """Move background from the first class channel to the last, and drop its box deltas and mask."""
    num_classes = len(tensors["box_head.class_logits.weight"])
    for suffix in ("weight", "bias"):
        logits = tensors[f"box_head.class_logits.{suffix}"]
        tensors[f"box_head.class_logits.{suffix}"] = logits.roll(-1, 0)
        deltas = tensors[f"box_head.box_deltas.{suffix}"]
        if len(deltas) == 4 * num_classes:
            tensors[f"box_head.box_deltas.{suffix}"] = deltas[4:]
        mask = tensors.get(f"mask_head.predictor.{suffix}") if masks else None
        if mask is not None and len(mask) == num_classes:
            tensors[f"mask_head.predictor.{suffix}"] = mask[1:]


def keypoints_for(count: int) -> dict[str, Any]:
    """Return names and skeleton of so many keypoints: COCO's for 17, else numbers and no skeleton."""
    if count == len(COCO_KEYPOINTS):
        return {"keypoint_names": COCO_KEYPOINTS, "keypoint": {"skeleton": COCO_SKELETON}}
    return {"keypoint_names": tuple(f"keypoint {k}" for k in range(count)), "keypoint": {}}


def names_for(num_classes: int, keypoints: int = 0) -> tuple[str, ...]:
    """Return class names by number: COCO's for 80 or 90 classes and for people with 17 keypoints, else numbered."""
    return ("person",) if num_classes == 1 and keypoints == 17 else coco_names(num_classes)


def merged(*several: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values of which later ones replace earlier ones, section by section."""
    result: dict[str, Any] = {}
    for values in several:
        for key, value in values.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else value
    return result


def described(config: Config) -> str:
    """Return what a network is, in words.

    Example:
        >>> described(Config.preset("resnet50-fpn", class_names=["cat"]))
        'Mask R-CNN on ResNet-50-FPN with 1 class'
    """
    backbone = config.backbone
    if backbone.kind == "vgg":
        body = "VGG-16"
    elif backbone.groups > 1:
        body = f"ResNeXt-{backbone.depth}-{backbone.groups}x{backbone.width_per_group}d"
    else:
        body = f"ResNet-{backbone.depth}"
    if config.fpn is not None:
        body += "-FPN"
    elif backbone.kind == "resnet":
        body += "-DC5" if backbone.dilate_c5 else "-C4"
    kind = "Mask" if config.masks else "Keypoint" if config.keypoint_names else "Faster"
    keypoints = f" and {len(config.keypoint_names)} keypoints" if config.keypoint_names else ""
    return f"{kind} R-CNN on {body} with {counted(config.num_classes, 'class')}{keypoints}"


def some(items: Sequence[str], most: int = 3) -> str:
    """Return the first items in words, and how many more there are.

    Example:
        >>> some(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
