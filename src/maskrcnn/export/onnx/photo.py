"""Preprocessing inside the graph: from a photo, uint8 [1, H, W, 3] RGB of any size, to the network's input.

The rules are those of `maskrcnn.images`. Pillow's resizing is ONNX's `Resize` with antialiasing, which rounds a few
pixels in a thousand to the neighbouring one of 256 levels; the other rules differ by float rounding alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskrcnn.config import ImageConfig
from maskrcnn.export.graph import Sizes
from maskrcnn.export.onnx.steps import DOUBLE, FLOAT, INT64, Steps


class Prepared(NamedTuple):
    """Names of what the network is given, and of what leads back to the photo; pairs are (y, x), int64 [2]."""

    images: str
    sizes: str
    """[1, 2], as the network takes it."""
    offsets: str
    original: str
    size: str
    start: str


def prepare_photo(steps: Steps, photo: str, config: ImageConfig, sizes: Sizes) -> Prepared:
    """Add what makes of a photo the network's input, and return the names of the results."""
    original = steps.cut(steps.Shape(photo), 1, 3, 0)
    size = resized_size(steps, original, config)
    pixels = steps.Transpose(photo, perm=[0, 3, 1, 2])
    if config.channel_order == "bgr":
        pixels = steps.Gather(pixels, steps.ints(2, 1, 0), axis=1)
    image = _normalised(steps, _resized(steps, pixels, original, size, config), config)
    padded = _padded_size(steps, size, config, sizes)
    start = steps.Div(steps.Sub(padded, size), steps.ints(2)) if config.padding_place == "center" else steps.ints(0, 0)
    end = steps.Sub(steps.Sub(padded, size), start)
    pads = steps.joined([steps.ints(0, 0), start, steps.ints(0, 0), end])
    images = _padded(steps, image, pads, config)
    lines = [steps.Unsqueeze(pair, steps.ints(0)) for pair in (size, start)]
    return Prepared(images, lines[0], lines[1], original, size, start)


def resized_size(steps: Steps, original: str, config: ImageConfig) -> str:
    """Add `maskrcnn.images.resized_size`, in float64 as there; int64 [2]."""

    def number(value: float | int) -> str:
        return steps.constant(np.array([value]), np.float64)

    sides = steps.Cast(original, to=DOUBLE)
    shorter, longer = (op(sides, steps.ints(0), keepdims=1) for op in (steps.ReduceMin, steps.ReduceMax))
    min_size, max_size = number(config.min_size), number(config.max_size)
    if config.resize == "float":
        scale = steps.Min(steps.Div(min_size, shorter), steps.Div(max_size, longer))
        new = steps.Floor(steps.Mul(sides, scale))
    elif config.resize == "pil_floor":
        fits = steps.LessOrEqual(steps.Mul(steps.Div(longer, shorter), min_size), max_size)
        side = steps.Where(fits, min_size, steps.Round(steps.Div(steps.Mul(max_size, shorter), longer)))
        most = max_size if config.padding == "square" else steps.Mul(longer, side)
        others = steps.Min(steps.Floor(steps.Div(steps.Mul(side, longer), shorter)), most)
        # Of two equal sides the height counts as the longer one.
        height, width = steps.cut(sides, 0, 1, 0), steps.cut(sides, 1, 2, 0)
        upright = steps.Not(steps.Less(height, width))
        new = steps.Where(upright, steps.joined([others, side]), steps.joined([side, others]))
    elif config.resize == "skimage":
        scale = steps.Max(number(1.0), steps.Div(min_size, shorter))
        fits = steps.LessOrEqual(steps.Round(steps.Mul(longer, scale)), max_size)
        scale = steps.Where(fits, scale, steps.Div(max_size, longer))
        new = steps.Round(steps.Mul(sides, scale))
    else:
        # The shorter side is min_size exactly, whatever the product's last bit.
        exact = steps.Mul(sides, steps.Div(min_size, shorter))
        exact = steps.Where(steps.Equal(sides, shorter), min_size, exact)
        largest = steps.ReduceMax(exact, steps.ints(0), keepdims=1)
        shrunk = steps.Mul(exact, steps.Div(max_size, largest))
        exact = steps.Where(steps.Greater(largest, max_size), shrunk, exact)
        new = steps.Floor(steps.Add(exact, number(0.5)))
    return str(steps.Max(steps.Cast(new, to=INT64), steps.ints(1, 1)))


