"""Linear interpolation along one axis: where a RoI's bins sample a map, and which cells a sample reads.

Bilinear sampling is the product of two of these, one along y and one along x.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def positions(
    start: Float[Tensor, " R"], side: Float[Tensor, " R"], bins: int, step: Float[Tensor, "..."]
) -> Float[Tensor, "R P g"]:
    """Return the coordinates of all sampling points; `step` holds their places inside a bin, from 0 to 1."""
    bin_side = (side / bins)[:, None, None]
    number = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    return start[:, None, None] + number * bin_side + step * bin_side


def neighbours(
    position: Float[Tensor, "R P g"], extent: Int64[Tensor, "#R 1 1"], margin: float = 1.0
) -> tuple[Int64[Tensor, "R P g 2"], Float[Tensor, "R P g 2"]]:
    """Return the two cells around each position and their weights.

    Up to `margin` cells outside the map the border cell counts; farther out a sample is worth nothing.
    """
    inside = ((position >= -margin) & (position <= extent - 1 + margin)).to(position.dtype)
    position = position.clamp(min=0)
    low = torch.minimum(position.floor().long().clamp(min=0), extent - 1)
    high = torch.minimum(low + 1, extent - 1)
    upper = torch.minimum(position - low, (high - low).to(position.dtype)).clamp(0, 1)
    return torch.stack((low, high), -1), torch.stack(((1 - upper) * inside, upper * inside), -1)


def averaging_matrix(
    start: Float[Tensor, " R"], side: Float[Tensor, " R"], bins: int, extent: int
) -> Float[Tensor, "R bins extent"]:
    """Return, per RoI, the matrix that averages each bin's samples, ceil(side / bins) of them per bin.

    With one such matrix per axis, RoIAlign of a map is the product rows @ map @ columns.T.
    """
    counts = torch.ceil(side / bins).clamp(min=1)[:, None, None]
    step = torch.arange(max(-(-extent // bins), 1), device=start.device, dtype=start.dtype)
    size = torch.full((1, 1, 1), extent, device=start.device)
    index, weight = neighbours(positions(start, side, bins, (step + 0.5) / counts), size)
    weight = weight * (step < counts)[..., None] / counts[..., None]
    matrix = torch.zeros(len(start), bins, extent, dtype=start.dtype, device=start.device)
    return matrix.scatter_add(2, index.flatten(2), weight.flatten(2))
