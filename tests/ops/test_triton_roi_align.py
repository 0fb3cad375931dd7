"""RoIAlign, RoIPool and crop_and_resize by Triton's kernels equal the PyTorch functions, and so do their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interpreted import DEVICE, take_twins
from maskrcnn import roi_align as module
from maskrcnn.ops.triton import roi_align as twin
from maskrcnn.ops.triton.roi_pool import max_of_cells
from maskrcnn.roi_align import FlatPyramid, crop_and_resize, roi_align, roi_pool

STRIDES = (4, 8)
BINS = 2
METHODS = {
    "one sample": lambda *a: roi_align(*a, BINS, 1),
    "two samples": lambda *a: roi_align(*a, BINS, 2),
    "two samples, not aligned": lambda *a: roi_align(*a, BINS, 2, aligned=False),
    "adaptive": lambda *a: roi_align(*a, BINS, 0),
    "adaptive, not aligned": lambda *a: roi_align(*a, BINS, 0, aligned=False),
    "pool": lambda *a: roi_pool(*a, BINS),
    "crop_and_resize": lambda *a: crop_and_resize(*a, BINS),
}
ALL_METHODS = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def maps(channels: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Two levels of two images of 64 × 48 pixels."""
    return [torch.randn(2, channels, 64 // s, 48 // s).to(dtype) for s in STRIDES]


def rois() -> tuple[Tensor, Tensor]:
    """RoIs of both images and levels: inside, over the border, outside, without area, and the whole image."""
    boxes = [[3.3, 5.1, 21.7, 30.2], [-9, -5, 30, 20.5], [40, 50, 60, 80], [0, 0, 48, 64]]
    others = [[100.0, 90, 120, 130], [20, 20, 20, 20], [10.4, 7.7, 12.1, 9.9], [30.5, -4, 47, 63]]
    return torch.tensor([boxes, others]), torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]])


