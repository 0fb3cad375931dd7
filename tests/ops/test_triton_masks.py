"""Mask pasting by Triton's kernel draws what PyTorch's does, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interpreted import DEVICE
from maskrcnn.ops.masks import paste_masks
from maskrcnn.ops.triton.masks import paste_masks as twin

RULES = pytest.mark.parametrize("rule", ["continuous", "integer_box"])
IMAGE = (19, 140)  # more rows and columns than a program has
BOXES = {
    "inside": (4.3, 5.7, 20.2, 15.1),
    "whole pixels": (4, 5, 20, 15),
    "beyond the top left": (-7.4, -9.1, 12.3, 8.8),
    "beyond the bottom right": (120.5, 10.5, 160.1, 33.3),
    "all of the image and more": (-20.5, -11, 161, 44.2),
    "over two programs": (100.1, 2.2, 135.7, 17.9),
    "flat": (3.2, 10.1, 128.8, 10.9),
    "smaller than a pixel": (10.2, 10.3, 10.7, 10.6),
    "without area": (5, 5, 5, 5),
    "left of the image": (-40, 3, -20.5, 9),
    "below the image": (3, 40, 9, 50.5),
}


def pasted(probabilities: Tensor, boxes: Tensor, *rest) -> Tensor:
    return twin(probabilities.to(DEVICE), boxes.to(DEVICE), *rest).cpu()


@RULES
@pytest.mark.parametrize("size", [1, 5, 28])
def test_boxes_in_the_image_and_over_its_border(rule: str, size: int) -> None:
    masks, boxes = torch.rand(len(BOXES), size, size), torch.tensor(list(BOXES.values()))
    for threshold in (0.5, 0.2):
        expected = paste_masks(masks, boxes, IMAGE, rule, threshold)
        torch.testing.assert_close(pasted(masks, boxes, IMAGE, rule, threshold), expected)
    assert expected.any()


@RULES
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_values_equal_to_the_threshold(rule: str, threshold: float) -> None:
    masks, boxes = torch.full((3, 4, 4), threshold), torch.tensor([[0.0, 0, 16, 16], [3, 2, 11, 10], [1.3, 2.1, 9, 7]])
    expected = paste_masks(masks, boxes, IMAGE, rule, threshold)
    torch.testing.assert_close(pasted(masks, boxes, IMAGE, rule, threshold), expected)
    assert expected.any()


@RULES
def test_random_masks(rule: str) -> None:
    masks, corners = torch.rand(6, 14, 14), torch.rand(6, 2, 2) * torch.tensor([150.0, 25.0]) - 5
    boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1)
    torch.testing.assert_close(pasted(masks, boxes, IMAGE, rule), paste_masks(masks, boxes, IMAGE, rule))


@RULES
@pytest.mark.parametrize(("count", "image"), [(0, IMAGE), (2, (0, 7)), (2, (1, 1))])
def test_nothing_to_paste(rule: str, count: int, image: tuple[int, int]) -> None:
    masks = pasted(torch.zeros(count, 28, 28), torch.zeros(count, 4), image, rule)
    assert masks.shape == (count, *image) and masks.dtype == torch.bool and not masks.any()


def test_input_that_is_not_contiguous() -> None:
    masks, boxes = torch.rand(2, 7, 7), torch.tensor([[2.0, 3, 30, 15], [50, 1, 90, 18]])
    apart, boxes_apart = masks.mT.contiguous().mT, boxes.T.contiguous().T
    torch.testing.assert_close(pasted(apart, boxes_apart, IMAGE), paste_masks(masks, boxes, IMAGE))
