"""RoIAlign and RoIPool: numbers derived on a ramp, the slow loops, gradients, and which level serves whom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn import roi_align as module
from maskrcnn.config import RoIAlignConfig
from maskrcnn.roi_align import FlatPyramid, RoIAlign, assign_levels, crop_and_resize, roi_align, roi_pool
from reference import roi_align as reference

STRIDES = (4, 8, 16)
METHODS = {
    "align": roi_align,
    "align not aligned": lambda *a: roi_align(*a, aligned=False),
    "align adaptive": lambda *a: roi_align(*a, sampling_ratio=0),
    "align adaptive not aligned": lambda *a: roi_align(*a, sampling_ratio=0, aligned=False),
    "pool": roi_pool,
}
ALL_METHODS = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def ramp() -> FlatPyramid:
    """Cell (y, x) of a 5 × 5 map holds 5 y + x."""
    return FlatPyramid.of([torch.arange(25.0).reshape(1, 1, 5, 5)], [1])


def one(*box: float) -> tuple[Tensor, Tensor]:
    return torch.tensor([[box]]).float(), torch.zeros(1, 1, dtype=torch.int64)


def random_maps(images: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Three levels of an image of 112 × 96 pixels."""
    return [torch.randn(images, 3, 112 // s, 96 // s, dtype=dtype) for s in STRIDES]


def random_rois(images: int = 2, count: int = 14, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """RoIs of all sizes; some reach beyond the image, lie outside, are empty or as large as the image."""
    corners = torch.rand(images, count, 2, 2, dtype=dtype) * 150 - 25
    boxes = torch.cat((corners.amin(2), corners.amax(2)), dim=-1)
    boxes[0, 0] = torch.tensor([0, 0, 96, 112])
    boxes[0, 1] = torch.tensor([200, 300, 250, 350])
    boxes[0, 2] = torch.tensor([50, 50, 50, 50])
    boxes[0, 3] = torch.tensor([-80, -80, -40, -30])
    return boxes, torch.arange(images * count).reshape(images, count) % 3


def slow_crops(crop, maps: list[Tensor], boxes: Tensor, levels: Tensor, *args) -> Tensor:
    crops = [
        crop(maps[level][n].numpy(), box.numpy(), STRIDES[level], *args)
        for n in range(len(boxes))
        for box, level in zip(boxes[n], levels[n].tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(crops))


# RoIAlign


@pytest.mark.parametrize("ratio", [0, 1, 2, 3], ids="ratio {}".format)
@pytest.mark.parametrize(("aligned", "first"), [(True, 4.5), (False, 7.5)], ids=["aligned", "not aligned"])
def test_align_by_hand_on_a_ramp(aligned: bool, first: float, ratio: int) -> None:
    # Four bins of half a cell from 1 on; on a ramp a bin's mean is the value at its centre. The first centre
    # is at 1.25 cells: 5 · 1.25 + 1.25 = 7.5, and half a cell up and left of it where centres are at k + 0.5.
    expected = first + torch.tensor([[0.0], [2.5], [5.0], [7.5]]) + torch.tensor([0.0, 0.5, 1.0, 1.5])
    crop = roi_align(ramp(), *one(1, 1, 3, 3), output_size=4, sampling_ratio=ratio, aligned=aligned)
    torch.testing.assert_close(crop[0, 0], expected)


def test_align_by_hand_over_the_edge_of_the_map() -> None:
    # Bins of one cell, one sample each, in row 1 (5 … 9): at x = −1.25 outside the map, at −0.25 the border
    # cell's value, then between cells.
    crop = roi_align(ramp(), *one(-1.25, 1, 2.75, 5), output_size=4, sampling_ratio=1, aligned=True)
    torch.testing.assert_close(crop[0, 0, 0], torch.tensor([0.0, 5.0, 5.75, 6.75]))
    # At x = 2.5, 3.5, 4.5 and 5.5: up to one cell behind the last its value holds.
    crop = roi_align(ramp(), *one(2.5, 1, 6.5, 5), output_size=4, sampling_ratio=1, aligned=True)
    torch.testing.assert_close(crop[0, 0, 0], torch.tensor([7.5, 8.5, 9.0, 0.0]))


def test_a_roi_is_widened_to_one_cell_unless_aligned() -> None:
    narrow, cell = one(2.0, 2.0, 2.1, 2.1), one(2.0, 2.0, 3.0, 3.0)
    torch.testing.assert_close(
        roi_align(ramp(), *narrow, output_size=2, aligned=False),
        roi_align(ramp(), *cell, output_size=2, aligned=False),
    )
    assert roi_align(ramp(), *narrow, output_size=2, aligned=True).max() < 10


@pytest.mark.parametrize("ratio", [0, 1, 2, 3], ids="ratio {}".format)
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not aligned"])
def test_align_is_the_slow_loop_on_several_levels_at_once(aligned: bool, ratio: int) -> None:
    maps, (boxes, levels) = random_maps(dtype=torch.float64), random_rois(dtype=torch.float64)
    expected = slow_crops(reference.roi_align, maps, boxes, levels, 4, ratio, aligned)
    crops = roi_align(FlatPyramid.of(maps, STRIDES), boxes, levels, 4, ratio, aligned)
    torch.testing.assert_close(crops, expected, rtol=1e-9, atol=1e-9)


def test_adaptive_is_fixed_where_the_number_of_samples_agrees() -> None:
    maps, levels = random_maps(), torch.zeros(2, 5, dtype=torch.int64)
    corner = torch.rand(2, 5, 2) * 30
    boxes = torch.cat((corner, corner + 4 * 4 * 2), dim=-1)  # 8 cells for 4 bins: 2 samples
    boxes[..., 2:] -= 0.5
    pyramid = FlatPyramid.of(maps, STRIDES)
    torch.testing.assert_close(
        roi_align(pyramid, boxes, levels, 4, sampling_ratio=0),
        roi_align(pyramid, boxes, levels, 4, sampling_ratio=2),
    )


@pytest.mark.parametrize("ratio", [0, 2])
def test_constant_map_gives_constant_crops(ratio: int) -> None:
    maps = [torch.full((1, 2, 112 // s, 96 // s), 3.25) for s in STRIDES]
    corners = torch.rand(1, 20, 2, 2) * torch.tensor([96.0, 112.0])
    boxes = torch.cat((corners.amin(2), corners.amax(2)), dim=-1)
    crops = roi_align(FlatPyramid.of(maps, STRIDES), boxes, torch.arange(20)[None] % 3, 7, ratio)
    torch.testing.assert_close(crops, torch.full_like(crops, 3.25))


# RoIPool


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param((0, 0, 3, 3), [[6, 8], [16, 18]], id="two bins of two cells"),
        # 0.4 and 2.6 are rounded to 0 and 3, 0.5 to 1.
        pytest.param((0.4, 0.4, 2.6, 2.6), [[6, 8], [16, 18]], id="rounded"),
        pytest.param((0.5, 0, 4, 3), [[7, 9], [17, 19]], id="half is rounded up"),
        # Cells 1 to 3 in two bins: each takes two, and they share the middle one.
        pytest.param((1, 1, 3, 3), [[12, 13], [17, 18]], id="bins overlap"),
        pytest.param((2, 2, 2, 2), [[12, 12], [12, 12]], id="one cell"),
        pytest.param((4, 4, 7, 7), [[24, 0], [0, 0]], id="a bin without cells is 0"),
    ],
)
def test_pool_by_hand_on_a_ramp(box: tuple[float, ...], expected: list[list[float]]) -> None:
    crop = roi_pool(ramp(), *one(*box), output_size=2)
    torch.testing.assert_close(crop[0, 0], torch.tensor(expected).float())


@pytest.mark.parametrize("size", [1, 3, 7])
def test_pool_is_the_slow_loop_on_several_levels_at_once(size: int) -> None:
    maps, (boxes, levels) = random_maps(), random_rois()
    expected = slow_crops(reference.roi_pool, maps, boxes, levels, size).float()
    torch.testing.assert_close(roi_pool(FlatPyramid.of(maps, STRIDES), boxes, levels, size), expected)


# Both


@ALL_METHODS
def test_batch_of_two_is_two_batches_of_one(method) -> None:
    maps, (boxes, levels) = random_maps(), random_rois()
    together = method(FlatPyramid.of(maps, STRIDES), boxes, levels, 4)
    apart = [
        method(FlatPyramid.of([m[n, None] for m in maps], STRIDES), boxes[n, None], levels[n, None], 4)
        for n in range(2)
    ]
    torch.testing.assert_close(together, torch.cat(apart))


@ALL_METHODS
def test_order_of_rois_does_not_matter(method) -> None:
    pyramid, (boxes, levels) = FlatPyramid.of(random_maps(1), STRIDES), random_rois(1)
    order = torch.randperm(boxes.shape[1])
    torch.testing.assert_close(
        method(pyramid, boxes[:, order], levels[:, order], 4), method(pyramid, boxes, levels, 4)[order]
    )


@ALL_METHODS
def test_no_rois(method) -> None:
    maps = [m.requires_grad_() for m in random_maps()]
    boxes, levels = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64)
    crops = method(FlatPyramid.of(maps, STRIDES), boxes, levels, 4)
    assert crops.shape == (0, 3, 4, 4)
    crops.sum().backward()
    for m in maps:
        torch.testing.assert_close(m.grad, torch.zeros_like(m))


@ALL_METHODS
def test_all_rois_outside_the_map_give_zeros(method) -> None:
    boxes, levels = torch.tensor([[[500.0, 500, 600, 600], [-600, -600, -500, -500]]]), torch.tensor([[0, 2]])
    crops = method(FlatPyramid.of(random_maps(1), STRIDES), boxes, levels, 4)
    torch.testing.assert_close(crops, torch.zeros(2, 3, 4, 4))


@ALL_METHODS
def test_roi_without_area_gives_finite_numbers(method) -> None:
    boxes = torch.tensor([[[0.0, 0, 0, 0], [50, 50, 50, 50], [30, 30, 20, 20]]])
    crops = method(FlatPyramid.of(random_maps(1), STRIDES), boxes, torch.tensor([[0, 1, 2]]), 4)
    assert crops.shape == (3, 3, 4, 4) and crops.isfinite().all()


@ALL_METHODS
def test_work_done_in_small_portions_is_the_same(method, monkeypatch: pytest.MonkeyPatch) -> None:
    pyramid, (boxes, levels) = FlatPyramid.of(random_maps(), STRIDES), random_rois()
    expected = method(pyramid, boxes, levels, 4)
    monkeypatch.setattr(module, "MAX_ENTRIES", 300)
    torch.testing.assert_close(method(pyramid, boxes, levels, 4), expected)


@pytest.mark.parametrize("name", ["align adaptive", "pool"])
def test_shapes_fixed_for_a_compiler_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pyramid, (boxes, levels) = FlatPyramid.of(random_maps(), STRIDES), random_rois()
    boxes = boxes.clamp(torch.zeros(4), torch.tensor([96.0, 112, 96, 112]))  # as proposals are
    expected = METHODS[name](pyramid, boxes, levels, 4)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(METHODS[name](pyramid, boxes, levels, 4), expected)


@ALL_METHODS
def test_bfloat16_features(method) -> None:
    maps, (boxes, levels) = random_maps(), random_rois()
    expected = method(FlatPyramid.of(maps, STRIDES), boxes, levels, 4)
    crops = method(FlatPyramid.of([m.bfloat16() for m in maps], STRIDES), boxes, levels, 4)
    assert crops.dtype == torch.bfloat16
    torch.testing.assert_close(crops.float(), expected, rtol=0.02, atol=0.03)


# Gradients


@ALL_METHODS
def test_gradient_of_the_features(method) -> None:
    maps = [torch.randn(2, 1, 6 // s, 4 // s, dtype=torch.float64, requires_grad=True) for s in (1, 2)]
    boxes = torch.tensor([[[0.3, 0.4, 3.1, 4.6], [1, 1, 2, 3]], [[-2, 1, 3, 7], [1.3, 2.3, 5, 5]]]).double()
    levels = torch.tensor([[0, 1], [1, 0]])
    assert torch.autograd.gradcheck(lambda *maps: method(FlatPyramid.of(maps, (1, 2)), boxes, levels, 2), maps)


def test_table_sums_have_autograds_gradient() -> None:
    table = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    index = torch.randint(7, (5, 6), dtype=torch.int32)  # rows 7 and 8 are read by none
    weight, wanted = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    plain = (table[index.long()] * weight[..., None]).sum(1)
    sums = module._TableSums.apply(table, index, weight)
    torch.testing.assert_close(sums, plain)
    expected = torch.autograd.grad((plain * wanted).sum(), table)
    torch.testing.assert_close(torch.autograd.grad((sums * wanted).sum(), table), expected)


def test_gradient_that_is_not_contiguous() -> None:
    table = torch.randn(9, 4, requires_grad=True)
    sums = module._TableSums.apply(table, torch.arange(9, dtype=torch.int32)[:, None], torch.ones(9, 1))
    sums.sum().backward()  # its gradient is one number, expanded
    torch.testing.assert_close(table.grad, torch.ones(9, 4))


# The module


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (RoIAlignConfig(), "align"),
        (RoIAlignConfig(aligned=False), "align not aligned"),
        (RoIAlignConfig(sampling_ratio=0), "align adaptive"),
        (RoIAlignConfig(method="pool"), "pool"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_configuration_picks_the_method(config: RoIAlignConfig, method: str) -> None:
    pyramid, (boxes, levels) = FlatPyramid.of(random_maps(), STRIDES), random_rois()
    crops = RoIAlign(config, 4)(pyramid, boxes, levels)
    torch.testing.assert_close(crops, METHODS[method](pyramid, boxes, levels, 4))


def test_no_gradient_flows_into_the_boxes() -> None:
    pyramid, (boxes, levels) = FlatPyramid.of(random_maps(), STRIDES), random_rois()
    assert not RoIAlign(RoIAlignConfig(), 4)(pyramid, boxes.requires_grad_(), levels).requires_grad


# crop_and_resize


def test_crop_and_resize_by_hand() -> None:
    ramp = torch.arange(5.0).expand(1, 1, 5, 5)
    pyramid = FlatPyramid.of([ramp], [1])
    levels = torch.zeros(1, 2, dtype=torch.int64)
    boxes = torch.tensor([[[1.0, 0.0, 3.0, 4.0], [2.0, 1.0, 6.0, 2.0]]])
    crops = crop_and_resize(pyramid, boxes, levels, 3)
    assert crops[0, 0].tolist() == [[1, 2, 3]] * 3  # from border to border
    assert crops[1, 0].tolist() == [[2, 4, 0]] * 3  # column 6 lies outside


def test_crop_and_resize_puts_the_last_pixel_on_the_last_cell() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    box = torch.tensor([[[0.0, 0.0, 31.0, 31.0]]])  # an input of 32 pixels
    crop = crop_and_resize(FlatPyramid.of([ramp], [8]), box, torch.zeros(1, 1, dtype=torch.int64), 4)
    torch.testing.assert_close(crop[0, 0, 0], torch.arange(4.0))


def test_crop_and_resize_of_one_bin_takes_the_middle() -> None:
    ramp = torch.arange(5.0).expand(1, 1, 5, 5)
    box = torch.tensor([[[1.0, 1.0, 4.0, 3.0]]])
    crop = crop_and_resize(FlatPyramid.of([ramp], [1]), box, torch.zeros(1, 1, dtype=torch.int64), 1)
    assert crop.tolist() == [[[[2.5]]]]


@pytest.mark.parametrize("size", [2, 7])
def test_crop_and_resize_is_the_slow_loop(size: int) -> None:
    maps, (boxes, levels) = random_maps(), random_rois()
    crops = crop_and_resize(FlatPyramid.of(maps, STRIDES), boxes, levels, size)
    flat = [(n, box, level) for n in range(len(boxes)) for box, level in zip(boxes[n], levels[n].tolist(), strict=True)]
    for crop, (n, box, level) in zip(crops, flat, strict=True):
        slow = reference.crop_and_resize(maps[level][n].double().numpy(), box.double().numpy(), STRIDES[level], size)
        torch.testing.assert_close(crop.double(), torch.from_numpy(slow), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "corners", "ends"),
    [
        ("align", "edges", 0),
        ("align", "inclusive", -1),
        ("align", "centers", 1),
        ("crop_and_resize", "centers", 0),
        ("crop_and_resize", "edges", -1),
    ],
)
def test_corners_are_what_the_method_expects(method, corners, ends) -> None:
    pyramid, (boxes, levels) = FlatPyramid.of(random_maps(), STRIDES), random_rois()
    crops = RoIAlign(RoIAlignConfig(method=method), 4, corners)(pyramid, boxes, levels)
    moved = boxes + torch.tensor([0.0, 0, ends, ends])
    expected = crop_and_resize if method == "crop_and_resize" else METHODS["align"]
    torch.testing.assert_close(crops, expected(pyramid, moved, levels, 4))


# Levels


@pytest.mark.parametrize(
    ("width", "height", "level"),
    [
        pytest.param(0, 0, 2, id="no area"),
        pytest.param(1, 1, 2, id="tiny"),
        pytest.param(111.9, 111.9, 2, id="just under 112"),
        pytest.param(112, 112, 3, id="112"),
        pytest.param(223.9, 223.9, 3, id="just under 224"),
        pytest.param(224, 224, 4, id="224"),
        pytest.param(448, 112, 4, id="area of 224²"),
        pytest.param(447.9, 447.9, 4, id="just under 448"),
        pytest.param(448, 448, 5, id="448"),
        pytest.param(5000, 5000, 5, id="huge"),
        pytest.param(-300, 300, 2, id="inverted"),
    ],
)
def test_levels_by_hand(width: float, height: float, level: int) -> None:
    box = torch.tensor([[10.0, 20.0, 10 + width, 20 + height]])
    assert assign_levels(box, (4, 8, 16, 32), RoIAlignConfig()).tolist() == [level - 2]


def test_canonical_size_and_level_move_the_boundaries() -> None:
    boxes = torch.tensor([[0.0, 0, 99, 99], [0, 0, 100, 100], [0, 0, 200, 200]])
    config = RoIAlignConfig(canonical_size=100, canonical_level=3)
    assert assign_levels(boxes, (4, 8, 16, 32), config).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("side", "floor", "nearest"),
    [(224, 4, 4), (316, 4, 4), (318, 4, 5), (112, 3, 3), (158, 3, 3), (159, 3, 4), (640, 5, 5)],
)
def test_levels_are_rounded_down_or_to_the_nearest(side: int, floor: int, nearest: int) -> None:
    box = torch.tensor([[0.0, 0.0, side, side]])
    for rounding, level in (("floor", floor), ("nearest", nearest)):
        config = RoIAlignConfig(level_rounding=rounding, level_epsilon=0.0)
        assert assign_levels(box, (4, 8, 16, 32), config).tolist() == [level - 2]


def test_epsilon_lifts_what_lies_just_under_a_boundary() -> None:
    side = 224 * 2**-5e-7
    box = torch.tensor([[0.0, 0.0, side, side]], dtype=torch.float64)
    assert assign_levels(box, (4, 8, 16, 32), RoIAlignConfig(level_epsilon=1e-6)).tolist() == [2]
    assert assign_levels(box, (4, 8, 16, 32), RoIAlignConfig(level_epsilon=0.0)).tolist() == [1]


def test_one_level_serves_all() -> None:
    boxes, _ = random_rois()
    assert assign_levels(boxes, (16,), RoIAlignConfig()).eq(0).all()


def test_levels_of_no_boxes() -> None:
    assert assign_levels(torch.zeros(2, 0, 4), (4, 8), RoIAlignConfig()).shape == (2, 0)
