"""Matching with ground truth by hand and against the slow loop; and what a drawn sample holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn.config import MatchingConfig
from maskrcnn.matching import Matches, Sample, draw_sample, match
from reference import matching as reference

RPN = MatchingConfig(
    positive_iou=0.7,
    negative_iou=0.3,
    low_quality_matches=True,
    samples_per_image=256,
    positive_fraction=0.5,
)
PLAIN = RPN.model_copy(update={"low_quality_matches": False})
BOX_HEAD = RPN.model_copy(update={"positive_iou": 0.5, "negative_iou": 0.5, "low_quality_matches": False})


def slabs(*extents: tuple[float, float]) -> Tensor:
    """Boxes from x1 to x2, 1 pixel high, so that IoU is that of the intervals."""
    return torch.tensor([[[x1, 0, x2, 1] for x1, x2 in extents]]).float().reshape(1, -1, 4)


def matched(boxes: Tensor, gt: Tensor, config: MatchingConfig) -> Matches:
    every = torch.ones(boxes.shape[:2], dtype=torch.bool)
    return match(boxes, every, gt, torch.ones(gt.shape[:2], dtype=torch.bool), config)


@pytest.mark.parametrize(
    ("extent", "positive", "negative"),
    [
        pytest.param((0, 10), True, False, id="iou 1"),
        pytest.param((0, 7), True, False, id="iou 0.7 is positive"),
        pytest.param((0, 6.9), False, False, id="just under is left out"),
        pytest.param((0, 5), False, False, id="between"),
        pytest.param((0, 3), False, False, id="iou 0.3 is left out"),
        pytest.param((0, 2.9), False, True, id="just under is negative"),
        pytest.param((20, 30), False, True, id="apart"),
    ],
)
def test_thresholds(extent: tuple[float, float], positive: bool, negative: bool) -> None:
    result = matched(slabs(extent), slabs((0, 10)), PLAIN)
    assert (result.positive.item(), result.negative.item()) == (positive, negative)


def test_best_ground_truth_is_matched() -> None:
    result = matched(slabs((0, 10), (10, 20), (4, 14)), slabs((0, 10), (10, 20)), BOX_HEAD)
    assert result.matched_gt.tolist() == [[0, 1, 0]]


def test_low_quality_match_takes_every_best_box() -> None:
    # IoU with the only ground truth: 0.4, 0.2, 0.4. Both of the best are positive, whatever their IoU.
    boxes, gt = slabs((0, 4), (4, 6), (6, 10)), slabs((0, 10))
    result = matched(boxes, gt, RPN)
    assert result.positive.tolist() == [[True, False, True]]
    assert result.negative.tolist() == [[False, True, False]]
    assert not matched(boxes, gt, PLAIN).positive.any()


def test_low_quality_match_rescues_a_negative() -> None:
    result = matched(slabs((0, 1), (50, 60)), slabs((0, 10)), RPN)
    assert result.positive.tolist() == [[True, False]]
    assert result.negative.tolist() == [[False, True]]


def test_low_quality_match_keeps_the_boxes_own_best_ground_truth() -> None:
    # The first box is the best of both, and overlaps the first ground truth more.
    result = matched(slabs((0, 10), (50, 60)), slabs((0, 8), (8, 18)), RPN)
    assert result.positive.tolist() == [[True, False]]
    assert result.matched_gt[0, 0] == 0


def test_ground_truth_that_no_box_touches_claims_none() -> None:
    result = matched(slabs((0, 10), (20, 30)), slabs((100, 110)), RPN)
    assert not result.positive.any() and result.negative.all()


@pytest.mark.parametrize("config", [RPN, BOX_HEAD], ids=["rpn", "box head"])
def test_image_without_ground_truth_is_all_negative(config: MatchingConfig) -> None:
    boxes = slabs((0, 10), (20, 30))
    nothing = torch.zeros(1, 1, 4)  # a padded slot
    valid = torch.tensor([[True, False]])
    result = match(boxes, valid, nothing, torch.tensor([[False]]), config)
    assert not result.positive.any()
    assert result.negative.tolist() == [[True, False]]


def test_padded_ground_truth_claims_none() -> None:
    gt = slabs((0, 10), (20, 30))
    result = match(slabs((0, 10), (20, 30)), torch.ones(1, 2).bool(), gt, torch.tensor([[True, False]]), RPN)
    assert result.positive.tolist() == [[True, False]]
    assert result.negative.tolist() == [[False, True]]


def test_invalid_box_is_neither() -> None:
    boxes, gt = slabs((0, 10), (0, 9), (50, 60)), slabs((0, 10))
    result = match(boxes, torch.tensor([[False, True, False]]), gt, torch.ones(1, 1).bool(), RPN)
    assert result.positive.tolist() == [[False, True, False]]
    assert not result.negative.any()


def test_no_boxes() -> None:
    result = matched(torch.zeros(2, 0, 4), slabs((0, 10)).expand(2, 1, 4), BOX_HEAD)
    assert result.matched_gt.shape == result.positive.shape == result.negative.shape == (2, 0)


@pytest.mark.parametrize("config", [RPN, PLAIN, BOX_HEAD], ids=["rpn", "no low quality", "box head"])
def test_match_is_the_slow_loop(config: MatchingConfig) -> None:
    corner, side = torch.randint(40, (3, 200, 2)), torch.randint(4, 30, (3, 200, 2))
    boxes = torch.cat((corner, corner + side), dim=-1).double()
    gt = torch.cat((boxes[:, :4] + 1, torch.tensor([[[500.0, 500, 510, 510]]]).expand(3, 1, 4)), dim=1)
    result = matched(boxes, gt, config)
    for n in range(3):
        best, positive, negative = reference.match(
            boxes[n].numpy(),
            gt[n].numpy(),
            config.positive_iou,
            config.negative_iou,
            config.low_quality_matches,
        )
        assert result.positive[n].tolist() == positive
        assert result.negative[n].tolist() == negative
        at = np.flatnonzero(positive)
        assert len(at) and result.matched_gt[n].numpy()[at].tolist() == np.array(best)[at].tolist()


# Samples


def drawn(positive: list[list[int]], negative: list[list[int]], size: int, fraction: float) -> Sample:
    config = RPN.model_copy(update={"samples_per_image": size, "positive_fraction": fraction})
    is_positive, is_negative = torch.tensor(positive).bool(), torch.tensor(negative).bool()
    return draw_sample(Matches(torch.zeros_like(is_positive).long(), is_positive, is_negative), config)


@pytest.mark.parametrize(
    ("positives", "negatives", "size", "fraction", "expected"),
    [
        pytest.param(0, 0, 8, 0.5, (0, 0), id="nothing to draw"),
        pytest.param(20, 20, 8, 0.5, (4, 4), id="enough of both"),
        pytest.param(20, 20, 8, 0.25, (2, 6), id="a quarter"),
        pytest.param(20, 20, 9, 0.25, (2, 7), id="never more than the fraction"),
        pytest.param(1, 20, 8, 0.5, (1, 7), id="negatives fill up"),
        pytest.param(0, 20, 8, 0.5, (0, 8), id="no positives"),
        pytest.param(20, 2, 8, 0.5, (4, 2), id="positives do not fill up"),
        pytest.param(20, 0, 8, 0.5, (4, 0), id="no negatives"),
        pytest.param(2, 3, 8, 0.5, (2, 3), id="fewer than wanted"),
        pytest.param(20, 20, 8, 0.0, (0, 8), id="fraction 0"),
        pytest.param(20, 20, 8, 1.0, (8, 0), id="fraction 1"),
        pytest.param(20, 20, 500, 0.5, (20, 20), id="more than there are boxes"),
    ],
)
def test_numbers_drawn(positives: int, negatives: int, size: int, fraction: float, expected: tuple[int, int]) -> None:
    positive = torch.zeros(1, 45).bool()
    positive[0, torch.randperm(45)[:positives]] = True
    negative = torch.zeros(1, 45).bool()
    negative[0, (~positive[0]).nonzero()[:negatives, 0]] = True
    sample = drawn(positive.tolist(), negative.tolist(), size, fraction)
    chosen = sample.chosen[sample.valid]
    assert ((sample.positive & sample.valid).sum(), (~sample.positive & sample.valid).sum()) == expected
    assert positive[0, sample.chosen[sample.positive]].all()
    assert negative[0, sample.chosen[sample.valid & ~sample.positive]].all()
    assert chosen.unique().numel() == chosen.numel() == sum(expected)


def test_positives_stand_first_and_are_valid() -> None:
    sample = drawn([[0, 1, 0, 1, 0]], [[1, 0, 1, 0, 0]], 5, 0.8)
    assert sample.positive.tolist() == [[True, True, False, False, False]]
    assert sample.valid.tolist() == [[True, True, True, True, False]]
    assert sorted(sample.chosen[0, :2].tolist()) == [1, 3]
    assert sorted(sample.chosen[0, 2:4].tolist()) == [0, 2]


def test_each_image_has_its_own_numbers() -> None:
    sample = drawn([[1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], [[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], 4, 0.5)
    assert sample.positive.sum(1).tolist() == [2, 1, 0]
    assert sample.valid.sum(1).tolist() == [3, 2, 0]


def test_seed_decides_the_draw() -> None:
    def draw(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return drawn([[1] * 50 + [0] * 50], [[0] * 50 + [1] * 50], 20, 0.5).chosen.tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_every_box_is_drawn_in_the_long_run() -> None:
    seen = {
        index for _ in range(60) for index in drawn([[1] * 4 + [0] * 4], [[0] * 4 + [1] * 4], 4, 0.5).chosen[0].tolist()
    }
    assert seen == set(range(8))
