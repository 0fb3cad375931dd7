"""VGG-16: shapes, the published number of parameters, and what freezing means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from maskrcnn import Config, MaskRCNN
from maskrcnn.backbones import VGG
from maskrcnn.config import VGGConfig


def vgg(last_stage: int = 5, **fields: Any) -> VGG:
    return VGG(VGGConfig(**fields), last_stage)


def test_parameters_are_as_published() -> None:
    # VGG-16 has 138,357,544, of which its three fully connected layers take 123,642,856.
    with torch.device("meta"):
        network = vgg()
    assert sum(p.numel() for p in network.parameters()) == 138_357_544 - 123_642_856
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == 13


@pytest.mark.parametrize("last_stage", [4, 5])
def test_feature_maps_are_named_by_their_stride(last_stage: int) -> None:
    with torch.device("meta"):
        features = vgg(last_stage)(torch.zeros(2, 3, 64, 96))
    expected = {
        "c1": (2, 128, 32, 48),
        "c2": (2, 256, 16, 24),
        "c3": (2, 512, 8, 12),
        "c4": (2, 512, 4, 6),
        "c5": (2, 512, 2, 3),
    }
    if last_stage == 4:
        del expected["c5"]
    assert {name: tuple(x.shape) for name, x in features.items()} == expected


def test_channels_are_those_of_the_maps() -> None:
    network = vgg(width=4)
    features = network(torch.randn(1, 3, 32, 32))
    assert network.channels == {name: x.shape[1] for name, x in features.items() if name != "c1"}


def test_c5_is_c4_pooled() -> None:
    features = vgg(width=4)(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(features["c5"], nn.functional.max_pool2d(features["c4"], 2))


@pytest.mark.parametrize("norm", ["none", "batch", "frozen_batch", "group"])
def test_every_norm_runs(norm: str) -> None:
    features = vgg(width=4, norm=norm)(torch.randn(2, 3, 32, 32))
    assert all(x.isfinite().all() for x in features.values())


def test_no_images() -> None:
    assert vgg(width=4)(torch.zeros(0, 3, 32, 32))["c5"].shape == (0, 32, 1, 1)


@pytest.mark.parametrize("frozen", range(6))
def test_frozen_blocks_are_not_trained_and_keep_their_statistics(frozen: int) -> None:
    overrides = {
        "backbone.width": 4,
        "backbone.norm": "batch",
        "backbone.frozen_stages": frozen,
        "rpn.channels": 8,
        "box.fc_channels": 8,
        "mask.channels": 8,
    }
    backbone = MaskRCNN(Config.preset("vgg16", class_names=["a"], overrides=overrides)).train().backbone
    blocks = (backbone.block1, backbone.block2, backbone.block3, backbone.block4, backbone.block5)
    for number, block in enumerate(blocks, 1):
        assert all(p.requires_grad == (number > frozen) for p in block.parameters()), number
        assert all(m.training == (number > frozen) for m in block.modules()), number
