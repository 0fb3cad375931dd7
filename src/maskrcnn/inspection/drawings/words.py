"""What drawings say of shapes, numbers, layers and configurations."""

from __future__ import annotations

from collections.abc import Sequence

from maskrcnn.errors import counted
from maskrcnn.inspection.structure import Layer, Structure


def sizes(shape: Sequence[int]) -> str:
    """Return a shape.

    Example:
        >>> sizes((256, 64, 64))
        '256×64×64'
    """
    return "×".join(str(n) for n in shape)


def number(value: float) -> str:
    """Return a number of a configuration, short.

    Example:
        >>> number(224.0), number(0.7), number(1e-3)
        ('224', '0.7', '0.001')
    """
    return f"{value:.4g}" if value < 10000 else f"{value:,.0f}"


def millions(count: int) -> str:
    """Return a count of parameters in three digits or so.

    Example:
        >>> millions(44400000), millions(593935), millions(771)
        ('44.4 M', '594 k', '771')
    """
    if count >= 1_000_000:
        return f"{count / 1e6:.3g} M" if count < 1e9 else f"{count / 1e9:.3g} G"
    return f"{count / 1e3:.3g} k" if count >= 1000 else str(count)


def listed(values: Sequence[float], most: int = 6) -> str:
    """Return numbers with commas; of many, the first and the last.

    Example:
        >>> listed((0.5, 1.0, 2.0)), listed([8.0 * k for k in range(1, 20)])
        ('0.5, 1, 2', '8, 16 … 152')
    """
    words = [number(value) for value in values]
    return ", ".join(words) if len(words) <= most else f"{words[0]}, {words[1]} … {words[-1]}"


def facts(structure: Structure) -> str:
    """Return input size, classes, anchors and parameters in a line."""
    config = structure.config
    height, width = structure.input_size
    said = [f"input {height} × {width}", counted(config.num_classes, "class") + " and background"]
    if config.keypoint_names:
        said.append(counted(len(config.keypoint_names), "keypoint"))
    total = sum(structure.parameters.values())
    said.append(f"{millions(total)} parameters")
    operations = sum(structure.multiply_adds.values())
    count = f"{operations / 1e9:,.0f} G" if operations >= 1e9 else f"{operations / 1e6:.0f} M"
    said.append(f"{count} multiply-adds")
    return " · ".join(said)


_NORMS = {"BatchNorm": "BN", "frozen BatchNorm": "frozen BN", "GroupNorm": "GN", "": ""}
_KINDS = {"deconv": "deconv", "linear": "fc", "pool": "max pool", "mean": "mean over the crop", "add": "+"}


def operation(layer: Layer) -> str:
    """Return what a layer is, with its kernel and its stride.

    Example:
        >>> operation(Layer("a", "a", "backbone", "conv", (), (1, 3, 8, 8), (1, 4, 4, 4), kernel=3, stride=2))
        'conv 3×3 /2'
    """
    if layer.kind == "upsample":
        return f"upsample {layer.out_shape[-1] / layer.in_shape[-1]:.2g}×"
    kind = _KINDS.get(layer.kind, layer.kind)
    if layer.kernel:
        kind += f" {layer.kernel}×{layer.kernel}"
    if layer.stride > 1:
        kind += f" ({layer.stride}×)" if layer.kind == "deconv" else f" /{layer.stride}"
    return kind


def after(layer: Layer) -> str:
    """Return the norm and the activation of a layer, the norm abbreviated; empty where it has neither."""
    return ", ".join(word for word in (_NORMS[layer.norm], layer.activation) if word)


def channels(layer: Layer) -> str:
    """Return the channels in and out of a layer, or its features."""
    return f"{layer.in_shape[1]} → {layer.out_shape[1]}"


def features(layer: Layer) -> str:
    """Return a layer's output without the batch's axis."""
    return sizes(layer.out_shape[1:])


def abbreviations(structure: Structure, keys: Sequence[str]) -> list[str]:
    """Return what the legend says of the abbreviations that layers need."""
    layers = [structure.layers[key] for key in keys]
    said = []
    if any(layer.norm.endswith("BatchNorm") for layer in layers):
        frozen = any(layer.norm.startswith("frozen") for layer in layers)
        said.append("BN BatchNorm" + (", frozen: with fixed statistics and scale" if frozen else ""))
    if any(layer.norm == "GroupNorm" for layer in layers):
        said.append("GN GroupNorm")
    if any(layer.stride > 1 and layer.kind != "deconv" for layer in layers):
        said.append("/2 stride 2")
    return said
