"""Image classifiers as a backbone's start: torchvision's and timm's, MSRA's and FAIR's for Detectron, Keras' ResNet-50.

Whatever the file, its tensors get the names that torchvision's ResNet gives them, which are ours inside `backbone`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from maskrcnn.backbones.vgg import CONVS
from maskrcnn.config import Config, ResNetConfig
from maskrcnn.errors import CheckpointError, counted
from maskrcnn.weights import matterport
from maskrcnn.weights.importing import Renames, Tensors, add_statistics, renamed, resnet, some
from maskrcnn.weights.published import locate_classifier
from maskrcnn.weights.read import read

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN

IMAGENET = {"channel_order": "rgb", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "pixel_scale": 1 / 255}
BGR = {"channel_order": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0), "pixel_scale": 1.0}
KERAS_BGR = {**BGR, "mean": (103.939, 116.779, 123.68)}
"""Keras trained on BGR less these means, as Caffe did. Matterport feeds the same weights RGB less its own."""
NORM_EPS = 1e-5
STRIDE_3X3: dict[str, Any] = {"stride_in_1x1": False, "norm_eps": NORM_EPS, "stem_padding": "around"}
STRIDE_1X1: dict[str, Any] = {**STRIDE_3X3, "stride_in_1x1": True}
Dialect = dict[str, dict[str, Any]]

TORCHVISION: Dialect = {"image": IMAGENET, "backbone": STRIDE_3X3}
MSRA: Dialect = {"image": BGR, "backbone": STRIDE_1X1}
RESNEXT: Dialect = {"image": {**BGR, "std": (57.375, 57.12, 58.395)}, "backbone": STRIDE_3X3}
DETECTRON2_TORCHVISION: Dialect = {
    "image": {
        "channel_order": "rgb",
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "pixel_scale": 1.0,
    },
    "backbone": STRIDE_3X3,
}
KERAS: Dialect = {"image": KERAS_BGR, "backbone": {**STRIDE_1X1, "norm_eps": 1e-3, "stem_padding": "end"}}
KERAS_LATER: Dialect = {"image": KERAS_BGR, "backbone": {**STRIDE_1X1, "norm_eps": 1.001e-5}}
"""The resnet_common of keras-applications, and tf.keras: other names, another eps, padding all around the stem."""

KERAS_LAYERS = tuple((theirs, ours.removeprefix("backbone.")) for theirs, ours in matterport.BACKBONE_LAYERS)
CAFFE2 = (
    (r"conv1_w", r"conv1.weight"),
    (r"(?:res_)?conv1_bn_(\w+)", r"bn1.\1"),
    (r"res(\d)_(\d+)_branch1_w", r"layer<1-1>.\2.downsample.0.weight"),
    (r"res(\d)_(\d+)_branch1_bn_(\w+)", r"layer<1-1>.\2.downsample.1.\3"),
    *((rf"res(\d)_(\d+)_branch2{c}_w", rf"layer<1-1>.\2.conv{k}.weight") for k, c in enumerate("abc", start=1)),
    *((rf"res(\d)_(\d+)_branch2{c}_bn_(\w+)", rf"layer<1-1>.\2.bn{k}.\3") for k, c in enumerate("abc", start=1)),
)
CAFFE2_PARTS = {
    **{"s": "weight", "gamma": "weight", "b": "bias", "beta": "bias"},
    **{"rm": "running_mean", "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var"},
}
"""Caffe2's `riv` holds the variance itself, whatever its name says."""

DETECTRON2 = (
    (r"stem\.conv1\.norm\.(.*)", r"bn1.\1"),
    (r"stem\.conv1\.(.*)", r"conv1.\1"),
    (r"res(\d)\.(\d+)\.shortcut\.norm\.(.*)", r"layer<1-1>.\2.downsample.1.\3"),
    (r"res(\d)\.(\d+)\.shortcut\.(.*)", r"layer<1-1>.\2.downsample.0.\3"),
    (r"res(\d)\.(\d+)\.conv(\d)\.norm\.(.*)", r"layer<1-1>.\2.bn\3.\4"),
    (r"res(\d)\.(\d+)\.conv(\d)\.(.*)", r"layer<1-1>.\2.conv\3.\4"),
)
KERAS_LATER_LAYERS = (
    (r"conv1_conv", r"conv1"),
    (r"conv1_bn", r"bn1"),
    (r"conv(\d)_block(\d+)_0_conv", r"layer<1-1>.<2-1>.downsample.0"),
    (r"conv(\d)_block(\d+)_0_bn", r"layer<1-1>.<2-1>.downsample.1"),
    (r"conv(\d)_block(\d+)_(\d)_(conv|bn)", r"layer<1-1>.<2-1>.\4\3"),
)
CLASSIFIER = (
    *(r"fc\.\w+", r"classifier\..*", r"head\..*", r"pre_logits\..*", r"stem\.fc\..*", r"linear\..*"),
    r"conv1_b",  # MSRA's stem has a bias; Detectron and Detectron2 leave it out
    *(
        r"(pred|fc1000|linear)_[wb]",
        r".*_momentum",
        r"(lr|model_iter|weight_order|cfg)",
        r"(fc1000|probs|predictions)/.*",
    ),
)
"""Names of what a detector has no use for."""


