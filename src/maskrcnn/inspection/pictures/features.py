"""Feature maps: all channels of one as a mosaic, and how much each cell holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from maskrcnn.drawing import contact_sheet
from maskrcnn.errors import InputError
from maskrcnn.fonts import font_for
from maskrcnn.inspection.pictures.canvas import captioned, enlarged, sheet_of, stacked
from maskrcnn.inspection.pictures.colors import CUT, INK, MUTED, PAPER, heat, scale_bar, value_range
from maskrcnn.inspection.pictures.views import (
    NothingToShowError,
    laid_over,
    on_photo,
    photo_view,
    stage_of,
    stride_of,
    window_of,
)
from maskrcnn.inspection.trace import Trace

MOST_STRONGEST = 16
SHEET = 1024
"""Pixels that a mosaic is wide, about."""


def feature_mosaic(
    trace: Trace,
    name: str,
    channels: Literal["strongest", "all"] | int | Sequence[int] = "strongest",
    normalize: Literal["channel", "joint"] = "channel",
    padding: bool = False,
    side: int = SHEET,
) -> Image.Image:
    """Return channels of a feature map as tiles in rows.

    Args:
        trace: a trace; `padding=False` needs that of a whole run.
        name: a stage or a module whose output is [1, C, H, W].
        channels: `strongest` are the 16 of the greatest mean absolute value, the greatest first; a number, so many of
            them; `all` is every channel in order, 256 as 16 × 16 with the numbers at the sheet's edges; a list, these.
        normalize: `channel` gives every tile the whole range of colours, from its least to its greatest value: what a
            channel looks for is seen, however weakly it answers. `joint` is one range for all tiles: which channels
            answer at all is seen. Half a per cent of the values at either end share the end's colour, and a channel
            of one value is dark.
        padding: whether to show the padding beside the photo too.
        side: pixels that the sheet is wide, about; a tile's cells are whole squares of pixels, or averaged.

    Raises:
        InputError: the tensor is no feature map, or there is no such channel.
    """
    maps = _cropped(trace, name, padding)
    chosen = _chosen(maps, channels)
    ordered = isinstance(channels, str) and channels == "all"
    columns = max(int(np.ceil(np.sqrt(len(chosen)))), 1)
    gap = 2 if ordered else 8
    tile = max(side // columns - gap, 4)
    shared = value_range(maps[chosen].reshape(1, -1), CUT) if normalize == "joint" else None
    tiles = [enlarged(Image.fromarray(heat(maps[c], *(shared or value_range(maps[c], CUT)))), tile) for c in chosen]
    if ordered:
        sheet = _numbered(contact_sheet(tiles, columns, gap), columns, len(chosen))
    else:
        sheet = contact_sheet([captioned(t, str(c), 13) for t, c in zip(tiles, chosen, strict=True)], columns, gap)
    if shared is None:
        return sheet
    return stacked([sheet, scale_bar(sheet.width, f"{shared[0]:.3g}", f"{shared[1]:.3g}", name)])


def feature_energy(trace: Trace, name: str, max_side: int = 1000) -> Image.Image:
    """Return the root mean square over a feature map's channels at every cell, over the photo.

    It shows where a map holds much, as no single channel does. The scale is below; it begins at 0.

    Args:
        trace: of a whole run.
        name: a stage or a module whose output is [1, C, H, W].
        max_side: as in `photo_view`.
    """
    picture, high = energy_on_photo(trace, name, max_side)
    return stacked([picture, scale_bar(picture.width, "0", f"{high:.3g}", f"RMS of {name}")])


def energy_on_photo(trace: Trace, name: str, max_side: int = 1000) -> tuple[Image.Image, float]:
    """Return `feature_energy` without its scale, and the value of its brightest colour."""
    return _energy_over(trace, name, photo_view(trace, max_side)[0])


def feature_energies(trace: Trace, names: Sequence[str]) -> Image.Image:
    """Return what `feature_energy` shows of several maps on one sheet; each has its own scale, from 0 to its caption's.

    Args:
        trace: of a whole run.
        names: of stages or modules.
    """
    photo, _ = photo_view(trace, 320)
    panels = []
    for name in names:
        picture, high = _energy_over(trace, name, photo)
        panels.append((picture, f"{name}, to {high:.3g}"))
    sheet = sheet_of(panels, columns=3)
    return stacked([sheet, scale_bar(sheet.width, "0", "each map's own end", "RMS over channels")])


def strongest_channels(maps: Float[np.ndarray, "C h w"]) -> list[int]:
    """Return the channels by their mean absolute value, the greatest first; those with NaN last."""
    strength = np.abs(maps).reshape(len(maps), -1).mean(1)
    return [int(c) for c in np.argsort(-np.nan_to_num(strength, nan=-1.0, posinf=-0.5), kind="stable")]


def _energy_over(trace: Trace, name: str, photo: Image.Image) -> tuple[Image.Image, float]:
    """Return a map's energy over the photo, and the value at the end of the colours."""
    energy = np.sqrt((_map_of(trace, name).astype(np.float64) ** 2).mean(0))
    values = on_photo(trace, energy, stride_of(trace, name), photo.size)
    high = value_range(values, CUT)[1]
    return laid_over(photo, heat(values, 0.0, high), np.full(values.shape, 0.75)), high


