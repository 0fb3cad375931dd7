"""Mask targets and mask pasting: by hand, against loops over pixels, and against PyTorch's samplers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.ops import masks as module
from maskrcnn.ops.masks import crop_masks, paste_masks, paste_probabilities
from maskrcnn.roi_align import FlatPyramid, roi_align
from reference import masks as reference

SLOW = {"continuous": reference.paste_continuous, "integer_box": reference.paste_integer_box}
RULES = pytest.mark.parametrize("rule", list(SLOW))
IMAGE = (23, 31)
BOXES = {
    "inside": (4.3, 5.7, 20.2, 15.1),
    "whole pixels": (4, 5, 20, 15),
    "beyond the top left": (-7.4, -9.1, 12.3, 8.8),
    "beyond the bottom right": (20.5, 15.5, 40.1, 33.3),
    "all of the image and more": (-20.5, -11, 61, 44.2),
    "flat": (3.2, 10.1, 28.8, 10.9),
    "smaller than a pixel": (10.2, 10.3, 10.7, 10.6),
    "left of the image": (-40, 3, -20.5, 9),
    "below the image": (3, 40, 9, 50.5),
}


# Pasting


def test_paste_continuous_by_hand() -> None:
    # Cells are 2 pixels wide, their centres at 1 and 3; pixel centres at 0.5 … 3.5 lie a quarter cell off.
    mask, box = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[0.0, 0, 4, 4]])
    across, down = torch.tensor([0.75, 0.75, 0.25, 0.0]), torch.tensor([0.75, 1.0, 1.0, 0.75])
    torch.testing.assert_close(paste_probabilities(mask, box, (4, 4), "continuous")[0], down[:, None] * across)


def test_paste_integer_box_by_hand() -> None:
    # The 2 cells and their padding widen 2 … 6 to 0 … 8, that is 9 pixels with the last: cells of 9/4 pixels.
    mask, box = torch.ones(1, 2, 2), torch.tensor([[2.0, 2, 6, 6]])
    along = torch.tensor([0, 1 / 6, 11 / 18, 1, 1, 1, 11 / 18, 1 / 6, 0])
    expected = F.pad(along[:, None] * along, (0, 3, 0, 1))
    torch.testing.assert_close(paste_probabilities(mask, box, (10, 12), "integer_box")[0], expected)


def test_pixels_at_the_threshold_belong_to_the_object() -> None:
    mask, box = torch.full((1, 4, 4), 0.5), torch.tensor([[-9.0, -9, 18, 18]])
    assert paste_masks(mask, box, (9, 9), threshold=0.5).all()
    assert not paste_masks(mask, box, (9, 9), threshold=0.501).any()


@RULES
@pytest.mark.parametrize("size", [1, 5, 28])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_paste_is_the_slow_loop(rule: str, size: int, box: tuple[float, ...]) -> None:
    mask = torch.rand(size, size, dtype=torch.float64)
    boxes = torch.tensor([box], dtype=torch.float64)
    expected = torch.from_numpy(SLOW[rule](mask.numpy(), boxes[0].numpy(), *IMAGE))
    pasted = paste_probabilities(mask[None], boxes, IMAGE, rule)[0]
    torch.testing.assert_close(pasted, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(paste_masks(mask[None], boxes, IMAGE, rule)[0], expected >= 0.5)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_paste_continuous_is_grid_sample(box: tuple[float, ...]) -> None:
    height, width = IMAGE
    mask = torch.rand(1, 28, 28, dtype=torch.float64)
    x1, y1, x2, y2 = box
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - y1) / (y2 - y1) * 2 - 1
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - x1) / (x2 - x1) * 2 - 1
    grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
    expected = F.grid_sample(mask[None], grid[None], align_corners=False)[0]
    pasted = paste_probabilities(mask, torch.tensor([box], dtype=torch.float64), IMAGE, "continuous")
    torch.testing.assert_close(pasted, expected)


def test_paste_integer_box_is_interpolate() -> None:
    # 14 cells from 4 to 18 widen to 3 … 19; 7 from 5 to 12 to 4 … 13; the last pixel belongs to the box.
    mask = torch.rand(2, 14, 14, dtype=torch.float64)
    boxes = torch.tensor([[4.0, 5, 18, 12], [4, 5, 18, 12]], dtype=torch.float64)
    enlarged = F.interpolate(F.pad(mask, (1, 1, 1, 1))[None], size=(9, 17), mode="bilinear")[0]
    expected = F.pad(enlarged, (3, 31 - 20, 4, 23 - 13))
    torch.testing.assert_close(paste_probabilities(mask, boxes, IMAGE, "integer_box"), expected)


@RULES
def test_each_mask_goes_to_its_own_box(rule: str) -> None:
    masks, boxes = torch.rand(len(BOXES), 7, 7), torch.tensor(list(BOXES.values()))
    together = paste_masks(masks, boxes, IMAGE, rule)
    for k in range(len(boxes)):
        torch.testing.assert_close(together[k], paste_masks(masks[k, None], boxes[k, None], IMAGE, rule)[0])


@RULES
def test_paste_moves_with_the_box(rule: str) -> None:
    mask, box = torch.rand(1, 7, 7), torch.tensor([[4.25, 3.5, 12.75, 9.25]])
    here = paste_probabilities(mask, box, IMAGE, rule)
    there = paste_probabilities(mask, box + torch.tensor([8.0, 5, 8, 5]), IMAGE, rule)
    torch.testing.assert_close(there, here.roll((5, 8), dims=(1, 2)))


def test_paste_continuous_mirrors() -> None:
    mask, box = torch.rand(1, 7, 7), torch.tensor([[4.3, 3.6, 12.7, 9.2]])
    here = paste_probabilities(mask, box, IMAGE, "continuous")
    mirrored = torch.tensor([[IMAGE[1] - 12.7, 3.6, IMAGE[1] - 4.3, 9.2]])
    torch.testing.assert_close(
        paste_probabilities(mask.flip(2), mirrored, IMAGE, "continuous"),
        here.flip(2),
        rtol=1e-4,
        atol=1e-5,
    )


@RULES
def test_nothing_to_paste(rule: str) -> None:
    pasted = paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), IMAGE, rule)
    assert pasted.shape == (0, *IMAGE) and pasted.dtype == torch.bool


@RULES
def test_a_box_without_area_pastes_without_failing(rule: str) -> None:
    mask, box = torch.ones(1, 28, 28), torch.tensor([[5.0, 5, 5, 5]])
    assert paste_probabilities(mask, box, IMAGE, rule).isfinite().all()


# Targets


def left_half(side: int = 4) -> Tensor:
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    mask[..., : side // 2] = True
    return mask


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        pytest.param([0, 0, 4, 4], 2, [[1, 0], [1, 0]], id="whole"),
        pytest.param([0, 0, 4, 4], 1, [[0.5]], id="one bin"),
        pytest.param([1, 1, 3, 3], 2, [[1, 0], [1, 0]], id="cell by cell"),
        pytest.param([2, 0, 4, 4], 2, [[0, 0], [0, 0]], id="right half"),
        # Bins of 3/2 pixels with 2 samples each, at 0.375, 1.125 | 1.875, 2.625 in pixels: the third lies
        # between cell centres 1.5 and 2.5 and sees 0.625 of the mask.
        pytest.param([0, 0, 3, 3], 2, [[1, 0.3125], [1, 0.3125]], id="between cells"),
    ],
)
def test_targets_by_hand(box: list[float], size: int, expected: list[list[float]]) -> None:
    boxes, matched = torch.tensor([[box]]).float(), torch.zeros(1, 1, dtype=torch.int64)
    torch.testing.assert_close(
        crop_masks(left_half(), matched, boxes, size, aligned=True)[0], torch.tensor(expected).float()
    )


def random_rois() -> tuple[Tensor, Tensor, Tensor]:
    """Two images of 20 × 26 with three masks each; more RoIs than are worked on at a time."""
    masks = torch.rand(2, 3, 20, 26) < 0.5
    corners = torch.rand(2, 12, 2, 2) * torch.tensor([26.0, 20.0])
    boxes = torch.cat((corners.amin(2), corners.amax(2)), dim=-1)
    boxes[0, 0] = torch.tensor([0.0, 0, 26, 20])
    boxes[1, 3] = torch.tensor([7.0, 7, 7, 7])
    return masks, torch.randint(3, (2, 12)), boxes


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not aligned"])
def test_targets_are_the_slow_loop(aligned: bool) -> None:
    masks, matched, boxes = random_rois()
    assert matched.numel() > module.CHUNK
    expected = [
        reference.crop_mask(masks[n, matched[n, f]].numpy(), boxes[n, f].numpy(), 5, aligned)
        for n in range(2)
        for f in range(12)
    ]
    torch.testing.assert_close(
        crop_masks(masks, matched, boxes, 5, aligned),
        torch.from_numpy(np.stack(expected)).float(),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not aligned"])
def test_targets_are_roi_align_of_the_masks(aligned: bool) -> None:
    masks, matched, boxes = random_rois()
    pyramid = FlatPyramid.of([masks.float()], [1])
    crops = roi_align(pyramid, boxes, torch.zeros_like(matched), 5, sampling_ratio=0, aligned=aligned)
    own = crops[torch.arange(24), matched.flatten()]
    torch.testing.assert_close(crop_masks(masks, matched, boxes, 5, aligned), own, rtol=1e-4, atol=1e-4)


def test_target_of_a_box_as_large_as_the_target_is_the_mask() -> None:
    masks, matched = torch.rand(1, 1, 20, 26) < 0.5, torch.zeros(1, 1, dtype=torch.int64)
    boxes = torch.tensor([[[3.0, 4.0, 10.0, 11.0]]])
    target = crop_masks(masks, matched, boxes, 7, aligned=True)[0]
    torch.testing.assert_close(target, masks[0, 0, 4:11, 3:10].float(), rtol=0, atol=1e-5)


def test_full_mask_fills_every_target() -> None:
    _, matched, boxes = random_rois()
    full = torch.ones(2, 3, 20, 26, dtype=torch.bool)
    torch.testing.assert_close(crop_masks(full, matched, boxes, 5, aligned=True), torch.ones(24, 5, 5))


@pytest.mark.parametrize("rois", [0, 1])
def test_targets_of_few_rois(rois: int) -> None:
    masks, matched, boxes = random_rois()
    none = crop_masks(masks, matched[:, :rois], boxes[:, :rois], 5, aligned=True)
    assert none.shape == (2 * rois, 5, 5)
