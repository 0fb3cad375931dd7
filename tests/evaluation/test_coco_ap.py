from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from torch import Tensor

from maskrcnn.data import CocoDataset, ShapesDataset, save_as_coco
from maskrcnn.errors import InputError
from maskrcnn.evaluation import FIGURES, CocoEvaluator, EvaluationResult, coco_results
from maskrcnn.structures import Detections, Target

SIZE = (100, 120)


def fill(boxes: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def target(boxes: list[list[float]], labels: list[int] | None = None, **more: Any) -> Target:
    corners = torch.tensor(boxes).reshape(-1, 4)
    wanted = torch.tensor(labels or [0] * len(boxes), dtype=torch.int64)
    return Target(boxes=corners, labels=wanted, masks=fill(corners), **more)


def found(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Detections:
    corners = torch.tensor(boxes).reshape(-1, 4)
    wanted = torch.tensor(labels or [0] * len(boxes), dtype=torch.int64)
    return Detections(corners, wanted, torch.tensor(scores), fill(corners), SIZE, ("cat", "dog"))


def measure(pairs: list[tuple[Target, Detections]], names: tuple[str, ...] = ("cat",)) -> EvaluationResult:
    evaluator = CocoEvaluator(names)
    for index, (truth, detections) in enumerate(pairs):
        evaluator.add_target(index, truth, SIZE)
        evaluator.add(index, detections)
    return evaluator.result()


def guesses(dataset: ShapesDataset | CocoDataset, steps: int = 1000) -> list[Detections]:
    """Detections of all qualities: jittered, missed, doubled, of the wrong class; scores are of so many values."""
    rng = np.random.default_rng(0)
    result = []
    for _, truth in dataset:
        assert truth.masks is not None
        height, width = truth.masks.shape[1:]
        picked = torch.from_numpy(rng.permutation(np.repeat(np.arange(len(truth)), 2)))
        picked = picked[: max(0, len(picked) - 1)]
        shifts = rng.integers(-4, 5, (len(picked), 2)).tolist()
        boxes = truth.boxes[picked] + torch.tensor([[x, y, x, y] for x, y in shifts]).reshape(-1, 4)
        masks = [truth.masks[g].roll((y, x), (0, 1)) for g, (x, y) in zip(picked, shifts, strict=True)]
        wrong = torch.from_numpy(rng.random(len(picked)) < 0.1)
        labels = torch.where(wrong, (truth.labels[picked] + 1) % len(dataset.class_names), truth.labels[picked])
        scores = torch.from_numpy(rng.permutation(1000)[: len(picked)] * steps // 1000 / steps).float()
        stacked = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
        result.append(Detections(boxes, labels, scores, stacked, (height, width), dataset.class_names))
    return result


def evaluated(dataset: ShapesDataset | CocoDataset, steps: int = 1000) -> EvaluationResult:
    evaluator = CocoEvaluator.from_dataset(dataset)
    for index, detections in enumerate(guesses(dataset, steps)):
        evaluator.add(index, detections)
    return evaluator.result()


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    shapes = ShapesDataset(length=25, image_size=(160, 200), empty_fraction=0.1)
    return CocoDataset(save_as_coco(shapes, tmp_path_factory.mktemp("shapes")))


def with_shuffled_ids(dataset: CocoDataset, path: Path) -> CocoDataset:
    """The same images under other ids, which are not in the order of the file."""
    contents = json.loads(dataset.annotation_file.read_text())
    ids = np.random.default_rng(1).permutation(len(contents["images"])) * 3 + 5
    new = {image["id"]: int(i) for image, i in zip(contents["images"], ids, strict=True)}
    for image in contents["images"]:
        image["id"] = new[image["id"]]
    for annotation in contents["annotations"]:
        annotation["image_id"] = new[annotation["image_id"]]
    path.write_text(json.dumps(contents))
    return CocoDataset(path, dataset.images_folder)


# ---- numbers worked by hand


def test_perfect_detections_score_one() -> None:
    boxes = [[10.0, 10, 30, 40], [50, 20, 100, 90]]
    result = measure([(target(boxes), found(boxes, [0.9, 0.8]))])
    assert result.mask is not None
    for figures in (result.box, result.mask):
        wanted = {"AP": 1, "AP50": 1, "AP75": 1, "APs": 1, "APm": 1, "APl": None, "AR1": 0.5, "AR100": 1}
        assert {name: figures[name] for name in wanted} == pytest.approx(wanted)
    assert result.per_class["cat"] == pytest.approx(dict.fromkeys(["box", "box50", "mask", "mask50"], 1))
    assert (result.num_images, result.num_objects, result.num_detections) == (1, 2, 2)


def test_a_false_positive_between_two_hits() -> None:
    boxes = [[10.0, 10, 30, 40], [50, 20, 100, 90]]
    detections = found([boxes[0], [70, 0, 80, 10], boxes[1]], [0.9, 0.8, 0.7])
    # Precision is 1 up to recall 0.5, which is 51 of COCO's 101 points, and 2/3 beyond.
    wanted = (51 + 50 * 2 / 3) / 101
    result = measure([(target(boxes), detections)])
    assert result.box["AP"] == pytest.approx(wanted)
    assert result.mask is not None and result.mask["AP"] == pytest.approx(wanted)


def test_a_shifted_box_counts_up_to_its_iou() -> None:
    # IoU of a 20 × 20 box with itself 4 pixels on: 16 / 24 = 0.67, a hit at four of the ten thresholds.
    result = measure([(target([[10.0, 10, 30, 30]]), found([[14.0, 10, 34, 30]], [0.9]))])
    assert result.box["AP"] == pytest.approx(0.4)
    assert result.mask is not None and result.mask["AP"] == pytest.approx(0.4)
    assert (result.box["AP50"], result.box["AP75"]) == pytest.approx((1, 0))


def test_the_first_object_of_the_first_image_counts() -> None:
    """An id of 0 would make pycocotools take a found object for a missed one."""
    result = measure([(target([[10.0, 10, 30, 30]]), found([[10.0, 10, 30, 30]], [0.9]))])
    assert result.box["AP"] == pytest.approx(1)


@pytest.mark.parametrize(("crowd", "ap"), [(True, 1.0), (False, 51 / 101 / 3)])
def test_detections_on_a_crowd_count_neither_way(crowd: bool, ap: float) -> None:
    truth = target([[50.0, 10, 110, 90], [10, 10, 30, 30]], crowd=torch.tensor([crowd, False]))
    detections = found([[60.0, 20, 80, 40], [10, 10, 30, 30], [80, 50, 100, 70]], [0.9, 0.8, 0.95])
    result = measure([(truth, detections)])
    assert result.num_objects == (1 if crowd else 2)
    # Without the mark, two false positives stand before the one hit of two objects.
    assert result.box["AP"] == pytest.approx(ap)
    assert result.mask is not None and result.mask["AP"] == pytest.approx(ap)


def test_a_crowd_that_the_file_draws_in_run_lengths(tmp_path: Path) -> None:
    shapes = ShapesDataset(length=1)
    path = save_as_coco(shapes, tmp_path)
    contents = json.loads(path.read_text())
    crowd = {"size": [128, 128], "counts": [64 * 128, 64 * 128]}  # the right half
    contents["annotations"] = [
        {"id": 0, "image_id": 1, "category_id": 1, "bbox": [8, 8, 40, 40], "area": 1600, "iscrowd": 0,
         "segmentation": [[8, 8, 48, 8, 48, 48, 8, 48]]},
        {"id": 5, "image_id": 1, "category_id": 1, "bbox": [64, 0, 64, 128], "area": 8192, "iscrowd": 1,
         "segmentation": crowd},
    ]  # fmt: skip
    path.write_text(json.dumps(contents))
    evaluator = CocoEvaluator.from_dataset(CocoDataset(path))
    boxes = torch.tensor([[70.0, 20, 90, 60], [8, 8, 48, 48]])
    labels, scores = torch.zeros(2, dtype=torch.int64), torch.tensor([0.9, 0.8])
    evaluator.add(0, Detections(boxes, labels, scores, fill(boxes, (128, 128)), (128, 128)))
    result = evaluator.result()
    assert (result.box["AP"], result.mask and result.mask["AP"]) == pytest.approx((1, 1))


def test_the_area_of_the_file_decides_what_is_small() -> None:
    box = [[10.0, 10, 50, 50]]
    by_mask = measure([(target(box), found(box, [0.9]))])
    by_file = measure([(target(box, area=torch.tensor([9.0])), found(box, [0.9]))])
    assert (by_mask.box["APs"], by_mask.box["APm"]) == (None, pytest.approx(1))
    assert (by_file.box["APs"], by_file.box["APm"]) == (pytest.approx(1), None)


def test_mask_detections_are_sized_by_their_mask() -> None:
    """A detection far from every object is left out of the figures of sizes it does not have."""
    truth = target([[10.0, 10, 30, 30]])
    box = torch.tensor([[40.0, 40, 90, 90], [10, 10, 30, 30]])
    masks = fill(torch.tensor([[40.0, 40, 50, 50], [10, 10, 30, 30]]))
    detections = Detections(box, torch.zeros(2, dtype=torch.int64), torch.tensor([0.9, 0.8]), masks, SIZE)
    result = measure([(truth, detections)])
    assert result.box["APs"] == pytest.approx(1)  # its box is medium
    assert result.mask is not None and result.mask["APs"] == pytest.approx(0.5)  # its mask is small


# ---- agreement with other ways to compute the same


@pytest.mark.parametrize(
    ("order", "steps"), [("as written", 1000), ("shuffled", 1000), ("shuffled", 10)], ids=["plain", "ids", "ties"]
)
def test_agrees_with_pycocotools_run_directly(coco: CocoDataset, tmp_path: Path, order: str, steps: int) -> None:
    if order == "shuffled":  # among equal scores the order of image ids decides
        coco = with_shuffled_ids(coco, tmp_path / "shuffled.json")
    result = evaluated(coco, steps)
    found = enumerate(guesses(coco, steps))
    results = [entry for i, d in found for entry in coco_results(d, coco.image_id(i), coco.category_ids)]
    assert 0.2 < (result.box["AP"] or 0) < 0.9
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(coco.annotation_file))
        for kind, figures in (("bbox", result.box), ("segm", result.mask)):
            left_out = "segmentation" if kind == "bbox" else "bbox"
            entries = [{k: v for k, v in r.items() if k != left_out} for r in results]
            evaluation = COCOeval(truth, truth.loadRes(entries), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            wanted = [None if v < 0 else v for v in evaluation.stats]
            assert figures is not None
            assert list(figures.values()) == pytest.approx(wanted, abs=1e-9)


def test_targets_and_a_coco_dictionary_give_the_same(coco: CocoDataset) -> None:
    from_dictionary = evaluated(coco)
    evaluator = CocoEvaluator(coco.class_names)
    for index, detections in enumerate(guesses(coco)):
        image, truth = coco[index]
        evaluator.add_target(index, truth, image.shape[:2])
        evaluator.add(index, detections)
    assert evaluator.result() == from_dictionary


def test_a_data_set_without_a_dictionary_is_read_once() -> None:
    shapes = ShapesDataset(length=5)
    evaluator = CocoEvaluator.from_dataset(shapes)
    for index, (_, t) in enumerate(shapes):
        evaluator.add(index, Detections(t.boxes, t.labels, torch.ones(len(t)), t.masks, (128, 128)))
    result = evaluator.result()
    assert (result.box["AP"], result.mask and result.mask["AP"]) == pytest.approx((1, 1))


# ---- how it is used


def test_order_and_repetition_of_images_do_not_matter(coco: CocoDataset) -> None:
    everything = guesses(coco)
    evaluator = CocoEvaluator.from_dataset(coco)
    for index in [*reversed(range(len(coco))), 3, 0]:
        evaluator.add(index, everything[index])
    assert evaluator.result() == evaluated(coco)


def test_merged_parts_equal_the_whole(coco: CocoDataset) -> None:
    parts = [CocoEvaluator.from_dataset(coco) for _ in range(2)]
    for index, detections in enumerate(guesses(coco)):
        parts[index % 2].add(index, detections)
    parts[0].merge(parts[1])
    assert parts[0].result() == evaluated(coco)


def test_only_images_that_were_added_count(coco: CocoDataset) -> None:
    evaluator = CocoEvaluator.from_dataset(coco)
    _, truth = coco[0]
    evaluator.add(0, Detections(truth.boxes, truth.labels, torch.ones(len(truth)), truth.masks, (160, 200)))
    result = evaluator.result()
    assert result.num_images == 1
    assert result.box["AP"] == pytest.approx(1)
    evaluator.clear()
    assert evaluator.result().num_images == 0


def test_boxes_only_needs_no_masks() -> None:
    truth, detections = target([[10.0, 10, 30, 30]]), found([[10.0, 10, 30, 30]], [0.9])
    truth.masks = None
    bare = Detections(detections.boxes, detections.labels, detections.scores, None, SIZE)
    evaluator = CocoEvaluator(("cat",), masks=False)
    evaluator.add_target(0, truth, SIZE)
    evaluator.add(0, bare)
    result = evaluator.result()
    assert result.mask is None
    assert result.box["AP"] == pytest.approx(1)
    assert list(result.per_class["cat"]) == ["box", "box50"]
    assert "Mask" not in shown(result)
    with pytest.raises(InputError, match="The target of image 0 has no masks; measure boxes with masks=False"):
        CocoEvaluator(("cat",)).add_target(0, truth, SIZE)


# ---- nothing to measure


def shown(result: EvaluationResult) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(result)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(
    ("pairs", "ap"),
    [
        ([], None),
        ([(target([]), found([], []))], None),
        ([(target([]), found([[1.0, 2, 30, 40]], [0.5]))], None),
        ([(target([[1.0, 2, 30, 40]]), found([], []))], 0.0),
        (
            [(target([[1.0, 2, 30, 40]], crowd=torch.tensor([True])), found([[1.0, 2, 30, 40]], [0.5]))],
            None,
        ),
    ],
    ids=["no images", "nothing at all", "no objects", "no detections", "only a crowd"],
)
def test_empty_cases_are_none_or_zero(pairs: list[tuple[Target, Detections]], ap: float | None) -> None:
    result = measure(pairs)
    assert result.mask is not None
    assert list(result.box) == list(result.mask) == list(FIGURES)
    assert result.box["AP"] == result.mask["AP"] == ap
    assert result.per_class["cat"]["box"] == ap
    assert json.loads(result.to_json())["box"]["AP"] == ap
    assert ("–" in shown(result)) == (ap is None or result.box["APl"] is None)


def test_a_class_without_objects_has_no_figures() -> None:
    box = [[10.0, 10, 30, 30]]
    result = measure([(target(box, [1]), found(box, [0.9], [1]))], ("cat", "dog"))
    assert result.per_class["cat"] == dict.fromkeys(["box", "box50", "mask", "mask50"])
    assert result.per_class["dog"]["box"] == pytest.approx(1)
    assert result.box["AP"] == pytest.approx(1)


# ---- results to show and to keep


def test_tables_show_percent_and_counts(coco: CocoDataset) -> None:
    result = evaluated(coco)
    text = shown(result)
    assert "COCO figures on 25 images (%)" in text
    assert f"{100 * (result.box['AP'] or 0):.1f}" in text
    assert f"{result.num_objects} objects, {result.num_detections} detections" in text
    assert all(name in text for name in coco.class_names)


def test_class_names_are_shown_as_they_are() -> None:
    result = measure([(target([]), found([], []))], ("[red]apple", "[/]"))
    assert "[red]apple" in shown(result) and "[/]" in shown(result)


def test_results_are_rounded_and_ready_for_json() -> None:
    detections = found([[10.12345, 10, 30.5, 30]], [0.1234567], [1])
    (entry,) = json.loads(json.dumps(coco_results(detections, "a.jpg", (5, 17))))
    assert entry["image_id"] == "a.jpg"
    assert entry["category_id"] == 17
    assert entry["bbox"] == [10.1235, 10, 20.3765, 20]
    assert entry["score"] == 0.1234567
    assert entry["segmentation"]["size"] == [100, 120]
    assert isinstance(entry["segmentation"]["counts"], str)
    assert coco_results(detections, 3)[0]["category_id"] == 2
    assert coco_results(Detections.empty(SIZE), 3) == []


@pytest.mark.parametrize(
    ("index", "detections", "message"),
    [
        (4, found([], []), "No ground truth is known of image 4; call add_target first"),
        (0, Detections.empty((120, 100)), "of image 0 are for 100 × 120 pixels; the image has 120 × 100"),
        (0, found([[1.0, 2, 3, 4]], [0.5], [1]), r"image 0 have labels 1 … 1; there are 1 classes, 0 … 0"),
        (
            0,
            Detections(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0), None, SIZE),
            "The detections of image 0 have no masks; measure boxes with masks=False",
        ),
    ],
    ids=["image", "size", "label", "masks"],
)
def test_detections_that_do_not_fit_are_refused(index: int, detections: Detections, message: str) -> None:
    evaluator = CocoEvaluator(("cat",))
    evaluator.add_target(0, target([]), SIZE)
    with pytest.raises(InputError, match=message):
        evaluator.add(index, detections)


def test_a_data_set_read_without_masks_measures_boxes(coco: CocoDataset) -> None:
    boxes = CocoDataset(coco.annotation_file, masks=False)
    with pytest.raises(InputError, match="read without masks; measure boxes with masks=False"):
        CocoEvaluator.from_dataset(boxes)
    assert CocoEvaluator.from_dataset(boxes, masks=False).result().mask is None
