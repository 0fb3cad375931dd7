"""Every preset gives a network, of the published size where one is known."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from maskrcnn import Config, MaskRCNN, TargetBatch
from maskrcnn.presets import PRESETS


@cache
def on_paper(preset: str, classes: int = 3, **overrides: object) -> MaskRCNN:
    """The network without memory for its weights."""
    names = [f"class {k}" for k in range(classes)]
    with torch.device("meta"):
        return MaskRCNN(Config.preset(preset, class_names=names, overrides=overrides))


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_builds(preset: str) -> None:
    network = on_paper(preset)
    config = network.config
    assert (config.fpn is not None) == preset.endswith("-fpn")
    assert config.backbone.kind == ("vgg" if preset.startswith("vgg") else "resnet")
    assert network.box_head.class_logits.out_features == 4
    assert network.mask_head.predictor.out_channels == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_features_have_the_strides_that_are_claimed(preset: str) -> None:
    network = on_paper(preset)
    features = network.fpn(network.backbone(torch.zeros(1, 3, 128, 192, device="meta")))
    for name, stride in network.fpn.strides.items():
        assert features[name].shape == (1, network.fpn.channels, 128 // stride, 192 // stride)


@pytest.mark.parametrize("preset", PRESETS)
def test_random_weights_begin_as_if_they_knew_nothing(preset: str) -> None:
    """Every preset as it is but narrow: no loss explodes with depth, whatever the norm."""
    torch.manual_seed(0)
    network = MaskRCNN(Config.preset(preset, class_names=["a", "b"], overrides={"backbone.width": 16})).train()
    masks = torch.zeros(1, 1, 64, 96, dtype=torch.bool)
    masks[..., 20:50, 30:60] = True
    labels, valid = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    targets = TargetBatch(torch.tensor([[[30.0, 20, 60, 50]]]), labels, masks, valid)
    with torch.no_grad():
        losses = network(torch.randn(1, 3, 64, 96), targets)
    assert 0.5 < float(losses.rpn_objectness) < 1.0, "ln 2 is 0.69"
    assert float(losses.class_) < 4.0, "ln 3 is 1.1"
    assert 0.6 < float(losses.mask) < 0.8, "ln 2 is 0.69"
    assert float(losses.rpn_box + losses.box) < 1.0


@pytest.mark.parametrize("preset", ["resnet50", "resnet50-fpn"])
def test_without_masks_there_is_no_mask_branch(preset: str) -> None:
    network = on_paper(preset, masks=False)
    assert not [name for name, _ in network.named_parameters() if name.startswith("mask")]


@pytest.mark.parametrize(
    ("preset", "masks", "published"),
    [
        # torchvision's numbers for 91 classes, background counted; its box and mask predictors have a
        # row for the background, too: 4 deltas of 1024 weights, one mask of 256, and their biases.
        pytest.param("resnet50-fpn", True, 44_401_393 - 4 * 1025 - 257, id="maskrcnn_resnet50_fpn"),
        pytest.param("resnet50-fpn", False, 41_755_286 - 4 * 1025, id="fasterrcnn_resnet50_fpn"),
    ],
)
def test_parameters_are_as_published(preset: str, masks: bool, published: int) -> None:
    network = on_paper(preset, classes=90, masks=masks)
    assert sum(p.numel() for p in network.parameters()) == published
