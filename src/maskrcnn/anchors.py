"""Anchors (Faster R-CNN, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.config import AnchorConfig, BoxCorners
from maskrcnn.ops import boxes as box_ops


def cell_anchors(config: AnchorConfig, level: int, stride: int) -> Float[Tensor, "A 4"]:
    """Return the anchors of one cell around (0, 0): sizes one after the other, each with all ratios.

    Example:
        >>> cell_anchors(AnchorConfig(), level=0, stride=4)[1]  # 32 × 32
        tensor([-16., -16.,  16.,  16.])
    """
    return torch.tensor(cell_corners(config, level, stride)).reshape(-1, 4)


def cell_corners(config: AnchorConfig, level: int, stride: int) -> tuple[float, ...]:
    """Return the corners of `cell_anchors`, one after the other, as numbers: constants for a compiler."""
    size: Any = np.array(config.sizes[level], np.float32)[:, None]
    ratio: Any = np.array(config.ratios, np.float32)
    if config.rounding == "base":
        base_width = (stride / np.sqrt(ratio)).round()
        width, height = size / stride * base_width, size / stride * (base_width * ratio).round()
    else:
        width, height = size * (1 / np.sqrt(ratio)), size * np.sqrt(ratio)
    boxes = np.stack((-width, -height, width, height), axis=-1) / 2
    return tuple((boxes.round() if config.rounding == "corners" else boxes).flatten().tolist())


def make_anchors(
    config: AnchorConfig,
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    image_size: tuple[int, int],
    device: torch.device,
    corners: BoxCorners = "edges",
    cells: Sequence[tuple[float, ...]] | None = None,
) -> list[Float[Tensor, "_A 4"]]:
    """Return the anchors of each level (input frame), ordered by row, column, size and ratio.

    Args:
        config: sizes, ratios and rules.
        map_sizes: (height, width) of each level's feature map.
        strides: nominal input pixels per cell of each level.
        image_size: (height, width) of the padded input.
        device: where the anchors are wanted.
        corners: `Config.box_corners`.
        cells: each level's `cell_corners`, for those who call often or compile; computed by default.
    """
    if cells is None:
        cells = [cell_corners(config, level, stride) for level, stride in enumerate(strides)]
    levels = []
    for level, ((rows, columns), stride) in enumerate(zip(map_sizes, strides, strict=True)):
        measured = config.stride == "measured"
        step_y = image_size[0] // rows if measured else stride
        step_x = image_size[1] // columns if measured else stride
        y = (torch.arange(rows, device=device) + config.offset) * step_y
        x = (torch.arange(columns, device=device) + config.offset) * step_x
        y, x = y[:, None].expand(rows, columns), x[None, :].expand(rows, columns)
        centres = torch.stack((x, y, x, y), dim=-1).to(torch.float32)
        around = box_ops.vector(cells[level], device, torch.float32).reshape(-1, 4)
        anchors = (centres[:, :, None] + around).reshape(-1, 4)
        levels.append(box_ops.move_ends(anchors, -1.0) if corners == "centers" else anchors)
    return levels