class Start(NamedTuple):
    """A backbone's weights by our names, and the configuration with what belongs to them."""

    config: Config
    tensors: dict[str, Tensor]


def read_backbone(config: Config) -> Start:
    """Return the weights that `config.backbone_weights` names.

    Raises:
        CheckpointError: the file cannot be read, is no classifier that we know, or does not fit the configuration;
            the message says what it holds and which fields to set.
        InputError, DownloadError: as `published.locate_classifier`.
    """
    source = str(config.backbone_weights)
    tensors, dialect = convert(dict(read(locate_classifier(source)).tensors), source)
    _check_architecture(tensors, config)
    changes = {f"{section}.{name}": value for section, fields in dialect.items() for name, value in fields.items()}
    if config.backbone.kind == "vgg":
        changes = {k: v for k, v in changes.items() if k.startswith("image.") or k == "backbone.norm_eps"}
    return Start(config.replace({**changes, "backbone_weights": None}), _in_place(tensors, config))


def convert(tensors: dict[str, Tensor], file: str) -> tuple[Tensors, Dialect]:
    """Return a classifier's tensors by our names, all beginning with `backbone.`, and its dialect.

    Raises:
        CheckpointError: it is no classifier that we know, or has tensors that none of them has.
    """
    if "stem.conv1.weight" in tensors:
        ours = _renamed(tensors, lambda key: renamed(key, DETECTRON2), file)
        _fix_scale_and_shift(ours)
        return ours, DETECTRON2_TORCHVISION
    if "conv1_w" in tensors:
        ours = _renamed(tensors, _caffe2_name, file)
        _fix_scale_and_shift(ours)
        return ours, RESNEXT if resnet(ours)["groups"] > 1 else MSRA
    if any(key.startswith("res2a_branch2a/") for key in tensors):
        return _keras(tensors, KERAS_LAYERS, file), KERAS
    if any(key.startswith("conv2_block1_1_conv/") for key in tensors):
        return _keras(tensors, KERAS_LATER_LAYERS, file), KERAS_LATER
    if "features.0.weight" in tensors:
        return _vgg(tensors, file), TORCHVISION
    if "conv1.weight" in tensors and "layer1.0.conv1.weight" in tensors:
        return _renamed(tensors, lambda key: key, file), TORCHVISION
    raise CheckpointError(
        f"{file} is no classifier that can start a backbone (ResNet, ResNeXt, VGG-16); its tensors are called "
        f"{some(list(tensors))}."
    )


def fill(model: MaskRCNN, start: Start, source: str) -> None:
    """Put a backbone's weights into a network; every tensor of the backbone must be there."""
    own = model.state_dict()
    wanted = [k for k in own if k.startswith(("backbone.", "stage5."))]
    counters = {k: torch.zeros_like(own[k]) for k in wanted if k.endswith(".num_batches_tracked")}
    given = {**counters, **start.tensors}
    missing, unknown = [k for k in wanted if k not in given], [k for k in given if k not in own]
    unknown = [k for k in unknown if not k.endswith(".num_batches_tracked")]
    wrong = [k for k in wanted if k in given and own[k].shape != given[k].shape]
    for problem, items in (("lacks", missing), ("does not fit in", wrong), ("has tensors without a place:", unknown)):
        if items:
            raise CheckpointError(f"{source} {problem} {some(items)}.")
    model.load_state_dict({k: given[k] for k in wanted}, strict=False)


def _renamed(tensors: dict[str, Tensor], name_of: Callable[[str], str | None], file: str) -> Tensors:
    ours = Tensors(file, hint="")  # a backbone does not start in part
    for key, tensor in tensors.items():
        if any(re.fullmatch(pattern, key) for pattern in CLASSIFIER):
            continue
        name = name_of(key)
        if name is None:
            raise CheckpointError(f"{file}: no part of a backbone corresponds to {key!r}.")
        ours[f"backbone.{name}"] = tensor
    return ours


