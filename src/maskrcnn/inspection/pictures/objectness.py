"""What the RPN says of every cell: heat maps over the photo."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from maskrcnn.inspection.pictures.canvas import sheet_of, stacked
from maskrcnn.inspection.pictures.colors import heat, scale_bar
from maskrcnn.inspection.pictures.views import (
    Level,
    boxes_in_photo,
    laid_over,
    level_of,
    levels_of,
    photo_view,
    stage_of,
)
from maskrcnn.inspection.trace import Trace

SCALE = "probability of an object"
FAINT, STRONG = 0.1, 0.85
"""Opacity of the colours where objectness is 0 and 1: the photo is seen where nothing is found."""


def objectness_values(trace: Trace, level: str) -> Float[np.ndarray, "rows columns"]:
    """Return the probability of an object at every cell of a level: that of the cell's best anchor."""
    where = level_of(trace, level)
    logits = stage_of(trace, "rpn_objectness")[0, where.anchors]
    return logits.reshape(where.rows, where.columns, -1).amax(-1).sigmoid().numpy()


def objectness_map(trace: Trace, level: str, max_side: int = 1000) -> Image.Image:
    """Return the probability of an object at every cell of a level, that of its best anchor, over the photo.

    A cell's colour lies around the centre of its anchors, which most networks have at the cell's corner
    (`AnchorConfig.offset`): half a cell from where the cell itself lies.

    Args:
        trace: of a whole run.
        level: as `p3`.
        max_side: as in `photo_view`.

    Raises:
        InputError: the RPN looks at no such level.
    """
    picture = objectness_on_photo(trace, level, max_side)
    return stacked([picture, scale_bar(picture.width, "0", "1", SCALE)])


def objectness_on_photo(trace: Trace, level: str, max_side: int = 1000) -> Image.Image:
    """Return `objectness_map` without its scale."""
    return _over_photo(trace, level_of(trace, level), photo_view(trace, max_side)[0])


def objectness_maps(trace: Trace) -> Image.Image:
    """Return the maps of all levels, finest first."""
    levels = levels_of(trace)
    photo, _ = photo_view(trace, 1000 if len(levels) == 1 else 480)
    panels = [(_over_photo(trace, level, photo), _caption(trace, level)) for level in levels]
    sheet = sheet_of(panels, columns=3 if photo.width < 1.6 * photo.height else 2)
    return stacked([sheet, scale_bar(sheet.width, "0", "1", SCALE)])


def objectness_layer(trace: Trace, level: str, size: tuple[int, int]) -> Image.Image:
    """Return the colours of `objectness_map` alone, as an RGBA picture to be laid over the photo.

    Args:
        trace: of a whole run.
        level: as `p3`.
        size: (width, height) of the result, which shows the whole photo, whatever its size, and no padding.
    """
    where = level_of(trace, level)
    values = _spread(trace, where, size)
    alpha = np.rint(255 * _opacity(values)).astype(np.uint8)
    return Image.fromarray(np.dstack((heat(values, 0.0, 1.0), alpha)), "RGBA")


def _over_photo(trace: Trace, level: Level, photo: Image.Image) -> Image.Image:
    values = _spread(trace, level, photo.size)
    return laid_over(photo, heat(values, 0.0, 1.0), _opacity(values))


def _spread(trace: Trace, level: Level, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Return the values at every pixel of a picture of the photo of (width, height): those of the nearest anchors."""
    values = objectness_values(trace, level.name)
    anchors = stage_of(trace, "anchors")[level.anchors].reshape(level.rows, level.columns, -1, 4)
    height, width = trace.run.photo.shape[:2]
    rows = _nearest(trace, anchors[:, 0, 0], 1, size[1], size[1] / height)
    columns = _nearest(trace, anchors[0, :, 0], 0, size[0], size[0] / width)
    return values[rows][:, columns]


def _nearest(
    trace: Trace, anchors: Float[Tensor, "n 4"], axis: int, pixels: int, scale: float
) -> Int[np.ndarray, " pixels"]:
    """Return which of some anchors along an axis, evenly apart, has its centre nearest to each pixel."""
    centres = np.array([(box[axis] + box[axis + 2]) / 2 for box in boxes_in_photo(trace, anchors, scale)])
    between = (centres[:-1] + centres[1:]) / 2
    return np.searchsorted(between, np.arange(pixels) + 0.5)


def _opacity(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    return FAINT + (STRONG - FAINT) * np.sqrt(np.nan_to_num(values, nan=1.0))


def _caption(trace: Trace, level: Level) -> str:
    best = stage_of(trace, "rpn_objectness")[0, level.anchors].amax().sigmoid()
    return f"{level.name}: {level.columns} x {level.rows} cells of {level.stride} pixels, best {float(best):.2f}"
