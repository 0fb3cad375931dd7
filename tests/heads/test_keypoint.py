"""The keypoint head and the whole network with it: shapes, the loss by hand, and two images learned by heart."""

import math

import numpy as np
import pytest
import torch

from maskrcnn import Config, MaskRCNN, Target, TargetBatch
from maskrcnn.config import KeypointHeadConfig
from maskrcnn.errors import ConfigError, DatasetError, InputError
from maskrcnn.evaluation import evaluate
from maskrcnn.heads import KeypointHead, SampledRoIs
from maskrcnn.training import TrainOptions, train
from tiny import SIDE, TINY

NAMES = ("middle", "left_top", "right_top")


class Crosses:
    """Two images of a bright square each, with its middle and upper corners as keypoints."""

    class_names = ("square",)
    keypoint_names = NAMES
    skeleton = ((0, 1), (0, 2))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image = np.full((SIDE, SIDE, 3), 40, np.uint8)
        x, y, side = (10, 14, 36) if index == 0 else (24, 20, 28)
        image[y : y + side, x : x + side] = (220, 180, 60)
        image[y : y + 8, x : x + 8] = (20, 60, 250)  # a corner that a mirror moves
        box = torch.tensor([[x, y, x + side, y + side]]).float()
        points = [[x + side / 2, y + side / 2, 2], [x + 2, y + 2, 2], [x + side - 2, y + 2, 1]]
        masks = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
        masks[0, y : y + side, x : x + side] = True
        keypoints = torch.tensor([points]).float()
        return image, Target(box, torch.zeros(1, dtype=torch.int64), masks, keypoints=keypoints)


def network(**overrides):
    torch.manual_seed(0)
    changes = {**TINY, "keypoint_names": NAMES, "keypoint.num_convs": 2, "keypoint.channels": 32, **overrides}
    return MaskRCNN(Config.preset("small-fpn", class_names=("square",), overrides=changes))


def test_heatmaps_are_four_times_the_crop():
    head = KeypointHead(KeypointHeadConfig(num_convs=2, channels=8), 4, 17)
    assert head(torch.zeros(3, 4, 14, 14)).shape == (3, 17, 56, 56)
    assert head(torch.zeros(0, 4, 14, 14)).shape == (0, 17, 56, 56)


def rois(boxes, positive):
    count = len(boxes)
    return SampledRoIs(
        torch.tensor([boxes]).float(),
        torch.zeros(1, count, dtype=torch.int64),
        torch.tensor([positive]),
        torch.ones(1, count, dtype=torch.bool),
    )


def truth(*points):
    box = torch.tensor([[[0.0, 0, 56, 56]]])
    ones = torch.ones(1, 1, dtype=torch.bool)
    return TargetBatch(box, torch.zeros(1, 1).long(), torch.zeros(1, 1, 0, 0).bool(), ones, torch.tensor([[points]]))


def test_loss_by_hand():
    head = KeypointHead(KeypointHeadConfig(num_convs=1, channels=4), 4, 2)
    logits = torch.zeros(2, 2, 56, 56)
    logits[0, 0, 10, 20] = math.log(100)
    targets = truth((20.5, 10.5, 2.0), (5.0, 5.0, 0.0))  # the second is not labelled
    loss = head.loss(logits, rois([(0, 0, 56, 56), (0, 0, 56, 56)], [True, False]), targets)
    assert float(loss) == pytest.approx(-math.log(100 / (100 + 56 * 56 - 1)), rel=1e-5)


def test_nothing_visible_costs_nothing_and_has_finite_gradients():
    head = KeypointHead(KeypointHeadConfig(num_convs=1, channels=4), 4, 1)
    logits = head(torch.randn(1, 4, 14, 14))
    loss = head.loss(logits, rois([(0, 0, 5, 5)], [True]), truth((50.0, 50.0, 2.0)))
    loss.backward()
    assert float(loss.detach()) == 0 and all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_what_comes_back():
    model = network(masks=False).eval()
    out = model(torch.zeros(2, 3, SIDE, SIDE))
    assert out.keypoint_logits.shape == (2, 10, 3, 56, 56)
    [found] = model.predict(np.zeros((50, 70, 3), np.uint8), 0.0)
    assert found.keypoints.shape == (len(found), 3, 3) and found.keypoint_names == NAMES
    assert found.keypoint_scores == "softmax" == found[:1].keypoint_scores
    assert found[:1].keypoints.shape[0] == min(len(found), 1)


def test_a_network_without_keypoints_has_none():
    torch.manual_seed(0)
    model = MaskRCNN(Config.preset("small-fpn", class_names=("a",), overrides=TINY)).eval()
    assert model(torch.zeros(1, 3, SIDE, SIDE)).keypoint_logits.shape == (1, 10, 0, 0, 0)
    assert model.predict(np.zeros((50, 70, 3), np.uint8), 0.0)[0].keypoints is None


def test_two_images_are_learned_by_heart(tmp_path):
    torch.manual_seed(0)
    options = TrainOptions(epochs=400, batch_size=2, learning_rate=3e-3, evaluate_every=0, flip=0.5, workers=0)
    model = network()
    train(model, Crosses(), tmp_path / "run", options, device="cpu")
    result = evaluate(model, Crosses())
    assert result.keypoint["AP"] > 0.95
    assert result.mask["AP50"] > 0.9


def test_targets_must_have_the_keypoints():
    model, images = network(), torch.zeros(1, 3, SIDE, SIDE)
    box = torch.tensor([[[0.0, 0, 20, 20]]])
    batch = TargetBatch(box, torch.zeros(1, 1).long(), torch.zeros(1, 1, SIDE, SIDE).bool(), torch.ones(1, 1).bool())
    with pytest.raises(InputError, match=r"targets\.keypoints is missing, and this network learns keypoints"):
        model(images, batch)
    with pytest.raises(InputError, match=r"targets\.keypoints must be \[1, 1, 3, 3\]; got \[1, 1, 2, 3\]"):
        model(images, batch._replace(keypoints=torch.zeros(1, 1, 2, 3)))


def test_data_with_other_keypoints_are_not_measured():
    data = Crosses()
    data.keypoint_names = ("middle", "right_top", "left_top")
    with pytest.raises(DatasetError, match="evaluated data has the keypoints middle, right_top, left_top; the network"):
        evaluate(network(), data)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"keypoint_names": ("a", "a")}, "keypoint_names must differ"),
        ({"keypoint_names": ("a", "b"), "keypoint.skeleton": ((0, 2),)}, "joins keypoint 2; there are 2"),
    ],
)
def test_names_and_skeleton_must_fit(fields, rule):
    with pytest.raises(ConfigError, match=rule):
        Config.preset(class_names=["a"], overrides=fields)
