"""COCO's ways to write a mask, polygons and run lengths: checked, converted and drawn.

The C code behind pycocotools trusts its input: a polygon of two points is taken for a box, and broken run
lengths write past the end of the mask. So everything from a file passes `check_segmentation` first.

A polygon is [x1, y1, x2, y2, …] in pixels. Run lengths go down the columns, background first; compressed,
they are one string with about two characters per run.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pycocotools.mask
import torch
from jaxtyping import Float64, Int64

from maskrcnn.ops.rle import RLE, as_text, drawn, encode_masks, run_lengths

mask_utils: Any = pycocotools.mask


class AnnotationError(ValueError):
    """What is wrong with one annotation; becomes a problem of its data set, or a `DatasetError`."""


def numbers(values: object) -> Float64[np.ndarray, " n"] | None:
    """Return a list of numbers as an array, or None for anything else; NaN is a number here."""
    if not isinstance(values, list):
        return None
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths inside
        return None
    # Strings, null and whole numbers beyond 64 bits end up as other kinds.
    return array.astype(np.float64) if array.ndim == 1 and array.dtype.kind in "iuf" else None


def check_segmentation(segmentation: object, height: int, width: int) -> None:
    """Raise `AnnotationError` unless `segmentation` is one that can be drawn on an image of this size.

    Whether polygons cover a pixel at all is looked at only where they are very thin, because drawing
    all polygons of a large file takes minutes.
    """
    if isinstance(segmentation, dict):
        counts = _run_lengths(segmentation, height, width)
        if not counts[1::2].any():
            raise AnnotationError("its mask is empty")
        return
    if not isinstance(segmentation, list):
        raise AnnotationError(f"segmentation must be polygons or run lengths (RLE); got {type(segmentation).__name__}")
    if segmentation and not any(isinstance(s, (list, dict)) for s in segmentation):
        raise AnnotationError("segmentation is a flat list; a polygon must stand in a list of polygons, [[x, y, …]]")
    thin = True
    for k, polygon in enumerate(segmentation):
        name = f"polygon {k + 1}" if len(segmentation) > 1 else "its polygon"
        x1, y1, x2, y2 = _extent(polygon, name, height, width)
        thin &= min(x2, width) - max(x1, 0) < 1 or min(y2, height) - max(y1, 0) < 1
    if thin and not mask_utils.area(to_rle(segmentation, height, width)):
        raise AnnotationError("its polygon covers no pixel of the image")


def _extent(polygon: object, name: str, height: int, width: int) -> tuple[float, float, float, float]:
    """Return the box (x1, y1, x2, y2) around a polygon, which may reach a little over the edge."""
    values = numbers(polygon)
    if values is None:
        raise AnnotationError(f"{name} must be a list of numbers")
    if len(values) % 2:
        raise AnnotationError(f"{name} has an odd number of coordinates ({len(values)})")
    if len(values) < 6:
        raise AnnotationError(f"{name} has {len(values) // 2} point{'s' * (len(values) != 2)}; it needs at least 3")
    x, y = values[0::2], values[1::2]
    x1, y1, x2, y2 = float(x.min()), float(y.min()), float(x.max()), float(y.max())
    if not all(map(math.isfinite, (x1, y1, x2, y2))):  # one NaN makes both ends NaN
        raise AnnotationError(f"{name} has a coordinate that is NaN or infinite")
    if x1 < -width or y1 < -height or x2 > 2 * width or y2 > 2 * height:
        raise AnnotationError(f"{name} reaches far outside the image of {width} × {height} pixels")
    return x1, y1, x2, y2


def _run_lengths(rle: dict[Any, Any], height: int, width: int) -> Int64[np.ndarray, " R"]:
    """Return the checked run lengths of a compressed or uncompressed RLE."""
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        swapped = "; height and width look swapped" if size == [width, height] else ""
        raise AnnotationError(f"its RLE has size {size}, its image [{height}, {width}] (height, width){swapped}")
    if isinstance(counts, str):
        try:
            runs = run_lengths(counts)
        except ValueError as e:
            raise AnnotationError(f"its RLE is damaged: {e}") from None
    else:
        values = numbers(counts)
        if values is None or not len(values) or not (np.isfinite(values) & (values == np.floor(values))).all():
            raise AnnotationError("the counts of its RLE must be text, or a list of whole numbers")
        runs = values.clip(-1, 2**40).astype(np.int64)
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise AnnotationError(
            f"its RLE is damaged: the runs must add up to {height} × {width} = {height * width} pixels"
        )
    return runs


def compact(segmentation: Any) -> Any:
    """Return a checked segmentation with its polygons as arrays, a quarter the size of lists of numbers.

    Arrays also stay shared with worker processes, while a list is copied as soon as it is read.
    """
    if isinstance(segmentation, dict):
        return segmentation
    return [np.asarray(polygon, np.float64) for polygon in segmentation]


def to_rle(segmentation: Any, height: int, width: int) -> RLE:
    """Return a checked segmentation as one compressed RLE."""
    if isinstance(segmentation, list):
        polygons = [list(polygon) for polygon in segmentation]
        return as_text(mask_utils.merge(mask_utils.frPyObjects(polygons, height, width)))
    runs = _run_lengths(segmentation, height, width)
    # Some tools write runs of length 0; on two of them pycocotools' IoU stops too early.
    clean = bool(runs[1:].all())
    if clean and isinstance(segmentation["counts"], str):
        return {"size": [height, width], "counts": segmentation["counts"]}
    plain = {"size": [height, width], "counts": [int(r) for r in runs]}
    rle = mask_utils.frPyObjects(plain, height, width)
    if not clean:
        return encode_masks(torch.from_numpy(drawn(runs, height, width))[None])[0]
    return as_text(rle)
