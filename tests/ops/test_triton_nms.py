"""NMS by Triton's kernels keeps what PyTorch's keeps, box by box."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from interpreted import DEVICE
from maskrcnn.ops.boxes import iou
from maskrcnn.ops.nms import _greedy, _suppresses
from maskrcnn.ops.triton.nms import nms
from reference import nms as reference

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, of infinities


def kept(boxes: Tensor, valid: Tensor | None = None, threshold: float = 0.5, groups: Tensor | None = None) -> Tensor:
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool) if valid is None else valid
    there = (boxes, valid, groups)
    boxes, valid, groups = (None if t is None else t.to(DEVICE) for t in there)
    return nms(boxes, valid, threshold, groups).cpu()


def expected(boxes: Tensor, valid: Tensor, threshold: float = 0.5, groups: Tensor | None = None) -> Tensor:
    return _greedy(_suppresses(boxes, threshold, groups), valid)


def crowded(rows: int, count: int, whole: bool = False) -> Tensor:
    start, side = torch.rand(rows, count, 2) * 40, torch.rand(rows, count, 2) * 25
    boxes = torch.cat((start, start + side), dim=-1)
    return boxes.round() if whole else boxes


def chain(count: int, step: float) -> Tensor:
    """Boxes 10 wide, each `step` right of the one before: each overlaps those next to it alone."""
    x = torch.arange(count) * step
    return torch.stack((x, torch.zeros(count), x + 10, torch.full((count,), 10.0)), dim=1)[None]


@pytest.mark.parametrize("whole", [False, True], ids=["real", "whole: many ties"])
@pytest.mark.parametrize("grouped", [False, True], ids=["", "grouped"])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_random_boxes(threshold: float, grouped: bool, whole: bool) -> None:
    boxes = crowded(2, 70, whole)
    valid = torch.rand(2, 70) < 0.8
    groups = torch.randint(3, (2, 70)) if grouped else None
    wanted = expected(boxes, valid, threshold, groups)
    assert 0 < wanted.sum() < valid.sum()
    torch.testing.assert_close(kept(boxes, valid, threshold, groups), wanted)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129])
def test_counts_around_a_word_of_bits(count: int) -> None:
    boxes, valid = crowded(1, count), torch.ones(1, count, dtype=torch.bool)
    torch.testing.assert_close(kept(boxes), expected(boxes, valid))


def test_chain_in_which_every_other_box_falls() -> None:
    keep = kept(chain(140, step=4.0), threshold=0.4)  # neighbours: 6 / 14; the next but one: 2 / 18
    assert keep.int().tolist() == [[1, 0] * 70]


def test_chain_from_the_far_end_is_the_slow_loop() -> None:
    boxes = chain(100, step=2.5)[:, torch.randperm(100)]
    slow = reference.greedy(boxes[0].numpy(), np.ones(100, dtype=bool), 0.5)
    assert kept(boxes)[0].tolist() == slow.tolist()


def test_overlap_equal_to_the_threshold_is_not_above_it() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 1], [0, 0, 1, 1]]])
    assert kept(boxes, threshold=0.5).tolist() == [[True, True]]
    assert kept(boxes, threshold=0.499).tolist() == [[True, False]]


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_at_the_threshold_round_as_in_pytorch(seed: int) -> None:
    torch.manual_seed(seed)
    boxes, valid = crowded(1, 64), torch.ones(1, 64, dtype=torch.bool)
    overlaps = iou(boxes, boxes)[0]
    threshold = float(overlaps[overlaps > 0.4].min())  # exactly what one pair has
    torch.testing.assert_close(kept(boxes, valid, threshold), expected(boxes, valid, threshold))


def test_identical_boxes_leave_the_first_valid_one_of_each_group() -> None:
    boxes = torch.tensor([3.0, 4, 30, 40]).expand(1, 90, 4)
    valid = torch.ones(1, 90, dtype=torch.bool)
    valid[0, 0] = False
    assert kept(boxes, valid).nonzero().tolist() == [[0, 1]]
    groups = (torch.arange(90) % 2)[None]
    assert kept(boxes, valid, groups=groups).nonzero().tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", range(4))
def test_boxes_that_are_not_finite(bad: float, place: int) -> None:
    boxes, valid = crowded(1, 20), torch.ones(1, 20, dtype=torch.bool)
    boxes[0, 3, place] = bad
    boxes[0, 4] = bad
    torch.testing.assert_close(kept(boxes, valid), expected(boxes, valid))


def test_boxes_without_area_or_inside_out() -> None:
    boxes = torch.tensor([[[5.0, 5, 5, 5], [5, 5, 5, 5], [9, 9, 2, 2], [9, 9, 2, 2], [0, 0, 9, 9], [0, 0, 9, 9]]])
    valid = torch.ones(1, 6, dtype=torch.bool)
    torch.testing.assert_close(kept(boxes, valid), expected(boxes, valid))


def test_padding_neither_stays_nor_suppresses() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 0, 0], [0, 0, 0, 0]]])
    valid = torch.tensor([[False, True, False, False]])
    assert kept(boxes, valid).tolist() == valid.tolist()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_no_rows_or_no_boxes(shape: tuple[int, int]) -> None:
    assert kept(torch.zeros(*shape, 4)).shape == shape


def test_input_that_is_not_contiguous() -> None:
    boxes, valid = crowded(2, 30), torch.rand(2, 30) < 0.9
    apart = boxes.mT.contiguous().mT
    assert not apart.is_contiguous()
    torch.testing.assert_close(kept(apart, valid.T.contiguous().T), expected(boxes, valid))
