from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils

from maskrcnn.data.segmentation import (
    AnnotationError,
    check_segmentation,
    to_rle,
)
from maskrcnn.ops.rle import decode_rles, encode_masks, rle_area, rle_box


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 48), (300, 200)])
def test_run_lengths_of_random_masks_round_trip(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.98):
        mask = torch.from_numpy(rng.random(shape) < density)
        mask[0, 0] = True
        (rle,) = encode_masks(mask[None])
        check_segmentation(rle, *shape)
        assert to_rle(rle, *shape) == rle
        torch.testing.assert_close(decode_rles([rle], *shape)[0], mask)
        assert rle_area(rle) == mask.sum()


def test_run_lengths_are_those_of_pycocotools() -> None:
    masks = np.random.default_rng(0).random((3, 20, 30)) < 0.3
    for mask, rle in zip(masks, encode_masks(torch.from_numpy(masks)), strict=True):
        wanted = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle == {"size": [20, 30], "counts": wanted["counts"].decode()}


def test_a_mask_worked_by_hand() -> None:
    # Down the columns of 2 rows × 3 columns: 3 outside, 2 inside, 1 outside.
    (mask,) = decode_rles([to_rle({"size": [2, 3], "counts": [3, 2, 1]}, 2, 3)], 2, 3)
    assert mask.int().tolist() == [[0, 0, 1], [0, 1, 0]]
    assert rle_box(to_rle({"size": [2, 3], "counts": [3, 2, 1]}, 2, 3)) == [1, 0, 2, 2]


def test_no_masks_encode_to_nothing() -> None:
    assert encode_masks(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
    assert decode_rles([], 4, 5).shape == (0, 4, 5)


def test_runs_of_length_zero_are_joined() -> None:
    plain = {"size": [4, 5], "counts": [2, 3, 0, 4, 11]}
    assert to_rle(plain, 4, 5) == to_rle({"size": [4, 5], "counts": [2, 7, 11]}, 4, 5)


def test_damaged_run_lengths_are_refused_or_harmless() -> None:
    rng = np.random.default_rng(0)
    (rle,) = encode_masks(torch.from_numpy(rng.random((1, 30, 40)) < 0.1))
    refused = 0
    for _ in range(300):
        text = bytearray(rle["counts"], "ascii")
        for place in rng.integers(0, len(text), rng.integers(1, 4)):
            text[place] = rng.integers(1, 127)
        damaged = {"size": [30, 40], "counts": bytes(text[: rng.integers(1, len(text) + 1)]).decode()}
        try:
            check_segmentation(damaged, 30, 40)
        except AnnotationError:
            refused += 1
        else:
            assert decode_rles([to_rle(damaged, 30, 40)], 30, 40).shape == (1, 30, 40)
    assert refused > 250


def test_polygons_that_reach_over_the_edge_are_cut_there() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        polygon = (rng.uniform(-1, 2, (5, 2)) * [40, 30]).ravel().tolist()
        with contextlib.suppress(AnnotationError):  # where it covers no pixel
            check_segmentation([polygon], 30, 40)
        assert decode_rles([to_rle([polygon], 30, 40)], 30, 40).shape == (1, 30, 40)
    over = decode_rles([to_rle([[-10, -10, 50, -10, 50, 40, -10, 40]], 30, 40)], 30, 40)
    assert over.all()
