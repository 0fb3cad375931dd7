"""Layers that several parts share: normalisation by name, and a convolution with it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.config import Norm


class FrozenBatchNorm(nn.Module):
    """BatchNorm with fixed statistics, scale and shift: a scale and a shift per channel, never trained."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """Return (x − mean) / sqrt(var + eps) · weight + bias."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift[:, None, None].to(x.dtype), x, scale[:, None, None].to(x.dtype))

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        return f"{len(self.weight)}, eps={self.eps}"


def make_norm(kind: Norm, channels: int, eps: float) -> nn.Module:
    """Return the normalisation layer of this name; `none` is the identity.

    GroupNorm has 32 groups (Wu and He 2018), or as many as divide a narrower layer.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=eps)
    if kind == "frozen_batch":
        return FrozenBatchNorm(channels, eps)
    if kind == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels, eps=eps)
    return nn.Identity()


class ConvNorm(nn.Sequential):
    """A convolution (keeping the size at stride 1), its normalisation and, if wished, ReLU.

    The convolution has a bias only where no normalisation follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        norm: Norm,
        norm_eps: float,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=norm == "none")
        self.norm = make_norm(norm, out_channels, norm_eps)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()
        init_layer(self.conv, relu)


def init_layer(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, relu: bool = True, gain: float = 1.0) -> None:
    """Fill a layer for random starts so that activations keep their size; zero bias (He et al. 2015, section 2.2).

    Args:
        layer: the layer.
        relu: whether a ReLU follows, which halves the variance that the weights then make up for.
        gain: what the weights are multiplied by besides.
    """
    if (
        layer.weight.is_meta
    ):  # weights to come from a file; drawing even these imports PyTorch's compiler, half a second
        return
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if relu else "linear")
    with torch.no_grad():
        layer.weight.mul_(gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def init_predictor(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, std: float) -> None:
    """Fill a predictor: small normal weights, so that training starts from neutral guesses; zero bias."""
    if layer.weight.is_meta:
        return
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
