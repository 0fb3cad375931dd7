"""The check that ends an export: does the file find what the network finds?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from maskrcnn.data.shapes import ShapesDataset
from maskrcnn.errors import InputError, MaskRCNNError
from maskrcnn.export.agreement import Agreement, agreement, agreement_in_photo
from maskrcnn.export.exported import ExportedModel
from maskrcnn.export.graph import Sizes
from maskrcnn.images import ImageLike, image_files
from maskrcnn.model import MaskRCNN
from maskrcnn.prediction import Predictor

MADE, MOST = 2, 8
"""Images that are made to compare on where none are given, and the most that are taken of a folder."""


class DifferentError(MaskRCNNError, ValueError):
    """An exported network does not find what the network finds that it was made from."""


def images_to_check(folder: Path | None, sizes: Sizes) -> list[ImageLike]:
    """Return photos of a folder, or made images: coloured shapes, and noise.

    Raises:
        InputError: there is no such folder, or no picture in it.
    """
    if folder is not None:
        return [str(path) for path in image_files([folder])[:MOST]]
    shape = (max(sizes.height // 2, 32), max(sizes.width // 2, 32))  # of its shape, so that it fits
    made = ShapesDataset(MADE, shape, seed=0)
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    return [*(made[i][0] for i in range(MADE)), noise]


def compare(
    model: MaskRCNN, exported: ExportedModel, photos: Sequence[ImageLike], tell: Callable[[], None] = lambda: None
) -> Agreement:
    """Return how the detections of a file compare with those of its network, run as it is, on photos.

    Args:
        model: the network.
        exported: the file.
        photos: to compare on, one by one and, where the file takes several at a time, the first two together.
        tell: is called after each.
    """
    model = model.eval()
    several = exported.sizes.any_batch or exported.sizes.batch > 1
    parts = []
    for group in [*([photo] for photo in photos), *([photos[:2]] if several and len(photos) > 1 else [])]:
        batch = exported.prepare(group)
        with torch.inference_mode():
            ours = model(batch.to(model.device, model.dtype))
        parts.append(agreement(ours, exported.detect(batch), model.config.box.score_threshold))
        tell()
    return Agreement.of_all(parts)


def compare_photos(model: MaskRCNN, exported: Predictor, photos: Sequence[ImageLike]) -> Agreement:
    """Return how what a file predicts compares with what its network predicts, photos and all."""
    threshold = model.config.box.score_threshold
    found = ([each.predict(photo, 0.0, masks="rle")[0] for each in (model, exported)] for photo in photos)
    return Agreement.of_all(agreement_in_photo(ours, theirs, threshold) for ours, theirs in found)


def require_same(found: Agreement, what: str) -> None:
    """Raise `DifferentError` where a file and its network do not find the same."""
    if not found.holds:
        raise DifferentError(
            f"{what} does not find what the network finds: {found}, where all must match with scores within 1e-4. "
            "It was not written (--no-check writes it)."
        )


def check_folder(folder: Path | None, option: str) -> None:
    """Raise `InputError` where a folder of photos is named that is none, or empty."""
    if folder is not None:
        try:
            image_files([folder])
        except InputError as e:
            raise InputError(f"{option}: {e}") from None
