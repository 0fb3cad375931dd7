"""The class and box head: shapes, sampling, losses by hand, and detections from hand-made answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.config import BoxHeadConfig, BoxLossConfig
from maskrcnn.heads.box import BoxHead, Found, SampledRoIs, _candidates, of_class
from maskrcnn.structures import ImageBatch, Proposals, TargetBatch

CLASSES = 2
BACKGROUND = CLASSES


def head(**fields: Any) -> BoxHead:
    return BoxHead(BoxHeadConfig(**{"fc_channels": 8, **fields}), 4, 3, CLASSES)


def image_batch(*sizes: tuple[int, int]) -> ImageBatch:
    return ImageBatch(torch.zeros(len(sizes), 3, 64, 64), torch.tensor(sizes), torch.tensor(sizes))


def proposed(*boxes: list[float], valid: list[bool] | None = None) -> Proposals:
    chosen = torch.tensor([valid or [True] * len(boxes)])
    return Proposals(torch.tensor([boxes]).float(), torch.ones(1, len(boxes)), chosen)


def logits(*rows: list[float]) -> Tensor:
    """Class logits whose softmax is the given probabilities, background last."""
    return torch.tensor(rows).clamp(min=1e-12).log()


def targets(boxes: list[list[float]], labels: list[int], valid: list[bool] | None = None) -> TargetBatch:
    return TargetBatch(
        torch.tensor([boxes]).float(),
        torch.tensor([labels]),
        torch.zeros(1, len(boxes), 0, 0).bool(),
        torch.tensor([valid or [True] * len(boxes)]),
    )


def found(result: Found, image: int = 0) -> list[tuple[list[float], int, float]]:
    """Box, label and score of each valid detection, rounded."""
    return [
        ([round(v, 2) for v in box], label, round(score, 3))
        for box, label, score, valid in zip(*(t[image].tolist() for t in result), strict=True)
        if valid
    ]


# The network


@pytest.mark.parametrize("num_convs", [0, 2])
@pytest.mark.parametrize("num_fcs", [0, 1, 2])
@pytest.mark.parametrize(("class_agnostic", "columns"), [(False, CLASSES), (True, 1)])
def test_shapes(num_convs: int, num_fcs: int, class_agnostic: bool, columns: int) -> None:
    network = head(num_convs=num_convs, conv_channels=5, num_fcs=num_fcs, class_agnostic=class_agnostic)
    for rois in (6, 0):
        class_logits, box_deltas = network(torch.randn(rois, 4, 3, 3))
        assert class_logits.shape == (rois, CLASSES + 1)
        assert box_deltas.shape == (rois, columns, 4)


def test_without_fully_connected_layers_the_crop_is_averaged() -> None:
    network, crops = head(num_fcs=0), torch.randn(5, 4, 3, 3)
    torch.testing.assert_close(network(crops)[0], network.class_logits(crops.mean((2, 3))))


def test_fully_connected_layers_see_channel_row_column() -> None:
    network, crops = head(num_fcs=1), torch.randn(5, 4, 3, 3)
    hidden = F.relu(network.fcs[0](crops.reshape(5, 4 * 9)))
    torch.testing.assert_close(network(crops)[0], network.class_logits(hidden))
    torch.testing.assert_close(network(crops)[1], network.box_deltas(hidden).reshape(5, CLASSES, 4))


def test_of_class_picks_each_rows_own() -> None:
    table = torch.arange(12.0).reshape(3, 2, 2)
    torch.testing.assert_close(of_class(table, torch.tensor([1, 0, 1])), torch.tensor([[2.0, 3], [4, 5], [10, 11]]))


def test_of_class_picks_the_only_one() -> None:
    table = torch.arange(3.0).reshape(3, 1)
    torch.testing.assert_close(of_class(table, torch.tensor([1, 0, 7])), torch.arange(3.0))


# Detections


def test_labels_scores_and_boxes_by_hand() -> None:
    network = head()
    deltas = torch.zeros(2, CLASSES, 4)
    deltas[0, 1, 0] = 5.0  # with weight 10: half the width to the right, for class 1 alone
    result = network.detections(
        logits([0.1, 0.7, 0.2], [0.6, 0.01, 0.39]),
        deltas,
        proposed([0, 0, 10, 10], [30, 30, 40, 50]),
        image_batch((64, 64)),
    )
    assert found(result) == [
        ([5, 0, 15, 10], 1, 0.7),
        ([30, 30, 40, 50], 0, 0.6),
        ([0, 0, 10, 10], 0, 0.1),
    ]


def test_one_box_for_all_classes() -> None:
    result = head(class_agnostic=True).detections(
        logits([0.4, 0.5, 0.1]),
        torch.tensor([[[5.0, 0, 0, 0]]]),
        proposed([0, 0, 10, 10]),
        image_batch((64, 64)),
    )
    assert found(result) == [([5, 0, 15, 10], 1, 0.5), ([5, 0, 15, 10], 0, 0.4)]


def test_background_is_never_detected() -> None:
    result = head(score_threshold=0.0).detections(
        logits([0, 0, 1.0]), torch.zeros(1, CLASSES, 4), proposed([0, 0, 10, 10]), image_batch((64, 64))
    )
    assert result.valid.shape == (1, CLASSES)
    assert all(label != BACKGROUND and score < 1e-6 for _, label, score in found(result))


@pytest.mark.parametrize(("threshold", "count"), [(0.499, 1), (0.5, 0), (0.501, 0)])
def test_score_must_exceed_the_threshold(threshold: float, count: int) -> None:
    half = torch.tensor([[0.0, -math.inf, 0.0]])
    result = head(score_threshold=threshold).detections(
        half, torch.zeros(1, CLASSES, 4), proposed([0, 0, 10, 10]), image_batch((64, 64))
    )
    assert len(found(result)) == count


def test_two_classes_stay_at_the_same_place_and_duplicates_of_one_go() -> None:
    result = head().detections(
        logits([0.5, 0.4, 0.1], [0.45, 0.0, 0.55]),
        torch.zeros(2, CLASSES, 4),
        proposed([0, 0, 10, 10], [0, 0, 10, 9]),
        image_batch((64, 64)),
    )
    assert found(result) == [([0, 0, 10, 10], 0, 0.5), ([0, 0, 10, 10], 1, 0.4)]


def test_invalid_proposals_are_not_detected() -> None:
    result = head().detections(
        logits([0.9, 0.0, 0.1], [0.0, 0.8, 0.2]),
        torch.zeros(2, CLASSES, 4),
        proposed([0, 0, 10, 10], [20, 0, 30, 10], valid=[False, True]),
        image_batch((64, 64)),
    )
    assert found(result) == [([20, 0, 30, 10], 1, 0.8)]


def test_each_roi_is_found_only_as_its_likeliest_class() -> None:
    result = head(classes_per_roi="best", score_threshold=0.2).detections(
        logits([0.3, 0.6, 0.1], [0.4, 0.0, 0.6], [0.5, 0.3, 0.2]),
        torch.zeros(3, CLASSES, 4),
        proposed([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]),
        image_batch((64, 64)),
    )
    assert found(result) == [([0, 0, 10, 10], 1, 0.6), ([40, 0, 50, 10], 0, 0.5)]


def test_with_likeliest_classes_alone_empty_slots_take_part() -> None:
    result = head(classes_per_roi="best", min_size=None).detections(
        logits([0.9, 0.0, 0.1], [0.0, 0.8, 0.2]),
        torch.zeros(2, CLASSES, 4),
        proposed([20, 0, 30, 10], [0, 0, 0, 0], valid=[True, False]),
        image_batch((64, 64)),
    )
    assert found(result) == [([20, 0, 30, 10], 0, 0.9), ([0, 0, 0, 0], 1, 0.8)]


def test_boxes_are_cut_to_the_image_and_small_ones_dropped() -> None:
    result = head(min_size=4.0).detections(
        logits(*[[0.9, 0.0, 0.1]] * 3),
        torch.zeros(3, CLASSES, 4),
        proposed([10, 10, 60, 60], [35, 0, 60, 20], [0, 0, 9, 3.9]),
        image_batch((30, 38)),
    )
    assert found(result) == [([10, 10, 38, 30], 0, 0.9)]


def test_best_detections_come_first_and_no_more_than_configured() -> None:
    scores = torch.rand(12) * 0.9 + 0.05
    answers = torch.stack((scores, torch.zeros(12), 1 - scores), dim=1)
    boxes = proposed(*[[5 * i, 0, 5 * i + 4, 10] for i in range(12)])
    result = head(detections_per_image=4).detections(
        answers.log(), torch.zeros(12, CLASSES, 4), boxes, image_batch((64, 64))
    )
    assert result.valid.tolist() == [[True] * 4]
    torch.testing.assert_close(result.scores[0], scores.sort(descending=True).values[:4])


def test_a_fixed_number_of_candidates_enters_nms_or_on_a_cpu_all_that_score_enough() -> None:
    scores = torch.tensor([[0.3, 0.5, 0.4, 0.01], [0.9, 0.0, 0.0, 0.0]])

    def count(scores: Tensor, candidates: int, at_least: int = 1) -> int:
        best, place = _candidates(scores, BoxHeadConfig(candidates=candidates), at_least)
        assert best.shape == place.shape
        return best.shape[1]

    assert count(scores.to("meta"), 2) == 2
    assert count(scores.to("meta"), 2, at_least=3) == 3
    assert count(scores, 2) == 3
    assert count(scores, 2000) == 4


def test_all_that_score_enough_are_found_on_a_cpu() -> None:
    answers = logits([0.3, 0.0, 0.7], [0.5, 0.0, 0.5], [0.4, 0.0, 0.6])
    boxes = proposed([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10])
    result = head(candidates=2).detections(answers, torch.zeros(3, CLASSES, 4), boxes, image_batch((64, 64)))
    assert [box[0] for box, _, _ in found(result)] == [20, 40, 0]


def test_each_image_is_detected_on_its_own() -> None:
    answers = torch.randn(2 * 7, CLASSES + 1)
    deltas = torch.randn(2 * 7, CLASSES, 4)
    corner = torch.rand(2, 7, 2) * 40
    boxes = torch.cat((corner, corner + 15), dim=-1)
    valid = torch.rand(2, 7) < 0.8
    sizes = [(64, 64), (40, 50)]
    together = head().detections(answers, deltas, Proposals(boxes, torch.ones(2, 7), valid), image_batch(*sizes))
    for n, size in enumerate(sizes):
        rows, alone = slice(7 * n, 7 * n + 7), slice(n, n + 1)
        proposals = Proposals(boxes[alone], torch.ones(1, 7), valid[alone])
        result = head().detections(answers[rows], deltas[rows], proposals, image_batch(size))
        torch.testing.assert_close(tuple(t[alone] for t in together), tuple(result))


def test_nothing_to_detect() -> None:
    result = head().detections(
        logits([0.9, 0.0, 0.1]),
        torch.zeros(1, CLASSES, 4),
        proposed([0, 0, 0, 0], valid=[False]),
        image_batch((64, 64)),
    )
    assert not result.valid.any()
    for values in (result.boxes, result.labels, result.scores):
        assert not values.any()


@pytest.mark.parametrize("which", ["logits", "deltas"])
def test_answers_that_are_not_finite_are_not_detected(which: str) -> None:
    answers, deltas = logits([0.9, 0.0, 0.1], [0.8, 0.0, 0.2]), torch.zeros(2, CLASSES, 4)
    (answers if which == "logits" else deltas)[0] = math.nan
    result = head().detections(answers, deltas, proposed([0, 0, 10, 10], [20, 0, 30, 10]), image_batch((64, 64)))
    assert found(result) == [([20, 0, 30, 10], 0, 0.8)]
    assert result.boxes.isfinite().all()


# Sampling


def test_ground_truth_joins_the_proposals() -> None:
    rois = head().sample(proposed([40, 40, 50, 50]), targets([[0, 0, 10, 10]], [1]))
    assert rois.positive.tolist() == [[True, False]] and rois.valid.all()
    torch.testing.assert_close(rois.boxes[0], torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50]]))


def test_positives_know_their_ground_truth() -> None:
    gt = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    rois = head().sample(proposed([40, 0, 50, 9], [20, 1, 30, 10]), targets(gt, [0, 1, 0]))
    own = torch.tensor(gt).float()[rois.matched_gt[rois.positive]]
    assert rois.positive.sum() == 5
    assert ((rois.boxes[rois.positive] - own).abs() <= 1).all()


def test_padded_proposals_and_ground_truth_are_not_drawn() -> None:
    rois = head().sample(
        proposed([0, 0, 0, 0], [5, 5, 9, 9], valid=[False, True]),
        targets([[0, 0, 10, 10], [0, 0, 0, 0]], [1, 0], valid=[True, False]),
    )
    assert rois.valid.sum() == 2
    drawn = rois.boxes[rois.valid].tolist()
    assert sorted(drawn) == [[0, 0, 10, 10], [5, 5, 9, 9]]


def test_image_without_objects_gives_negatives_only() -> None:
    rois = head().sample(proposed([5, 5, 9, 9]), targets([[0, 0, 0, 0]], [0], valid=[False]))
    assert rois.valid.sum() == 1 and not rois.positive.any()


# Losses


def sampled(*rows: tuple[list[float], int, bool, bool]) -> SampledRoIs:
    """RoIs as (box, matched ground truth, positive, valid)."""
    boxes, matched, positive, valid = zip(*rows, strict=True)
    return SampledRoIs(
        torch.tensor([boxes]).float(),
        torch.tensor([matched]),
        torch.tensor([positive]),
        torch.tensor([valid]),
    )


@pytest.mark.parametrize("class_agnostic", [False, True], ids=["per class", "class-agnostic"])
def test_losses_by_hand(class_agnostic: bool) -> None:
    # A positive of class 1, a negative, and a slot that nothing was drawn for.
    gt = targets([[50, 50, 60, 60], [1, 0, 11, 10]], [0, 1])
    rois = sampled(([0, 0, 10, 10], 1, True, True), ([30, 0, 40, 10], 0, False, True), ([0, 0, 0, 0], 0, False, False))
    deltas = torch.full((3, 1 if class_agnostic else CLASSES, 4), 7.0)
    deltas[0, -1] = torch.tensor([0.5, 0, 0, 0])  # wanted: dx = 10 · 0.1 = 1
    network = head(class_agnostic=class_agnostic, loss=BoxLossConfig(beta=0))
    answers = logits([0.1, 0.6, 0.3], [0.1, 0.1, 0.8], [1.0, 0.0, 0.0])
    class_loss, box_loss = network.losses(answers, deltas, rois, gt)
    torch.testing.assert_close(class_loss, torch.tensor(-(math.log(0.6) + math.log(0.8)) / 2))
    torch.testing.assert_close(box_loss, torch.tensor(0.5 / 2))


def test_beta_rounds_the_box_loss() -> None:
    rois = sampled(([0, 0, 10, 10], 0, True, True))
    deltas = torch.full((1, CLASSES, 4), 0.05)
    network = head(loss=BoxLossConfig(beta=1 / 9))
    _, box_loss = network.losses(torch.zeros(1, 3), deltas, rois, targets([[0, 0, 10, 10]], [0]))
    torch.testing.assert_close(box_loss, torch.tensor(4 * 0.5 * 0.05**2 * 9))


def test_no_positives_leave_the_class_loss_alone() -> None:
    rois = sampled(([0, 0, 10, 10], 0, False, True))
    class_loss, box_loss = head().losses(
        torch.zeros(1, 3), torch.full((1, CLASSES, 4), 7.0), rois, targets([[0, 0, 0, 0]], [0], [False])
    )
    torch.testing.assert_close(class_loss, torch.tensor(math.log(3)))
    torch.testing.assert_close(box_loss, torch.tensor(0.0))


def test_nothing_drawn_costs_nothing_and_has_finite_gradients() -> None:
    rois = sampled(([0, 0, 0, 0], 0, False, False))
    answers, deltas = torch.randn(1, 3, requires_grad=True), torch.randn(1, CLASSES, 4, requires_grad=True)
    losses = head().losses(answers, deltas, rois, targets([[0, 0, 0, 0]], [0], [False]))
    torch.testing.assert_close(losses, (torch.tensor(0.0), torch.tensor(0.0)))
    sum(losses).backward()
    torch.testing.assert_close(answers.grad, torch.zeros(1, 3))
    torch.testing.assert_close(deltas.grad, torch.zeros(1, CLASSES, 4))
