"""Made images: circles, squares and triangles that overlap, as in Matterport's Shapes sample.

They need no download and no annotating, train in minutes on a CPU, and their truth is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch.utils.data import Dataset

from maskrcnn.errors import InputError
from maskrcnn.structures import Target

Grid = Float[np.ndarray, "#H #W"]

SMALLEST, LARGEST = 0.14, 0.38
"""Side of an object as a fraction of the image's shorter side: 18 to 48 pixels at 128 × 128."""
LEAST_VISIBLE = 0.3
"""An object of which less than this fraction is visible is left out, picture and truth."""
COLOR_DISTANCE = 100.0
"""Euclidean distance in RGB that an object's colour keeps from the background's and the other objects'."""


def _circle(y: Grid, x: Grid, radius: float) -> Bool[np.ndarray, "H W"]:
    return y**2 + x**2 < radius**2


def _square(y: Grid, x: Grid, radius: float) -> Bool[np.ndarray, "H W"]:
    return (abs(y) < radius) & (abs(x) < radius)


def _triangle(y: Grid, x: Grid, radius: float) -> Bool[np.ndarray, "H W"]:
    return (y < radius) & (abs(x) < (y + radius) / 2)


DRAW: dict[str, Callable[[Grid, Grid, float], Bool[np.ndarray, "H W"]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
}


class ShapesDataset(Dataset[tuple[np.ndarray, Target]]):
    """Images of 1 to `max_objects` coloured shapes on a noisy background, with their visible masks.

    Item i depends on `seed` and i alone, so two data sets of different length agree where both have
    an item, and workers need no seeding of their own.

    Args:
        length: number of images.
        image_size: (height, width) in pixels.
        seed: take another for validation images.
        empty_fraction: share of images with no object at all.
        max_objects: most objects in an image; hidden ones are left out, so there may be fewer.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> dataset = ShapesDataset(length=100, image_size=(128, 128))
        >>> image, target = dataset[0]
        >>> image.shape, target.masks.shape[1:], dataset.class_names[target.labels[0]]
        ((128, 128, 3), torch.Size([128, 128]), 'triangle')
    """

    class_names: tuple[str, ...] = tuple(DRAW)

    def __init__(
        self,
        length: int,
        image_size: tuple[int, int] = (128, 128),
        seed: int = 0,
        empty_fraction: float = 0.0,
        max_objects: int = 4,
    ) -> None:
        if length < 0 or seed < 0:
            raise InputError(f"ShapesDataset: length and seed must be 0 or more; got {length} and {seed}.")
        if min(image_size) < 32:
            raise InputError(f"ShapesDataset: image_size must be at least (32, 32); got {image_size}.")
        if not 0 <= empty_fraction <= 1:
            raise InputError(f"ShapesDataset: empty_fraction must be in 0 … 1; got {empty_fraction}.")
        if max_objects < 1:
            raise InputError(f"ShapesDataset: max_objects must be at least 1; got {max_objects}.")
        self.length = length
        self.image_size = image_size
        self.seed = seed
        self.empty_fraction = empty_fraction
        self.max_objects = max_objects

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Target]:
        """Return image `index` and its target; boxes are tight around the visible masks."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, self._checked(index)]))
        empty = rng.random() < self.empty_fraction
        count = 0 if empty else int(rng.integers(1, self.max_objects, endpoint=True))
        colors = _distinct_colors(rng, count + 1)
        labels = rng.integers(len(DRAW), size=count)
        shapes = [self._place(rng, self.class_names[label]) for label in labels]
        kept, masks = _visible(shapes, self.image_size)

        image = np.empty((*self.image_size, 3), np.int16)
        image[:] = colors[0]
        for k, mask in zip(kept, masks, strict=True):
            image[mask] = colors[1 + k]
        strength = int(rng.integers(6, 20))
        # One byte drawn per value: the noise is most of the time that an image takes.
        image += rng.integers(0, 2 * strength + 1, image.shape, np.uint8).astype(np.int16) - strength
        return image.clip(0, 255).astype(np.uint8), _target(labels[kept], masks, self.image_size)

    def image_name(self, index: int) -> str:
        """Return a name for image `index` to show and to save under, `shapes/000123`."""
        return f"shapes/{self._checked(index):06d}"

    def _checked(self, index: int) -> int:
        index = int(index)
        if not -self.length <= index < self.length:
            raise IndexError(f"image {index} of {self.length}")
        return index % self.length

    def _place(self, rng: np.random.Generator, name: str) -> Bool[np.ndarray, "H W"]:
        """Return the whole mask of one shape, inside the image with a pixel to spare."""
        height, width = self.image_size
        radius = rng.uniform(SMALLEST, LARGEST) * min(height, width) / 2
        center_y = rng.uniform(radius + 1, height - radius - 1)
        center_x = rng.uniform(radius + 1, width - radius - 1)
        top, bottom = math.floor(center_y - radius), math.ceil(center_y + radius)
        left, right = math.floor(center_x - radius), math.ceil(center_x + radius)
        # Pixel i covers i … i + 1, so its centre is at i + 0.5.
        y = np.arange(top, bottom)[:, None] + 0.5 - center_y
        x = np.arange(left, right)[None, :] + 0.5 - center_x
        mask = np.zeros(self.image_size, bool)
        mask[top:bottom, left:right] = DRAW[name](y, x, radius)
        return mask


def _visible(
    shapes: list[Bool[np.ndarray, "H W"]], image_size: tuple[int, int]
) -> tuple[list[int], Bool[np.ndarray, "G H W"]]:
    """Return which shapes stay, and their visible parts; later shapes lie on top of earlier ones.

    Goes from the top down, so what is left out hides nothing either.
    """
    covered = np.zeros(image_size, bool)
    kept: list[int] = []
    parts: list[Bool[np.ndarray, "H W"]] = []
    for k in reversed(range(len(shapes))):
        part = shapes[k] & ~covered
        if part.sum() >= LEAST_VISIBLE * shapes[k].sum():
            kept.insert(0, k)
            parts.insert(0, part)
            covered |= shapes[k]
    return kept, np.array(parts, bool).reshape(-1, *image_size)


def _distinct_colors(rng: np.random.Generator, count: int) -> Int[np.ndarray, "C 3"]:
    """Return random colours, each `COLOR_DISTANCE` from the others where a few tries find such."""
    colors = rng.integers(0, 256, (1, 3))
    while len(colors) < count:
        tries = rng.integers(0, 256, (12, 3))
        distances = np.linalg.norm(tries[:, None] - colors[None], axis=2).min(axis=1)
        far = distances >= COLOR_DISTANCE
        best = far.argmax() if far.any() else distances.argmax()
        colors = np.concatenate([colors, tries[best : best + 1]])
    return colors


def _target(labels: Int[np.ndarray, " G"], masks: Bool[np.ndarray, "G H W"], image_size: tuple[int, int]) -> Target:
    height, width = image_size
    columns, rows = np.asarray(masks.any(axis=1)), np.asarray(masks.any(axis=2))
    left, right = columns.argmax(axis=1), width - columns[:, ::-1].argmax(axis=1)
    top, bottom = rows.argmax(axis=1), height - rows[:, ::-1].argmax(axis=1)
    boxes = np.stack([left, top, right, bottom], axis=1)
    return Target(
        boxes=torch.from_numpy(boxes).float(),
        labels=torch.from_numpy(labels.astype(np.int64)),
        masks=torch.from_numpy(masks),
        crowd=torch.zeros(len(labels), dtype=torch.bool),
        area=torch.from_numpy(masks.sum(axis=(1, 2))).float(),
    )
