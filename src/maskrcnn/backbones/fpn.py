"""Feature Pyramid Network (Lin et al. 2016), and the single-scale alternative to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.config import FPNConfig
from maskrcnn.layers import ConvNorm
from maskrcnn.stages import stage


class FPN(nn.Module):
    """c2 … c5 in, p2 … p6 out, all with the same number of channels (FPN, figure 3).

    p6 is p5 subsampled by 2; only the RPN uses it (Mask R-CNN's anchors of 512², FPN section 4.1).
    """

    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}  # noqa: RUF012

    def __init__(self, config: FPNConfig, in_channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = config.channels
        norm, eps = config.norm, config.norm_eps
        inputs = [in_channels[c] for c in ("c2", "c3", "c4", "c5")]
        self.lateral2, self.lateral3, self.lateral4, self.lateral5 = (
            ConvNorm(c, config.channels, 1, norm, eps, relu=False) for c in inputs
        )
        self.output2, self.output3, self.output4, self.output5 = (
            ConvNorm(config.channels, config.channels, 3, norm, eps, relu=False) for _ in inputs
        )

    def forward(self, features: Mapping[str, Float[Tensor, "N _C _H _W"]]) -> dict[str, Float[Tensor, "N C _H _W"]]:
        """Return the pyramid, finest level first."""
        m5 = self.lateral5(features["c5"])
        m4 = _add_coarser(self.lateral4(features["c4"]), m5)
        m3 = _add_coarser(self.lateral3(features["c3"]), m4)
        m2 = _add_coarser(self.lateral2(features["c2"]), m3)
        p2 = stage("p2", self.output2(m2))
        p3 = stage("p3", self.output3(m3))
        p4 = stage("p4", self.output4(m4))
        p5 = stage("p5", self.output5(m5))
        p6 = stage("p6", p5[:, :, ::2, ::2])
        return {"p2": p2, "p3": p3, "p4": p4, "p5": p5, "p6": p6}


class SingleScale(nn.Module):
    """The networks without FPN: the RPN and the RoIs all use one map at stride 16, c4 or a dilated c5."""

    def __init__(self, in_channels: Mapping[str, int], name: str = "c4") -> None:
        super().__init__()
        self.name = name
        self.strides = {name: 16}
        self.channels = in_channels[name]

    def forward(self, features: Mapping[str, Float[Tensor, "N _C _H _W"]]) -> dict[str, Float[Tensor, "N C _H _W"]]:
        """Return that map alone."""
        return {self.name: features[self.name]}


def _add_coarser(finer: Float[Tensor, "N C H W"], coarser: Float[Tensor, "N C _H _W"]) -> Float[Tensor, "N C H W"]:
    """Return the finer map plus the coarser one, enlarged by nearest neighbour (FPN, section 3)."""
    return finer + F.interpolate(coarser, size=finer.shape[-2:], mode="nearest")
