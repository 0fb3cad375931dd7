"""The network as a graph of layers, read off a run of the real modules on tensors without data.

The run is on PyTorch's `meta` device, where tensors have a shape and nothing else, so that it costs no time and no
weights are needed. Every operation on the way is seen, those outside modules too (the additions of residual blocks and
of the FPN, ReLU as a function), and tells by the tensors it takes which layers it follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from maskrcnn.config import Config, ImageConfig
from maskrcnn.images import resized_size
from maskrcnn.inspection.calls import call_name
from maskrcnn.inspection.parts import PartName, part_of
from maskrcnn.layers import FrozenBatchNorm
from maskrcnn.model import MaskRCNN
from maskrcnn.stages import recording
from maskrcnn.structures import ImageBatch

Kind = Literal["conv", "deconv", "linear", "pool", "add", "upsample", "subsample", "mean"]

_KINDS: dict[str, Kind] = {
    "conv2d": "conv",
    "conv_transpose2d": "deconv",
    "linear": "linear",
    "max_pool2d": "pool",
    "add": "add",
    "__add__": "add",
    "interpolate": "upsample",
    "mean": "mean",
}
_ACTIVATIONS = {"relu": "ReLU", "relu_": "ReLU"}
_NORMS = {nn.BatchNorm2d: "BatchNorm", FrozenBatchNorm: "frozen BatchNorm", nn.GroupNorm: "GroupNorm"}


@dataclass
class Layer:
    """One operation with what directly follows it: a convolution with its norm and its activation."""

    key: str
    """Unique: the module's path (with `@p3` where it runs several times), or the enclosing module's and the kind."""
    path: str
    """Dotted path of the module; of the enclosing one for what is no module, as an addition."""
    part: PartName
    kind: Kind
    inputs: tuple[str, ...]
    """Keys of the layers it follows; a name without a dot as `image` or `box_features` is what enters a part."""
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: int = 0
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    norm: str = ""
    activation: str = ""
    parameters: int = 0
    """Trainable or frozen, the norm's included; 0 in all calls of a module but the first."""
    multiply_adds: int = 0
    """Of convolutions and linear layers alone, for the input that the structure was read with."""
    tensors: list[str] = field(default_factory=list)
    """Stages that are this layer's output, as `c2`."""
    end: str = ""
    """The module whose output is this layer's, before its activation: the norm's where there is one; with `@p3` as in
    `key`. Empty where there is no such module."""


_NONE = Layer("", "", "input", "add", (), (), (), end="none")


@dataclass
class Structure:
    """What `read_structure` finds."""

    config: Config
    input_size: tuple[int, int]
    """(height, width) of the padded input."""
    layers: dict[str, Layer]
    """By key, in the order in which they run."""
    shapes: dict[str, tuple[int, ...]]
    """Of every stage in inference, as far as shapes do not depend on what is found; masks and keypoints do."""
    strides: dict[str, int]
    """Levels that the RPN looks at, finest first."""
    level_anchors: dict[str, int]
    """Anchors of each of them."""
    parameters: dict[str, int]
    """By part."""

    @property
    def multiply_adds(self) -> dict[str, int]:
        """By part; one image, all slots of proposals and detections taken."""
        counts = dict.fromkeys(self.parameters, 0)
        for layer in self.layers.values():
            counts[layer.part] = counts.get(layer.part, 0) + layer.multiply_adds
        return counts