def crops_and_gradients(
    method,
    features: list[Tensor],
    boxes: Tensor,
    levels: Tensor,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Crops, and the features' gradients of a sum of them with random weights that `dtype` can hold."""
    features = [m.detach().to(device).requires_grad_() for m in features]
    crops = method(FlatPyramid.of(features, STRIDES), boxes.to(device), levels.to(device))
    torch.manual_seed(1)
    weights = torch.randn(crops.shape).to(dtype).to(device, crops.dtype)
    gradients = torch.autograd.grad(crops, features, weights)
    return [t.cpu() for t in (crops, *gradients)]


@ALL_METHODS
def test_twin_equals_the_pytorch_function(method, monkeypatch: pytest.MonkeyPatch) -> None:
    features, (boxes, levels) = maps(), rois()
    crops, *gradients = crops_and_gradients(method, features, boxes, levels, torch.device("cpu"))
    take_twins(monkeypatch)
    ours, *our_gradients = crops_and_gradients(method, features, boxes, levels, DEVICE)
    torch.testing.assert_close(ours, crops, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_gradients, gradients, rtol=1e-4, atol=1e-4)
    assert all(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["adaptive", "two samples, not aligned", "pool"])
def test_random_rois(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(seed)
    features, corners = maps(1), torch.rand(2, 4, 2, 2) * 70 - 10
    boxes, levels = torch.cat((corners.amin(2), corners.amax(2)), dim=-1), torch.randint(2, (2, 4))
    expected = METHODS[name](FlatPyramid.of(features, STRIDES), boxes, levels)
    take_twins(monkeypatch)
    pyramid = FlatPyramid.of([m.to(DEVICE) for m in features], STRIDES)
    ours = METHODS[name](pyramid, boxes.to(DEVICE), levels.to(DEVICE))
    torch.testing.assert_close(ours.cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["two samples", "adaptive", "pool"])
def test_half_precision_is_float32_rounded_once(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    features, (boxes, levels) = maps(2, dtype), rois()
    boxes, levels = boxes[:, :2], levels[:, :2]
    whole = [m.float() for m in features]
    crops, *gradients = crops_and_gradients(METHODS[name], whole, boxes, levels, torch.device("cpu"), dtype)
    take_twins(monkeypatch)
    ours, *our_gradients = crops_and_gradients(METHODS[name], features, boxes, levels, DEVICE, dtype)
    assert ours.dtype == our_gradients[0].dtype == dtype
    once = 1.001 * torch.finfo(dtype).eps / 2  # half a unit in the last place, and float32's own error
    if DEVICE.type == "cpu" and dtype == torch.bfloat16:
        once *= 2  # the interpreter does not round to bfloat16 but cuts off
    torch.testing.assert_close(ours.float(), crops, rtol=once, atol=1e-5)
    for our, gradient in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(our.float(), gradient, rtol=once, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 5, 300])
def test_channels_that_fill_no_block(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, (boxes, levels) = maps(channels), rois()
    boxes, levels = boxes[:, :1], levels[:, :1]
    expected = crops_and_gradients(METHODS["one sample"], features, boxes, levels, torch.device("cpu"))
    take_twins(monkeypatch)
    ours = crops_and_gradients(METHODS["one sample"], features, boxes, levels, DEVICE)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@ALL_METHODS
def test_no_rois(method, monkeypatch: pytest.MonkeyPatch) -> None:
    take_twins(monkeypatch)
    boxes, levels = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64)
    crops, *gradients = crops_and_gradients(method, maps(), boxes, levels, DEVICE)
    assert crops.shape == (0, 3, BINS, BINS)
    assert not any(g.any() for g in gradients)


def test_gradient_that_is_not_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    features, (boxes, levels) = maps(1), rois()
    plain = [m.clone().requires_grad_() for m in features]
    METHODS["one sample"](FlatPyramid.of(plain, STRIDES), boxes, levels).sum().backward()
    take_twins(monkeypatch)
    leaves = [m.to(DEVICE).requires_grad_() for m in features]
    crops = METHODS["one sample"](FlatPyramid.of(leaves, STRIDES), boxes.to(DEVICE), levels.to(DEVICE))
    crops.sum().backward()  # its gradient is one number, expanded
    for ours, theirs in zip(leaves, plain, strict=True):
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad)


def test_of_equal_cells_the_first_gets_the_gradient_of_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    features, box = torch.ones(1, 1, 4, 4), torch.tensor([[[0.0, 0, 3, 3]]])
    take_twins(monkeypatch)
    leaf = features.to(DEVICE).requires_grad_()
    level = torch.zeros(1, 1, dtype=torch.int64, device=DEVICE)
    roi_pool(FlatPyramid.of([leaf], [1]), box.to(DEVICE), level, 2).sum().backward()
    assert leaf.grad[0, 0].tolist() == [[1, 0, 1, 0], [0] * 4, [1, 0, 1, 0], [0] * 4]


def test_a_box_that_is_nan_spoils_no_other_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    features, (boxes, levels) = maps(1), rois()
    boxes[0, 1] = float("nan")
    take_twins(monkeypatch)
    pyramid = FlatPyramid.of([m.to(DEVICE) for m in features], STRIDES)
    for name in ("two samples", "crop_and_resize"):
        crops = METHODS[name](pyramid, boxes.to(DEVICE), levels.to(DEVICE))
        assert crops[torch.arange(8) != 1].isfinite().all()


@pytest.mark.parametrize("gradient", [True, False])
def test_deterministic_training_takes_pytorch(gradient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    take_twins(monkeypatch)
    monkeypatch.setattr(twin, "mean_of_samples", lambda table, *a: taken.append("align") or table.new_zeros(8, 4, 1))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    features, (boxes, levels) = maps(1), rois()
    pyramid = FlatPyramid.of([m.to(DEVICE).requires_grad_(gradient) for m in features], STRIDES)
    METHODS["two samples"](pyramid, boxes.to(DEVICE), levels.to(DEVICE))
    assert taken == ([] if gradient else ["align"])


def test_operators_are_sound() -> None:
    """Schema, fake tensors and autograd registration, as PyTorch's own checks see them."""
    features, (boxes, levels) = maps(1), rois()
    boxes, levels = boxes[:1, :2].to(DEVICE), levels[:1, :2].to(DEVICE)
    pyramid = FlatPyramid.of([m[:1].to(DEVICE) for m in features], STRIDES)
    inside = module._rois_in_cells(pyramid, boxes, levels, 0.5)
    table = pyramid.table.detach().requires_grad_()
    counts = torch.ones_like(inside.extent)
    start, side = inside.start, inside.sides / BINS
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for fixed, of_each in ((1, None), (0, counts)):
        args = (table, inside.base, inside.extent, start, side, of_each, fixed, BINS, 1.0, 0.5)
        torch.library.opcheck(torch.ops.maskrcnn_triton.mean_of_samples.default, args, test_utils=tests)
    begin = torch.zeros(2, 2, BINS, dtype=torch.int64, device=DEVICE)
    args = (table, inside.base, inside.extent[:, 0], begin, begin + 2)
    assert max_of_cells(*args).shape == (2, BINS**2, 1)
    torch.library.opcheck(torch.ops.maskrcnn_triton.max_of_cells.default, args, test_utils=tests)
