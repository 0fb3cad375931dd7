"""ResNet computed from a state dict in torchvision's names, one operation after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def state(depth: int, width: int = 8, groups: int = 1, width_per_group: int = 64, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under torchvision's names, classifier included."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, size: int) -> None:
        tensors[f"{name}.weight"] = (
            torch.randn(outputs, inputs, size, size, generator=generator) * (inputs * size**2) ** -0.5
        )

    def norm(name: str, channels: int) -> None:
        for part, low in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2), ("running_var", 0.5)):
            tensors[f"{name}.{part}"] = torch.rand(channels, generator=generator) * 0.5 + low
        tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", width, 3, 7)
    norm("bn1", width)
    inputs, expansion = width, 4 if depth >= 50 else 1
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        planes = width * 2 ** (stage - 1)
        inner = planes * width_per_group // 64 * groups
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            if expansion == 4:
                sizes = [(inner, inputs, 1), (inner, inner // groups, 3), (planes * 4, inner, 1)]
            else:
                sizes = [(planes, inputs, 3), (planes, planes, 3)]
            for k, (o, i, size) in enumerate(sizes, start=1):
                conv(f"{name}.conv{k}", o, i, size)
                norm(f"{name}.bn{k}", o)
            if block == 0 and (stage > 1 or inputs != planes * expansion):
                conv(f"{name}.downsample.0", planes * expansion, inputs, 1)
                norm(f"{name}.downsample.1", planes * expansion)
            inputs = planes * expansion
    tensors["fc.weight"], tensors["fc.bias"] = torch.zeros(10, inputs), torch.zeros(10)
    return tensors


def features(
    t: dict[str, Tensor], x: Tensor, depth: int, groups: int = 1, stride_in_1x1: bool = False, eps: float = 1e-5
) -> list[Tensor]:
    """c2 … c5."""

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (t[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, training=False, eps=eps)

    x = F.relu(norm(F.conv2d(x, t["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    maps = []
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            out = x
            last = 3 if depth >= 50 else 2
            strided = 1 if depth < 50 or stride_in_1x1 else 2
            for k in range(1, last + 1):
                size = t[f"{name}.conv{k}.weight"].shape[-1]
                options = {"stride": stride if k == strided else 1, "padding": size // 2}
                out = F.conv2d(
                    out, t[f"{name}.conv{k}.weight"], groups=groups if size == 3 and depth >= 50 else 1, **options
                )
                out = norm(out, f"{name}.bn{k}")
                out = F.relu(out) if k < last else out
            if f"{name}.downsample.0.weight" in t:
                x = norm(F.conv2d(x, t[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            x = F.relu(out + x)
        maps.append(x)
    return maps