def _caffe2_name(key: str) -> str | None:
    name = renamed(key, CAFFE2)
    if name is None or key.endswith("_w"):
        return name
    layer, _, part = name.rpartition(".")
    return f"{layer}.{CAFFE2_PARTS[part]}" if part in CAFFE2_PARTS else None


def _fix_scale_and_shift(tensors: Tensors) -> None:
    """Give norms that are a scale and a shift alone such statistics that they stay so: their eps has no effect."""
    add_statistics(tensors, variance=1 - NORM_EPS)


def _keras(tensors: dict[str, Tensor], layers: Renames, file: str) -> Tensors:
    ours = _renamed(tensors, lambda key: matterport.our_name(key, layers), file)
    for key, tensor in ours.items():
        ours[key] = matterport.torch_layout(tensor)
    matterport.fold_biases(ours)
    return ours


def _vgg(tensors: dict[str, Tensor], file: str) -> Tensors:
    """Return VGG-16's convolutions and norms, which torchvision numbers with the ReLUs and poolings between them."""
    places = [f"block{block}.{i}" for block, count in enumerate(CONVS, start=1) for i in range(count)]
    numbers = (re.fullmatch(r"features\.(\d+)\.weight", key) for key, tensor in tensors.items() if tensor.dim() == 4)
    convs = sorted(int(found[1]) for found in numbers if found)
    if len(convs) != len(places):
        raise CheckpointError(f"{file} has {counted(len(convs), 'convolution')} of a VGG; VGG-16 has {len(places)}.")
    layers = {number: f"{place}.conv" for number, place in zip(convs, places, strict=True)}
    layers |= {number + 1: f"{place}.norm" for number, place in zip(convs, places, strict=True)}

    def name_of(key: str) -> str | None:
        found = re.fullmatch(r"features\.(\d+)\.(\w+)", key)
        layer = layers.get(int(found[1])) if found else None
        return None if found is None or layer is None else f"{layer}.{found[2]}"

    ours = _renamed(tensors, name_of, file)
    matterport.fold_biases(ours)  # where norms follow
    return ours


def _check_architecture(tensors: Tensors, config: Config) -> None:
    """Raise `CheckpointError` where the file holds another backbone than the configuration wants."""
    is_resnet = "backbone.conv1.weight" in tensors
    if is_resnet != isinstance(config.backbone, ResNetConfig):
        what, preset = ("a ResNet", f"resnet{resnet(tensors)['depth']}") if is_resnet else ("a VGG-16", "vgg16")
        raise CheckpointError(
            f"{tensors.file} holds {what}, not the configuration's backbone; take the preset {preset} or {preset}-fpn."
        )
    if is_resnet:
        held = resnet(tensors)
        norm = held.pop("norm")
        grouped = f"a ResNeXt-{held['depth']}-{held['groups']}x{held['width_per_group']}d"
        name = grouped if held["groups"] > 1 else f"a ResNet-{held['depth']}"
    else:
        width = tensors.shape("backbone.block1.0.conv.weight", (64, 3, 3, 3))[0]
        norm = "batch" if "backbone.block1.0.norm.running_mean" in tensors else "none"
        held, name = {"width": width}, "a VGG-16" + (" with BatchNorm" if norm == "batch" else "")
    wrong = {k: v for k, v in held.items() if k != "dilate_c5" and getattr(config.backbone, k) != v}
    fitting = {"batch": ("frozen_batch", "batch"), "frozen_batch": ("frozen_batch", "batch")}.get(norm, (norm,))
    if config.backbone.norm not in fitting:
        wrong["norm"] = fitting[0]
    if wrong:
        fields = ", ".join(f"backbone.{key} to {value}" for key, value in wrong.items())
        raise CheckpointError(f"{tensors.file} holds {name}, not the configuration's backbone; set {fields}.")


def _in_place(tensors: Tensors, config: Config) -> dict[str, Tensor]:
    """Return the tensors where the network has them: without FPN, and not dilated, the fifth stage is the head."""
    backbone = config.backbone
    c4 = config.fpn is None and isinstance(backbone, ResNetConfig) and not backbone.dilate_c5
    return {
        (key.replace("backbone.layer4.", "stage5.") if c4 else key): tensor.float()
        if tensor.is_floating_point()
        else tensor
        for key, tensor in tensors.items()
    }
