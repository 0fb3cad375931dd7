"""ResNet (He et al. 2015) and ResNeXt (Xie et al. 2016)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.config import ResNetConfig
from maskrcnn.layers import init_layer, make_norm
from maskrcnn.stages import stage

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Residual blocks of c2 … c5 (He et al. 2015, table 1)."""


class ResNet(nn.Module):
    """Stem and stages: c1 at stride 2 to c5 at stride 32, or 16 if dilated.

    `last_stage=4` stops at c4, as the C4 network does.
    """

    def __init__(self, config: ResNetConfig, last_stage: int = 5) -> None:
        super().__init__()
        self.last_stage = last_stage
        self.frozen_stages = config.frozen_stages
        self.conv1 = nn.Conv2d(3, config.width, 7, stride=2, padding=3, bias=config.norm == "none")
        self.bn1 = make_norm(config.norm, config.width, config.norm_eps)
        self.relu = nn.ReLU(inplace=True)
        # Rounding the size up pads at the end alone, and there only where a side is even.
        around = config.stem_padding == "around"
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if around else nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.layer1 = Stage(config, 2)
        self.layer2 = Stage(config, 3)
        self.layer3 = Stage(config, 4)
        if last_stage == 5:
            self.layer4 = Stage(config, 5)
        init_layer(self.conv1)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map."""
        found = {"c2": self.layer1.channels, "c3": self.layer2.channels, "c4": self.layer3.channels}
        return found if self.last_stage == 4 else {**found, "c5": self.layer4.channels}

    def forward(self, image: Float[Tensor, "N 3 H W"]) -> dict[str, Float[Tensor, "N _C _H _W"]]:
        """Return the feature maps by name."""
        c1 = stage("c1", self.relu(self.bn1(self.conv1(image))))
        c2 = stage("c2", self.layer1(self.maxpool(c1)))
        c3 = stage("c3", self.layer2(c2))
        c4 = stage("c4", self.layer3(c3))
        features = {"c1": c1, "c2": c2, "c3": c3, "c4": c4}
        if self.last_stage == 5:
            features["c5"] = stage("c5", self.layer4(c4))
        return features

    def stages(self) -> list[list[nn.Module]]:
        """Return the modules of stage 1 (the stem), then 2, 3 and so on."""
        stages: list[list[nn.Module]] = [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3]]
        return stages if self.last_stage == 4 else [*stages, [self.layer4]]


class Stage(nn.Sequential):
    """The residual blocks of one feature map; `number` is 2 for c2 … 5 for c5."""

    def __init__(self, config: ResNetConfig, number: int) -> None:
        block = Bottleneck if config.depth >= 50 else BasicBlock
        planes = config.width * 2 ** (number - 2)
        in_channels = config.width if number == 2 else planes // 2 * block.expansion
        blocks = []
        dilation = 2 if number == 5 and config.dilate_c5 else 1
        for i in range(BLOCKS[config.depth][number - 2]):
            stride = 2 if i == 0 and number > 2 and dilation == 1 else 1
            blocks.append(block(config, in_channels, planes, stride, dilation))
            in_channels = planes * block.expansion
        super().__init__(*blocks)
        self.channels = in_channels


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut: ResNet-18 and -34."""

    expansion = 1

    def __init__(self, config: ResNetConfig, in_channels: int, planes: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        bias = config.norm == "none"
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, padding=dilation, dilation=dilation, bias=bias)
        self.bn1 = make_norm(config.norm, planes, config.norm_eps)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=bias)
        self.bn2 = make_norm(config.norm, planes, config.norm_eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(config, in_channels, planes, stride)
        init_layer(self.conv1)
        init_layer(self.conv2, relu=False, gain=_branch_gain(config))

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N _C _H _W"]:
        """Return relu(shortcut(x) + convolutions(x))."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 (in groups, for ResNeXt) and 1 × 1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, config: ResNetConfig, in_channels: int, planes: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        stride_1x1, stride_3x3 = (stride, 1) if config.stride_in_1x1 else (1, stride)
        bias = config.norm == "none"
        inner = planes * config.width_per_group // 64 * config.groups
        out_channels = planes * self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner, 1, stride=stride_1x1, bias=bias)
        self.bn1 = make_norm(config.norm, inner, config.norm_eps)
        self.conv2 = nn.Conv2d(
            inner, inner, 3, stride_3x3, padding=dilation, dilation=dilation, groups=config.groups, bias=bias
        )
        self.bn2 = make_norm(config.norm, inner, config.norm_eps)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=bias)
        self.bn3 = make_norm(config.norm, out_channels, config.norm_eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(config, in_channels, out_channels, stride)
        init_layer(self.conv1)
        init_layer(self.conv2)
        init_layer(self.conv3, relu=False, gain=_branch_gain(config))

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N _C _H _W"]:
        """Return relu(shortcut(x) + convolutions(x))."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def _shortcut(config: ResNetConfig, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the identity, or a 1 × 1 convolution where shapes differ (option B of the paper)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=config.norm == "none")
    init_layer(conv, relu=False)
    return nn.Sequential(conv, make_norm(config.norm, out_channels, config.norm_eps))


def _branch_gain(config: ResNetConfig) -> float:
    """Return what the last convolution of each block starts with, so that their sum keeps its size.

    Where a norm does not normalise, as a frozen one with random weights, B blocks would otherwise multiply the
    variance by 2^B; with 1 / √B each it stays below e (after Zhang et al. 2019, Fixup).
    """
    return sum(BLOCKS[config.depth]) ** -0.5
