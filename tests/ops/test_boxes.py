"""Box arithmetic: numbers worked by hand, the slow loop, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn.ops import boxes as box_ops
from reference import boxes as reference

ONES = (1.0, 1.0, 1.0, 1.0)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
LIMIT = math.log(1000 / 16)
NAN = float("nan")


def random_boxes(*shape: int, side: float = 100, dtype: torch.dtype = torch.float32) -> Tensor:
    corners = torch.rand(*shape, 2, 2, dtype=dtype) * side - side / 4
    return torch.cat((corners.amin(-2), corners.amax(-2) + 1), dim=-1)


def mirrored(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((-x2, y1, -x1, y2), dim=-1)


# area, overlap


def test_area_is_width_times_height() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 3], [-2, -2, 2, 0], [5, 5, 5, 9]])
    torch.testing.assert_close(box_ops.area(boxes), torch.tensor([12.0, 8.0, 0.0]))


def test_area_of_no_boxes() -> None:
    assert box_ops.area(torch.zeros(2, 0, 4)).shape == (2, 0)


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [
        pytest.param((0, 4), (1, 3), 2, id="inside"),
        pytest.param((0, 4), (3, 9), 1, id="partly"),
        pytest.param((0, 4), (4, 9), 0, id="touching"),
        pytest.param((0, 4), (6, 9), 0, id="apart"),
        pytest.param((-5, -1), (-2, 7), 1, id="negative"),
    ],
)
def test_overlap_of_intervals(a: tuple[float, float], b: tuple[float, float], common: float) -> None:
    result = box_ops.overlap(*(torch.tensor(float(v)) for v in (*a, *b)))
    torch.testing.assert_close(result, torch.tensor(float(common)))


# iou


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param([0, 0, 2, 2], [0, 0, 2, 2], 1.0, id="identical"),
        pytest.param([0, 0, 2, 1], [0, 0, 1, 1], 1 / 2, id="half"),
        pytest.param([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, id="corner"),
        pytest.param([0, 0, 4, 4], [1, 1, 2, 3], 2 / 16, id="contained"),
        pytest.param([0, 0, 2, 2], [2, 0, 4, 2], 0.0, id="touching"),
        pytest.param([0, 0, 2, 2], [5, 5, 6, 6], 0.0, id="apart"),
        pytest.param([-3, -3, -1, -1], [-2, -3, 0, -1], 1 / 3, id="negative"),
        pytest.param([1, 1, 1, 5], [0, 0, 9, 9], 0.0, id="no width"),
        pytest.param([1, 1, 1, 1], [1, 1, 1, 1], 0.0, id="both without area"),
    ],
)
def test_iou_by_hand(a: list[float], b: list[float], expected: float) -> None:
    a_box, b_box = torch.tensor([a]).float(), torch.tensor([b]).float()
    torch.testing.assert_close(box_ops.iou(a_box, b_box), torch.tensor([[expected]]))


def test_iou_is_the_slow_loop() -> None:
    a, b = random_boxes(3, 17), random_boxes(3, 11)
    a[:, 4, 2] = a[:, 4, 0]
    expected = np.stack([reference.iou(x.numpy(), y.numpy()) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(box_ops.iou(a, b), torch.from_numpy(expected).float())


@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0), (0, 0)])
def test_iou_with_no_boxes(m: int, n: int) -> None:
    assert box_ops.iou(random_boxes(m), random_boxes(n)).shape == (m, n)


def test_iou_is_symmetric() -> None:
    a, b = random_boxes(9), random_boxes(7)
    torch.testing.assert_close(box_ops.iou(a, b), box_ops.iou(b, a).T)


@pytest.mark.parametrize(
    "move",
    [
        pytest.param(lambda boxes: boxes + torch.tensor([64.0, -32, 64, -32]), id="shift"),
        pytest.param(lambda boxes: boxes * 4, id="scale"),
        pytest.param(mirrored, id="flip"),
    ],
)
def test_iou_does_not_depend_on_the_frame(move) -> None:
    a, b = random_boxes(9), random_boxes(7)
    torch.testing.assert_close(box_ops.iou(move(a), move(b)), box_ops.iou(a, b))


def test_iou_leaves_its_arguments_alone() -> None:
    a, b = random_boxes(9), random_boxes(7)
    before = a.clone(), b.clone()
    box_ops.iou(a, b)
    torch.testing.assert_close((a, b), before)


def test_nan_box_exceeds_no_threshold() -> None:
    overlaps = box_ops.iou(torch.tensor([[NAN, 0, 1, 1]]), torch.tensor([[0.0, 0, 1, 1]]))
    assert not (overlaps > 0).any()


def test_iou_gradient() -> None:
    a, b = random_boxes(3, dtype=torch.float64), random_boxes(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(box_ops.iou, (a.requires_grad_(), b.requires_grad_()))


# encode, decode


def test_encode_by_hand() -> None:
    # Centre (5, 10) to (7, 9), 10 wide and 20 high to 20 wide and 10 high.
    reference_box, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[-3.0, 4, 17, 14]])
    expected = torch.tensor([[0.2, -0.05, math.log(2), -math.log(2)]])
    torch.testing.assert_close(box_ops.encode(reference_box, box, ONES), expected)
    torch.testing.assert_close(box_ops.encode(reference_box, box, WEIGHTS), expected * torch.tensor([10.0, 10, 5, 5]))


def test_decode_by_hand() -> None:
    box = torch.tensor([[0.0, 0, 10, 20]])
    deltas = torch.tensor([[0.2, -0.05, math.log(2), -math.log(2)]])
    expected = torch.tensor([[-3.0, 4, 17, 14]])
    torch.testing.assert_close(box_ops.decode(box, deltas, ONES, LIMIT), expected)
    torch.testing.assert_close(box_ops.decode(box, deltas * torch.tensor([10.0, 10, 5, 5]), WEIGHTS, LIMIT), expected)


def test_no_deltas_leave_a_box() -> None:
    boxes = random_boxes(2, 5)
    torch.testing.assert_close(box_ops.decode(boxes, torch.zeros(2, 5, 4), WEIGHTS, LIMIT), boxes)


@pytest.mark.parametrize("weights", [ONES, WEIGHTS])
def test_decode_inverts_encode(weights: tuple[float, float, float, float]) -> None:
    start, boxes = random_boxes(3, 20), random_boxes(3, 20)
    deltas = box_ops.encode(start, boxes, weights)
    torch.testing.assert_close(box_ops.decode(start, deltas, weights, max_log_scale=20.0), boxes, rtol=1e-4, atol=1e-3)


def test_deltas_do_not_depend_on_shift_or_scale() -> None:
    start, boxes = random_boxes(20), random_boxes(20)
    moved = box_ops.encode(start * 4 + 16, boxes * 4 + 16, WEIGHTS)
    torch.testing.assert_close(moved, box_ops.encode(start, boxes, WEIGHTS), rtol=1e-4, atol=1e-4)


def test_growth_is_limited_above_only() -> None:
    box = torch.tensor([[0.0, 0, 16, 16]])
    grown = box_ops.decode(box, torch.tensor([[0.0, 0, 100, 100]]), ONES, LIMIT)
    torch.testing.assert_close(grown, torch.tensor([[-492.0, -492, 508, 508]]))
    shrunk = box_ops.decode(box, torch.tensor([[0.0, 0, -100, -100]]), ONES, LIMIT)
    torch.testing.assert_close(shrunk, torch.tensor([[8.0, 8, 8, 8]]))


@pytest.mark.parametrize(
    ("start", "box"),
    [
        pytest.param([0, 0, 0, 0], [1, 1, 5, 5], id="from nothing"),
        pytest.param([1, 1, 5, 5], [3, 3, 3, 3], id="to nothing"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], id="both"),
    ],
)
def test_boxes_without_area_give_finite_deltas(start: list[float], box: list[float]) -> None:
    deltas = box_ops.encode(torch.tensor([start]).float(), torch.tensor([box]).float(), WEIGHTS)
    assert deltas.isfinite().all()


def test_no_boxes_have_no_deltas() -> None:
    none = torch.zeros(2, 0, 4)
    assert box_ops.encode(none, none, ONES).shape == (2, 0, 4)
    assert box_ops.decode(none, none, ONES, LIMIT).shape == (2, 0, 4)


def test_encode_and_decode_gradients() -> None:
    start = random_boxes(3, dtype=torch.float64).requires_grad_()
    boxes = random_boxes(3, dtype=torch.float64).requires_grad_()
    deltas = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: box_ops.encode(a, b, WEIGHTS), (start, boxes))
    assert torch.autograd.gradcheck(lambda a, d: box_ops.decode(a, d, WEIGHTS, LIMIT), (start, deltas))


# clip, large_enough, gather_rows


WINDOWS = torch.tensor([[0, 0, 20, 10], [2, 4, 16, 32]])


@pytest.mark.parametrize(
    ("corners", "first", "second"),
    [
        ("edges", [[0, 0, 20, 10], [8, 3, 12, 4], [20, 10, 20, 10]], [[2, 4, 16, 32], [8, 4, 12, 4], [16, 30, 16, 32]]),
        (
            "inclusive",
            [[0, 0, 20, 10], [8, 3, 12, 4], [19, 9, 20, 10]],
            [[2, 4, 16, 32], [8, 4, 12, 5], [15, 30, 16, 32]],
        ),
        ("centers", [[0, 0, 19, 9], [8, 3, 12, 4], [19, 9, 19, 9]], [[2, 4, 15, 31], [8, 4, 12, 4], [15, 30, 15, 31]]),
    ],
    ids=["edges", "inclusive", "centers"],
)
def test_clip_cuts_each_image_to_its_own_window(corners, first, second) -> None:
    boxes = torch.tensor([[-5.0, -5, 50, 50], [8, 3, 12, 4], [30, 30, 40, 40]])
    expected = torch.tensor([first, second], dtype=torch.float32)
    assert torch.equal(box_ops.clip(boxes.expand(2, 3, 4), WINDOWS, corners), expected)


def test_clip_takes_any_number_of_dimensions() -> None:
    boxes = random_boxes(2, 3, 5)
    flat = box_ops.clip(boxes.flatten(1, 2), WINDOWS, "edges")
    torch.testing.assert_close(box_ops.clip(boxes, WINDOWS, "edges"), flat.reshape(2, 3, 5, 4))


def test_clip_of_no_boxes() -> None:
    assert box_ops.clip(torch.zeros(2, 0, 4), WINDOWS, "edges").shape == (2, 0, 4)


@pytest.mark.parametrize(
    ("box", "min_size", "expected"),
    [
        pytest.param([0, 0, 4, 4], 4.0, True, id="just"),
        pytest.param([0, 0, 4, 3.9], 4.0, False, id="low"),
        pytest.param([0, 0, 3.9, 4], 4.0, False, id="narrow"),
        pytest.param([2, 2, 2, 5], 0.0, False, id="no width"),
        pytest.param([5, 5, 2, 2], 0.0, False, id="inverted"),
        pytest.param([0, 0, NAN, 4], 0.0, False, id="nan"),
        pytest.param([0, 0, float("inf"), 4], 0.0, False, id="infinite"),
    ],
)
def test_large_enough(box: list[float], min_size: float, expected: bool) -> None:
    assert box_ops.large_enough(torch.tensor([box]).float(), min_size).tolist() == [expected]


@pytest.mark.parametrize("tail", [(), (4,), (2, 3)], ids=str)
def test_gather_rows_is_indexing_image_by_image(tail: tuple[int, ...]) -> None:
    table, index = torch.randn(2, 5, *tail), torch.tensor([[4, 0, 0], [1, 3, 2]])
    expected = torch.stack([table[n][index[n]] for n in range(2)])
    torch.testing.assert_close(box_ops.gather_rows(table, index), expected)


def test_gather_no_rows() -> None:
    index = torch.zeros(2, 0, dtype=torch.int64)
    assert box_ops.gather_rows(torch.zeros(2, 5, 4), index).shape == (2, 0, 4)
