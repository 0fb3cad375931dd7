"""Looking an image up by its name among annotations."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from maskrcnn.data.coco import CocoDataset
from maskrcnn.data.open import open_dataset
from maskrcnn.data.shapes import ShapesDataset
from maskrcnn.errors import DatasetError, did_you_mean

SPLITS = ("val", "train", "test")
"""A folder's annotations that are looked through; of others the first stands for all."""


def find_image(
    source: str, name: str, images: Path | None = None, *, masks: bool = True, keypoints: bool = False
) -> tuple[CocoDataset | ShapesDataset, int]:
    """Return the data set and the number in it of the image that a path or a name stands for.

    Args:
        source: as for `open_dataset`; of a folder all of `SPLITS` are looked through.
        name: path or file name; the more of its end agrees, the better.
        images: folder of the images, if not near the annotations.
        masks: False reads boxes only.
        keypoints: read keypoints too.

    Raises:
        DatasetError: no image or several are called so, or the data set cannot be used.

    Example:
        >>> find_image("shapes", "shapes/000007")[1]
        7
    """
    wanted = _ends(name)
    found: list[tuple[int, CocoDataset | ShapesDataset, int]] = []
    known: set[str] = set()
    for dataset in _splits(source, images, masks, keypoints):
        for index in range(len(dataset)):
            called = dataset.image_name(index)
            known.add(PurePath(called).name)
            found.append((_agreeing(wanted, _ends(called)), dataset, index))
    most = max((agreeing for agreeing, _, _ in found), default=0)
    best = [(dataset, index) for agreeing, dataset, index in found if agreeing == most and most]
    if len(best) > 1:
        several = ", ".join(dataset.image_name(index) for dataset, index in best[:3])
        raise DatasetError(f"{source} has {len(best)} images called {name}: {several}. Tell more of the path.")
    if not best:
        near = did_you_mean(PurePath(name).name, sorted(known), most=3)
        raise DatasetError(f"{source} has no image called {name}.{near}")
    return best[0]


def _splits(source: str, images: Path | None, masks: bool, keypoints: bool) -> list[CocoDataset | ShapesDataset]:
    """Return the data sets of a source: a folder may have several."""
    kinds = {"masks": masks, "keypoints": keypoints}
    if Path(source).is_dir():
        several = [open_dataset(source, split, images, **kinds, optional=True) for split in SPLITS]
        there = [dataset for dataset in several if dataset is not None]
        if there:
            return there
    return [open_dataset(source, SPLITS[0], images, **kinds)]  # a folder without any is told of


def _ends(name: str) -> tuple[str, ...]:
    """Return the parts of a path, the last first."""
    return PurePath(os.path.abspath(name)).parts[::-1]


def _agreeing(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Return how many of the first entries are the same."""
    return next((n for n, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
