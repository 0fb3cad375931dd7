"""Writing a data set in the COCO format."""

from __future__ import annotations

import json
from collections.abc import Sized
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from maskrcnn.errors import WriteError, os_reason
from maskrcnn.ops.rle import encode_masks
from maskrcnn.structures import Target


@runtime_checkable
class Labelled(Sized, Protocol):
    """A data set: class names, a length, and items of a uint8 RGB image and its target."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, Target]:
        """Return an image and its target, in the frame of the original photo."""


def save_as_coco(dataset: Labelled, folder: str | Path) -> Path:
    """Write `folder/images/000000.png` … and `folder/annotations.json`; return the path of the latter.

    Category ids are label + 1. Files of the same name are replaced.

    Raises:
        WriteError: the folder or a file cannot be written.
    """
    folder = Path(folder)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: list[dict[str, Any]] = [{"id": k + 1, "name": name} for k, name in enumerate(dataset.class_names)]
    if getattr(dataset, "keypoint_names", ()):
        limbs = [[a + 1, b + 1] for a, b in getattr(dataset, "skeleton", ())]
        for category in categories:
            category |= {"keypoints": list(dataset.keypoint_names), "skeleton": limbs}  # type: ignore[attr-defined]
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for index in range(len(dataset)):
            pixels, target = dataset[index]
            name = f"{index:06d}.png"
            Image.fromarray(pixels).save(folder / "images" / name, compress_level=1)
            images.append({"id": index + 1, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
            for entry in target_annotations(target):
                entry = {"id": len(annotations) + 1, "image_id": index + 1, **entry}
                annotations.append({**entry, "category_id": entry.pop("label") + 1})
        contents = {"images": images, "annotations": annotations, "categories": categories}
        path = folder / "annotations.json"
        path.write_text(json.dumps(contents), encoding="utf-8")
    except OSError as e:
        raise WriteError(f"{os_reason(e.filename or folder, e)}.") from None
    return path


def target_annotations(target: Target) -> list[dict[str, Any]]:
    """Return the objects of a target as COCO annotations, with their `label` in place of all ids.

    Without an area of its own an object gets its mask's, and without a mask its box's.
    """
    corners = target.boxes.double().cpu()
    sizes = corners[:, 2:] - corners[:, :2]
    masks = None if target.masks is None else encode_masks(target.masks)
    if target.area is not None:
        areas = target.area.tolist()
    elif target.masks is not None:
        areas = target.masks.sum(dim=(1, 2)).tolist()
    else:
        areas = sizes.prod(dim=1).tolist()
    crowd = [False] * len(target) if target.crowd is None else target.crowd.tolist()
    annotations = []
    for g in range(len(target)):
        entry: dict[str, Any] = {
            "label": int(target.labels[g]),
            "bbox": [*corners[g, :2].tolist(), *sizes[g].tolist()],
            "area": float(areas[g]),
            "iscrowd": int(crowd[g]),
        }
        if target.keypoints is not None:
            values = target.keypoints[g].double().cpu()
            entry |= {"keypoints": values.flatten().tolist(), "num_keypoints": int((values[:, 2] > 0).sum())}
        annotations.append(entry if masks is None else {**entry, "segmentation": masks[g]})
    return annotations
