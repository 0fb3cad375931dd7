"""Running a network over a data set and measuring what it finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int64
from torch import Tensor

from maskrcnn.data.any import CheckedDataset, ImagesAndTargets, check_keypoint_names
from maskrcnn.errors import DatasetError, ImageFileError, InputError
from maskrcnn.evaluation.coco_ap import CocoEvaluator
from maskrcnn.evaluation.result import EvaluationResult
from maskrcnn.progress import Bar, Reporter
from maskrcnn.structures import Detections, MaskForm

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN
    from maskrcnn.prediction import Predictor


def evaluate(
    model: MaskRCNN | Predictor,
    dataset: ImagesAndTargets,
    batch_size: int = 1,
    reporter: Reporter | None = None,
    collect: Callable[[int, Detections], None] | None = None,
) -> EvaluationResult:
    """Return COCO's figures of `model` on `dataset`.

    All detections that the configuration lets through count (`box.score_threshold`,
    `box.detections_per_image`), as COCO's rules want. An image that cannot be read is named and left
    out, truth and all. A network may know more classes than the data, as torchvision's weights do: what it finds
    of those is left aside. The model's train or eval mode is left as it was.

    Args:
        model: the network, as it is, optimized or exported.
        dataset: images with their ground truth.
        batch_size: images that go through the network together.
        reporter: shows progress; nothing is shown by default.
        collect: is given every image's index and detections as they come.

    Raises:
        DatasetError: the data has a class that the network does not know or other keypoints, or no image can be read.
        InputError: an image does not fit in an exported network.
    """
    reporter = reporter or Reporter(quiet=True)
    known = hasattr(dataset, "coco_ground_truth")
    names, masks = getattr(dataset, "class_names", model.config.class_names), model.config.masks
    place = _places(model.config.class_names, names)
    keypoints = model.config.keypoint_names
    form: MaskForm = "rle" if collect is None else "pixels"  # of a large photo, pixels take seconds and gigabytes
    check_keypoint_names(dataset, keypoints, "evaluated")
    if known:
        evaluator = CocoEvaluator.from_dataset(dataset, masks, len(keypoints))  # type: ignore[arg-type]
    else:
        evaluator = CocoEvaluator(names, masks, len(keypoints))
    items: Any = dataset if known else CheckedDataset(dataset, names, masks, keypoints)
    with reporter.bar("evaluating", len(dataset)) as bar:
        for start in range(0, len(dataset), batch_size):
            read = _read(items, range(start, min(start + batch_size, len(dataset))), reporter, bar)
            try:
                found = model.predict([image for image, _ in read.values()], 0.0, batch_size, form) if read else []
            except InputError as e:  # it does not fit in the input of an exported network
                raise _named(e, items, list(read)) from None
            for (index, (image, target)), detections in zip(read.items(), found, strict=True):
                if tuple(names) != model.config.class_names:
                    detections = _relabelled(detections, place, names)
                if not known:
                    evaluator.add_target(index, target, (image.shape[0], image.shape[1]))
                evaluator.add(index, counting_pixels(detections, model.config.keypoint.pixel_offset))
                if collect is not None:
                    collect(index, detections)
                bar.advance()
    result = evaluator.result()
    if len(dataset) and not result.num_images:
        raise DatasetError("No image of the data to evaluate on can be read.")
    return result


def counting_pixels(detections: Detections, pixel_offset: float) -> Detections:
    """Return detections whose keypoints count pixels from 0, as COCO's files do; see `KeypointHeadConfig`."""
    if detections.keypoints is None:
        return detections
    return replace(
        detections, keypoints=detections.keypoints - detections.keypoints.new_tensor([pixel_offset] * 2 + [0])
    )


def _places(known: Sequence[str], names: Sequence[str]) -> Int64[Tensor, " K"]:
    """Return for each label of the network the label of the same name in the data, −1 where there is none."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DatasetError(
            f"The data has classes that the network does not know: {', '.join(unknown)}. It knows {', '.join(known)}."
        )
    labels = {name: k for k, name in enumerate(names)}
    return torch.tensor([labels.get(name, -1) for name in known])


def _relabelled(detections: Detections, place: Int64[Tensor, " K"], names: Sequence[str]) -> Detections:
    labels = place[detections.labels]
    return replace(detections, labels=labels, class_names=tuple(names))[labels >= 0]


def _named(error: InputError, items: Any, indices: Sequence[int]) -> InputError:
    """Return an error that tells an image by its name in the data, in place of its number in the batch."""
    name = getattr(items, "image_name", lambda index: f"image {index}")
    return type(error)(re.sub(r"images\[(\d+)\]", lambda m: str(name(indices[int(m[1])])), str(error), count=1))


def _read(items: Any, indices: Sequence[int], reporter: Reporter, bar: Bar) -> dict[int, Any]:
    """Return images and targets by index, without those that cannot be read."""
    read = {}
    for index in indices:
        try:
            read[index] = items[index]
        except ImageFileError as e:
            reporter.warn(f"{e} It is left out of the evaluation.")
            bar.advance()
    return read
