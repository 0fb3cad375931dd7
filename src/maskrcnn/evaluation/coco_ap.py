"""Average precision and recall as COCO defines them, computed by pycocotools (https://cocodataset.org/#detection-eval)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval

from maskrcnn.data.coco_write import Labelled, target_annotations
from maskrcnn.errors import InputError
from maskrcnn.evaluation.result import FIGURES, KEYPOINT_FIGURES, EvaluationResult, Figures
from maskrcnn.ops.rle import encode_masks, rle_area
from maskrcnn.structures import Detections, Target

COCO: Any = pycocotools.coco.COCO
COCOeval: Any = pycocotools.cocoeval.COCOeval

Entry = dict[str, Any]


class _Truth(NamedTuple):
    """What is in one image: its (height, width), and its objects with `label` in place of ids."""

    image_size: tuple[int, int]
    objects: list[Entry]


class CocoEvaluator:
    """Collects detections image by image and measures them against the ground truth.

    Images are named by their index in the data set, and only those that were added count. Adding one
    again replaces what was there, so a sampler that repeats images to fill the last batch does no harm.
    Between equal scores the order of the annotation file's image ids decides, as in pycocotools.

    Example:
        >>> from maskrcnn.data import ShapesDataset
        >>> from maskrcnn.structures import Detections
        >>> evaluator = CocoEvaluator.from_dataset(ShapesDataset(length=2))
        >>> for index in range(2):
        ...     evaluator.add(index, Detections.empty(image_size=(128, 128)))
        >>> evaluator.result().box["AP"]
        0.0

    Args:
        class_names: the name of each label.
        masks: False measures boxes only.
        num_keypoints: measure keypoints, so many of each object; 0 measures none.
    """

    def __init__(self, class_names: Sequence[str], masks: bool = True, num_keypoints: int = 0) -> None:
        self.class_names = tuple(class_names)
        self.masks = masks
        self.num_keypoints = num_keypoints
        self._truth: dict[int, _Truth] = {}
        self._found: dict[int, list[Entry]] = {}
        self._rank: dict[int, int] = {}

    @classmethod
    def from_dataset(cls, dataset: Labelled, masks: bool = True, num_keypoints: int = 0) -> CocoEvaluator:
        """Return an evaluator that knows the ground truth of a data set.

        Takes it from the data set's `coco_ground_truth()`, or else reads every item once.

        Raises:
            InputError: masks or keypoints are to be measured, and the data set has none.
        """
        evaluator = cls(dataset.class_names, masks, num_keypoints)
        ground_truth = getattr(dataset, "coco_ground_truth", None)
        if ground_truth is not None:
            evaluator._take(ground_truth())
        else:
            for index in range(len(dataset)):
                pixels, target = dataset[index]
                evaluator.add_target(index, target, (pixels.shape[0], pixels.shape[1]))
        return evaluator

    def add_target(self, index: int, target: Target, image_size: tuple[int, int]) -> None:
        """Take the ground truth of an image of (height, width), for a data set that is not read ahead."""
        if self.masks and target.masks is None:
            raise InputError(f"The target of image {index} has no masks; measure boxes with masks=False.")
        if self.num_keypoints and (target.keypoints is None or target.keypoints.shape[1] != self.num_keypoints):
            raise InputError(
                f"The target of image {index} does not have {self.num_keypoints} keypoints for each object."
            )
        self._truth[index] = _Truth(image_size, target_annotations(target))

    def add(self, index: int, detections: Detections) -> None:
        """Take what was found in an image, which may be nothing.

        Raises:
            InputError: no ground truth is known of this image, or the detections do not fit it.
        """
        if index not in self._truth:
            raise InputError(f"No ground truth is known of image {index}; call add_target first.")
        wanted = self._truth[index].image_size
        if detections.image_size != wanted:
            raise InputError(
                f"The detections of image {index} are for {_size(detections.image_size)} pixels; "
                f"the image has {_size(wanted)}. Detections must be in the frame of the original photo."
            )
        if self.masks and detections.masks is None and detections.rles is None:
            raise InputError(f"The detections of image {index} have no masks; measure boxes with masks=False.")
        if self.num_keypoints and detections.keypoints is None:
            raise InputError(f"The detections of image {index} have no keypoints.")
        labels = detections.labels.tolist()
        if labels and not 0 <= min(labels) <= max(labels) < len(self.class_names):
            raise InputError(
                f"The detections of image {index} have labels {min(labels)} … {max(labels)}; "
                f"there are {len(self.class_names)} classes, 0 … {len(self.class_names) - 1}."
            )
        self._found[index] = _entries(detections, self.masks)

    def merge(self, other: CocoEvaluator) -> None:
        """Take over what another evaluator was given, as when several processes share a data set."""
        self._truth |= other._truth
        self._found |= other._found
        self._rank |= other._rank

    def clear(self) -> None:
        """Forget all detections and keep the ground truth, for the next epoch."""
        self._found.clear()

    def result(self) -> EvaluationResult:
        """Return COCO's figures over the images added so far."""
        truth = {index: self._truth[index] for index in sorted(self._found)}
        box, box_classes = self._measure("bbox", truth)
        mask, mask_classes = self._measure("segm", truth) if self.masks else (None, [])
        keypoint = self._measure("keypoints", truth)[0] if self.num_keypoints else None
        per_class: dict[str, Figures] = {}
        for k, name in enumerate(self.class_names):
            per_class[name] = {"box": box_classes[k][0], "box50": box_classes[k][1]}
            if self.masks:
                per_class[name] |= {"mask": mask_classes[k][0], "mask50": mask_classes[k][1]}
        return EvaluationResult(
            box=box,
            mask=mask,
            per_class=per_class,
            num_images=len(truth),
            num_objects=sum(not o["iscrowd"] for t in truth.values() for o in t.objects),
            num_detections=sum(len(entries) for entries in self._found.values()),
            keypoint=keypoint,
        )

    def _take(self, ground_truth: dict[str, Any]) -> None:
        """Take a COCO dictionary whose images are in the order of the data set."""
        places = {image["id"]: index for index, image in enumerate(ground_truth["images"])}
        by_id = sorted(places, key=lambda image_id: (isinstance(image_id, str), image_id))
        self._rank = {places[image_id]: rank for rank, image_id in enumerate(by_id)}
        for index, image in enumerate(ground_truth["images"]):
            self._truth[index] = _Truth((image["height"], image["width"]), [])
        labels = {c["id"]: k for k, c in enumerate(ground_truth["categories"])}
        for entry in ground_truth["annotations"]:
            if self.masks and "segmentation" not in entry:
                raise InputError("The data set was read without masks; measure boxes with masks=False.")
            if self.num_keypoints and len(entry.get("keypoints", ())) != 3 * self.num_keypoints:
                raise InputError(
                    f"The data set was read without its keypoints, or has not {self.num_keypoints} of them."
                )
            self._truth[places[entry["image_id"]]].objects.append({**entry, "label": labels[entry["category_id"]]})

    def _measure(
        self, kind: Literal["bbox", "segm", "keypoints"], truth: dict[int, _Truth]
    ) -> tuple[Figures, list[tuple[float | None, float | None]]]:
        """Return the twelve figures, and (AP, AP50) of every class."""
        names = KEYPOINT_FIGURES if kind == "keypoints" else FIGURES
        if not truth:
            return dict.fromkeys(names), [(None, None)] * len(self.class_names)
        found = {index: self._found[index] for index in truth}
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
            evaluation = COCOeval(
                self._coco(truth, {index: t.objects for index, t in truth.items()}, kind),
                self._coco(truth, found, kind),
                kind,
            )
            if kind == "keypoints":
                evaluation.params.kpt_oks_sigmas = oks_sigmas(self.num_keypoints)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        figures = {name: _figure(value) for name, value in zip(names, evaluation.stats, strict=True)}
        # [IoU thresholds, recalls, classes, areas, detections]: all areas, 100 detections.
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        classes = range(len(self.class_names))
        return figures, [(_mean(precision[:, :, k]), _mean(precision[0, :, k])) for k in classes]

    def _coco(self, truth: dict[int, _Truth], entries: dict[int, list[Entry]], kind: str) -> Any:
        """Return objects or detections as pycocotools wants them.

        Ids start at 1: pycocotools takes an object with id 0 that was found for one that was not. Its
        `loadRes` is left aside: where masks are measured it would size detections by their boxes.
        """
        annotations: list[Entry] = []
        for index, found in entries.items():
            for o in found:
                width, height = o["bbox"][2:]
                extra = {"segmentation": o["segmentation"]} if kind == "segm" else {}
                if kind == "keypoints":
                    extra = {"keypoints": o["keypoints"], "num_keypoints": o.get("num_keypoints", 0)}
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": self._rank.get(index, index),
                        "category_id": o["label"],
                        "bbox": o["bbox"],
                        "score": o.get("score"),
                        "iscrowd": o.get("iscrowd", 0),
                        "area": o["area"] if "area" in o else _area(o, kind, width * height),
                        **extra,
                    }
                )
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": self._rank.get(i, i), "height": t.image_size[0], "width": t.image_size[1]}
                for i, t in truth.items()
            ],
            "annotations": annotations,
            "categories": [{"id": k, "name": name} for k, name in enumerate(self.class_names)],
        }
        coco.createIndex()
        return coco


