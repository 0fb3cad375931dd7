"""Anchors: numbers worked by hand, and those of torchvision and Detectron2."""

from __future__ import annotations

import math

import pytest
import torch

from maskrcnn.anchors import cell_anchors, make_anchors
from maskrcnn.config import AnchorConfig

CPU = torch.device("cpu")


def test_cell_anchors_by_hand() -> None:
    # Area 32², height over width 0.5, 1, 2: 32 √2 by 32 / √2, and so on.
    long, short = 16 * math.sqrt(2), 16 / math.sqrt(2)
    expected = torch.tensor([[-long, -short, long, short], [-16, -16, 16, 16], [-short, -long, short, long]])
    torch.testing.assert_close(cell_anchors(AnchorConfig(), level=0, stride=4), expected)


def test_cell_anchors_in_whole_pixels() -> None:
    assert cell_anchors(AnchorConfig(rounding="corners"), level=0, stride=4).tolist() == [
        [-23, -11, 23, 11],
        [-16, -16, 16, 16],
        [-11, -23, 11, 23],
    ]


def test_base_anchor_is_rounded_then_enlarged() -> None:
    # Faster R-CNN's published anchors of 128², stride 16: (−84, −40, 99, 55), (−56, −56, 71, 71), (−36, −80, 51, 95),
    # the last pixel included, around the middle of the cell.
    config = AnchorConfig(sizes=((128,),), rounding="base", offset=0.5)
    [anchors] = make_anchors(config, [(1, 1)], [16], (16, 16), CPU)
    assert anchors.tolist() == [[-84, -40, 100, 56], [-56, -56, 72, 72], [-36, -80, 52, 96]]


def test_anchors_between_pixel_centres_are_one_shorter() -> None:
    edges, centers = (
        make_anchors(AnchorConfig(sizes=((8,),)), [(2, 2)], [4], (8, 8), CPU, c)[0] for c in ("edges", "centers")
    )
    assert torch.equal(centers, edges - torch.tensor([0.0, 0, 1, 1]))


def test_sizes_come_one_after_the_other_each_with_all_ratios() -> None:
    anchors = cell_anchors(AnchorConfig(sizes=((8, 16),), ratios=(0.25, 4)), level=0, stride=4)
    expected = [[-8, -2, 8, 2], [-2, -8, 2, 8], [-16, -4, 16, 4], [-4, -16, 4, 16]]
    torch.testing.assert_close(anchors, torch.tensor(expected).float())


@pytest.mark.parametrize("level", range(5))
def test_area_is_the_size_squared_for_every_ratio(level: int) -> None:
    x1, y1, x2, y2 = cell_anchors(AnchorConfig(), level, 4).unbind(1)
    torch.testing.assert_close((x2 - x1) * (y2 - y1), torch.full((3,), (32.0 * 2**level) ** 2))
    torch.testing.assert_close((y2 - y1) / (x2 - x1), torch.tensor([0.5, 1.0, 2.0]))


def test_order_is_row_column_anchor() -> None:
    config = AnchorConfig(sizes=((4, 8),), ratios=(1.0,))
    [anchors] = make_anchors(config, [(2, 3)], [16], (32, 48), CPU)
    centres = [(x, y) for y in (0, 16) for x in (0, 16, 32)]
    expected = [[x - r, y - r, x + r, y + r] for x, y in centres for r in (2, 4)]
    torch.testing.assert_close(anchors, torch.tensor(expected).float())


def test_offset_moves_centres_into_the_cells() -> None:
    config = AnchorConfig(sizes=((4,),), ratios=(1.0,), offset=0.5)
    [anchors] = make_anchors(config, [(1, 2)], [16], (16, 32), CPU)
    torch.testing.assert_close(anchors, torch.tensor([[6.0, 6, 10, 10], [22, 6, 26, 10]]))


def test_measured_stride_is_the_padded_side_over_the_map_side() -> None:
    # p6 of 800 × 1088: 13 × 17 cells, and 800 // 13 = 61, 1088 // 17 = 64.
    maps, size = [(13, 17)], (800, 1088)
    sizes = ((512,),)
    [measured] = make_anchors(AnchorConfig(sizes=sizes, stride="measured"), maps, [64], size, CPU)
    [nominal] = make_anchors(AnchorConfig(sizes=sizes), maps, [64], size, CPU)
    corner = measured.reshape(13, 17, 3, 4)[:, :, 1, :2] + 256
    torch.testing.assert_close(corner[1, 1], torch.tensor([64.0, 61.0]))
    torch.testing.assert_close(corner[12, 16], torch.tensor([16 * 64.0, 12 * 61.0]))
    corner = nominal.reshape(13, 17, 3, 4)[:, :, 1, :2] + 256
    torch.testing.assert_close(corner[12, 16], torch.tensor([16 * 64.0, 12 * 64.0]))


def test_levels_have_their_own_sizes_and_strides() -> None:
    # Matterport's landmark: 261,888 anchors on a square of 1024.
    strides = [4, 8, 16, 32, 64]
    levels = make_anchors(AnchorConfig(), [(1024 // s,) * 2 for s in strides], strides, (1024, 1024), CPU)
    assert sum(map(len, levels)) == 261_888
    for anchors, stride in zip(levels, strides, strict=True):
        side = anchors[1, 2] - anchors[1, 0]
        torch.testing.assert_close(side, torch.tensor(8.0 * stride))
        torch.testing.assert_close(anchors[4] - anchors[1], torch.tensor([stride, 0, stride, 0]).float())


def test_map_without_cells_has_no_anchors() -> None:
    [anchors] = make_anchors(AnchorConfig(sizes=((4,),)), [(0, 3)], [16], (0, 48), CPU)
    assert anchors.shape == (0, 4)
