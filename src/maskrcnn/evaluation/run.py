"""Running a network over a data set and measuring what it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from maskrcnn.data.any import CheckedDataset, ImagesAndTargets
from maskrcnn.evaluation.coco_ap import CocoEvaluator
from maskrcnn.evaluation.result import EvaluationResult
from maskrcnn.progress import Reporter
from maskrcnn.structures import Detections

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN


def evaluate(
    model: MaskRCNN,
    dataset: ImagesAndTargets,
    batch_size: int = 1,
    reporter: Reporter | None = None,
    collect: Callable[[int, Detections], None] | None = None,
) -> EvaluationResult:
    """Return COCO's figures of `model` on `dataset`.

    All detections that the configuration lets through count (`box.score_threshold`,
    `box.detections_per_image`), as COCO's rules want. The model's train or eval mode is left as it was.

    Args:
        model: the network.
        dataset: images with their ground truth.
        batch_size: images that go through the network together.
        reporter: shows progress; nothing is shown by default.
        collect: is given every image's index and detections as they come.
    """
    reporter = reporter or Reporter(quiet=True)
    own = hasattr(dataset, "coco_ground_truth")
    known = dataset if own else CheckedDataset(dataset, model.config.class_names, model.config.masks)
    evaluator = CocoEvaluator.from_dataset(known, masks=model.config.masks)  # type: ignore[arg-type]
    with reporter.bar("evaluating", len(dataset)) as bar:
        for start in range(0, len(dataset), batch_size):
            indices = range(start, min(start + batch_size, len(dataset)))
            images = [dataset[index][0] for index in indices]
            found = model.predict(images, score_threshold=0.0, batch_size=batch_size)
            for index, detections in zip(indices, found, strict=True):
                evaluator.add(index, detections)
                if collect is not None:
                    collect(index, detections)
                bar.advance()
    return evaluator.result()
