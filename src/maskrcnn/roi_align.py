"""Part 3: RoIAlign (Mask R-CNN, section 3), for all pyramid levels in one call; RoIPool, which it replaced; and
TensorFlow's crop_and_resize, which Matterport's implementation takes for it.

Bilinear sampling is separable: a sample reads two rows and two columns, each with a weight. So every bin of
every RoI is a weighted sum of a few feature vectors. All levels are laid out as one table with a feature
vector in each row, and one weighted `embedding_bag` computes all the sums.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from maskrcnn.config import BoxCorners, RoIAlignConfig, RoIMethod
from maskrcnn.ops import bilinear, stand_ins
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.triton import usable

MAX_ENTRIES = 1 << 24
"""Table look-ups that the eager path prepares at a time, where their number depends on the RoIs."""


class FlatPyramid(NamedTuple):
    """Feature maps of all levels as one table, a row per cell: image by image within a level, row by row."""

    table: Float[Tensor, "cells C"]
    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    num_images: int
    maps: tuple[Float[Tensor, "N C _H _W"], ...]
    """The maps that the table was laid out from."""

    @classmethod
    def of(cls, maps: Sequence[Float[Tensor, "N C _H _W"]], strides: Sequence[int]) -> FlatPyramid:
        """Lay out maps, finest first; `strides` are input pixels per cell."""
        rows = [m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps]
        shapes = tuple((m.shape[2], m.shape[3]) for m in maps)
        return cls(torch.cat(rows) if len(rows) > 1 else rows[0], shapes, tuple(strides), maps[0].shape[0], tuple(maps))

    @property
    def scales(self) -> list[float]:
        """Return cells per input pixel of each level."""
        return [1 / stride for stride in self.strides]


class RoIAlign(nn.Module):
    """Cuts every RoI out of the pyramid level that serves it, as crops of one fixed size."""

    def __init__(self, config: RoIAlignConfig, output_size: int, corners: BoxCorners = "edges") -> None:
        super().__init__()
        self.config = config
        self.output_size = output_size
        self.corners = corners

    def forward(
        self, pyramid: FlatPyramid, boxes: Float[Tensor, "N R 4"], levels: Int64[Tensor, "N R"]
    ) -> Float[Tensor, "NR C size size"]:
        """Return the crops of all images' boxes (input frame), image by image."""
        boxes = box_ops.move_ends(boxes.detach(), end_shift(self.config.method, self.corners))
        if self.config.method == "crop_and_resize":
            return crop_and_resize(pyramid, boxes, levels, self.output_size)
        if self.config.method == "pool":
            return roi_pool(pyramid, boxes, levels, self.output_size)
        ratio, aligned = self.config.sampling_ratio, self.config.aligned
        return roi_align(pyramid, boxes, levels, self.output_size, ratio, aligned)


def end_shift(method: RoIMethod, corners: BoxCorners) -> float:
    """Return by how much x2 and y2 of boxes with these corners are moved before a method cuts them out.

    crop_and_resize reads from the first to the last pixel's centre, the others from edge to edge; see
    `Config.box_corners` for `inclusive`.
    """
    if method == "crop_and_resize":
        return 0.0 if corners == "centers" else -1.0
    return {"edges": 0.0, "inclusive": -1.0, "centers": 1.0}[corners]


def assign_levels(boxes: Float[Tensor, "*b 4"], strides: Sequence[int], config: RoIAlignConfig) -> Int64[Tensor, "*b"]:
    """Return which level serves each box, as an index into the levels used (FPN, equation 1).

    A box of canonical_size² input pixels is served by canonical_level; one of half the side, by one level finer.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 112, 112], [0, 0, 224, 224], [0, 0, 1000, 1000]])
        >>> assign_levels(boxes, (4, 8, 16, 32), RoIAlignConfig())  # p2 is 0
        tensor([1, 2, 3])
    """
    finest = round(math.log2(strides[0]))
    side = box_ops.area(boxes).clamp(min=0).sqrt()
    level = config.canonical_level + torch.log2(side / config.canonical_size) + config.level_epsilon
    level = level.floor() if config.level_rounding == "floor" else level.round()
    return (level - finest).clamp(0, len(strides) - 1).long()


