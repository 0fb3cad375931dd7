"""What every picture of a trace begins with: the photo at a size to draw on, and where things lie on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from maskrcnn.errors import InputError
from maskrcnn.images import denormalised
from maskrcnn.inspection.pictures.canvas import Box
from maskrcnn.inspection.places import boxes_as_found, detection_slots, level_maps, valid_proposals
from maskrcnn.inspection.trace import Trace
from maskrcnn.structures import Detections

MAX_SIDE, MIN_SIDE = 1000, 500
"""Longer side of the photo in pictures."""


class NothingToShowError(InputError):
    """A picture does not apply to a run: there is no such head, nothing was found, or a stage was not recorded."""


def stage_of(trace: Trace, name: str, what: str = "This picture") -> Tensor:
    """Return a stage on the CPU, what is floating point as float32.

    Raises:
        NothingToShowError: the trace lacks it.
    """
    if name not in trace:
        raise NothingToShowError(
            f"{what} needs the stage {name}, which this trace lacks: model.trace(photo) without stages=… has all that "
            "the network has, and with targets=… those of training."
        )
    tensor = trace[name].detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def photo_scale(size: tuple[int, int], max_side: int = MAX_SIDE) -> float:
    """Return by what a photo of (width, height) is multiplied to be drawn on; small ones by a whole number.

    Example:
        >>> photo_scale((64, 48)), photo_scale((4000, 3000))
        (8.0, 0.25)
    """
    longest = max(size)
    if longest > max_side:
        return max_side / longest
    return float(max(min(-(-MIN_SIDE // longest), max_side // longest), 1))


def photo_view(trace: Trace, max_side: int = MAX_SIDE) -> tuple[Image.Image, float]:
    """Return the photo at a size to draw on, and by what its coordinates are multiplied.

    The longer side becomes 500 to `max_side` pixels, whatever the photo's size.

    Raises:
        InputError: `max_side` is not positive, or the trace is not of a whole run.
    """
    if max_side < 1:
        raise InputError(f"max_side must be at least 1; got {max_side}.")
    photo = trace.run.photo
    height, width = photo.shape[:2]
    scale = photo_scale((width, height), max_side)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    filter = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return Image.fromarray(photo).resize(size, filter, reducing_gap=2.0), scale


def network_input(trace: Trace) -> Image.Image:
    """Return what the network sees as a picture: resized and padded, its normalisation undone."""
    return Image.fromarray(denormalised(trace.run.batch.tensor[0], trace.run.config.image))


def photo_part(trace: Trace, box: Box, side: int, margin: float = 0.15) -> tuple[Image.Image, Box, float]:
    """Return what is around a box, in pixels of the photo, with its longer side at `side`.

    Args:
        trace: of a whole run.
        box: (x1, y1, x2, y2); of one outside the photo the nearest pixels are shown.
        side: of the result.
        margin: what is shown around the box, as a share of its longer side.

    Returns:
        The picture, the part of the photo that it shows, and the scale from the photo's pixels to its own.
    """
    height, width = trace.run.photo.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in np.nan_to_num(np.array(box, np.float64), posinf=1e6, neginf=-1e6))
    rim = max(x2 - x1, y2 - y1, 4.0) * margin
    left, top = int(min(max(x1 - rim, 0), width - 1)), int(min(max(y1 - rim, 0), height - 1))
    right, bottom = int(min(max(x2 + rim + 1, left + 1), width)), int(min(max(y2 + rim + 1, top + 1), height))
    part = Image.fromarray(np.ascontiguousarray(trace.run.photo[top:bottom, left:right]))
    scale = side / max(part.size)
    size = (max(round(part.width * scale), 1), max(round(part.height * scale), 1))
    filter = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return part.resize(size, filter), (float(left), float(top), float(right), float(bottom)), scale


def moved_box(box: Box, part: Box, scale: float) -> Box:
    """Return a box of the photo in the frame of what `photo_part` shows."""
    x1, y1, x2, y2 = box
    return (x1 - part[0]) * scale, (y1 - part[1]) * scale, (x2 - part[0]) * scale, (y2 - part[1]) * scale


def boxes_in_photo(trace: Trace, boxes: Float[Tensor, "R 4"], scale: float = 1.0) -> list[Box]:
    """Return boxes of the input frame in the photo's, times `scale`."""
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in (trace.run.to_photo(boxes).double() * scale).tolist()]


