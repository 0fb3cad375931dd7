"""RoIAlign (Mask R-CNN, section 3) and RoIPool (Fast R-CNN, section 2.1) of one RoI on one map."""

from __future__ import annotations

import math

import numpy as np


def bilinear(channel: np.ndarray, y: float, x: float) -> float:
    """The value at a point between cells; the border cell up to one cell outside, then 0."""
    height, width = channel.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    upper = (1 - along) * channel[top, left] + along * channel[top, right]
    lower = (1 - along) * channel[bottom, left] + along * channel[bottom, right]
    return (1 - down) * upper + down * lower


def roi_align(
    features: np.ndarray, box: np.ndarray, stride: int, size: int, sampling_ratio: int, aligned: bool
) -> np.ndarray:
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (side / stride - offset for side in box.tolist())
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    samples_y = sampling_ratio or max(math.ceil(height / size), 1)
    samples_x = sampling_ratio or max(math.ceil(width / size), 1)
    crop = np.zeros((len(features), size, size))
    for c, channel in enumerate(features):
        for row in range(size):
            for column in range(size):
                total = 0.0
                for i in range(samples_y):
                    for j in range(samples_x):
                        y = y1 + (row + (i + 0.5) / samples_y) * height / size
                        x = x1 + (column + (j + 0.5) / samples_x) * width / size
                        total += bilinear(channel, y, x)
                crop[c, row, column] = total / (samples_y * samples_x)
    return crop


def roi_pool(features: np.ndarray, box: np.ndarray, stride: int, size: int) -> np.ndarray:
    left, top, right, bottom = (math.floor(side / stride + 0.5) for side in box.tolist())
    width, height = max(right - left + 1, 1), max(bottom - top + 1, 1)
    _, rows, columns = features.shape
    crop = np.zeros((len(features), size, size))
    for c, channel in enumerate(features):
        for row in range(size):
            for column in range(size):
                begin_y, end_y = top + row * height // size, top + -(-(row + 1) * height // size)
                begin_x, end_x = left + column * width // size, left + -(-(column + 1) * width // size)
                cells = [
                    channel[y, x]
                    for y in range(max(begin_y, 0), min(end_y, rows))
                    for x in range(max(begin_x, 0), min(end_x, columns))
                ]
                crop[c, row, column] = max(cells, default=0.0)
    return crop


def crop_and_resize(features: np.ndarray, box: np.ndarray, stride: int, size: int) -> np.ndarray:
    """TensorFlow's op: corners at pixel centres, the first sample on the box's start, the last on its end."""
    _, rows, columns = features.shape
    x1, y1, x2, y2 = box.tolist()
    crop = np.zeros((len(features), size, size))
    for row in range(size):
        for column in range(size):
            y = (y1 + (y2 - y1) * row / (size - 1)) * (rows - 1) / (rows * stride - 1)
            x = (x1 + (x2 - x1) * column / (size - 1)) * (columns - 1) / (columns * stride - 1)
            if 0 <= y <= rows - 1 and 0 <= x <= columns - 1:
                crop[:, row, column] = [bilinear(channel, y, x) for channel in features]
    return crop
