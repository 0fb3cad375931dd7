"""Masks as run lengths: to and from pixels, and laid on a photo without a pixel of it being drawn.

A pasted mask of a 24-megapixel photo is 24 MB, and a hundred of them are 2.4 GB, while the places where their columns
begin and end fit in a few MB. Between the centres of two cells a mask goes one way along a column of pixels, so it
crosses the threshold at most once there. Two pixels tell whether it does, and halving finds where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pycocotools.mask
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskrcnn.ops.masks import PasteRule, Reach, reaches

RLE: TypeAlias = dict[str, Any]
"""COCO's compressed run lengths, ready for JSON: `{"size": [height, width], "counts": "…"}`.

Runs go down the columns, background first; the text has about two characters per run.
"""

_mask_utils: Any = pycocotools.mask


def paste_rles(
    probabilities: Float[Tensor, "D M M"],
    boxes: Float[Tensor, "D 4"],
    image_size: tuple[int, int],
    rule: PasteRule = "continuous",
    threshold: float = 0.5,
) -> list[RLE]:
    """Return the masks of `masks.paste_masks`, pixel for pixel, as run lengths in an image of (height, width).

    Time and memory grow with the width of the boxes, not with their area. The work is the CPU's, wherever the
    tensors are.

    Example:
        >>> paste_rles(torch.ones(1, 28, 28), torch.tensor([[1.0, 0.0, 3.0, 2.0]]), (2, 4))
        [{'size': [2, 4], 'counts': '242'}]
    """
    height, width = image_size
    cells = probabilities.detach().cpu().numpy()
    found = []
    for mask, (x, y) in zip(cells, reaches(boxes, image_size, cells.shape[-1], rule), strict=True):
        columns, rows = _crossings(_Lines.of(mask, x, y), threshold)
        found.append(_rle((x.first + columns) * height + y.first + rows, height, width))
    return found


class _Lines(NamedTuple):
    """The columns of pixels that a mask can reach, each as the line that its values follow from cell to cell."""

    cells: Float[np.ndarray, "w _"]
    """Each column's value at the cells' centres, a cell of zeros at either end included."""
    steps: Float[np.ndarray, "w _"]
    """From each of these to the next."""
    down: Reach

    @classmethod
    def of(cls, mask: Float[np.ndarray, "M M"], across: Reach, down: Reach) -> _Lines:
        padded = np.pad(mask.T, 1)
        cells = np.diff(padded, axis=0)[across.cell]
        cells *= across.share[:, None]
        cells += padded[across.cell]
        return cls(cells, np.diff(cells, axis=1), down)

    def at(self, columns: Any, rows: Int64[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return the values of pixels by the arithmetic of `masks.paste_masks`, rounding by rounding."""
        cell = self.down.cell[rows]
        values = self.steps[columns, cell]
        values *= self.down.share[rows]
        values += self.cells[columns, cell]
        return values


def _crossings(lines: _Lines, threshold: float) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
    """Return (columns, rows) where each column enters the mask and where it has left it, in turns, from the top."""
    rows = _ends_of_cells(lines.down.cell)
    inside = np.zeros((len(lines.cells), len(rows) + 2), bool)
    inside[:, 1:-1] = lines.at(slice(None), rows) >= threshold
    columns, place = np.divmod(np.flatnonzero(inside[:, 1:] != inside[:, :-1]), len(rows) + 1)
    bounds = np.concatenate(([-1], rows, [len(lines.down.cell)]))
    before, after = bounds[place], bounds[place + 1]
    apart = np.flatnonzero(after - before > 1)
    if len(apart):
        enters = inside[columns[apart], place[apart] + 1]
        after[apart] = _first_beyond(lines, columns[apart], before[apart], after[apart], enters, threshold)
    return columns, after


def _ends_of_cells(cell: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " s"]:
    """Return the first and the last pixel of each cell that has any."""
    end = np.ones(len(cell), bool)
    end[1:-1] = (cell[1:-1] != cell[:-2]) | (cell[1:-1] != cell[2:])
    return np.flatnonzero(end)


def _first_beyond(
    lines: _Lines,
    columns: Int64[np.ndarray, " E"],
    before: Int64[np.ndarray, " E"],
    after: Int64[np.ndarray, " E"],
    enters: Bool[np.ndarray, " E"],
    threshold: float,
) -> Int64[np.ndarray, " E"]:
    """Return the first rows beyond a crossing that lies behind `before` and not behind `after`, by halving."""
    for _ in range(int((after - before - 1).max()).bit_length()):
        middle = (before + after) >> 1
        beyond = (lines.at(columns, middle) >= threshold) == enters
        before, after = np.where(beyond, before, middle), np.where(beyond, middle, after)
    return after