def input_size(config: ImageConfig, photo: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return (height, width) of the padded input for a photo; by default for one that fills what there is.

    Example:
        >>> input_size(ImageConfig()), input_size(ImageConfig(max_size=1024, padding="square"))
        ((800, 1344), (1024, 1024))
    """
    height, width = resized_size(*photo, config) if photo else (config.min_size, config.max_size)
    if config.padding == "square":
        height = width = config.max_size
    divisor = config.size_divisor
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def read_structure(config: Config, photo: tuple[int, int] | None = None) -> Structure:
    """Return the layers, the shapes and the counts of the network that a configuration describes.

    Args:
        config: the configuration.
        photo: (height, width) of the photo to take shapes for; by default one that fills the input.

    Example:
        >>> structure = read_structure(Config.preset(class_names=["a", "b", "c", "d", "e", "f"]))
        >>> structure.shapes["p6"], sum(structure.level_anchors.values())
        ((1, 256, 16, 16), 261888)
    """
    with torch.device("meta"):
        model = MaskRCNN(config.replace({"backbone_weights": None})).eval()
    height, width = input_size(config.image, photo)
    with torch.no_grad(), recording() as stages, _watched(model) as watch:
        image = watch.enter("image", torch.empty(1, 3, height, width, device="meta"))
        sizes = torch.tensor([[height, width]])
        batch = ImageBatch(image, sizes, sizes)
        stages["image"] = image
        features = model.fpn(model.backbone(image))
        rpn = model.rpn(features, batch)
        _run_heads(model, features, rpn.level_sizes, watch, stages)
    for name, tensor in stages.items():
        watch.name(name, tensor)
    shapes = {name: tuple(tensor.shape) for name, tensor in stages.items()}
    shapes["image_meta"] = (1, 13 + config.num_classes)
    counts: Counter[str] = Counter()
    for path, parameter in model.named_parameters():
        counts[part_of(path)] += parameter.numel()
    levels = dict(zip(model.rpn.strides, rpn.level_sizes, strict=True))
    return Structure(config, (height, width), watch.layers, shapes, dict(model.fpn.strides), levels, dict(counts))


def _run_heads(
    model: MaskRCNN, features: Mapping[str, Tensor], level_sizes: tuple[int, ...], watch: _Watch, stages: Any
) -> None:
    """Run the heads on crops without data: which boxes there are depends on data, how many does not."""
    config = model.config
    sizes = level_sizes if config.rpn.per_level else (sum(level_sizes),)
    top = len(sizes) * min(config.rpn.pre_nms_top_n, max(sizes))
    proposals = min(config.rpn.post_nms_top_n, top)
    candidates = min(config.box.candidates, proposals * config.num_classes)
    found = min(config.box.detections_per_image, candidates)
    channels = model.fpn.channels

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device="meta")

    for name in ("proposals_before_refinement", "proposals_before_nms"):
        stages[name] = empty(1, top, 4)
    stages["proposals"], stages["proposal_scores"] = empty(1, proposals, 4), empty(1, proposals)
    stages["roi_levels"] = empty(1, proposals)

    def crops(name: str, rois: int, size: int) -> Tensor:
        stages[name] = watch.enter(name, empty(rois, channels, size, size))
        return model.stage5(stages[name])

    logits, deltas = model.box_head(crops("box_features", proposals, config.box.pool_size))
    stages["class_logits"], stages["box_deltas"] = logits, deltas
    stages["detections_before_nms"], stages["detections"] = empty(1, candidates, 4), empty(1, found, 6)
    if config.masks:
        stages["mask_logits"] = model.mask_head(crops("mask_features", found, config.mask.pool_size))
    if config.keypoint_names:
        cut = crops("keypoint_features", found, config.keypoint.pool_size)
        stages["keypoint_logits"] = model.keypoint_head(cut)


class _Watch(TorchFunctionMode):
    """Sees every operation, and keeps those that are layers."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model
        self.layers: dict[str, Layer] = {}
        self.stack: list[tuple[str, nn.Module]] = []
        self.calls: Counter[str] = Counter()
        self._makers: dict[int, str] = {}
        self._alive: list[Tensor] = []  # so that no tensor takes another's id
        self._inside_norm = 0

    def enter(self, name: str, tensor: Tensor) -> Tensor:
        """Take a tensor as the entry of a part."""
        self._made(tensor, name)
        return tensor

    def name(self, stage: str, tensor: Tensor) -> None:
        """Note that a stage is the output of the layer that made it."""
        maker = self._makers.get(id(tensor))
        if maker in self.layers and stage not in self.layers[maker].tensors:
            self.layers[maker].tensors.append(stage)

    def module_begins(self, path: str, module: nn.Module) -> None:
        self.stack.append((path, module))
        self._inside_norm += isinstance(module, tuple(_NORMS))

    def module_ends(self, path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.stack.pop()
        name = call_name(self.model, path, self.calls[path])
        self.calls[path] += 1
        if isinstance(module, tuple(_NORMS)):
            self._inside_norm -= 1
            maker = self._makers.get(id(inputs[0]), "")
            if maker in self.layers:
                layer = self.layers[maker]
                layer.norm, layer.end = next(said for kind, said in _NORMS.items() if isinstance(module, kind)), name
                if self.calls[path] == 1:
                    layer.parameters += sum(p.numel() for p in module.parameters())
            self._made(output, maker)
        elif isinstance(output, Tensor) and not self.layers.get(self._makers.get(id(output), ""), _NONE).end:
            self.layers[self._makers[id(output)]].end = name

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if self._inside_norm or not isinstance(out, Tensor) or not self.stack:
            return out
        taken = [a for a in args if isinstance(a, Tensor)]
        taken += [t for a in args if isinstance(a, (list, tuple)) for t in a if isinstance(t, Tensor)]
        makers = tuple(dict.fromkeys(self._makers[id(t)] for t in taken if id(t) in self._makers))
        if not makers:
            return out
        strided = name == "__getitem__" and out.dim() == 4 and out.shape != args[0].shape
        kind = "subsample" if strided else _KINDS.get(name)
        if name in _ACTIVATIONS and makers[0] in self.layers:
            self.layers[makers[0]].activation = _ACTIVATIONS[name]
            self._made(out, makers[0])
        elif kind is not None:
            self._made(out, self._layer(kind, makers, taken[0], out))
        else:
            self._made(out, makers[0])
        return out

    def _made(self, tensor: Any, maker: str) -> None:
        if isinstance(tensor, Tensor):
            self._makers[id(tensor)] = maker
            self._alive.append(tensor)

    def _layer(self, kind: Kind, inputs: tuple[str, ...], taken: Tensor, out: Tensor) -> str:
        path, module = self.stack[-1]
        own = isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.MaxPool2d))
        base = path if own else f"{path}.{kind}"
        key, repeat = call_name(self.model, base, self.calls[path]), 2
        while key in self.layers:  # the FPN adds three times
            key, repeat = f"{base}{repeat}", repeat + 1
        layer = Layer(
            key, path, part_of(path), kind, inputs, tuple(taken.shape), tuple(out.shape), **_numbers(module, own)
        )
        if own and not self.calls[path]:
            layer.parameters = sum(p.numel() for p in module.parameters())
        if kind in ("conv", "deconv", "linear"):
            weight: Any = module.weight
            positions = taken if kind == "deconv" else out
            layer.multiply_adds = weight.numel() * (positions.numel() // positions.shape[1])
        self.layers[key] = layer
        return key


def _numbers(module: nn.Module, own: bool) -> dict[str, Any]:
    """Return kernel, stride, dilation and groups of a layer; the first of those that differ by axis."""
    if not own or isinstance(module, nn.Linear):
        return {}
    names = {"kernel": "kernel_size", "stride": "stride", "dilation": "dilation", "groups": "groups"}
    values = {key: getattr(module, name) for key, name in names.items() if hasattr(module, name)}
    return {key: value[0] if isinstance(value, tuple) else int(value) for key, value in values.items()}


@contextmanager
def _watched(model: MaskRCNN) -> Iterator[_Watch]:
    watch = _Watch(model)
    handles = []
    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(_begin(watch, path)))
            handles.append(module.register_forward_hook(_end(watch, path)))
    try:
        with watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()


def _begin(watch: _Watch, path: str) -> Any:
    return lambda module, inputs: watch.module_begins(path, module)


def _end(watch: _Watch, path: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        watch.module_ends(path, module, inputs, output)

    return hook
