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
from maskrcnn.errors import CheckpointError, counted, printable
from maskrcnn.keypoints import COCO_KEYPOINTS, COCO_SKELETON
from maskrcnn.weights.coco_names import coco_names

DEPTHS = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
"""ResNet depth by blocks in c4 and whether they are bottlenecks."""

PER_CLASS = ("box_head.class_logits.", "box_head.box_deltas.", "mask_head.predictor.")
"""The layers that have rows for each class."""

LONGEST_ITEM = 200
"""Characters that a message repeats of each name; names in files of strangers can hold anything."""

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

    file: str
    """What errors and messages call it."""
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
    ours: bool = False
    """Whether we wrote it: then every tensor must have its place."""
    anew: tuple[str, ...] = ()
    """Prefixes of heads that were asked for and that the file does not have: they start from random weights."""
    origin: dict[str, str] = field(default_factory=dict)
    """The file's names by ours."""


class Tensors(dict[str, Tensor]):
    """Tensors by our names; one that is missing is a fault of the file, unless parts of it may be missing."""

    def __init__(
        self,
        file: str,
        tensors: Mapping[str, Tensor] | None = None,
        partial: bool = False,
        hint: str = " partial=True (--partial) starts it anew.",
    ) -> None:
        super().__init__(tensors or {})
        self.file = file
        self.partial = partial
        self.hint = "" if partial else hint
        self.origin: dict[str, str] = {}

    def __missing__(self, key: str) -> Tensor:
        raise CheckpointError(f"{self.file} lacks: {theirs(key, self.origin)}.{self.hint}")

    def shape(self, key: str, otherwise: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a tensor that must have as many axes as `otherwise`; that where it may be missing."""
        if key not in self and self.partial:
            return otherwise
        found = tuple(self[key].shape)
        if len(found) != len(otherwise):
            name = theirs(key, self.origin)
            raise CheckpointError(f"{self.file}: {name} must have {len(otherwise)} axes; it is {list(found)}.")
        return found

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


def theirs(key: str, origin: Mapping[str, str]) -> str:
    """Return the file's name of a tensor; of one that it lacks, after those of the same layer, or else our name.

    Example:
        >>> theirs("box_head.class_logits.bias", {"box_head.class_logits.weight": "roi_heads.cls_score.weight"})
        'roi_heads.cls_score.bias'
    """
    if key in origin:
        return origin[key]
    layer, _, part = key.rpartition(".")
    for ours, name in origin.items():
        if ours.rpartition(".")[0] == layer and name.endswith(f".{ours.rpartition('.')[2]}"):
            return f"{name.rpartition('.')[0]}.{part}"
    return key


def rename_all(
    tensors: Mapping[str, Tensor],
    name_of: Callable[[str], str | None],
    ignored: Iterable[str],
    file: str,
    partial: bool = False,
) -> tuple[Tensors, list[str]]:
    """Return the tensors under our names, and the names of those that have none.

    Args:
        tensors: by foreign names.
        name_of: gives our name, or None.
        ignored: patterns of names without ours that every such file may hold, as stored anchors.
        file: its name, for errors.
        partial: whether parts may be missing.
    """
    ours, unused = Tensors(file, partial=partial), []
    for key, tensor in tensors.items():
        name = name_of(key)
        if name is not None:
            ours[name], ours.origin[name] = tensor, key
        elif not any(re.fullmatch(pattern, key) for pattern in ignored):
            unused.append(key)
    if partial and "box_head.class_logits.weight" not in ours:  # nothing tells how many classes the others are for
        for key in [key for key in ours if key.startswith(PER_CLASS)]:
            del ours[key]
    return ours, unused


def architecture(tensors: Tensors) -> dict[str, Any]:
    """Return the configuration fields that names and shapes tell, as nested values.

    Raises:
        CheckpointError: a tensor is missing, or the network is none of ours.
    """
    backbone = resnet(tensors)
    c2 = backbone["width"] * (4 if backbone["depth"] >= 50 else 1)
    has_fpn = any(key.startswith("fpn.") for key in tensors)
    channels = c2 * 4
    if has_fpn:
        lateral = tensors.shape("fpn.lateral2.conv.weight", (256, c2, 1, 1))[0]
        channels = tensors.shape("fpn.output2.conv.weight", (lateral, lateral, 3, 3))[0]
    fcs, convs = tensors.count("box_head.fcs"), tensors.count("box_head.convs")
    classes = tensors.shape("box_head.class_logits.weight", (2, 1024))[0] - 1
    deltas = tensors.shape("box_head.box_deltas.weight", (4 * classes, 1024))[0]
    rpn_shape = tensors.shape("rpn.convs.0.weight", (channels, channels, 3, 3))
    values: dict[str, Any] = {
        "masks": any(key.startswith("mask_head.") for key in tensors),
        "backbone": {
            **{"kind": "resnet", "dilate_c5": not has_fpn and "backbone.layer4.0.conv1.weight" in tensors},
            **backbone,
        },
        "fpn": {"channels": channels, "norm": norm_of(tensors, "fpn.output2.norm")} if has_fpn else None,
        "rpn": {"num_convs": max(tensors.count("rpn.convs"), 1), "channels": rpn_shape[0]},
        "box": {
            "num_convs": convs,
            "num_fcs": fcs,
            "norm": norm_of(tensors, "box_head.convs.0.norm"),
            "class_agnostic": classes > 1 and deltas == 4,
            "pool_size": 14,
        },
    }
    if not has_fpn:
        values["anchors"] = {"sizes": ((32, 64, 128, 256, 512),)}
    if convs:
        values["box"]["conv_channels"] = tensors.shape("box_head.convs.0.conv.weight", (256, channels, 3, 3))[0]
    if fcs or (tensors.partial and has_fpn):
        crop_channels = values["box"].get("conv_channels") or rpn_shape[1]
        width, inputs = tensors.shape("box_head.fcs.0.weight", (1024, crop_channels * 49))
        pool_size = max(round((inputs / crop_channels) ** 0.5), 1)
        values["box"] |= {"fc_channels": width, "pool_size": pool_size, "num_fcs": fcs or (1 if convs else 2)}
    if any(key.startswith("keypoint_head.") for key in tensors):
        inputs, count = tensors.shape("keypoint_head.deconv.weight", (512, 17, 4, 4))[:2]
        values |= keypoints_for(count)
        values["keypoint"] |= {"num_convs": tensors.count("keypoint_head.convs"), "channels": inputs}
    if values["masks"]:
        enlarged = tensors.shape("mask_head.deconv.weight", (256, 256, 2, 2))[1]
        rows, inputs = tensors.shape("mask_head.predictor.weight", (classes, enlarged, 1, 1))[:2]
        values["mask"] = {
            "num_convs": tensors.count("mask_head.convs"),
            "channels": inputs,
            "norm": norm_of(tensors, "mask_head.convs.0.norm"),
            "class_agnostic": classes > 1 and rows == 1,
        }
    _check_biases(tensors)
    return values


def _check_biases(tensors: Tensors) -> None:
    """Raise where a layer that tells the number of classes has another one in its bias, which is to blame for it."""
    for layer in PER_CLASS:
        weight, bias = (tensors.get(f"{layer}{part}") for part in ("weight", "bias"))
        if weight is not None and bias is not None and len(weight) != bias.numel():
            names = [theirs(f"{layer}{part}", tensors.origin) for part in ("weight", "bias")]
            raise CheckpointError(
                f"{tensors.file}: {names[0]} has {len(weight)} rows, and {names[1]} has {bias.numel()}."
            )


def num_classes_of(tensors: Tensors) -> int:
    """Return the number of classes, background not counted."""
    return tensors.shape("box_head.class_logits.weight", (2, 1024))[0] - 1


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
    width = tensors.shape("backbone.conv1.weight", (64, 3, 7, 7))[0]
    inner, per_group = tensors.shape("backbone.layer1.0.conv2.weight", (width, width, 3, 3))[:2]
    groups = max(inner // per_group, 1) if bottleneck else 1
    return {
        "depth": DEPTHS[blocks, bottleneck],
        "width": width,
        "groups": groups,
        "width_per_group": inner * 64 // (width * groups) if bottleneck else 64,
        "norm": norm_of(tensors, "backbone.bn1"),
    }


def add_statistics(tensors: Tensors, variance: float = 1.0) -> None:
    """Give norms of a ResNet that hold scale and shift alone, as Caffe2's did, mean 0 and this variance.

    What looks the same and is a GroupNorm is left alone: those stand in the FPN as well.
    """
    if any(key.startswith("fpn.lateral2.norm.") for key in tensors):
        return
    for key in [key for key in tensors if key.endswith(".weight")]:
        layer = key.removesuffix(".weight")
        is_norm = key.startswith(("backbone.", "stage5.")) and tensors[key].dim() == 1
        if is_norm and f"{layer}.running_mean" not in tensors:
            tensors[f"{layer}.running_mean"] = torch.zeros_like(tensors[key])
            tensors[f"{layer}.running_var"] = torch.full_like(tensors[key], variance)


def norm_of(tensors: Mapping[str, Tensor], layer: str) -> str:
    """Return which normalisation a layer is, by what it holds.

    Running statistics that count batches are those of a BatchNorm that was trained; without the count, of a frozen
    one. Scale and shift alone are a GroupNorm's.
    """
    if f"{layer}.running_mean" in tensors:
        return "batch" if f"{layer}.num_batches_tracked" in tensors else "frozen_batch"
    return "group" if f"{layer}.weight" in tensors else "none"


def background_to_end(tensors: Tensors) -> None:
    """Move background from the first class channel to the last, and drop its box deltas and mask."""
    rows = num_classes_of(tensors) + 1
    for suffix in ("weight", "bias"):
        for layer, each in (("box_head.class_logits", 1), ("box_head.box_deltas", 4), ("mask_head.predictor", 1)):
            key = f"{layer}.{suffix}"
            if key not in tensors or tensors[key].dim() == 0 or len(tensors[key]) != each * rows:
                continue  # missing, or one for all classes
            tensors[key] = tensors[key].roll(-1, 0) if layer == "box_head.class_logits" else tensors[key][each:]


def usual(config: Config, who: str) -> list[Assumption]:
    """Return what no tensor of any implementation tells: sizes of images and anchors."""
    fields = {
        "image.min_size": config.image.min_size,
        "image.max_size": config.image.max_size,
        "anchors.sizes": config.anchors.sizes,
    }
    return [Assumption(field, value, f"{who}'s default") for field, value in fields.items()]


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
    elif backbone.width_per_group != 64 and backbone.depth >= 50:
        body = f"Wide ResNet-{backbone.depth}-{backbone.width_per_group / 64:g}"
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
    return ", ".join(printable(item, LONGEST_ITEM) for item in items[:most]) + more
