"""Masks as run lengths: those of the pasted pixels, to the last character."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskrcnn.ops import rle as module
from maskrcnn.ops.masks import paste_masks
from maskrcnn.ops.rle import decode_rles, encode_masks, paste_rles, rle_crop

RULES = pytest.mark.parametrize("rule", ["continuous", "integer_box"])
IMAGE = (61, 83)
BOXES = {
    "inside": (4.3, 5.7, 50.2, 45.1),
    "whole pixels": (4, 5, 50, 45),
    "exactly the image": (0, 0, 83, 61),
    "all of the image and more": (-20.5, -11, 103, 74.2),
    "full height": (20.2, -30.1, 40.4, 99.9),
    "full width": (-30.3, 20, 99, 40),
    "beyond the top left": (-7.4, -9.1, 12.3, 8.8),
    "beyond the bottom right": (70.5, 45.5, 90.1, 73.3),
    "flat": (3.2, 10.1, 78.8, 10.9),
    "narrow": (30.2, 3, 30.4, 58),
    "smaller than a pixel": (10.2, 10.3, 10.7, 10.6),
    "left of the image": (-40, 3, -20.5, 9),
    "below the image": (3, 80, 9, 90.5),
    "a point": (10, 10, 10, 10),
}


def drawn(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return masks of all kinds: noise, smooth, flat at the threshold or a rounding beside it, empty and full."""
    noise = torch.rand(count, size, size, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise[:, None], 3, 1, 1)[:, 0]
    steps = (noise > 0.5).float() * 0.5 + 0.25
    flat = 0.5 + (noise > 0.5) * torch.tensor(0.5).nextafter(torch.tensor(0.0)).sub(0.5)
    kinds = (noise, smooth, steps, flat, torch.zeros_like(noise), torch.ones_like(noise), torch.full_like(noise, 0.5))
    return torch.stack([kinds[k % len(kinds)][k] for k in range(count)])


def random_boxes(count: int, image_size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return boxes of all sizes, some of them on whole pixels and on the border, some of them far over it."""
    height, width = image_size
    sides = torch.tensor([width, height]) * 2.0 ** (-6 * torch.rand(count, 2, generator=generator) + 1)
    start = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) - sides / 2
    boxes = torch.cat((start, start + sides), 1)
    boxes[::3] = boxes[::3].round()
    boxes[1::3] = torch.minimum(boxes[1::3].clamp(min=0), torch.tensor([width, height, width, height]))
    return boxes


def test_run_lengths_by_hand() -> None:
    # Rows 1 and 2 of columns 1 and 2, in 3 rows and 4 columns: 4 pixels outside, 2 inside, 1 outside, 2 inside, 3 not.
    # Compressed, each number from the fourth on is the difference to the one two before: 4, 2, 1, 0, 2.
    [rle] = paste_rles(torch.ones(1, 4, 4), torch.tensor([[1.0, 1, 3, 3]]), (3, 4))
    assert rle == {"size": [3, 4], "counts": "42102"}


def test_a_column_that_goes_on_in_the_next_is_one_run() -> None:
    [rle] = paste_rles(torch.ones(1, 4, 4), torch.tensor([[1.0, 0, 3, 3]]), (3, 4))
    assert rle == {"size": [3, 4], "counts": "363"}


@RULES
@pytest.mark.parametrize("size", [1, 2, 7, 28])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_are_those_of_the_pasted_mask(rule: str, size: int, box: tuple[float, ...]) -> None:
    masks = drawn(7, size, torch.Generator().manual_seed(size))
    boxes = torch.tensor([box], dtype=torch.float32).expand(7, 4)
    assert paste_rles(masks, boxes, IMAGE, rule) == encode_masks(paste_masks(masks, boxes, IMAGE, rule))


@RULES
@pytest.mark.parametrize("seed", range(8))
def test_are_those_of_pasted_masks_in_random_boxes(rule: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image_size = ((1, 300), (300, 1), (97, 131), (480, 640))[seed % 4]
    masks, boxes = drawn(21, 28, generator), random_boxes(21, image_size, generator)
    for threshold in (0.5, 0.3, float(masks[0, 3, 3])):
        expected = encode_masks(paste_masks(masks, boxes, image_size, rule, threshold))
        assert paste_rles(masks, boxes, image_size, rule, threshold) == expected


@RULES
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_are_those_of_the_pasted_mask_at_the_ends_of_the_threshold(rule: str, threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    masks, boxes = drawn(14, 5, generator), random_boxes(14, IMAGE, generator)
    expected = encode_masks(paste_masks(masks, boxes, IMAGE, rule, threshold))
    assert paste_rles(masks, boxes, IMAGE, rule, threshold) == expected


@RULES
def test_are_those_of_the_pasted_mask_in_float64(rule: str) -> None:
    generator = torch.Generator().manual_seed(0)
    masks, boxes = drawn(14, 9, generator).double(), random_boxes(14, IMAGE, generator).double()
    assert paste_rles(masks, boxes, IMAGE, rule) == encode_masks(paste_masks(masks, boxes, IMAGE, rule))


def test_no_mask_gives_no_run_lengths() -> None:
    assert paste_rles(torch.zeros(0, 28, 28), torch.zeros(0, 4), IMAGE) == []


def test_a_full_and_an_empty_image() -> None:
    boxes = torch.tensor([[-10.0, -10, 20, 20]]).expand(2, 4)
    masks = torch.stack((torch.ones(4, 4), torch.zeros(4, 4)))
    full, empty = decode_rles(paste_rles(masks, boxes, (5, 6)), 5, 6)
    assert full.all() and not empty.any()


@pytest.mark.parametrize("seed", range(5))
def test_a_crop_is_the_smallest_part_that_holds_the_mask(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = paste_masks(drawn(20, 7, generator), random_boxes(20, IMAGE, generator), IMAGE)
    for mask, rle in zip(masks, encode_masks(masks), strict=True):
        crop = rle_crop(rle)
        if crop is None:
            assert not mask.any()
            continue
        top, left, pixels = crop
        assert pixels.any(0)[[0, -1]].all() and pixels.any(1)[[0, -1]].all()
        again = torch.zeros_like(mask)
        again[top : top + pixels.shape[0], left : left + pixels.shape[1]] = torch.from_numpy(pixels)
        assert torch.equal(again, mask)


def looked_at(image_size: tuple[int, int], count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many pixels' values are computed for masks that fill the image."""
    seen = 0
    at = module._Lines.at

    def counted(self, columns, rows):
        nonlocal seen
        values = at(self, columns, rows)
        seen += values.size
        return values

    with monkeypatch.context() as patched:
        patched.setattr(module._Lines, "at", counted)
        generator = torch.Generator().manual_seed(0)
        height, width = image_size
        masks = torch.nn.functional.interpolate(torch.rand(count, 1, 4, 4, generator=generator), (28, 28))[:, 0]
        paste_rles(masks, torch.tensor([[0.0, 0, width, height]]).expand(count, 4), image_size)
    return seen


def test_work_grows_with_the_width_of_the_masks_not_with_their_area(monkeypatch: pytest.MonkeyPatch) -> None:
    small, tall, wide = (looked_at(size, 2, monkeypatch) for size in ((400, 400), (1600, 400), (400, 1600)))
    assert tall < 1.3 * small
    assert wide < 4.1 * small
    assert small < 0.3 * 2 * 400 * 400


def test_work_is_linear_in_the_number_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (looked_at((200, 300), count, monkeypatch) for count in (10, 20))
    assert many <= 2.2 * few
