"""ResNet: shapes, published numbers of parameters, blocks by hand, and what freezing means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrcnn import Config, MaskRCNN
from maskrcnn.backbones import ResNet, Stage
from maskrcnn.backbones.resnet import BasicBlock, Bottleneck
from maskrcnn.config import ResNetConfig

NARROW = {"width": 8, "norm": "batch"}


def resnet(last_stage: int = 5, **fields: Any) -> ResNet:
    return ResNet(ResNetConfig(**fields), last_stage)


def on_paper(last_stage: int = 5, **fields: Any) -> ResNet:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return resnet(last_stage, **fields)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        # Published sizes of the classifiers, less their last layer of 512 or 2048 to 1000 and its bias.
        pytest.param({"depth": 18}, 11_689_512 - 513_000, id="resnet18"),
        pytest.param({"depth": 34}, 21_797_672 - 513_000, id="resnet34"),
        pytest.param({"depth": 50}, 25_557_032 - 2_049_000, id="resnet50"),
        pytest.param({"depth": 101}, 44_549_160 - 2_049_000, id="resnet101"),
        pytest.param({"depth": 152}, 60_192_808 - 2_049_000, id="resnet152"),
        pytest.param({"depth": 50, "groups": 32, "width_per_group": 4}, 25_028_904 - 2_049_000, id="resnext50_32x4d"),
        pytest.param({"depth": 101, "groups": 32, "width_per_group": 8}, 88_791_336 - 2_049_000, id="resnext101_32x8d"),
        pytest.param({"depth": 50, "width_per_group": 128}, 68_883_240 - 2_049_000, id="wide_resnet50_2"),
    ],
)
def test_parameters_are_as_published(fields: dict[str, Any], parameters: int) -> None:
    assert sum(p.numel() for p in on_paper(norm="batch", **fields).parameters()) == parameters


@pytest.mark.parametrize("stride_in_1x1", [False, True], ids=["stride in 3 × 3", "stride in 1 × 1"])
@pytest.mark.parametrize(
    ("depth", "channels"),
    [
        (18, (64, 128, 256, 512)),
        (34, (64, 128, 256, 512)),
        (50, (256, 512, 1024, 2048)),
        (101, (256, 512, 1024, 2048)),
        (152, (256, 512, 1024, 2048)),
    ],
)
def test_feature_maps(depth: int, channels: tuple[int, ...], stride_in_1x1: bool) -> None:
    network = on_paper(depth=depth, stride_in_1x1=stride_in_1x1)
    features = network(torch.zeros(2, 3, 64, 96, device="meta"))
    assert {name: tuple(x.shape) for name, x in features.items()} == {
        "c1": (2, 64, 32, 48),
        **{f"c{k}": (2, c, 64 // 2**k, 96 // 2**k) for k, c in enumerate(channels, 2)},
    }
    assert network.channels == dict(zip(("c2", "c3", "c4", "c5"), channels, strict=True))


def test_the_c4_network_stops_at_c4() -> None:
    network = on_paper(last_stage=4, depth=50)
    assert list(network(torch.zeros(1, 3, 64, 64, device="meta"))) == ["c1", "c2", "c3", "c4"]
    assert list(network.channels) == ["c2", "c3", "c4"]
    assert len(network.stages()) == 4


@pytest.mark.parametrize(("stride_in_1x1", "strides"), [(False, [1, 2, 1]), (True, [2, 1, 1])], ids=["3 × 3", "1 × 1"])
def test_where_a_bottleneck_halves_the_map(stride_in_1x1: bool, strides: list[int]) -> None:
    network = on_paper(depth=50, stride_in_1x1=stride_in_1x1)
    for stage in (network.layer2, network.layer3, network.layer4):
        first, *others = stage
        assert [conv.stride[0] for conv in (first.conv1, first.conv2, first.conv3)] == strides
        assert first.downsample[0].stride[0] == 2
        for block in others:
            assert [conv.stride[0] for conv in (block.conv1, block.conv2, block.conv3)] == [1, 1, 1]
    assert [network.layer1[0].conv1.stride[0], network.layer1[0].conv2.stride[0]] == [1, 1]


def test_only_blocks_that_change_shape_have_a_projection() -> None:
    for depth, first_of_c2 in ((18, nn.Identity), (50, nn.Sequential)):
        network = on_paper(depth=depth)
        assert isinstance(network.layer1[0].downsample, first_of_c2)
        for stage in (network.layer2, network.layer3, network.layer4):
            assert isinstance(stage[0].downsample, nn.Sequential)
            assert all(isinstance(block.downsample, nn.Identity) for block in list(stage)[1:])


@pytest.mark.parametrize(("block", "channels"), [(BasicBlock, 8), (Bottleneck, 32)])
def test_block_is_relu_of_input_plus_convolutions(block: type[nn.Module], channels: int) -> None:
    network = block(ResNetConfig(depth=50, width=8, norm="none"), channels, 8, stride=1)
    x = torch.randn(1, channels, 5, 5)
    last = network.conv3 if block is Bottleneck else network.conv2
    out = F.relu(network.conv1(x))
    out = network.conv3(F.relu(network.conv2(out))) if block is Bottleneck else network.conv2(out)
    torch.testing.assert_close(network(x), F.relu(x + out))
    nn.init.zeros_(last.weight)
    torch.testing.assert_close(network(x), F.relu(x))


def test_blocks_leave_their_input_alone() -> None:
    network, x = Stage(ResNetConfig(depth=18, **NARROW), 2), torch.randn(1, 8, 5, 5)
    before = x.clone()
    network(x)
    torch.testing.assert_close(x, before)


def test_groups_split_the_3x3() -> None:
    block = on_paper(depth=50, groups=32, width_per_group=8).layer1[0]
    assert block.conv2.groups == 32 and block.conv2.weight.shape == (256, 8, 3, 3)


@pytest.mark.parametrize("width", [8, 12, 40])
def test_group_norm_on_narrow_layers(width: int) -> None:
    features = resnet(depth=18, width=width, norm="group")(torch.randn(1, 3, 64, 64))
    assert all(x.isfinite().all() for x in features.values())


@pytest.mark.parametrize("norm", ["none", "batch", "frozen_batch", "group"])
def test_every_norm_runs(norm: str) -> None:
    features = resnet(depth=50, width=8, norm=norm)(torch.randn(2, 3, 64, 64))
    assert features["c5"].shape == (2, 256, 2, 2)


def test_no_images() -> None:
    features = resnet(depth=18, **NARROW).eval()(torch.zeros(0, 3, 64, 64))
    assert features["c5"].shape == (0, 64, 2, 2)


# Freezing


def model(frozen_stages: int, norm: str = "batch") -> MaskRCNN:
    overrides = {
        "backbone.width": 8,
        "backbone.frozen_stages": frozen_stages,
        "backbone.norm": norm,
        "fpn.channels": 8,
        "rpn.channels": 8,
        "box.fc_channels": 8,
        "mask.channels": 8,
    }
    return MaskRCNN(Config.preset("small-fpn", class_names=["a"], overrides=overrides))


@pytest.mark.parametrize("frozen", range(6))
def test_frozen_stages_are_not_trained_and_keep_their_statistics(frozen: int) -> None:
    network = model(frozen).train()
    backbone = network.backbone
    parts = [
        [backbone.conv1, backbone.bn1],
        *([layer] for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)),
    ]
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    for number, modules in enumerate(parts, 1):
        for module in modules:
            assert all(p.requires_grad == (number > frozen) for p in module.parameters()), number
            assert all(m.training == (number > frozen) for m in module.modules()), number
    for number, name in [(1, "bn1"), (2, "layer1.0.bn1"), (5, "layer4.1.bn2")]:
        same = torch.equal(before[f"{name}.running_mean"], dict(backbone.named_buffers())[f"{name}.running_mean"])
        assert same == (number <= frozen), name
    assert all(p.requires_grad for p in network.rpn.parameters())


def test_gradient_stops_at_the_frozen_stages() -> None:
    backbone = model(2).train().backbone
    backbone(torch.randn(2, 3, 64, 64))["c5"].sum().backward()
    assert all(p.grad is None for m in (backbone.conv1, backbone.layer1) for p in m.parameters())
    assert all(p.grad is not None for p in backbone.layer2.parameters())


def test_frozen_batch_norm_has_no_parameters() -> None:
    names = [name for name, _ in model(0, norm="frozen_batch").backbone.named_parameters()]
    assert names and not any("bn" in name for name in names)


def test_stem_padding_at_the_end_alone() -> None:
    around, end = (resnet(stem_padding=where, depth=18, **NARROW).maxpool for where in ("around", "end"))
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    assert around(ramp)[0, 0, 0].tolist() == [1, 3, 5]  # windows of −1 … 1, 1 … 3, 3 … 5
    assert end(ramp)[0, 0, 0].tolist() == [2, 4, 5]  # 0 … 2, 2 … 4, 4 … 6


@pytest.mark.parametrize("depth", [18, 50])
def test_dilated_c5_keeps_stride_16_and_its_weights(depth: int) -> None:
    plain, dilated = (resnet(depth=depth, dilate_c5=wide, **NARROW).eval() for wide in (False, True))
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert dilated(x)["c5"].shape[-2:] == dilated(x)["c4"].shape[-2:] == (4, 6)
        torch.testing.assert_close(dilated(x)["c4"], plain(x)["c4"])
    assert {m.dilation for m in dilated.layer4.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)} == {
        (2, 2)
    }
    assert all(m.stride == (1, 1) for m in dilated.layer4.modules() if isinstance(m, nn.Conv2d))
