"""Mask pasting by both rules, pixel by pixel, and the mask targets of training."""

from __future__ import annotations

import math

import numpy as np

from reference.roi_align import roi_align


def paste_continuous(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel centres are mapped to [−1, 1] of the box and read bilinearly; cells outside the mask are 0."""
    size = len(mask)
    x1, y1, x2, y2 = box.tolist()

    def cell(i: int, j: int) -> float:
        return float(mask[i, j]) if 0 <= i < size and 0 <= j < size else 0.0

    pasted = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            grid_y = (row + 0.5 - y1) / (y2 - y1) * 2 - 1
            grid_x = (column + 0.5 - x1) / (x2 - x1) * 2 - 1
            y, x = ((grid_y + 1) * size - 1) / 2, ((grid_x + 1) * size - 1) / 2
            top, left = math.floor(y), math.floor(x)
            for i in (top, top + 1):
                for j in (left, left + 1):
                    pasted[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * cell(i, j)
    return pasted


def paste_integer_box(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """One cell of padding, the box widened to match and cut to integers, its last pixel part of it; the
    padded mask is resized to that box.
    """
    size = len(mask)
    padded = np.zeros((size + 2, size + 2))
    padded[1:-1, 1:-1] = mask
    x1, y1, x2, y2 = box.tolist()
    scale = (size + 2) / size
    half_width, half_height = (x2 - x1) / 2 * scale, (y2 - y1) / 2 * scale
    left, right = int((x1 + x2) / 2 - half_width), int((x1 + x2) / 2 + half_width)
    top, bottom = int((y1 + y2) / 2 - half_height), int((y1 + y2) / 2 + half_height)
    box_width, box_height = max(right - left + 1, 1), max(bottom - top + 1, 1)
    pasted = np.zeros((height, width))
    for row in range(box_height):
        for column in range(box_width):
            if not (0 <= top + row < height and 0 <= left + column < width):
                continue
            y = max((row + 0.5) * (size + 2) / box_height - 0.5, 0.0)
            x = max((column + 0.5) * (size + 2) / box_width - 0.5, 0.0)
            i, j = int(y), int(x)
            below, right_of = min(i + 1, size + 1), min(j + 1, size + 1)
            upper = (1 - (x - j)) * padded[i, j] + (x - j) * padded[i, right_of]
            lower = (1 - (x - j)) * padded[below, j] + (x - j) * padded[below, right_of]
            pasted[top + row, left + column] = (1 - (y - i)) * upper + (y - i) * lower
    return pasted


def crop_mask(mask: np.ndarray, box: np.ndarray, size: int, aligned: bool) -> np.ndarray:
    """RoIAlign of the mask with ceil(RoI side / size) samples along each axis of a bin."""
    return roi_align(mask[None].astype(float), box, 1, size, sampling_ratio=0, aligned=aligned)[0]