def _map_of(trace: Trace, name: str) -> Float[np.ndarray, "C h w"]:
    tensor = stage_of(trace, name)
    if tensor.dim() != 4 or len(tensor) != 1 or not tensor.is_floating_point():
        raise NothingToShowError(
            f"{name} is {list(tensor.shape)}; a mosaic needs a feature map, [1, C, H, W], as p2 or backbone.conv1."
        )
    return tensor[0].numpy()


def _cropped(trace: Trace, name: str, padding: bool) -> Float[np.ndarray, "C h w"]:
    maps = _map_of(trace, name)
    if padding:
        return maps
    rows, columns = window_of(trace, stride_of(trace, name)).cells
    return maps[:, rows, columns]


def _chosen(maps: Float[np.ndarray, "C h w"], channels: Literal["strongest", "all"] | int | Sequence[int]) -> list[int]:
    count = len(maps)
    if channels == "all":
        return list(range(count))
    if channels == "strongest":
        channels = MOST_STRONGEST
    if isinstance(channels, int):
        if channels < 1:
            raise InputError(f"channels must be 1 or more; got {channels}.")
        return strongest_channels(maps)[:channels]
    if isinstance(channels, str) or not channels:
        raise InputError(f"channels must be 'strongest', 'all', a number or a list of channels; got {channels!r}.")
    wrong = [c for c in channels if not 0 <= c < count]
    if wrong:
        raise InputError(f"There is no channel {wrong[0]}; there are {count}, counted from 0.")
    return list(channels)


def _numbered(sheet: Image.Image, columns: int, count: int) -> Image.Image:
    """Return a sheet of tiles in order with numbers at its edges: a tile's channel is its row's plus its column's."""
    size = 12
    rows = -(-count // columns)
    left, top = round(font_for(size, "0").getlength(str(count))) + size, round(1.6 * size)
    whole = Image.new("RGB", (sheet.width + left, sheet.height + top), PAPER)
    whole.paste(sheet, (left, top))
    draw = ImageDraw.Draw(whole)
    font = font_for(size, "0")
    for column in range(columns):
        x = left + (column + 0.5) * sheet.width / columns
        draw.text((x, top / 2), f"+{column}", font=font, fill=MUTED, anchor="mm")
    for row in range(rows):
        y = top + (row + 0.5) * sheet.height / rows
        draw.text((left - size / 3, y), str(row * columns), font=font, fill=INK, anchor="rm")
    return whole
