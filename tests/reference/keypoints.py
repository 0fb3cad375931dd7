"""Keypoints one at a time: the cell a keypoint is learned in, and the highest point of an enlarged heatmap."""

from __future__ import annotations

import math

import numpy as np


def cell(x: float, y: float, box: tuple[float, float, float, float], size: int) -> int | None:
    x1, y1, x2, y2 = box
    column = size - 1 if x == x2 else math.floor((x - x1) * size / (x2 - x1))
    row = size - 1 if y == y2 else math.floor((y - y1) * size / (y2 - y1))
    return row * size + column if 0 <= row < size and 0 <= column < size else None


def cubic(distance: float, a: float = -0.75) -> float:
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def enlarged(heatmap: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic (Keys 1981, a = −0.75), half-pixel centres, the border repeated."""

    def weights(old: int, new: int) -> np.ndarray:
        matrix = np.zeros((new, old))
        for i in range(new):
            position = (i + 0.5) * old / new - 0.5
            for k in range(math.floor(position) - 1, math.floor(position) + 3):
                matrix[i, min(max(k, 0), old - 1)] += cubic(position - k)
        return matrix

    return weights(heatmap.shape[0], height) @ heatmap @ weights(heatmap.shape[1], width).T


def read(heatmap: np.ndarray, box: tuple[float, float, float, float]) -> tuple[float, float, float]:
    x1, y1, x2, y2 = box
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    big = enlarged(heatmap, math.ceil(height), math.ceil(width))
    row, column = np.unravel_index(big.argmax(), big.shape)
    x = x1 + (column + 0.5) * width / math.ceil(width)
    y = y1 + (row + 0.5) * height / math.ceil(height)
    return float(x), float(y), float(big.max())