@dataclass(frozen=True)
class Level:
    """A level that the RPN looks at."""

    name: str
    number: int
    """From 0, the finest."""
    stride: int
    rows: int
    columns: int
    first: int
    """Number of its first anchor among all."""
    count: int
    """Of its anchors."""

    @property
    def anchors(self) -> slice:
        """Return its part of the list of anchors."""
        return slice(self.first, self.first + self.count)


def levels_of(trace: Trace) -> list[Level]:
    """Return the levels that the RPN looks at, finest first."""
    for name in trace.run.strides:
        stage_of(trace, name)
    levels: list[Level] = []
    first = 0
    for number, (name, (rows, columns)) in enumerate(level_maps(trace).items()):
        count = rows * columns * trace.run.config.anchors.per_cell
        levels.append(Level(name, number, trace.run.strides[name], rows, columns, first, count))
        first += count
    return levels


def level_of(trace: Trace, name: str) -> Level:
    """Return a level by its name.

    Raises:
        InputError: the network has no such level.
    """
    levels = {level.name: level for level in levels_of(trace)}
    if name not in levels:
        raise InputError(f"The RPN looks at no level {name!r}; there are: {', '.join(levels)}.")
    return levels[name]


def stride_of(trace: Trace, name: str) -> float:
    """Return the input pixels per cell of a feature map; what is not a level has the nearest power of two."""
    if name in trace.run.strides:
        return float(trace.run.strides[name])
    return float(2 ** round(np.log2(max(trace.run.batch.tensor.shape[-2] / trace[name].shape[-2], 1))))


class Window(NamedTuple):
    """The part of a feature map that lies under the photo, in cells, not rounded; the rest is padding."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def cells(self) -> tuple[slice, slice]:
        """Return rows and columns of all cells that the photo touches."""
        return (
            slice(int(self.top), max(int(np.ceil(self.bottom - 1e-6)), int(self.top) + 1)),
            slice(int(self.left), max(int(np.ceil(self.right - 1e-6)), int(self.left) + 1)),
        )


def window_of(trace: Trace, stride: float) -> Window:
    """Return what of a map of some stride lies under the photo: cell k covers input pixels k · stride to the next."""
    batch = trace.run.batch
    (top, left), (height, width) = batch.starts[0].tolist(), batch.sizes[0].tolist()
    return Window(left / stride, top / stride, (left + width) / stride, (top + height) / stride)


def on_photo(
    trace: Trace, values: Float[np.ndarray, "rows columns"], stride: float, size: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Return a feature map's values at every pixel of a picture of the photo of (width, height): each cell a square."""
    window = window_of(trace, stride)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) / n * (end - begin) + begin).astype(int), cells - 1)
        for n, begin, end, cells in (
            (size[1], window.top, window.bottom, values.shape[0]),
            (size[0], window.left, window.right, values.shape[1]),
        )
    )
    return values[rows][:, columns]


def cell_in_photo(trace: Trace, row: int, column: int, stride: float, scale: float) -> Box:
    """Return a cell of a feature map in the photo's frame, times `scale`."""
    batch = trace.run.batch
    (top, left), (height, width) = batch.starts[0].tolist(), batch.sizes[0].tolist()
    tall, wide = trace.run.photo.shape[:2]
    x, y = wide / width * scale, tall / height * scale
    edges = (column * stride - left) * x, (row * stride - top) * y
    return (*edges, edges[0] + stride * x, edges[1] + stride * y)


