"""Non-maximum suppression: by hand, and both ways of computing it against the slow loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops import nms as module
from maskrcnn.ops.nms import nms
from reference import nms as reference


def by_matrix(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None) -> Tensor:
    return module._greedy(module._suppresses(boxes, threshold, groups), valid)


by_sweep = module.sweep
BOTH_WAYS = pytest.mark.parametrize("way", [by_sweep, by_matrix], ids=["sweep", "matrix"])


def row(*boxes: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor([boxes]).float().reshape(1, -1, 4)


def all_valid(boxes: Tensor) -> Tensor:
    return torch.ones(boxes.shape[:2], dtype=torch.bool)


def crowded(rows: int, count: int, seed: int, whole: bool = False) -> Tensor:
    """Boxes in clusters around the origin, some almost alike, not in order of x: many chains of suppression."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.rand(rows, max(count // 12, 1), 2, generator=random) * 300 - 150
    which = torch.randint(centres.shape[1], (rows, count), generator=random)
    centre = box_ops.gather_rows(centres, which) + torch.randn(rows, count, 2, generator=random) * 6
    half = torch.rand(rows, count, 2, generator=random) * 20 + 8
    boxes = torch.cat((centre - half, centre + half), dim=-1)
    boxes[:, count // 2 :: 3] = boxes[:, : len(range(count // 2, count, 3))] + 0.1
    return boxes.round() if whole else boxes


def slow(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    answers = [
        reference.greedy(boxes[b].numpy(), valid[b].numpy(), threshold, None if groups is None else groups[b].numpy())
        for b in range(len(boxes))
    ]
    return torch.from_numpy(np.stack(answers))


@BOTH_WAYS
@pytest.mark.parametrize(
    ("boxes", "threshold", "expected"),
    [
        pytest.param([], 0.5, [], id="empty"),
        pytest.param([(0, 0, 2, 2)], 0.5, [1], id="one"),
        pytest.param([(0, 0, 10, 10), (1, 0, 11, 10), (20, 0, 30, 10)], 0.5, [1, 0, 1], id="doc"),
        # The second falls to the first and no longer suppresses the third.
        pytest.param([(0, 0, 10, 10), (4, 0, 14, 10), (8, 0, 18, 10)], 0.4, [1, 0, 1], id="chain"),
        pytest.param([(5, 0, 15, 10), (0, 0, 10, 10), (9, 0, 19, 10)], 0.3, [1, 0, 0], id="unsorted x"),
        pytest.param([(0, 0, 2, 1), (0, 0, 1, 1)], 0.5, [1, 1], id="iou equal to the threshold"),
        pytest.param([(0, 0, 2, 1), (0, 0, 1, 1)], 0.499, [1, 0], id="iou just above"),
        pytest.param([(0, 0, 2, 2)] * 4, 0.5, [1, 0, 0, 0], id="identical"),
        pytest.param([(0, 0, 2, 2)] * 4, 1.0, [1, 1, 1, 1], id="threshold 1"),
        pytest.param([(0, 0, 9, 9), (8, 8, 17, 17), (9, 0, 18, 8)], 0.0, [1, 0, 1], id="threshold 0"),
        pytest.param([(3, 3, 3, 3)] * 3, 0.5, [1, 1, 1], id="no area"),
        pytest.param([(0, 0, 9, 9), (4, 0, 4, 9)], 0.0, [1, 1], id="no width inside another"),
        pytest.param([(-9, -9, -1, -1), (-9, -9, -2, -1), (1, 1, 9, 9)], 0.5, [1, 0, 1], id="negative"),
        pytest.param([(0, 0, 10, 100), (0, 50, 10, 150)], 0.34, [1, 1], id="apart in y"),
    ],
)
def test_by_hand(way, boxes: list, threshold: float, expected: list[int]) -> None:
    boxes = row(*boxes)
    assert way(boxes, all_valid(boxes), threshold, None).int().tolist() == [expected]


@BOTH_WAYS
def test_invalid_box_is_not_kept_and_suppresses_nothing(way) -> None:
    boxes = row((0, 0, 10, 10), (1, 0, 11, 10))
    assert way(boxes, torch.tensor([[False, True]]), 0.5, None).tolist() == [[False, True]]


@BOTH_WAYS
def test_nan_in_an_invalid_box_does_not_matter(way) -> None:
    nan = float("nan")
    boxes = row((nan, nan, nan, nan), (0, 0, 10, 10), (nan, 0, 10, 10), (1, 0, 11, 10), (30, 0, 40, 10))
    keep = way(boxes, box_ops.large_enough(boxes, 0.0), 0.5, None)
    assert keep.int().tolist() == [[0, 1, 0, 0, 1]]


@BOTH_WAYS
@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_no_rows_or_no_boxes(way, shape: tuple[int, int]) -> None:
    valid = torch.zeros(shape, dtype=torch.bool)
    assert way(torch.zeros(*shape, 4), valid, 0.5, None).shape == shape
    assert way(torch.zeros(*shape, 4), valid, 0.5, valid.long()).shape == shape


@BOTH_WAYS
def test_none_valid(way) -> None:
    boxes = crowded(2, 30, seed=0)
    assert not way(boxes, ~all_valid(boxes), 0.5, None).any()


@BOTH_WAYS
def test_groups_do_not_see_each_other(way) -> None:
    boxes = row(*[(0, 0, 10, 10)] * 4)
    keep = way(boxes, all_valid(boxes), 0.5, torch.tensor([[7, 2, 7, 2]]))
    assert keep.int().tolist() == [[1, 1, 0, 0]]


@BOTH_WAYS
def test_rows_do_not_see_each_other(way) -> None:
    boxes, groups = crowded(4, 60, seed=1), torch.arange(240).reshape(4, 60) % 3
    together = way(boxes, all_valid(boxes), 0.5, groups)
    apart = [way(boxes[b, None], all_valid(boxes[b, None]), 0.5, groups[b, None]) for b in range(4)]
    torch.testing.assert_close(together, torch.cat(apart))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("num_groups", [0, 3])
@pytest.mark.parametrize("whole", [False, True], ids=["real", "whole"])
def test_both_ways_are_the_slow_loop(
    threshold: float, num_groups: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, block in enumerate((1024, 32, 7)):
        boxes = crowded(2, 60, seed, whole)
        valid = torch.rand(boxes.shape[:2]) < 0.8
        groups = torch.randint(num_groups, boxes.shape[:2]) if num_groups else None
        expected = slow(boxes, valid, threshold, groups)
        assert threshold == 1 or 0 < expected.sum() < valid.sum()
        monkeypatch.setattr(module, "BLOCK", block)
        torch.testing.assert_close(by_sweep(boxes, valid, threshold, groups), expected)
        torch.testing.assert_close(by_matrix(boxes, valid, threshold, groups), expected)


@pytest.mark.parametrize("num_groups", [0, 4])
def test_more_boxes_than_a_block(num_groups: int) -> None:
    boxes = crowded(1, 2 * module.BLOCK + 100, seed=3)
    valid = torch.rand(boxes.shape[:2]) < 0.9
    groups = torch.randint(num_groups, boxes.shape[:2]) if num_groups else None
    expected = slow(boxes, valid, 0.5, groups)
    torch.testing.assert_close(nms(boxes, valid, 0.5, groups), expected)
    torch.testing.assert_close(by_matrix(boxes, valid, 0.5, groups), expected)


@pytest.mark.parametrize("enough", [1, 7, 40, 10_000])
def test_the_best_that_are_kept_are_the_same_where_they_are_enough(
    enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)
    boxes = crowded(3, 150, seed=0)
    valid = torch.rand(3, 150) < torch.tensor([[0.9], [0.5], [0.0]])
    groups = torch.randint(3, (3, 150))
    every = nms(boxes, valid, 0.5, groups)
    some = nms(boxes, valid, 0.5, groups, enough)
    first = every & (every.cumsum(1) <= enough)
    assert torch.equal(some & first, first), "of the best none is missing"
    assert not (some & ~every).any(), "nothing else is kept"


def test_what_is_not_needed_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    pairs = module._overlapping_pairs
    monkeypatch.setattr(
        module, "_overlapping_pairs", lambda boxes, *rest: seen.append(len(boxes)) or pairs(boxes, *rest)
    )
    start = torch.arange(5 * module.BLOCK)[None, :, None] * 10.0
    boxes = torch.cat((start, torch.zeros_like(start), start + 5, torch.ones_like(start)), dim=-1)
    keep = nms(boxes, all_valid(boxes), 0.5, enough=100)
    assert seen == [module.BLOCK] and keep[0, :100].all()


def test_more_identical_boxes_than_a_block() -> None:
    boxes = row((3, 4, 30, 40)).expand(2, module.BLOCK + 500, 4)
    valid = all_valid(boxes)
    valid[1, 0] = False
    assert nms(boxes, valid, 0.5).nonzero().tolist() == [[0, 0], [1, 1]]


@BOTH_WAYS
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_scale_does_not_matter(way, size: float) -> None:
    boxes = crowded(2, 80, seed=4)
    expected = slow(boxes, all_valid(boxes), 0.5)
    torch.testing.assert_close(way(boxes * size, all_valid(boxes), 0.5, None), expected)


@BOTH_WAYS
@pytest.mark.parametrize("axes", [(2, 1, 0, 3), (0, 3, 2, 1), (1, 0, 3, 2)], ids=["x", "y", "transposed"])
def test_mirroring_does_not_matter(way, axes: tuple[int, ...]) -> None:
    boxes = crowded(2, 80, seed=5, whole=True)
    moved = boxes[..., list(axes)]
    moved = moved if axes == (1, 0, 3, 2) else torch.where(torch.tensor(axes) == torch.arange(4), moved, -moved)
    torch.testing.assert_close(way(moved, all_valid(boxes), 0.5, None), way(boxes, all_valid(boxes), 0.5, None))


def test_nms_takes_the_sweep_on_an_eager_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_suppresses", None)
    boxes = crowded(1, 50, seed=6)
    torch.testing.assert_close(nms(boxes, all_valid(boxes), 0.5), slow(boxes, all_valid(boxes), 0.5))
