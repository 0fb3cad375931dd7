"""From the network's boxes to the photo's: each meaning of corners, padding, rounding."""

import pytest
import torch

from maskrcnn import Config, DetectionBatch, ImageBatch
from maskrcnn.ops.keypoints import heatmap_targets
from maskrcnn.prediction import unbatch


def batch(size=(100, 200), original=(50, 100), padded=(128, 256), offset=None):
    """One image of a size in the input, of an original size."""
    offsets = None if offset is None else torch.tensor([offset])
    return ImageBatch(torch.zeros(1, 3, *padded), torch.tensor([size]), torch.tensor([original]), offsets)


def detected(*boxes, mask=None):
    count = len(boxes)
    logits = torch.zeros(1, count, 0, 0) if mask is None else mask.expand(1, count, *mask.shape)
    valid = torch.ones(1, count, dtype=torch.bool)
    labels = torch.zeros(1, count, dtype=torch.int64)
    none = torch.zeros(1, count, 0, 0, 0)
    return DetectionBatch(torch.tensor([boxes]).float(), labels, torch.ones(1, count), logits, valid, none)


def config(**overrides):
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    return Config.preset(class_names=["a"], masks=False).replace(changes)


@pytest.mark.parametrize(
    ("corners", "box", "expected"),
    [
        ("edges", (20, 10, 60, 50), (10, 5, 30, 25)),
        ("inclusive", (20, 10, 61, 51), (10, 5, 31, 26)),  # pixels 20 … 60 become 10 … 30
        ("centers", (0, 0, 199, 99), (0, 0, 100, 50)),  # from the first pixel to the last
        ("centers", (199 / 99 * 10, 0, 199 / 99 * 30, 99 / 49 * 25), (10, 0, 31, 26)),
    ],
)
def test_boxes_come_back_to_the_photo(corners, box, expected):
    [found] = unbatch(detected(box), batch(), config(box_corners=corners))
    torch.testing.assert_close(found.boxes, torch.tensor([expected]).float())


@pytest.mark.parametrize("corners", ["edges", "centers"])
def test_padding_before_the_image_is_taken_off(corners):
    box = (40, 30, 80, 70)
    shifted = tuple(v + o for v, o in zip(box, (28, 14, 28, 14), strict=True))
    [plain] = unbatch(detected(box), batch(), config(box_corners=corners))
    [moved] = unbatch(detected(shifted), batch(offset=(14, 28)), config(box_corners=corners))
    torch.testing.assert_close(moved.boxes, plain.boxes)


def test_boxes_may_be_rounded_to_pixels_and_empty_ones_go():
    found = unbatch(detected((20.4, 10, 61, 50), (4, 4, 4.6, 30)), batch(), config(box__round_boxes=True))[0]
    assert found.boxes.tolist() == [[10, 5, 30, 25]]


def test_boxes_are_cut_to_the_photo_and_empty_ones_go():
    found = unbatch(detected((-10, -10, 300, 300), (250, 0, 260, 10)), batch(), config())[0]
    assert found.boxes.tolist() == [[0, 0, 100, 50]]


@pytest.mark.parametrize("corners", ["edges", "centers"])
def test_masks_fill_the_boxes_that_come_back(corners):
    mask = torch.full((28, 28), 10.0)
    box = (20, 10, 60, 50) if corners == "edges" else (199 / 99 * 10, 99 / 49 * 5, 199 / 99 * 29, 99 / 49 * 24)
    [found] = unbatch(detected(box, mask=mask), batch(), config(box_corners=corners, masks=True))
    expected = torch.zeros(50, 100, dtype=torch.bool)
    expected[5:25, 10:30] = True
    assert torch.equal(found.masks[0], expected)


@pytest.mark.parametrize("corners", ["edges", "inclusive", "centers"])
def test_a_keypoint_is_read_where_it_was_learned(corners):
    box = torch.tensor([[20.0, 10.0, 76.0, 66.0]])
    point = torch.tensor([[[54.5, 33.5, 2.0]]])
    inside = box - torch.tensor([0.0, 0, 1, 1]) if corners == "centers" else box  # as the network has it
    cells, _ = heatmap_targets(point, box, 56)  # the loss's rule, in whole pixels
    heatmap = torch.nn.functional.one_hot(cells, 56 * 56).float().reshape(1, 1, 1, 56, 56) * 20
    found = detected(tuple(inside[0].tolist()))._replace(keypoint_logits=heatmap)
    images = batch(size=(100, 200), original=(100, 200))
    [read] = unbatch(found, images, config(box_corners=corners, keypoint_names=["nose"]))
    torch.testing.assert_close(read.keypoints[0, 0, :2], point[0, 0, :2], rtol=0, atol=0.01)