def _resized(steps: Steps, pixels: str, original: str, size: str, config: ImageConfig) -> str:
    """Add the resizing of uint8 [1, 3, H, W]; the result is float32, still 0 to 255."""
    # All four sides: runtimes that move the Transpose before a Resize behind it do not know of its axes.
    sides = steps.joined([steps.ints(1, 3), size])
    if config.resize in ("pil", "pil_floor"):
        # exclude_outside: at the border Pillow weighs the pixels that there are.
        rule = {"mode": "linear", "antialias": 1, "exclude_outside": 1}
        return str(steps.Cast(steps.Resize(pixels, "", "", sides, **rule), to=FLOAT))
    if config.resize == "skimage":
        return _resized_over_black(steps, pixels, original, size)
    return str(steps.Resize(steps.Cast(pixels, to=FLOAT), "", "", sides, mode="linear"))


def _resized_over_black(steps: Steps, pixels: str, original: str, size: str) -> str:
    """Add what scikit-image does: bilinear in float64 with black around the photo, cut to whole numbers."""
    image = steps.Cast(pixels, to=DOUBLE)
    half, one = (steps.constant(np.array([v]), np.float64) for v in (0.5, 1.0))
    for axis in (2, 3):
        old = steps.Cast(steps.cut(original, axis - 2, axis - 1, 0), to=DOUBLE)
        count = steps.cut(size, axis - 2, axis - 1, 0)
        numbers = steps.Range(steps.constant(0), steps.Squeeze(count), steps.constant(1))
        ratio = steps.Div(old, steps.Cast(count, to=DOUBLE))
        position = steps.Sub(steps.Mul(steps.Add(steps.Cast(numbers, to=DOUBLE), half), ratio), half)
        low = steps.Floor(position)
        upper = steps.Unsqueeze(steps.Sub(position, low), steps.ints(1)) if axis == 2 else steps.Sub(position, low)
        pads = steps.ints(*(1 if a in (axis, axis + 4) else 0 for a in range(8)))
        black = steps.Pad(image, pads, steps.constant(0.0, np.float64))
        last = steps.Add(old, one)
        cells = [steps.Add(low, steps.constant(np.array([k]), np.float64)) for k in (1.0, 2.0)]
        cells = [steps.Cast(steps.Min(steps.Max(c, steps.Sub(one, one)), last), to=INT64) for c in cells]
        below, above = (steps.Gather(black, c, axis=axis) for c in cells)
        image = steps.Add(steps.Mul(below, steps.Sub(one, upper)), steps.Mul(above, upper))
    whole = steps.Floor(steps.Clip(image, *(steps.constant(v, np.float64) for v in (0.0, 255.0))))
    return str(steps.Cast(whole, to=FLOAT))


def _normalised(steps: Steps, image: str, config: ImageConfig) -> str:
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (config.mean, config.std))
    scaled = image if config.pixel_scale == 1 else steps.Div(image, steps.constant(1 / config.pixel_scale))
    return str(steps.Div(steps.Sub(scaled, steps.constant(mean)), steps.constant(std)))


def _padded_size(steps: Steps, size: str, config: ImageConfig, sizes: Sizes) -> str:
    """Add the size of the network's input; int64 [2]."""
    if not sizes.any_size:
        return steps.ints(sizes.height, sizes.width)
    least = config.max_size if config.padding == "square" else sizes.least
    divisor = steps.ints(config.size_divisor)
    wanted = steps.Max(size, steps.ints(least))
    rounded = steps.Sub(steps.Add(wanted, divisor), steps.ints(1))
    return str(steps.Mul(steps.Div(rounded, divisor), divisor))


def _padded(steps: Steps, image: str, pads: str, config: ImageConfig) -> str:
    """Add the padding, with zeros after normalising or with black."""
    if config.padding_fill != "black":
        return str(steps.Pad(image, pads, steps.constant(0.0)))
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    black = steps.constant(((0 - mean) / std).reshape(1, 3, 1, 1))
    one = steps.constant(np.ones((1, 1, 1, 1), np.float32))
    inside = steps.Expand(one, steps.joined([steps.ints(1, 1), steps.cut(steps.Shape(image), 2, 4, 0)]))
    outside = steps.Sub(one, steps.Pad(inside, pads, steps.constant(0.0)))
    return str(steps.Add(steps.Pad(image, pads, steps.constant(0.0)), steps.Mul(outside, black)))