def coco_results(
    detections: Detections, image_id: int | str, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Return detections in COCO's results format, ready for JSON; keypoints as (x, y, score).

    Boxes are (x, y, width, height) in the original photo, to a ten-thousandth of a pixel; masks are
    compressed RLE.

    Args:
        detections: those of one image.
        image_id: the image's id in the annotation file.
        category_ids: the category id of each label, `CocoDataset.category_ids`; label + 1 without it.
    """
    results = []
    for entry in _entries(detections, masks=True):
        label = entry.pop("label")
        entry["bbox"] = [round(v, 4) for v in entry["bbox"]]
        entry["score"] = round(entry["score"], 7)
        if "keypoints" in entry:
            entry["keypoints"] = [round(v, 4) for v in entry["keypoints"]]
        category_id = label + 1 if category_ids is None else category_ids[label]
        results.append({"image_id": image_id, "category_id": category_id, **entry})
    return results


def _entries(detections: Detections, masks: bool) -> list[Entry]:
    corners = detections.boxes.detach().double().cpu()
    boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in corners.tolist()]
    columns = zip(boxes, detections.labels.tolist(), detections.scores.tolist(), strict=True)
    entries: list[Entry] = [{"label": k, "bbox": box, "score": score} for box, k, score in columns]
    rles = detections.rles
    if masks and rles is None and detections.masks is not None:
        rles = tuple(encode_masks(detections.masks))
    if masks and rles is not None:
        for entry, rle in zip(entries, rles, strict=True):
            entry["segmentation"] = rle
    if detections.keypoints is not None:
        for entry, values in zip(entries, detections.keypoints.double().flatten(1).tolist(), strict=True):
            entry["keypoints"] = values
    return entries


def _area(entry: Entry, kind: str, box_area: float) -> float:
    """Return the size by which a detection is small, medium or large: that of what is measured."""
    if kind == "keypoints":  # as pycocotools: of the box around them
        x, y = entry["keypoints"][0::3], entry["keypoints"][1::3]
        return float((max(x) - min(x)) * (max(y) - min(y)))
    return float(rle_area(entry["segmentation"])) if kind == "segm" else box_area


def oks_sigmas(num_keypoints: int) -> np.ndarray:
    """Return how exactly each keypoint can be placed, as a share of the object's size: COCO's for its 17.

    For other keypoints nobody measured it; they get the mean of COCO's.
    """
    coco = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    return coco if num_keypoints == len(coco) else np.full(num_keypoints, coco.mean())


def _figure(value: float) -> float | None:
    """Return a figure; pycocotools says -1 where there is nothing to measure."""
    return float(value) if value >= 0 else None


def _mean(precision: np.ndarray) -> float | None:
    return float(precision.mean()) if precision.min() >= 0 else None


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} × {size[0]}"