def _rle(edges: Int64[np.ndarray, " E"], height: int, width: int) -> RLE:
    """Return the run lengths of the mask that begins and ends, in turns, at these places in the columns' order."""
    joined = np.zeros(len(edges) + 1, bool)  # where a column goes on in the next one
    joined[1:-1] = edges[1:] == edges[:-1]
    edges = edges[~(joined[1:] | joined[:-1])]
    counts = np.diff(np.concatenate(([0], edges, [height * width])))
    if len(counts) > 1 and not counts[-1]:
        counts = counts[:-1]
    rle = _mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return as_text(rle)


def encode_masks(masks: Bool[Tensor, "G H W"]) -> list[RLE]:
    """Return masks as run lengths.

    Example:
        >>> encode_masks(torch.tensor([[[False, True], [False, True]]]))
        [{'size': [2, 2], 'counts': '22'}]
    """
    if not len(masks):
        return []
    columns = masks.cpu().transpose(1, 2).contiguous().view(torch.uint8)
    return [as_text(rle) for rle in _mask_utils.encode(columns.numpy().transpose(2, 1, 0))]


def as_text(rle: RLE) -> RLE:
    """Return what pycocotools gives, whose counts are bytes, ready for JSON."""
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rles(rles: Sequence[RLE], height: int, width: int) -> Bool[Tensor, "G H W"]:
    """Return the masks of run lengths that are known to be sound.

    Not by pycocotools: its `decode` takes twice the time, and warns under NumPy 2.

    Example:
        >>> decode_rles([{"size": [2, 2], "counts": "22"}], 2, 2)[0].int()
        tensor([[0, 1],
                [0, 1]], dtype=torch.int32)
    """
    masks = np.empty((len(rles), height, width), bool)
    for g, rle in enumerate(rles):
        masks[g] = drawn(run_lengths(rle["counts"]), height, width)
    return torch.from_numpy(masks)


def drawn(runs: Int64[np.ndarray, " R"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return the mask of run lengths that add up to height × width."""
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def rle_crop(rle: RLE) -> tuple[int, int, Bool[np.ndarray, "h w"]] | None:
    """Return (top, left, pixels) of the smallest part of the image that holds the mask; None for an empty mask.

    Example:
        >>> rle_crop({"size": [3, 4], "counts": "42102"})
        (1, 1, array([[ True,  True],
               [ True,  True]]))
    """
    height, _ = rle["size"]
    ends = np.cumsum(run_lengths(rle["counts"]))
    begins, ends = ends[0::2][: len(ends) // 2], ends[1::2]
    if not len(begins):
        return None
    left, right = int(begins[0]) // height, int(ends[-1] - 1) // height + 1
    top, bottom = int((begins % height).min()), int(((ends - 1) % height).max()) + 1
    if (begins // height != (ends - 1) // height).any():  # a run that goes on in the next column
        top, bottom = 0, height
    places = np.stack((begins, ends), axis=1).ravel() - left * height
    runs = np.diff(np.concatenate(([0], places, [(right - left) * height])))
    return top, left, drawn(runs, height, right - left)[top:bottom].copy()


def rle_area(rle: RLE) -> int:
    """Return the number of pixels in a mask."""
    return int(_mask_utils.area(rle))


def rle_box(rle: RLE) -> list[float]:
    """Return the tight box of a mask as (x, y, width, height)."""
    return [float(v) for v in _mask_utils.toBbox(rle)]


def run_lengths(text: str) -> Int64[np.ndarray, " R"]:
    """Return the run lengths in a compressed string, unchecked but for the coding itself.

    A character carries five bits of a number, lowest first, and in the sixth whether more follow. From the
    fourth on, a number is the difference to the run two before.

    Raises:
        ValueError: the string is not such a coding.

    Example:
        >>> run_lengths("42102").tolist()
        [4, 2, 1, 2, 3]
    """
    damaged = ValueError("the counts are not a run-length string")
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = characters.astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise damaged
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise damaged
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def rle_iou(one: Sequence[RLE], other: Sequence[RLE]) -> Float[Tensor, "A B"]:
    """Return the IoU of all pairs of masks, 1 for two that are empty.

    Example:
        >>> masks = torch.zeros(2, 4, 4, dtype=torch.bool)
        >>> masks[0, :2], masks[1, 1:2] = True, True
        >>> rle_iou(encode_masks(masks), encode_masks(masks[:1])).tolist()
        [[1.0], [0.5]]
    """
    if not one or not other:
        return torch.zeros(len(one), len(other))
    overlap = torch.from_numpy(np.asarray(_mask_utils.iou(list(one), list(other), [0] * len(other)))).float()
    first, second = (torch.from_numpy(np.asarray(_mask_utils.area(list(m))).astype(np.int64)) for m in (one, other))
    return overlap.masked_fill((first[:, None] == 0) & (second[None] == 0), 1.0)
