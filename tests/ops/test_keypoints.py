"""Keypoints in their boxes: which cell is learned, and where the highest point of a heatmap lies."""

import numpy as np
import pytest
import torch

from maskrcnn.ops import keypoints as keypoint_ops
from maskrcnn.ops.keypoints import heatmap_targets, read_heatmaps
from reference import keypoints as reference

BOX = torch.tensor([[10.0, 20.0, 50.0, 100.0]])


def one(x, y, visibility=2.0):
    return torch.tensor([[[x, y, visibility]]], dtype=torch.float32)


@pytest.mark.parametrize(
    ("x", "y", "cell"),
    [(10, 20, 0), (50, 100, 15), (19.9, 20, 0), (20, 20, 1), (10, 40, 4), (49.9, 99.9, 15), (50, 20, 3)],
)
def test_cells_by_hand(x, y, cell):
    cells, valid = heatmap_targets(one(x, y), BOX, 4)
    assert cells.tolist() == [[cell]] and valid.all()


@pytest.mark.parametrize(
    ("x", "y", "visibility"), [(9.9, 50, 2), (50.1, 50, 2), (30, 19, 2), (30, 101, 2), (30, 50, 0)]
)
def test_outside_or_not_labelled_is_not_learned(x, y, visibility):
    cells, valid = heatmap_targets(one(x, y, visibility), BOX, 4)
    assert not valid.any() and 0 <= int(cells) < 16


def test_hidden_keypoints_are_learned():
    assert heatmap_targets(one(30, 50, 1.0), BOX, 4)[1].all()


def test_cells_are_those_of_the_slow_loop():
    rng = np.random.default_rng(0)
    boxes = torch.from_numpy(rng.uniform(0, 50, (20, 4))).float()
    boxes[:, 2:] += boxes[:, :2] + 1
    points = torch.from_numpy(rng.uniform(0, 100, (20, 5, 3))).float()
    points[..., 2] = 2
    cells, valid = heatmap_targets(points, boxes, 8)
    for r in range(20):
        for k in range(5):
            expected = reference.cell(*points[r, k, :2].tolist(), tuple(boxes[r].tolist()), 8)
            assert (int(cells[r, k]) if valid[r, k] else None) == expected


def test_no_boxes():
    cells, valid = heatmap_targets(torch.zeros(0, 17, 3), torch.zeros(0, 4), 56)
    assert cells.shape == valid.shape == (0, 17)
    assert read_heatmaps(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 3)


@pytest.mark.parametrize(
    "box", [(3.2, 4.5, 25.9, 40.1), (0.0, 0.0, 8.0, 8.0), (5.0, 5.0, 5.3, 5.2), (1.0, 2.0, 90.0, 6.5)]
)
def test_reading_is_the_slow_loop(box):
    heatmaps = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = read_heatmaps(heatmaps, torch.tensor([box]))
    slow = torch.tensor([reference.read(h.double().numpy(), box) for h in heatmaps[0]])
    torch.testing.assert_close(found[0], slow.float(), rtol=1e-4, atol=1e-4)


def test_scores_as_shares_sum_the_map_before_enlarging():
    heatmaps = torch.zeros(1, 1, 8, 8)
    heatmaps[0, 0, 2, 3] = 4.0
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    x, y, share = read_heatmaps(heatmaps, box, "softmax")[0, 0].tolist()
    assert (x, y) == (3.5, 2.5)
    assert share == pytest.approx(np.exp(4) / (np.exp(4) + 63), rel=1e-5)
    assert read_heatmaps(heatmaps, box, "logit")[0, 0, 2] == pytest.approx(4.0, rel=1e-5)


def test_what_is_learned_is_read_again():
    points = torch.tensor([[[12.0, 25.0, 2.0], [44.0, 95.0, 2.0]]])
    cells, _ = heatmap_targets(points, BOX, 56)
    heatmaps = torch.nn.functional.one_hot(cells, 56 * 56).float().reshape(1, 2, 56, 56) * 10
    found = read_heatmaps(heatmaps, BOX)
    assert float((found[..., :2] - points[..., :2]).abs().max()) <= 1.5


@pytest.mark.parametrize("most", [1, 2 * 30 * 40, 10**9], ids=["one at a time", "two", "all"])
def test_large_boxes_are_read_in_parts(monkeypatch, most):
    heatmaps = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(2))
    boxes = torch.tensor([[0.0, 0, 40, 30], [3.5, 2, 33, 39.2]])
    expected = read_heatmaps(heatmaps, boxes, "softmax")
    sizes = []
    enlarge = torch.nn.functional.interpolate
    monkeypatch.setattr(keypoint_ops, "MOST_PIXELS", most)
    monkeypatch.setattr(torch.nn.functional, "interpolate", lambda x, **k: sizes.append(x.shape[1]) or enlarge(x, **k))
    torch.testing.assert_close(read_heatmaps(heatmaps, boxes, "softmax"), expected)
    assert max(sizes) == {1: 1, 10**9: 5}.get(most, 2)
