"""Colours of values, levels and roles, the same in every picture.

Values take the colours of viridis, whose lightness rises evenly, so that order survives colour blindness and a grey
printer; signed ones go from blue over white to red, each as far from white as it is from 0.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from maskrcnn.drawing import RGB
from maskrcnn.fonts import font_for, shortened

Values = Float[np.ndarray, "h w"]

_VIRIDIS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
_BLUE_WHITE_RED = "2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b"
NOT_FINITE: RGB = (128, 128, 128)
"""NaN and Inf."""
CUT = 0.5
"""Per cent of a map's values at either end that share the end's colour: one wild cell would darken all others."""

LEVEL_COLORS: dict[str, RGB] = {
    "p2": (0x1B, 0xB9, 0xFA),
    "p3": (0x2E, 0xF4, 0xAC),
    "p4": (0xF7, 0xCC, 0x4B),
    "p5": (0xF7, 0x70, 0x36),
    "p6": (0xC5, 0x06, 0x77),
}
"""From cool to warm as boxes grow; five of the palette's twelve, which colour-blind readers tell apart too."""

POSITIVE: RGB = (0x1B, 0xB9, 0xFA)
IGNORED: RGB = (0xF7, 0xCC, 0x4B)
NEGATIVE: RGB = (0xDF, 0x24, 0x14)
TRUTH: RGB = (255, 255, 255)
INK: RGB = (33, 37, 41)
MUTED: RGB = (91, 104, 117)
PAPER: RGB = (255, 255, 255)
ALARM: RGB = (0xB4, 0x1E, 0x10)


def level_color(level: str) -> RGB:
    """Return the colour of a level; `c4` and `c5` of networks without a pyramid have that of `p4` and `p5`.

    Example:
        >>> level_color("c4") == level_color("p4")
        True
    """
    return LEVEL_COLORS.get(f"p{level[1:]}", MUTED)


def css(color: RGB) -> str:
    """Return a colour as CSS writes it.

    Example:
        >>> css(level_color("p2"))
        '#1bb9fa'
    """
    return "#{:02x}{:02x}{:02x}".format(*color)


def value_range(values: Values, cut: float = 0.0) -> tuple[float, float]:
    """Return the least and the greatest finite value, or (0, 0) of none; `cut` per cent at either end are left out."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = np.percentile(finite, [cut, 100 - cut])
    return float(low), float(high)


def heat(values: Values, low: float | None = None, high: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Return values as colours from dark blue at `low` to yellow at `high`.

    Args:
        values: what lies outside the range takes the colour of its end; NaN and Inf are grey.
        low: by default the least finite value.
        high: by default the greatest. Where it is not above `low`, all is of the colour of `low`.

    Example:
        >>> heat(np.array([[0.0, 1.0]])).tolist()
        [[[68, 1, 84], [253, 231, 37]]]
    """
    least, greatest = value_range(values)
    return _colored(values, least if low is None else low, greatest if high is None else high, _VIRIDIS)


def signed_heat(values: Values, limit: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Return values as colours from blue at `-limit` over white at 0 to red at `limit`.

    Args:
        values: as in `heat`.
        limit: by default the greatest distance from 0.

    Example:
        >>> signed_heat(np.array([[-2.0, 0.0, 1.0]])).tolist()
        [[[33, 102, 172], [247, 247, 247], [244, 165, 130]]]
    """
    if limit is None:
        limit = max(abs(end) for end in value_range(values))
    return _colored(values, -limit, limit, _BLUE_WHITE_RED, flat=0.5)


def _colored(values: Values, low: float, high: float, table: str, flat: float = 0.0) -> UInt8[np.ndarray, "h w 3"]:
    stops = np.array([[int(entry[i : i + 2], 16) for i in (0, 2, 4)] for entry in table.split()], np.float64)
    finite = np.isfinite(values)
    known = np.where(finite, values, low).astype(np.float64)
    place = np.clip((known - low) / (high - low), 0, 1) if high > low else np.full(values.shape, flat)
    colors = np.stack([np.interp(place * (len(stops) - 1), np.arange(len(stops)), stops[:, c]) for c in range(3)], -1)
    colors[~finite] = NOT_FINITE
    return np.rint(colors).astype(np.uint8)


def scale_bar(width: int, low: str, high: str, what: str = "", signed: bool = False, size: int = 14) -> Image.Image:
    """Return a strip with the colours between two values, what they are before it.

    Args:
        width: in pixels.
        low: text at the left end.
        high: text at the right end.
        what: what the values are.
        signed: whether the colours are those of `signed_heat`.
        size: of the letters, in pixels.
    """
    before = f"{what}: {low}" if what else low
    font = font_for(size, before + high)
    room = width - round(font.getlength(high)) - 3 * size
    before = shortened(before, font, max(room, size))
    strip = Image.new("RGB", (width, 2 * size), PAPER)
    draw = ImageDraw.Draw(strip)
    draw.text((size // 2, size), before, font=font, fill=INK, anchor="lm")
    draw.text((width - size // 2, size), high, font=font, fill=INK, anchor="rm")
    left, right = round(font.getlength(before)) + size, width - round(font.getlength(high)) - size
    if right - left >= 8:
        ramp = np.linspace(-1.0, 1.0, right - left)[None]
        colors = signed_heat(ramp, 1.0) if signed else heat(ramp, -1.0, 1.0)
        strip.paste(Image.fromarray(colors).resize((right - left, size), Image.Resampling.NEAREST), (left, size // 2))
    return strip
