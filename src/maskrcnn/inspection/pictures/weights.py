"""The weights of a network, layer by layer: histograms, and which layers are dead or exploded."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor, nn

from maskrcnn.drawing import RGB, contact_sheet
from maskrcnn.errors import InputError
from maskrcnn.fonts import font_for
from maskrcnn.inspection.parts import PARTS, part_of
from maskrcnn.inspection.pictures.colors import ALARM, INK, MUTED, PAPER
from maskrcnn.inspection.pictures.views import NothingToShowError

Flag = Literal["", "dead", "exploded"]

ZERO = 1e-6
"""A channel is dead whose weights have a root mean square below this, a norm's channel whose scale is below it.
Predictors begin with 1e-3 and learn; weight decay brings what nothing needs down to 1e-20 and less."""
DEAD_SHARE = 0.95
"""A layer is dead from this share of dead channels on. Trained networks have a few: norms of published ResNets many."""
LARGE = 10.0
"""A layer has exploded whose standard deviation is this many times √(2 / fan-in); see `LayerWeights.expected`."""
LARGE_SCALE = 100.0
"""A norm has exploded whose scales have a root mean square above this."""
BINS = 41
MOST_VALUES = 200_000
"""Values of a layer that a histogram counts; of larger layers every so manieth."""


@dataclass(frozen=True)
class LayerWeights:
    """One layer's weights, as a row of a table."""

    layer: str
    """The module's path."""
    kind: Literal["layer", "norm"]
    """Convolutions and linear layers, or the scales of a norm."""
    shape: tuple[int, ...]
    mean: float
    """Of the finite values, as `std`; NaN where there is none."""
    std: float
    expected: float
    """What keeps activations at their size, √(2 / fan-in) (He et al. 2015, section 2.2); NaN for norms. Most layers
    start with it, predictors far below."""
    dead: float
    """Share of output channels without weight."""
    not_finite: int
    flag: Flag
    why: str
    """What the flag was given for; empty without one."""


def weight_health(weights: nn.Module | Mapping[str, Tensor]) -> list[LayerWeights]:
    """Return a row for the weights of every layer, in the order of the network; dead and exploded ones are flagged.

    `dead` is a layer of whose output channels at least 95 % have no weight (below 1e-6), or a norm of whose scales as
    many are 0. `exploded` is one with values that are not finite, one with a standard deviation over 10 times
    √(2 / fan-in), or a norm with scales of 100 and more. Trained networks and random starts have no flags.

    Args:
        weights: a network, or its `state_dict`.

    Raises:
        InputError: there is no weight among them.

    Example:
        >>> import torch
        >>> from maskrcnn import Config, MaskRCNN
        >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"]))
        >>> torch.nn.init.zeros_(model.fpn.output3.conv.weight)[0, 0, 0, 0].item()
        0.0
        >>> [(row.layer, row.flag, row.why) for row in weight_health(model) if row.flag]
        [('fpn.output3.conv', 'dead', 'all channels are 0')]
    """
    found = _weights(weights)
    return [_row(path, tensor, transposed) for path, (tensor, transposed) in found.items()]


def weight_histograms(
    weights: nn.Module | Mapping[str, Tensor], layers: str = "*", norms: bool = False, columns: int = 5
) -> Image.Image:
    """Return a histogram of the weights of every layer, in the colour of its part; flagged ones are framed and told.

    A histogram reaches as far on both sides of 0 as 99.9 % of the values; heights are square roots of counts, so that
    tails are seen. Under it stands the standard deviation, and how many times √(2 / fan-in) that is.

    Args:
        weights: a network, or its `state_dict`.
        layers: a glob of paths, as `fpn.*`; flagged layers that it leaves out are left out.
        norms: whether to show the scales of all norms too, not of flagged ones alone.
        columns: histograms in a row.

    Raises:
        InputError: no layer has such a path, or `columns` is not positive.
    """
    if columns < 1:
        raise InputError(f"columns must be at least 1; got {columns}.")
    found = _weights(weights)
    rows = [_row(path, *entry) for path, entry in found.items() if fnmatch.fnmatchcase(path, layers)]
    shown = [row for row in rows if norms or row.kind == "layer" or row.flag]
    if not shown:
        raise NothingToShowError(f"No layer of this network is called {layers!r}.")
    return contact_sheet([_tile(row, found[row.layer][0]) for row in shown], columns, gap=10)


