"""What exported networks of all formats have in common: photos that must fit, and batches of a given size."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import InputError
from maskrcnn.export.graph import LARGEST_BATCH, LARGEST_SIDE, Sizes, as_detection_batch
from maskrcnn.images import ImageLike, batch_images, load_image, prepare_image
from maskrcnn.prediction import Predictor
from maskrcnn.structures import DetectionBatch, ImageBatch


class DoesNotFitError(InputError):
    """A photo is too large for what a file was exported for."""


class ExportedModel(Predictor):
    """A network out of a file, whose program takes prepared images of certain sizes and numbers."""

    def __init__(self, config: Config, sizes: Sizes) -> None:
        self.config = config
        self.sizes = sizes

    @abstractmethod
    def run(
        self, images: Float[Tensor, "N 3 H W"], sizes: Int64[Tensor, "N 2"], offsets: Int64[Tensor, "N 2"] | None
    ) -> Mapping[str, Tensor]:
        """Return the program's outputs by name, for a size and a number of images that it takes."""

    def prepare(self, photos: Sequence[ImageLike], first: int = 0) -> ImageBatch:
        """Return photos as the program wants them.

        Raises:
            DoesNotFitError: a photo does not fit; the message names it, its size and the sizes there are.
        """
        loaded = [load_image(photo, f"images[{i}]") for i, photo in enumerate(photos, first)]
        images = [prepare_image(pixels, self.config.image) for pixels in loaded]
        for i, (photo, image) in enumerate(zip(photos, images, strict=True), first):
            name = str(photo) if isinstance(photo, (str, os.PathLike)) else f"images[{i}]"
            check_fits(int(image.shape[1]), int(image.shape[2]), self.sizes, name)
        least = (self.sizes.least,) * 2 if self.sizes.any_size else (self.sizes.height, self.sizes.width)
        return batch_images(images, [(p.shape[0], p.shape[1]) for p in loaded], self.config.image, least)

    def detect(self, images: ImageBatch) -> DetectionBatch:
        """Return what is found, run in parts where there are more images than the program takes at a time.

        Raises:
            InputError: images are of a size that it does not take.
        """
        height, width = images.tensor.shape[2:]
        if not self.sizes.any_size and (height, width) != (self.sizes.height, self.sizes.width):
            raise InputError(
                f"images must be {self.sizes.height} × {self.sizes.width}, which the file was exported for; got "
                f"{height} × {width}."
            )
        most = LARGEST_BATCH if self.sizes.any_batch else self.sizes.batch
        parts = []
        for start in range(0, len(images.tensor), most):
            inputs = [t[start : start + most] for t in (images.tensor, images.sizes, images.starts)]
            count = len(inputs[0])
            if not self.sizes.any_batch:
                inputs = [_filled(t, most) for t in inputs]
            offsets = inputs[2] if self.config.image.padding_place == "center" else None
            with torch.inference_mode():
                found = self.run(inputs[0], inputs[1], offsets)
            parts.append(as_detection_batch({name: tensor[:count] for name, tensor in found.items()}))
        return DetectionBatch(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def check_fits(height: int, width: int, sizes: Sizes, name: str) -> None:
    """Raise `DoesNotFitError` where a resized photo is larger than a program's input; it tells the photo by `name`."""
    most = (LARGEST_SIDE, LARGEST_SIDE) if sizes.any_size else (sizes.height, sizes.width)
    if height <= most[0] and width <= most[1]:
        return
    takes = f"{sizes.least} to {LARGEST_SIDE}" if sizes.any_size else f"{sizes.height} × {sizes.width} (height × width)"
    hint = "" if sizes.any_size else " Export it for that size, or for any."
    raise DoesNotFitError(
        f"{name} is {height} × {width} pixels once resized, and this file was exported for {takes}.{hint}"
    )


def _filled(rows: Tensor, count: int) -> Tensor:
    """Return `count` rows, the last one again and again after those given."""
    missing = count - len(rows)
    return torch.cat((rows, rows[-1:].expand(missing, *rows.shape[1:]))) if missing > 0 else rows
