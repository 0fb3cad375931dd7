"""Making a report."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from maskrcnn.errors import InputError
from maskrcnn.images import ImageLike, load_image
from maskrcnn.inspection.report.layers import seeing_layers
from maskrcnn.inspection.report.page import page
from maskrcnn.inspection.report.subject import Subject
from maskrcnn.inspection.structure import read_structure
from maskrcnn.inspection.trace import trace
from maskrcnn.model import MaskRCNN
from maskrcnn.weights.importing import described


def report(
    model: MaskRCNN,
    image: ImageLike,
    *,
    threshold: float = 0.5,
    name: str | None = None,
    random: bool = False,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Return one HTML page about the network and what it did with one photo; it needs no network and no other file.

    Args:
        model: the network, with weights of any kind.
        image: as for `MaskRCNN.predict`.
        threshold: least score of the detections that are followed; where none reaches it, the best five are.
        name: what to call the photo; by default the file's name.
        random: whether to say that the weights are random.
        progress: is told, four times, what is being done.

    Raises:
        ImageFileError: the file is missing, truncated or not an image.
        InputError: the image or the threshold is wrong.

    Example:
        >>> import numpy as np
        >>> from maskrcnn import Config
        >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"], overrides={"image.min_size": 64}))
        >>> report(model, np.zeros((48, 64, 3), np.uint8), name="nothing", random=True).startswith("<!doctype html>")
        True
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold must be 0 to 1; got {threshold:g}.")
    photo = load_image(image)
    structure = read_structure(model.config, (photo.shape[0], photo.shape[1]))
    tell = progress or (lambda text: None)
    tell("running the network")
    with seeing_layers(model, structure) as seen:
        run = trace(model, photo)
    tell("following the objects")
    shown = name or (Path(image).name if isinstance(image, (str, os.PathLike)) else "a photo")
    subject = Subject(structure, run, seen, threshold, shown, described(model.config), random)
    _ = subject.objects
    tell("drawing")
    text = page(subject)
    tell("done")
    return text