def laid_over(photo: Image.Image, colors: UInt8[np.ndarray, "h w 3"], opacity: Float[np.ndarray, "h w"]) -> Image.Image:
    """Return colours over the photo, which is made grey and dimmed so that its own do not mix with them."""
    grey = np.asarray(photo.convert("L"), np.float32)[..., None] * 0.55 + 30
    share = opacity[..., None].astype(np.float32)
    return Image.fromarray(np.rint(grey * (1 - share) + colors * share).clip(0, 255).astype(np.uint8))


class RoIs(NamedTuple):
    """The RoIs that the class and box head answered for, in the input frame."""

    boxes: Float[Tensor, "R 4"]
    valid: Bool[Tensor, " R"]


def rois_of(trace: Trace) -> RoIs:
    """Return the proposals, or in training the RoIs that were drawn."""
    if trace.run.detections is None:
        return RoIs(stage_of(trace, "sampled_rois")[0], stage_of(trace, "sampled_rois_valid")[0])
    for name in ("top_kept", "proposal_places"):
        stage_of(trace, name)
    return RoIs(stage_of(trace, "proposals")[0], valid_proposals(trace))


def found_slots(trace: Trace) -> list[int]:
    """Return the slot among `detections`, `mask_logits` … of each detection of the run, best first.

    Raises:
        NothingToShowError: nothing was found, or this is a run of training.
    """
    if trace.run.detections is None:
        raise NothingToShowError("A run of training finds nothing; trace the photo without targets.")
    for name in ("candidates_kept", "detection_places", "detections"):
        stage_of(trace, name)
    slots = detection_slots(trace).tolist()
    if not slots:
        raise NothingToShowError("Nothing was found in this photo.")
    return slots


def slot_of(trace: Trace, detection: int) -> int:
    """Return the slot of a detection, by its number from 0, the best.

    Raises:
        NothingToShowError: nothing was found.
        InputError: there are fewer.
    """
    slots = found_slots(trace)
    if not 0 <= detection < len(slots):
        raise InputError(f"There is no detection {detection}; there are {len(slots)}, counted from 0.")
    return slots[detection]


def detections_in_view(trace: Trace, size: tuple[int, int], scale: float, threshold: float) -> Detections:
    """Return what was found, on the photo as `photo_view` gives it: of (width, height), coordinates times `scale`."""
    found = trace.run.detections
    if found is None:
        raise NothingToShowError("A run of training finds nothing; trace the photo without targets.")
    found = found.above(threshold)
    masks, keypoints = found.masks, found.keypoints
    if masks is not None:
        rows, columns = (
            torch.arange(n).add(0.5).mul(old / n).long().clamp(max=old - 1)
            for n, old in ((size[1], masks.shape[1]), (size[0], masks.shape[2]))
        )
        masks = masks[:, rows][:, :, columns]
    if keypoints is not None:
        keypoints = torch.cat((keypoints[..., :2] * scale, keypoints[..., 2:]), dim=-1)
    return Detections(
        boxes=found.boxes * scale,
        labels=found.labels,
        scores=found.scores,
        masks=masks,
        image_size=(size[1], size[0]),
        class_names=found.class_names,
        keypoints=keypoints,
        keypoint_names=found.keypoint_names,
        skeleton=found.skeleton,
        keypoint_scores=found.keypoint_scores,
    )


def class_name(trace: Trace, label: int) -> str:
    """Return a class's name; background is the last."""
    names = trace.run.config.class_names
    return names[label] if label < len(names) else "background"


def found_box(trace: Trace, slot: int) -> Box:
    """Return the box of a slot of `detections` in the photo, as the run found it."""
    [(x1, y1, x2, y2)] = boxes_as_found(stage_of(trace, "detections")[0, slot : slot + 1, :4], trace.run).tolist()
    return x1, y1, x2, y2
