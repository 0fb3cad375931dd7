"""Data sets that others wrote: any sequence of (image, target)."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from maskrcnn.errors import DatasetError
from maskrcnn.images import ImageLike, load_image
from maskrcnn.structures import Target
from maskrcnn.targets import check_target


@runtime_checkable
class ImagesAndTargets(Protocol):
    """Any data set of (image, target): images as `predict` takes them, targets a `Target` or torchvision's dict."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> tuple[ImageLike, Any]:
        """Return an image and its target, in the frame of the original photo."""


class CheckedDataset:
    """A view of any data set whose items are checked, uint8 RGB arrays and `Target`s.

    Args:
        dataset: the data set.
        class_names: the name of each label.
        masks: whether targets must have masks.
        keypoint_names: the keypoints that targets must have.
    """

    def __init__(
        self,
        dataset: ImagesAndTargets,
        class_names: tuple[str, ...],
        masks: bool,
        keypoint_names: tuple[str, ...] = (),
    ) -> None:
        self.dataset = dataset
        self.class_names = class_names
        self.masks = masks
        self.keypoint_names = keypoint_names

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Target]:
        """Return image and target.

        Raises:
            ImageFileError: the image cannot be read.
            InputError: image or target has the wrong shape, type or values.
        """
        name = self.image_name(index)
        source, target = self.dataset[index]
        image = load_image(source, name)
        size = (image.shape[0], image.shape[1])
        classes, keypoints = len(self.class_names), len(self.keypoint_names)
        return image, check_target(target, size, classes, self.masks, f"{name}: target", keypoints)

    def image_name(self, index: int) -> str:
        """Return what the data set calls an item, for messages: a path where it has one."""
        name = getattr(self.dataset, "image_name", None)
        return str(name(index)) if name is not None else f"item {index} of the data set"


def check_keypoint_names(dataset: object, known: tuple[str, ...], which: str) -> None:
    """Raise `DatasetError` where a data set names other keypoints than a network that has some, or in another order."""
    names = getattr(dataset, "keypoint_names", ())
    if known and names and tuple(names) != known:
        raise DatasetError(
            f"The {which} data has the keypoints {', '.join(names)}; the network has {', '.join(known)}."
        )
