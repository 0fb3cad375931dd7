"""A layer of the network's structure as nodes: the operation, its norm and its activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from maskrcnn.export.scope import Scope
from maskrcnn.inspection.parts import PARTS
from maskrcnn.inspection.structure import Layer
from maskrcnn.model import MaskRCNN

_WORDS = {
    "conv": "Convolution",
    "deconv": "Transposed convolution",
    "linear": "Fully connected layer",
    "pool": "Max pooling",
    "add": "Addition",
    "upsample": "Enlargement",
    "subsample": "Every second row and column",
    "mean": "Mean over the crop",
}


def node_name(layer: Layer, model: MaskRCNN) -> str:
    """Return a layer's module path with slashes: `fpn/lateral4`, `rpn/conv/p3`.

    What convolutions with a norm call `conv` inside has the name of the whole. Stage five of C4 runs for boxes and
    for masks, and is one function; its layers have one name for both.
    """
    path, _, call = layer.key.partition("@")
    if path == "rpn.convs.0" and len(model.rpn.convs) == 1:
        path = "rpn.conv"
    elif path.endswith(".conv"):
        path = path.removesuffix(".conv")
    elif path.startswith("stage5."):
        call = ""
    return "/".join([*path.split("."), *[call] * bool(call)])


def described(layer: Layer) -> str:
    """Return what a layer is, in words."""
    part = PARTS[layer.part]
    words = _WORDS[layer.kind]
    if layer.kernel:
        words += f" {layer.kernel} × {layer.kernel}, stride {layer.stride}"
    words += f", dilation {layer.dilation}" * (layer.dilation > 1) + f", {layer.groups} groups" * (layer.groups > 1)
    if layer.kind in ("conv", "deconv", "linear"):
        features = "features" if layer.kind == "linear" else "channels"
        words += f", {layer.in_shape[1]} → {layer.out_shape[1]} {features}"
    words += "".join(f", {what}" for what in (layer.norm, layer.activation) if what)
    stages = f" Gives {' and '.join(layer.tensors)}." if layer.tensors else ""
    return f"{f'{part.number} {part.title}'.strip()}: {words}.{stages}"


def add_layer(scope: Scope, model: MaskRCNN, layer: Layer, inputs: Sequence[str], stage: str = "") -> str:
    """Add a layer's nodes and return the name of the value that the last of them gives.

    Args:
        scope: where to.
        model: the network.
        layer: one of its structure.
        inputs: the values that it takes.
        stage: a name for what it gives; that of the last node by default.
    """
    name, doc = node_name(layer, model), described(layer)
    norm = layer.end.partition("@")[0] if layer.norm else ""
    chain = [name, *[norm.replace(".", "/")] * bool(norm), *[f"{name}/relu"] * bool(layer.activation)]
    values = [*chain[:-1], stage or chain[-1]]
    for value in values:
        scope.value(value, layer.out_shape, what=doc if value == values[-1] else "")
    _add_operation(scope, model, layer, inputs, name, values[0])
    if norm:
        _add_norm(scope, model.get_submodule(norm), norm, values[0], values[1], doc)
    if layer.activation:
        scope.add("Relu", values[-2:-1], values[-1:], chain[-1], doc)
    return values[-1]


def _add_operation(scope: Scope, model: MaskRCNN, layer: Layer, inputs: Sequence[str], name: str, out: str) -> None:
    module: Any = model.get_submodule(layer.path)
    doc = described(layer)

    def add(op: str, given: Sequence[str], **attributes: Any) -> None:
        scope.add(op, given, [out], name, doc, **attributes)

    if layer.kind in ("conv", "deconv"):
        op = "Conv" if layer.kind == "conv" else "ConvTranspose"
        add(op, [*inputs, *_weights(scope, module, layer.path, name)], **_sliding(module), group=module.groups)
    elif layer.kind == "linear":
        add("Gemm", [_flat(scope, inputs[0], layer), *_weights(scope, module, layer.path, name)], transB=1)
    elif layer.kind == "pool":
        add("MaxPool", inputs, **_sliding(module), ceil_mode=int(module.ceil_mode))
    elif layer.kind == "add":
        add("Add", inputs)
    elif layer.kind == "upsample":
        size = scope.integers(f"{name}.sizes", layer.out_shape)
        rule = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        if layer.part == "heads":  # heatmaps of keypoints
            rule = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        add("Resize", [*inputs, "", "", size], **rule)
    elif layer.kind == "subsample":
        numbers = {"starts": [0, 0], "ends": layer.in_shape[2:], "axes": [2, 3], "steps": [2, 2]}
        add("Slice", [*inputs, *(scope.integers(f"{name}.{key}", value) for key, value in numbers.items())])
    else:
        add("ReduceMean", [*inputs, scope.integers(f"{name}.axes", [2, 3])], keepdims=0)


def _add_norm(scope: Scope, module: Any, path: str, taken: str, out: str, doc: str) -> None:
    name = path.replace(".", "/")
    weights = _weights(scope, module, path, name)
    if isinstance(module, nn.GroupNorm):
        groups: dict[str, Any] = {"num_groups": module.num_groups, "epsilon": module.eps}
        scope.add("GroupNormalization", [taken, *weights], [out], name, doc, **groups)
        return
    weights += [scope.weight(f"{path}.{key}", getattr(module, key), name) for key in ("running_mean", "running_var")]
    scope.add("BatchNormalization", [taken, *weights], [out], name, doc, epsilon=module.eps)


def _weights(scope: Scope, module: nn.Module, path: str, name: str) -> list[str]:
    """Add weight and, if there is one, bias of a module; return their names."""
    both: list[tuple[str, Any]] = [(key, getattr(module, key)) for key in ("weight", "bias")]
    return [scope.weight(f"{path}.{key}", tensor, name) for key, tensor in both if tensor is not None]


def _sliding(module: Any) -> dict[str, Any]:
    """Return kernel, strides, padding and dilation of what slides over a map, in ONNX's terms."""
    padding, dilation = _pair(module.padding), _pair(module.dilation)
    return {
        "kernel_shape": _pair(module.kernel_size),
        "strides": _pair(module.stride),
        "pads": padding + padding,
        "dilations": dilation if dilation != [1, 1] else None,
    }


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, tuple) else [int(value)] * 2


def _flat(scope: Scope, value: str, layer: Layer) -> str:
    """Return the name of a layer's input as rows, which crops have to become first."""
    if len(scope.shapes[value]) == 2:
        return value
    flat = f"{layer.path.split('.')[0]}/flatten"
    if flat not in scope.shapes:
        scope.value(flat, layer.in_shape)
        scope.add("Flatten", [value], [flat], flat, "Every crop as one row of numbers.")
    return flat
