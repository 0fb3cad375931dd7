"""What RoIAlign reads for one RoI, and what RoIPool would have taken, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.config import RoIAlignConfig, RoIMethod
from maskrcnn.errors import InputError
from maskrcnn.inspection.pictures.canvas import Box
from maskrcnn.inspection.pictures.views import NothingToShowError, boxes_in_photo, rois_of, slot_of, stage_of
from maskrcnn.inspection.trace import Run, Trace
from maskrcnn.ops import bilinear
from maskrcnn.ops import boxes as box_ops
from maskrcnn.roi_align import FlatPyramid, RoIAlign, assign_levels, end_shift

Of = Literal["proposals", "detections"]


@dataclass(frozen=True, eq=False)
class RoIGeometry:
    """One RoI on the feature map that serves it. Places are in cells: cell k of an axis reaches from k to k + 1.

    The points and the bins of an axis are those of every row or column: sampling is separable.
    """

    level: str
    stride: int
    rows: int
    columns: int
    """Of the map."""
    method: RoIMethod
    """The network's own; with `pool` the points are those that RoIAlign would have read."""
    size: int
    """Bins along each side of the crop."""
    box: Box
    """The RoI as it is, (x1, y1, x2, y2)."""
    box_in_photo: Box
    edges_x: tuple[float, ...]
    """Where bins begin, and the last ends; empty with crop_and_resize, which has points alone."""
    edges_y: tuple[float, ...]
    points_x: tuple[float, ...]
    """Where every bin samples: size · samples places along x, from left to right."""
    points_y: tuple[float, ...]
    pool_x: tuple[tuple[int, int], ...]
    """The first cell of every bin of RoIPool along x, and the one after its last; empty bins have none."""
    pool_y: tuple[tuple[int, int], ...]
    crop: Float[Tensor, "C size size"]
    """What comes out of RoIAlign (or crop_and_resize)."""
    pool_crop: Float[Tensor, "C size size"]
    """What comes out of RoIPool."""

    @property
    def pool_box(self) -> Box:
        """Return the cells that RoIPool takes for the RoI."""
        (x1, x2), (y1, y2) = (
            (float(min(b for b, _ in axis)), float(max(e for _, e in axis))) for axis in (self.pool_x, self.pool_y)
        )
        return x1, y1, x2, y2

    @property
    def samples(self) -> tuple[int, int]:
        """Return the points along x and y in each bin."""
        return len(self.points_x) // self.size, len(self.points_y) // self.size


def roi_geometry(trace: Trace, roi: int = 0, of: Of = "proposals") -> RoIGeometry:
    """Return what RoIAlign reads for one RoI.

    Args:
        trace: of a whole run.
        roi: its number from 0, the best.
        of: `proposals` are cut out for the class and box head (in training those drawn for it); `detections` for the
            mask head, or the keypoint head if there is no other.

    Raises:
        NothingToShowError: there is no proposal, no detection, or no such head.
        InputError: there are fewer RoIs.
    """
    box, level, size = _roi(trace, roi, of)
    run = trace.run
    name = run.roi_levels[level]
    stride = run.strides[name]
    maps = stage_of(trace, name)
    own = run.config.roi_align
    align = own.model_copy(update={"method": "align"}) if own.method == "pool" else own
    pool = own.model_copy(update={"method": "pool"})
    rows, columns = int(maps.shape[2]), int(maps.shape[3])
    # The same boxes as edges, whatever the network's corners
    edges = box_ops.move_ends(box, 1.0) if run.config.box_corners == "centers" else box
    [box_in_photo] = boxes_in_photo(trace, box[None])
    bins = [_bins(box, axis, size, stride, align, run) for axis in (0, 1)]
    points = [_points(box, axis, size, stride, extent, align, run) for axis, extent in ((0, columns), (1, rows))]
    pooled = [_pooled(box, axis, size, stride, extent, run) for axis, extent in ((0, columns), (1, rows))]
    return RoIGeometry(
        level=name,
        stride=stride,
        rows=rows,
        columns=columns,
        method=own.method,
        size=size,
        box=_box(edges / stride),
        box_in_photo=box_in_photo,
        edges_x=bins[0],
        edges_y=bins[1],
        points_x=points[0],
        points_y=points[1],
        pool_x=pooled[0],
        pool_y=pooled[1],
        crop=_cut(maps, box, stride, size, align, run),
        pool_crop=_cut(maps, box, stride, size, pool, run),
    )


