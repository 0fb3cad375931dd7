"""Photos annotated in the COCO format."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import Dataset

from maskrcnn.data.coco_json import CocoImage, CocoObject, clipped_box, read_coco
from maskrcnn.data.image_folder import check_files, find_images_folder, image_path
from maskrcnn.data.segmentation import to_rle
from maskrcnn.errors import DatasetError, InputError
from maskrcnn.images import load_image
from maskrcnn.ops.rle import RLE, decode_rles, rle_area
from maskrcnn.structures import Target

logger = logging.getLogger("maskrcnn")


class CocoDataset(Dataset[tuple[np.ndarray, Target]]):
    """The images and targets of a COCO annotation file.

    Category ids may have gaps: labels are 0 … K − 1 in order of category id, and `category_ids[label]`
    leads back. Faulty annotations are left out, and `problems` says why, one sentence each.
    Masks stay in memory as polygons or run lengths and are drawn when an item is asked for.

    Args:
        annotation_file: JSON with polygons or run lengths (RLE), compressed or not.
        images_folder: where the file names start; without it, folders near `annotation_file` are tried.
        masks: False reads boxes only, for which the file needs no segmentations.
        keypoints: read the keypoints that the file's categories name, as `keypoint_names`.
        keep_empty: keep images without an object; crowd regions count as none.
        on_error: what a faulty annotation does: "warn" leaves it out and logs a summary, "raise" stops.

    Raises:
        DatasetError: the file cannot be used, or image files are missing.
    """

    def __init__(
        self,
        annotation_file: str | Path,
        images_folder: str | Path | None = None,
        *,
        masks: bool = True,
        keypoints: bool = False,
        keep_empty: bool = True,
        on_error: str = "warn",
    ) -> None:
        if on_error not in ("warn", "raise"):
            raise InputError(f"on_error must be 'warn' or 'raise'; got {on_error!r}.")
        self.annotation_file = Path(annotation_file)
        self.masks = masks
        self.on_error = on_error
        file = read_coco(self.annotation_file, masks, keypoints)
        self.class_names = file.class_names
        self.category_ids = file.category_ids
        self.keypoint_names = file.keypoint_names
        self.skeleton = file.skeleton
        self.problems = file.problems
        if file.problems and on_error == "raise":
            raise DatasetError(f"{self.annotation_file}: {file.problems[0]}")
        kept = [i for i, found in enumerate(file.objects) if keep_empty or any(not o.crowd for o in found)]
        if not kept:
            raise DatasetError(f"{self.annotation_file}: no image has an object, and keep_empty is False.")
        self._images: list[CocoImage] = [file.images[i] for i in kept]
        self._objects: list[list[CocoObject]] = [file.objects[i] for i in kept]
        names = [image.file_name for image in self._images]
        self.images_folder = Path(images_folder or find_images_folder(self.annotation_file, names))
        check_files(self.annotation_file, self.images_folder, [self.image_path(i) for i in range(len(self))])
        self._report()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Target]:
        """Return an image and its target, both in the frame of the original photo.

        Raises:
            DatasetError: the image has another size than the annotation file says.
            ImageFileError: the image cannot be read.
        """
        image = self._images[index]
        pixels = load_image(self.image_path(index))
        self._check_size(image, self.image_path(index), pixels.shape[0], pixels.shape[1])
        found = self._drawn(index)
        return pixels, self._target(image, [o for o, _ in found], [rle for _, rle in found])

    @property
    def num_objects(self) -> int:
        """How many objects all images have, crowd regions not counted."""
        return sum(not o.crowd for found in self._objects for o in found)

    def image_path(self, index: int) -> Path:
        """Return the path of image `index`."""
        return image_path(self.images_folder, self._images[index].file_name)

    def image_name(self, index: int) -> str:
        """Return the path of image `index` as text, to name it by."""
        return str(self.image_path(index))

    def image_id(self, index: int) -> int | str:
        """Return the id that the annotation file gives image `index`."""
        return self._images[index].id

    def coco_ground_truth(self) -> dict[str, Any]:
        """Return the images in use and their objects as a COCO dictionary, every mask as a compressed RLE.

        No image file is opened. Boxes and areas are the file's own, so that figures agree with those of
        other tools.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, image in enumerate(self._images):
            images.append(image._asdict())
            for o, rle in self._drawn(index):
                entry = {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": self.category_ids[o.label],
                    "bbox": list(o.bbox),
                    "area": o.area,
                    "iscrowd": int(o.crowd),
                }
                if o.keypoints is not None:
                    labelled = sum(seen > 0 for seen in o.keypoints[2::3])
                    entry |= {"keypoints": list(o.keypoints), "num_keypoints": labelled}
                annotations.append(entry if rle is None else {**entry, "segmentation": rle})
        names = zip(self.category_ids, self.class_names, strict=True)
        categories = [{"id": category_id, "name": name} for category_id, name in names]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _drawn(self, index: int) -> list[tuple[CocoObject, RLE | None]]:
        """Return the objects of an image with their masks, without those whose mask comes out empty."""
        if not self.masks:
            return [(o, None) for o in self._objects[index]]
        image = self._images[index]
        drawn: list[tuple[CocoObject, RLE | None]] = []
        for o in self._objects[index]:
            rle = to_rle(o.segmentation, image.height, image.width)
            if rle_area(rle):
                drawn.append((o, rle))
            else:
                self._leave_out(index, o)
        return drawn

    def _leave_out(self, index: int, o: CocoObject) -> None:
        problem = f"{o.name}: its polygon covers no pixel."
        if self.on_error == "raise":
            raise DatasetError(f"{self.annotation_file}: {problem}")
        self._objects[index] = [other for other in self._objects[index] if other is not o]
        self.problems.append(problem)
        logger.warning("%s: %s It is left out.", self.annotation_file, problem)

    def _target(self, image: CocoImage, found: list[CocoObject], rles: list[RLE | None]) -> Target:
        drawn = [rle for rle in rles if rle is not None]
        keypoints = None
        if self.keypoint_names:
            values = torch.tensor([o.keypoints for o in found], dtype=torch.float32)
            keypoints = values.reshape(len(found), len(self.keypoint_names), 3)
        return Target(
            boxes=torch.tensor([clipped_box(o.bbox, image) for o in found], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([o.label for o in found], dtype=torch.int64),
            masks=decode_rles(drawn, image.height, image.width) if self.masks else None,
            crowd=torch.tensor([o.crowd for o in found], dtype=torch.bool),
            area=torch.tensor([o.area for o in found], dtype=torch.float32),
            keypoints=keypoints,
        )

    def _check_size(self, image: CocoImage, path: Path, height: int, width: int) -> None:
        if (height, width) == (image.height, image.width):
            return
        hint = ""
        if (width, height) == (image.height, image.width):
            hint = (
                " Width and height are swapped: it looks rotated by EXIF, and annotated as it was before. "
                "Save the image with its rotation applied, or annotate it again."
            )
        raise DatasetError(
            f"{path}: is {width} × {height} pixels, but {self.annotation_file} says {image.width} × "
            f"{image.height} for image {image.id}.{hint}"
        )

    def _report(self) -> None:
        if self.problems:
            shown = "\n".join(f"  {p}" for p in self.problems[:3])
            rest = f"\n  … and {len(self.problems) - 3} more, in .problems" if len(self.problems) > 3 else ""
            count = f"{len(self.problems)} annotation{'s' * (len(self.problems) > 1)}"
            logger.warning("%s: left out %s:\n%s%s", self.annotation_file, count, shown, rest)
