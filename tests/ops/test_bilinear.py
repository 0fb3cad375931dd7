"""Linear interpolation along one axis."""

from __future__ import annotations

import pytest
import torch

from maskrcnn.ops import bilinear
from reference.roi_align import bilinear as slow_bilinear


def test_positions_by_hand() -> None:
    # Two bins of 3 from 1 on, each sampled at a quarter and three quarters.
    result = bilinear.positions(torch.tensor([1.0]), torch.tensor([6.0]), 2, torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(result, torch.tensor([[[1.75, 3.25], [4.75, 6.25]]]))


@pytest.mark.parametrize(
    ("position", "cells", "weights"),
    [
        pytest.param(1.25, [1, 2], [0.75, 0.25], id="between two cells"),
        pytest.param(2.0, [2, 3], [1.0, 0.0], id="on a cell"),
        pytest.param(-0.5, [0, 1], [1.0, 0.0], id="just before the map"),
        pytest.param(-1.0, [0, 1], [1.0, 0.0], id="one cell before"),
        pytest.param(-1.01, [0, 1], [0.0, 0.0], id="farther before"),
        pytest.param(4.0, [4, 4], [1.0, 0.0], id="on the last cell"),
        pytest.param(4.5, [4, 4], [1.0, 0.0], id="just behind the map"),
        pytest.param(5.0, [4, 4], [1.0, 0.0], id="one cell behind"),
        pytest.param(5.01, [4, 4], [0.0, 0.0], id="farther behind"),
    ],
)
def test_neighbours_by_hand(position: float, cells: list[int], weights: list[float]) -> None:
    index, weight = bilinear.neighbours(torch.tensor([[[position]]]), torch.full((1, 1, 1), 5))
    assert index.flatten().tolist() == cells
    torch.testing.assert_close(weight.flatten(), torch.tensor(weights))


def test_neighbours_interpolate_as_the_slow_version() -> None:
    values = torch.randn(7)
    position = torch.linspace(-2, 9, 45)[:, None, None]
    index, weight = bilinear.neighbours(position, torch.full((1, 1, 1), 7))
    expected = [slow_bilinear(values[None].numpy(), 0, p) for p in position.flatten().tolist()]
    torch.testing.assert_close((values[index] * weight).sum(-1).flatten(), torch.tensor(expected))


def test_averaging_matrix_by_hand() -> None:
    # From the left edge of cell 0 to the right edge of cell 3: each of two bins is the mean of two cells.
    matrix = bilinear.averaging_matrix(torch.tensor([-0.5]), torch.tensor([4.0]), bins=2, extent=4)
    torch.testing.assert_close(matrix, torch.tensor([[[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]]))


def test_averaging_matrix_weighs_1_inside_the_map() -> None:
    start, side = torch.rand(20) * 10, torch.rand(20) * 20
    matrix = bilinear.averaging_matrix(start, side, bins=5, extent=31)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(20, 5))


@pytest.mark.parametrize("bins", [1, 7, 40])
def test_averaging_matrix_keeps_a_ramp(bins: int) -> None:
    # The mean of a linear function over evenly spaced points is its value in their middle.
    start, side = torch.tensor([1.3, 4.0]), torch.tensor([20.6, 0.7])
    matrix = bilinear.averaging_matrix(start, side, bins, extent=30)
    middle = start[:, None] + side[:, None] * (torch.arange(bins) + 0.5) / bins
    torch.testing.assert_close(matrix @ torch.arange(30.0), middle)


def test_no_rois() -> None:
    assert bilinear.averaging_matrix(torch.zeros(0), torch.zeros(0), bins=3, extent=5).shape == (0, 3, 5)