def roi_align(
    pyramid: FlatPyramid,
    boxes: Float[Tensor, "N R 4"],
    levels: Int64[Tensor, "N R"],
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Float[Tensor, "NR C size size"]:
    """Return the crop of each box (input frame) from its level, each bin the mean of bilinear samples.

    Args:
        pyramid: the feature maps.
        boxes: a box without area gives finite numbers.
        levels: which level of the pyramid serves each box.
        output_size: bins along each side.
        sampling_ratio: samples along each axis of a bin; 0 for ceil(RoI side / output_size), RoI by RoI.
        aligned: the centre of cell k is at k + 0.5. False is the first released version, which has it
            at k and widens every RoI to at least one cell.

    Example:
        >>> ramp = torch.arange(5.0).expand(1, 1, 5, 5)  # cell k holds k, and has its centre at k + 0.5
        >>> box, level = torch.tensor([[[1.0, 1.0, 3.0, 3.0]]]), torch.zeros(1, 1, dtype=torch.int64)
        >>> roi_align(FlatPyramid.of([ramp], [1]), box, level, output_size=2, sampling_ratio=1)[0, 0]
        tensor([[1., 2.],
                [1., 2.]])
    """
    if stand_ins.exporting_to_onnx():
        return stand_ins.roi_align(pyramid.maps, boxes, levels, pyramid.scales, output_size, sampling_ratio, aligned)
    rois = _rois_in_cells(pyramid, boxes, levels, offset=0.5 if aligned else 0.0)
    if not aligned:
        rois = rois._replace(sides=rois.sides.clamp(min=1.0))
    bin_side = box_ops.divided(rois.sides, output_size)
    counts = torch.ceil(bin_side).clamp(min=1).long()  # x and y
    if _has_twin(pyramid, boxes):
        from maskrcnn.ops.triton.roi_align import mean_of_samples

        means = mean_of_samples(
            pyramid.table, rois.base, rois.extent, rois.start, bin_side, sampling_ratio or counts, output_size
        )
        return _as_crops(means, output_size)
    if sampling_ratio > 0:
        rows, cols = (_fixed_samples(rois, axis, output_size, sampling_ratio) for axis in (1, 0))
        crops = _weighted_sums(pyramid.table, rois, rows, cols)
        return _as_crops(crops, output_size)
    parts = []
    for chunk, most in _by_size(counts.amax(-1), pyramid.shapes, output_size, extra=2):
        part = rois.pick(chunk)
        rows, cols = (_adaptive_samples(part, axis, output_size, counts[chunk, axis], most) for axis in (1, 0))
        parts.append((chunk, _weighted_sums(pyramid.table, part, rows, cols)))
    return _as_crops(_in_order(parts), output_size)


def roi_pool(
    pyramid: FlatPyramid, boxes: Float[Tensor, "N R 4"], levels: Int64[Tensor, "N R"], output_size: int
) -> Float[Tensor, "NR C size size"]:
    """Return the crop of each box by RoIPool (Fast R-CNN, section 2.1).

    The RoI is rounded to whole cells and so is every bin, which then takes its maximum; a bin without
    cells gives 0. These roundings are what RoIAlign does away with.
    """
    if stand_ins.exporting_to_onnx():
        return stand_ins.roi_pool(pyramid.maps, boxes, levels, pyramid.scales, output_size)
    rois = _rois_in_cells(pyramid, boxes, levels, offset=0.0)
    first = torch.floor(rois.start + 0.5)
    last = torch.floor(rois.start + rois.sides + 0.5)
    sides = (last - first + 1).clamp(min=1)
    bins = torch.arange(output_size, device=boxes.device)
    bin_side = box_ops.divided(sides, output_size)[:, :, None]
    begin = first[:, :, None] + torch.floor(bins * bin_side)
    end = first[:, :, None] + torch.ceil((bins + 1) * bin_side)
    limit = rois.extent[:, :, None].to(begin.dtype)
    begin, end = begin.clamp(min=0).minimum(limit).long(), end.clamp(min=0).minimum(limit).long()
    if _has_twin(pyramid, boxes):
        from maskrcnn.ops.triton.roi_pool import max_of_cells

        return _as_crops(max_of_cells(pyramid.table, rois.base, rois.extent[:, 0], begin, end), output_size)
    parts = []
    for chunk, most in _by_size((end - begin).amax((1, 2)), pyramid.shapes, output_size, extra=2):
        part, step = rois.pick(chunk), torch.arange(most, device=boxes.device)
        span = (begin[chunk, :, :, None] + step).minimum(end[chunk, :, :, None] - 1).clamp(min=0)
        index = part.cells(span[:, 1], span[:, 0])
        filled = (end > begin)[chunk].to(pyramid.table.dtype)
        maxima = F.embedding_bag(index.reshape(-1), pyramid.table, _begins(index), mode="max")
        maxima = maxima * (filled[:, 1, :, None] * filled[:, 0, None, :]).reshape(-1, 1)
        parts.append((chunk, maxima.reshape(part.base.shape[0], output_size**2, pyramid.table.shape[1])))
    return _as_crops(_in_order(parts), output_size)


def crop_and_resize(
    pyramid: FlatPyramid, boxes: Float[Tensor, "N R 4"], levels: Int64[Tensor, "N R"], output_size: int
) -> Float[Tensor, "NR C size size"]:
    """Return the crop of each box as TensorFlow's op does: a bilinear sample per bin, from border to border.

    The first sample of an axis lies on the box's first corner and the last on its second, whatever the box's size;
    the input's first and last pixel centres fall on those of the map. A sample outside the map is 0.

    Args:
        pyramid: the feature maps.
        boxes: input frame, corners at pixel centres (`Config.box_corners` "centers").
        levels: which level of the pyramid serves each box.
        output_size: bins along each side.
    """
    rois = _rois_in_cells(pyramid, boxes, levels, offset=0.0)
    last_cell = (rois.extent - 1).to(boxes.dtype)
    strides = box_ops.vector(pyramid.strides, boxes.device)[levels].reshape(-1, 1)
    last_pixel = (rois.extent * strides - 1).to(boxes.dtype)
    start, end = boxes.reshape(-1, 4)[:, :2] / last_pixel, boxes.reshape(-1, 4)[:, 2:] / last_pixel
    step = box_ops.divided((end - start) * last_cell, max(output_size - 1, 1))
    first = start * last_cell if output_size > 1 else (start + end) / 2 * last_cell
    number = torch.arange(output_size, device=boxes.device, dtype=boxes.dtype)
    if _has_twin(pyramid, boxes):
        from maskrcnn.ops.triton.roi_align import mean_of_samples

        means = mean_of_samples(
            pyramid.table, rois.base, rois.extent, first, step, 1, output_size, margin=0.0, place=0.0
        )
        return _as_crops(means, output_size)
    position = first[:, :, None] + number * step[:, :, None]  # [R, 2, bins], x and y
    if stand_ins.exporting_to_onnx():
        return _crops_of_positions(pyramid, levels, position, last_cell)
    axes = []
    for axis in (1, 0):
        cells, weight = bilinear.neighbours(position[:, axis, :, None], rois.extent[:, axis, None, None], margin=0.0)
        axes.append(_Samples(cells.flatten(2), weight.flatten(2)))
    return _as_crops(_weighted_sums(pyramid.table, rois, *axes), output_size)


def _has_twin(pyramid: FlatPyramid, boxes: Tensor) -> bool:
    """Return whether Triton's kernels are taken; not where a gradient must be the same bit for bit each time."""
    strict = torch.are_deterministic_algorithms_enabled() and pyramid.table.requires_grad
    return usable(pyramid.table, boxes) and not strict


def _crops_of_positions(
    pyramid: FlatPyramid,
    levels: Int64[Tensor, "N R"],
    position: Float[Tensor, "R 2 bins"],
    last_cell: Float[Tensor, "R 2"],
) -> Float[Tensor, "R C bins bins"]:
    """Return bilinear samples at positions (x and y, in cells) in equal steps, by ONNX's RoiAlign; 0 outside the map.

    With one sample per bin it samples the middles of the bins, so the RoI begins half a step before the first.
    """
    bins = position.shape[2]
    first, last = position[..., 0], position[..., -1]
    half = (last - first) / (2 * max(bins - 1, 1))
    rois = torch.cat((first - half, last + half), dim=1) + 0.5  # aligned: it takes half a cell off
    scales = [1.0] * len(pyramid.maps)
    crops = stand_ins.roi_align(pyramid.maps, rois.reshape(*levels.shape, 4), levels, scales, bins, 1, True)
    inside = ((position >= 0) & (position <= last_cell[..., None])).to(crops.dtype)
    return crops * (inside[:, 1, :, None] * inside[:, 0, None, :])[:, None]


class _RoIs(NamedTuple):
    """RoIs of all images in the cells of their own levels; the pairs are (x, y)."""

    start: Float[Tensor, "R 2"]
    sides: Float[Tensor, "R 2"]
    extent: Int64[Tensor, "R 2"]
    base: Int64[Tensor, " R"]
    """Row of the table where the map of this RoI's image and level begins."""

    def pick(self, index: Any) -> _RoIs:
        return _RoIs(*(t[index] for t in self))

    def cells(self, rows: Int64[Tensor, "R P k"], cols: Int64[Tensor, "R P k"]) -> Int[Tensor, "RPP kk"]:
        """Return the table rows of every (row, column) pair of every bin."""
        width = self.extent[:, 0, None, None]
        lines = (self.base[:, None, None] + rows * width).int()[:, :, None, :, None]
        bags = rows.shape[0] * rows.shape[1] * cols.shape[1]
        return (lines + cols.int()[:, None, :, None, :]).reshape(bags, rows.shape[-1] * cols.shape[-1])


class _Samples(NamedTuple):
    """Cells that each bin reads along one axis, and their weights, which sum to 1 inside the map."""

    cells: Int64[Tensor, "R P k"]
    weight: Float[Tensor, "R P k"]


def _rois_in_cells(
    pyramid: FlatPyramid, boxes: Float[Tensor, "N R 4"], levels: Int64[Tensor, "N R"], offset: float
) -> _RoIs:
    device, dtype = boxes.device, boxes.dtype
    heights, widths = (box_ops.vector(side, device) for side in zip(*pyramid.shapes, strict=True))
    cells = [h * w for h, w in pyramid.shapes]
    begins = [sum(cells[:i]) * pyramid.num_images for i in range(len(cells))]
    image = torch.arange(boxes.shape[0], device=device)[:, None]
    base = box_ops.vector(begins, device)[levels] + image * box_ops.vector(cells, device)[levels]
    scale = box_ops.vector([1 / s for s in pyramid.strides], device, dtype)[levels][..., None]
    corners = (boxes * scale - offset).reshape(-1, 4)
    extent = torch.stack((widths[levels], heights[levels]), dim=-1).reshape(-1, 2)
    return _RoIs(corners[:, :2], corners[:, 2:] - corners[:, :2], extent, base.reshape(-1))


def _fixed_samples(rois: _RoIs, axis: int, bins: int, samples: int) -> _Samples:
    """Return 2 · samples entries per bin: the two neighbours of every sampling point."""
    step = (torch.arange(samples, device=rois.start.device, dtype=rois.start.dtype) + 0.5) / samples
    position = bilinear.positions(rois.start[:, axis], rois.sides[:, axis], bins, step)
    index, weight = bilinear.neighbours(position, rois.extent[:, axis, None, None])
    return _Samples(index.flatten(2), weight.flatten(2) / samples)


def _adaptive_samples(rois: _RoIs, axis: int, bins: int, counts: Int64[Tensor, " R"], most: int) -> _Samples:
    """Return `most` entries per bin: all cells between its first and last, with their summed weights."""
    samples = counts[:, None, None].to(rois.start.dtype)
    step = torch.arange(max(most - 2, 1), device=rois.start.device, dtype=rois.start.dtype)
    position = bilinear.positions(rois.start[:, axis], rois.sides[:, axis], bins, (step + 0.5) / samples)
    index, weight = bilinear.neighbours(position, rois.extent[:, axis, None, None])
    weight = weight * (step < samples)[..., None] / samples[..., None]
    first = index[:, :, 0, 0, None]
    place = (index.flatten(2) - first).clamp(max=most - 1)
    summed = torch.zeros(*place.shape[:2], most, dtype=weight.dtype, device=weight.device)
    summed = summed.scatter_add(2, place, weight.flatten(2))
    cells = first + torch.arange(most, device=place.device)
    return _Samples(cells.minimum(rois.extent[:, axis, None, None] - 1), summed)


def _weighted_sums(table: Tensor, rois: _RoIs, rows: _Samples, cols: _Samples) -> Float[Tensor, "R PP C"]:
    index = rois.cells(rows.cells, cols.cells)
    weight = rows.weight[:, :, None, :, None] * cols.weight[:, None, :, None, :]
    sums = _TableSums.apply(  # type: ignore[no-untyped-call]
        table, index, weight.reshape(index.shape).to(table.dtype)
    )
    return sums.reshape(rois.base.shape[0], rows.cells.shape[1] * cols.cells.shape[1], table.shape[1])


class _TableSums(torch.autograd.Function):
    """Weighted sums of table rows: out[b] = Σ_k weight[b, k] · table[index[b, k]].

    The gradient is the same kind of sum the other way round, over the bags that read each table row.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.rows = table.shape[0]
        return F.embedding_bag(
            index.reshape(-1), table, _begins(index), mode="sum", per_sample_weights=weight.reshape(-1)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        index, weight = ctx.saved_tensors
        readers, order = index.reshape(-1).sort()
        offsets = torch.searchsorted(readers, torch.arange(ctx.rows, device=index.device, dtype=index.dtype))
        bags = (order // index.shape[1]).to(index.dtype)
        weights = weight.reshape(-1)[order]
        gradient = gradients[0].contiguous()
        summed = F.embedding_bag(bags, gradient, offsets.to(index.dtype), mode="sum", per_sample_weights=weights)
        return summed, None, None


def _begins(index: Int[Tensor, "bags k"]) -> Int[Tensor, " bags"]:
    """Return where the bags of a table of indices begin; `embedding_bag` finds out too, but not how many they are."""
    return torch.arange(index.shape[0], device=index.device, dtype=index.dtype) * index.shape[1]


def _by_size(
    size: Int64[Tensor, " R"], shapes: Sequence[tuple[int, int]], bins: int, extra: int
) -> Iterator[tuple[Any, int]]:
    """Yield (RoIs, cells per bin and axis) for groups of RoIs whose bins are of like size.

    Where shapes must not depend on values there is one group, sized for the largest RoI there can be.
    """
    if torch.compiler.is_compiling():
        sides = [side for shape in shapes for side in shape]
        longest = functools.reduce(torch.sym_max, sides)  # they may be sizes that a compiler does not know
        yield slice(None), -(-longest // bins) + extra
        return
    lower, upper = -1, 1
    largest = int(size.max()) if len(size) else 0
    while lower < largest or lower < 0:
        group = ((size > lower) & (size <= upper)).nonzero()[:, 0]
        most = upper + extra
        for chunk in group.split(max(MAX_ENTRIES // (bins * most) ** 2, 1)):  # type: ignore[no-untyped-call]
            if len(chunk) or largest == 0:
                yield chunk, most
        lower, upper = upper, math.ceil(upper * 1.5)


def _in_order(parts: list[tuple[Any, Tensor]]) -> Tensor:
    """Return the parts' rows in the order of the RoIs they were computed for."""
    if isinstance(parts[0][0], slice):
        return parts[0][1]
    place = torch.cat([chunk for chunk, _ in parts])
    return torch.cat([part for _, part in parts])[place.argsort()]


def _as_crops(sums: Tensor, bins: int) -> Float[Tensor, "R C bins bins"]:
    return sums.reshape(sums.shape[0], bins, bins, sums.shape[-1]).permute(0, 3, 1, 2)