def _weights(weights: nn.Module | Mapping[str, Tensor]) -> dict[str, tuple[Tensor, bool]]:
    """Return the weight of every layer by its path, and whether its first axis is the input's."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    found = {
        key.removesuffix(".weight"): (tensor.detach(), key.endswith("deconv.weight") and tensor.dim() == 4)
        for key, tensor in state.items()
        if key.endswith(".weight") and tensor.is_floating_point() and tensor.numel()
    }
    if not found:
        raise InputError(
            "There are no weights among these tensors; their names must end in .weight, as in a state_dict."
        )
    return found


def _row(path: str, tensor: Tensor, transposed: bool) -> LayerWeights:
    values = tensor.float()
    finite = values if values.sum().isfinite() else values[values.isfinite()]
    not_finite = values.numel() - finite.numel()
    mean = float(finite.mean()) if finite.numel() else math.nan
    std = float(finite.std(correction=0)) if finite.numel() else math.nan
    is_norm = values.dim() == 1
    if is_norm:
        channels, expected = values.abs(), math.nan
    else:
        by_output = values.transpose(0, 1) if transposed else values
        channels = by_output.flatten(1).square().mean(1).sqrt()
        # Every output of a stride-2 deconvolution with a kernel of 2 or 4 reads a quarter of its kernel's places
        fan_in = by_output[0].numel() / (4 if transposed else 1)
        expected = math.sqrt(2 / fan_in)
    dead = float((channels < ZERO).float().mean())
    flag, why = _judged(is_norm, not_finite, dead, std / expected, float(channels.square().mean().sqrt()))
    kind: Literal["layer", "norm"] = "norm" if is_norm else "layer"
    return LayerWeights(path, kind, tuple(tensor.shape), mean, std, expected, dead, not_finite, flag, why)


def _judged(is_norm: bool, not_finite: int, dead: float, times: float, scale: float) -> tuple[Flag, str]:
    """Return a layer's flag and the reason."""
    if not_finite:
        return "exploded", f"{not_finite:,} values are not finite"
    if dead >= DEAD_SHARE:
        share = "all" if dead == 1 else f"{100 * dead:.0f} % of the"
        return "dead", f"{share} {'scales' if is_norm else 'channels'} are 0"
    if is_norm and scale > LARGE_SCALE:
        return "exploded", f"its scales are about {scale:.3g}"
    if not is_norm and times > LARGE:
        return "exploded", f"its std is {times:.3g} x sqrt(2 / fan-in)"
    return "", ""


def _tile(row: LayerWeights, tensor: Tensor, width: int = 240, height: int = 132) -> Image.Image:
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    size = 12
    font = font_for(size, row.layer)
    draw.text((4, 3), _end_of(row.layer, width - 8, size), font=font, fill=INK)
    top, bottom = 22, height - 36
    limit, counts = _counts(tensor)
    ink = _ink(row.layer)
    bar = (width - 8) / BINS
    highest = max(float(np.sqrt(counts.max(initial=0))), 1.0)
    for number, count in enumerate(counts):
        if count:
            x = 4 + number * bar
            y = bottom - max(round(math.sqrt(count) / highest * (bottom - top)), 1)
            draw.rectangle((round(x), y, max(round(x + bar) - 1, round(x)), bottom), fill=ink)
    draw.line((4, bottom + 1, width - 4, bottom + 1), fill=MUTED)
    draw.line((width // 2, bottom + 1, width // 2, bottom + 4), fill=MUTED)
    draw.text((4, bottom + 3), f"{-limit:.2g}", font=font_for(10, "0"), fill=MUTED)
    draw.text((width - 4, bottom + 3), f"{limit:.2g}", font=font_for(10, "0"), fill=MUTED, anchor="ra")
    says = f"mean {row.mean:.2g}, std {row.std:.2g}"
    if row.kind == "layer":
        says = f"std {row.std:.2g} = {row.std / row.expected:.2g} x sqrt(2 / fan-in)"
    if row.flag:
        says = f"{row.flag.upper()}: {row.why}"
    draw.text((4, height - 17), _end_of(says, width - 8, size, end=False), font=font, fill=ALARM if row.flag else MUTED)
    draw.rectangle(
        (0, 0, width - 1, height - 1), outline=ALARM if row.flag else (222, 226, 230), width=2 if row.flag else 1
    )
    return picture


def _counts(tensor: Tensor) -> tuple[float, np.ndarray]:
    """Return how far a histogram reaches on both sides of 0, and how many values fall into each of its bins."""
    every = tensor.flatten()
    values = every[:: max(len(every) // MOST_VALUES, 1)].float().cpu().numpy()
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, np.zeros(BINS, np.int64)
    sizes = np.abs(values)
    limit = float(np.quantile(sizes, 0.999)) or float(sizes.max()) or 1.0
    counts, _ = np.histogram(values.clip(-limit, limit), BINS, (-limit, limit))
    return limit, counts


def _ink(path: str) -> RGB:
    """Return the colour of a layer's part; of what belongs to none, as in another network, grey."""
    try:
        ink = PARTS[part_of(path)].ink
    except KeyError:
        return MUTED
    return int(ink[1:3], 16), int(ink[3:5], 16), int(ink[5:7], 16)


def _end_of(text: str, room: int, size: int, end: bool = True) -> str:
    """Return a text cut to `room` pixels, at its beginning or its end."""
    font = font_for(size, text)
    if font.getlength(text) <= room:
        return text
    while len(text) > 1 and font.getlength(f"...{text}") > room:
        text = text[1:] if end else text[:-1]
    return f"...{text}" if end else f"{text}..."
