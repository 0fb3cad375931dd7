"""Opening the data that a command line names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

from maskrcnn.data.coco import CocoDataset
from maskrcnn.data.shapes import ShapesDataset
from maskrcnn.errors import DatasetError, did_you_mean

SHAPES = "shapes"
SHAPES_SIZES = {"train": (2000, 0), "val": (200, 1), "test": (200, 2)}
"""Images and seed of each split of the made data set."""


@overload
def open_dataset(
    source: str,
    split: str,
    images: Path | None = None,
    *,
    masks: bool = True,
    keypoints: bool = False,
    keep_empty: bool = True,
) -> CocoDataset | ShapesDataset: ...


@overload
def open_dataset(
    source: str,
    split: str,
    images: Path | None = None,
    *,
    masks: bool = True,
    keypoints: bool = False,
    keep_empty: bool = True,
    optional: bool,
) -> CocoDataset | ShapesDataset | None: ...


def open_dataset(
    source: str,
    split: str,
    images: Path | None = None,
    *,
    masks: bool = True,
    keypoints: bool = False,
    keep_empty: bool = True,
    optional: bool = False,
) -> CocoDataset | ShapesDataset | None:
    """Return the data set that a path or the word `shapes` stands for.

    Args:
        source: a COCO JSON file, which stands for the split "train" if `optional`; a folder that holds
            `annotations/SPLIT.json`, `annotations/instances_SPLIT*.json`, `SPLIT.json`, `SPLIT/_annotations.coco.json`
            or, for training, `annotations.json`; or `shapes`, images made on the spot.
        split: "train", "val", "test" …
        images: folder of the images, if not near the annotations.
        masks: False reads boxes only.
        keypoints: read keypoints too.
        keep_empty: keep images without objects.
        optional: return None where the source has no such split.

    Raises:
        DatasetError: there is no such file, or it cannot be used.
    """
    if source == SHAPES:
        if split not in SHAPES_SIZES:
            hint = did_you_mean(split, list(SHAPES_SIZES))
            raise DatasetError(f"shapes has no split {split!r}; there are {', '.join(SHAPES_SIZES)}.{hint}")
        if keypoints:
            raise DatasetError(
                "shapes has no keypoints; --keypoints needs a COCO file whose categories name some, and "
                "--no-keypoints leaves them out."
            )
        length, seed = SHAPES_SIZES[split]
        return ShapesDataset(length, seed=seed)
    path = Path(source)
    if path.is_dir():
        file = _annotations(path, split)
        if file is None and optional:
            return None
        if file is None:
            found = sorted(str(p.relative_to(path)) for p in path.glob("**/*.json"))[:5]
            raise DatasetError(
                f"{path} holds no annotations for {split!r}: no annotations/{split}.json. "
                + (f"Its JSON files: {', '.join(found)}; name one." if found else "It has no JSON file at all.")
            )
        path = file
    elif optional:
        return None
    elif not path.exists():
        raise DatasetError(f"There is no file or folder {path}.")
    return CocoDataset(path, images, masks=masks, keypoints=keypoints, keep_empty=keep_empty)


def _annotations(folder: Path, split: Literal["train", "val"] | str) -> Path | None:
    names = [
        f"annotations/{split}.json",
        f"annotations/instances_{split}.json",
        f"annotations/instances_{split}2017.json",
        f"annotations/instances_{split}2014.json",
        f"{split}.json",
        f"{split}/_annotations.coco.json",
        f"{split}/annotations.json",
    ]
    if split == "val":
        names += ["annotations/valid.json", "valid/_annotations.coco.json"]
    if split == "train":
        names += ["annotations.json", "annotations/instances_default.json"]
    return next((folder / name for name in names if (folder / name).is_file()), None)