def _roi(trace: Trace, roi: int, of: Of) -> tuple[Float[Tensor, "4"], int, int]:
    """Return a RoI's box, its level and the side of its crop."""
    config = trace.run.config
    if of == "proposals":
        rois = rois_of(trace)
        slots = rois.valid.nonzero()[:, 0]
        if not len(slots):
            raise NothingToShowError("The RPN proposes nothing in this photo.")
        if not 0 <= roi < len(slots):
            raise InputError(f"There is no RoI {roi}; there are {len(slots)}, counted from 0.")
        slot = int(slots[roi])
        return rois.boxes[slot], int(stage_of(trace, "roi_levels")[0, slot]), config.box.pool_size
    if of != "detections":
        raise InputError(f"of must be 'proposals' or 'detections'; got {of!r}.")
    if not config.masks and not config.keypoint_names:
        raise NothingToShowError("This network has no mask or keypoint head, for which detections would be cut out.")
    slot = slot_of(trace, roi)
    box = stage_of(trace, "detections")[0, slot, :4]
    if config.masks:
        return box, int(stage_of(trace, "mask_roi_levels")[0, slot]), config.mask.pool_size
    strides = [trace.run.strides[name] for name in trace.run.roi_levels]
    return box, int(assign_levels(box, strides, config.roi_align)), config.keypoint.pool_size


def _cut(
    maps: Float[Tensor, "1 C H W"], box: Float[Tensor, "4"], stride: int, size: int, config: RoIAlignConfig, run: Run
) -> Float[Tensor, "C size size"]:
    level = torch.zeros(1, 1, dtype=torch.int64)
    cut = RoIAlign(config, size, run.config.box_corners)
    return cut(FlatPyramid.of([maps], [stride]), box[None, None], level)[0]


def _span(
    box: Float[Tensor, "4"], axis: int, stride: int, config: RoIAlignConfig, run: Run
) -> tuple[Float[Tensor, "1"], Float[Tensor, "1"]]:
    """Return the begin and the length of what is read along an axis, where cell k has its centre at k."""
    moved = box_ops.move_ends(box, end_shift(config.method, run.config.box_corners))
    offset = 0.5 if config.aligned and config.method == "align" else 0.0
    begin, end = (moved[None, side] / stride - offset for side in (axis, axis + 2))
    length = end - begin
    if config.method == "align" and not config.aligned:
        length = length.clamp(min=1.0)
    return begin, length


def _bins(
    box: Float[Tensor, "4"], axis: int, size: int, stride: int, config: RoIAlignConfig, run: Run
) -> tuple[float, ...]:
    if config.method == "crop_and_resize":
        return ()
    begin, length = _span(box, axis, stride, config, run)
    return _floats(begin + 0.5 + torch.arange(size + 1) * length / size)


def _points(
    box: Float[Tensor, "4"], axis: int, size: int, stride: int, extent: int, config: RoIAlignConfig, run: Run
) -> tuple[float, ...]:
    begin, length = _span(box, axis, stride, config, run)
    if config.method == "align":
        count = config.sampling_ratio or max(int(torch.ceil(length / size)), 1)
        step = (torch.arange(count) + 0.5) / count
        return _floats(bilinear.positions(begin, length, size, step).flatten() + 0.5)
    # From the first pixel's centre to the last one's, of which the map's first and last cell are the image
    per_pixel = (extent - 1) / (extent * stride - 1)
    first, last = begin * stride * per_pixel, (begin + length) * stride * per_pixel
    if size == 1:
        return _floats((first + last) / 2 + 0.5)
    return _floats(first + torch.arange(size) * (last - first) / (size - 1) + 0.5)


def _pooled(
    box: Float[Tensor, "4"], axis: int, size: int, stride: int, extent: int, run: Run
) -> tuple[tuple[int, int], ...]:
    """Return the cells of RoIPool's bins: the RoI's ends rounded, and then those of every bin."""
    moved = box_ops.move_ends(box, end_shift("pool", run.config.box_corners))
    first, last = (torch.floor(moved[side] / stride + 0.5) for side in (axis, axis + 2))
    length = (last - first + 1).clamp(min=1) / size
    number = torch.arange(size)
    begins = (first + torch.floor(number * length)).clamp(0, extent)
    ends = (first + torch.ceil((number + 1) * length)).clamp(0, extent)
    return tuple((int(b), int(e)) for b, e in zip(begins.tolist(), ends.tolist(), strict=True))


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(values.flatten().tolist())


def _box(box: Float[Tensor, "4"]) -> Box:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
