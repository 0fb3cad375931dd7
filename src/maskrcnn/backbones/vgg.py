"""VGG-16 (Simonyan and Zisserman 2014), configuration D, without its classifier."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.config import VGGConfig
from maskrcnn.layers import ConvNorm
from maskrcnn.stages import stage

CONVS = (2, 2, 3, 3, 3)
"""3 × 3 convolutions of each block; every block but the first begins with 2 × 2 max pooling."""


class VGG(nn.Module):
    """Five blocks of convolutions.

    Feature maps are named by their stride, as for ResNet: c1 is the output of the second block (stride 2),
    c4 that of the fifth (stride 16, the paper's conv5_3), and c5 its pooling (stride 32), used by FPN alone.
    """

    def __init__(self, config: VGGConfig, last_stage: int = 5) -> None:
        super().__init__()
        self.last_stage = last_stage
        self.frozen_stages = config.frozen_stages
        widths = [config.width * factor for factor in (1, 2, 4, 8, 8)]
        self.block1 = _block(config, 3, widths[0], CONVS[0])
        self.block2 = _block(config, widths[0], widths[1], CONVS[1])
        self.block3 = _block(config, widths[1], widths[2], CONVS[2])
        self.block4 = _block(config, widths[2], widths[3], CONVS[3])
        self.block5 = _block(config, widths[3], widths[4], CONVS[4])
        self.pool = nn.MaxPool2d(2)
        self.channels = {"c2": widths[2], "c3": widths[3], "c4": widths[4], "c5": widths[4]}

    def forward(self, image: Float[Tensor, "N 3 H W"]) -> dict[str, Float[Tensor, "N _C _H _W"]]:
        """Return the feature maps by name."""
        c1 = stage("c1", self.block2(self.pool(self.block1(image))))
        c2 = stage("c2", self.block3(self.pool(c1)))
        c3 = stage("c3", self.block4(self.pool(c2)))
        c4 = stage("c4", self.block5(self.pool(c3)))
        features = {"c1": c1, "c2": c2, "c3": c3, "c4": c4}
        if self.last_stage == 5:
            features["c5"] = stage("c5", self.pool(c4))
        return features

    def stages(self) -> list[list[nn.Module]]:
        """Return the modules of stage 1 … 5, the paper's conv1 … conv5."""
        return [[self.block1], [self.block2], [self.block3], [self.block4], [self.block5]]


def _block(config: VGGConfig, in_channels: int, channels: int, convs: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            ConvNorm(in_channels if i == 0 else channels, channels, 3, config.norm, config.norm_eps)
            for i in range(convs)
        )
    )
