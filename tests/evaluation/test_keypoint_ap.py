"""Keypoint figures: those of pycocotools run on files, and cases worked by hand."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn import Detections, Target
from maskrcnn.evaluation import KEYPOINT_FIGURES, CocoEvaluator, coco_results
from maskrcnn.evaluation.coco_ap import oks_sigmas

SIZE = (300, 400)


def person(x, y, side, count=17, seed=0):
    """A box and keypoints inside it."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, side, (count, 2)) + np.array([x, y])
    seen = rng.integers(0, 3, count)
    return [x, y, x + side, y + side], np.column_stack((points * (seen > 0)[:, None], seen))


def targets(count=17):
    """Three images of two people of several sizes."""
    found = []
    for index in range(3):
        people = [person(20 + 10 * k, 30, 40 + 60 * k, count, seed=10 * index + k) for k in range(2)]
        boxes, points = torch.tensor([p[0] for p in people]).float(), torch.tensor(np.stack([p[1] for p in people]))
        area = torch.tensor([(b[2] - b[0]) * (b[3] - b[1]) * 0.6 for b in boxes.tolist()])
        found.append(Target(boxes, torch.zeros(2, dtype=torch.int64), area=area, keypoints=points.float()))
    return found


def guesses(truth, noise):
    rng = np.random.default_rng(5)
    found = []
    for target in truth:
        points = target.keypoints.clone()
        points[..., :2] += torch.from_numpy(rng.normal(0, noise, points[..., :2].shape)).float()
        points[..., 2] = 0.9
        scores = torch.from_numpy(rng.permutation(len(target)) / 10 + 0.5).float()
        labels = torch.zeros(len(target), dtype=torch.int64)
        order = scores.argsort(descending=True)
        names = tuple(map(str, range(points.shape[1])))
        found.append(
            Detections(target.boxes, labels, scores, None, SIZE, ("person",), points, keypoint_names=names)[order]
        )
    return found


def evaluated(truth, found, count=17):
    evaluator = CocoEvaluator(("person",), masks=False, num_keypoints=count)
    for index, (target, detections) in enumerate(zip(truth, found, strict=True)):
        evaluator.add_target(index, target, SIZE)
        evaluator.add(index, detections)
    return evaluator.result()


@pytest.mark.parametrize("noise", [0.0, 2.0, 6.0, 20.0])
def test_figures_are_those_of_pycocotools_on_files(noise, tmp_path):
    truth = targets()
    found = guesses(truth, noise)
    annotations, results = [], []
    for index, (target, detections) in enumerate(zip(truth, found, strict=True)):
        for g in range(len(target)):
            x1, y1, x2, y2 = target.boxes[g].tolist()
            keypoints = target.keypoints[g]
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": index + 1, "category_id": 1, "iscrowd": 0},
                    **{"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(target.area[g])},
                    "keypoints": keypoints.flatten().tolist(),
                    "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                }
            )
        results += coco_results(detections, index + 1)
    images = [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(3)]
    (tmp_path / "truth.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]})
    )
    (tmp_path / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        measured = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "keypoints")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    ours = evaluated(truth, found).keypoint
    theirs = [value if value >= 0 else None for value in measured.stats]
    assert list(ours) == list(KEYPOINT_FIGURES)
    assert [None if v is None else round(v, 6) for v in ours.values()] == [
        None if v is None else round(float(v), 6) for v in theirs
    ]
    if noise == 0:
        assert ours["AP"] == pytest.approx(1)


def test_sigmas_are_cocos_for_its_keypoints_and_their_mean_for_others():
    assert oks_sigmas(17)[0] == pytest.approx(0.026)
    assert oks_sigmas(4).tolist() == pytest.approx([oks_sigmas(17).mean()] * 4)


def test_other_numbers_of_keypoints():
    truth = targets(count=4)
    assert evaluated(truth, guesses(truth, 0.0), count=4).keypoint["AP"] == pytest.approx(1)


def test_similarity_by_hand():
    """One keypoint d pixels off in an object of area s²: OKS = e^(−d² / (2 s² (2σ)²))."""
    sigma = float(oks_sigmas(1)[0])
    oks = 0.72  # a hit at 0.50 … 0.70, five of ten thresholds
    side = 100.0
    distance = side * 2 * sigma * np.sqrt(-2 * np.log(oks))
    box = torch.tensor([[0.0, 0, side, side]])
    area = torch.tensor([side**2])
    target = Target(box, torch.zeros(1).long(), area=area, keypoints=torch.tensor([[[50.0, 50, 2]]]))
    point = torch.tensor([[[50 + distance, 50, 0.9]]])
    found = Detections(box, torch.zeros(1).long(), torch.ones(1), None, SIZE, ("a",), point, keypoint_names=("p",))
    assert evaluated([target], [found], count=1).keypoint["AP"] == pytest.approx(0.5)


def test_the_table_has_the_ten_figures():
    truth = targets()
    result = evaluated(truth, guesses(truth, 1.0))
    assert result.keypoint_table().row_count == 10 and "keypoint" in result.parts()
    assert json.loads(result.to_json())["keypoint"]["AP"] == result.keypoint["AP"]
