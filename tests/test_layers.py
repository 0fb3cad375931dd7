"""Layers that several parts share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from maskrcnn.layers import ConvNorm, FrozenBatchNorm, init_layer, init_predictor, make_norm


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3])
def test_frozen_batch_norm_is_batch_norm_in_eval_mode(eps: float) -> None:
    frozen, batch = FrozenBatchNorm(6, eps), nn.BatchNorm2d(6, eps=eps).eval()
    for name, values in (
        ("weight", torch.randn(6)),
        ("bias", torch.randn(6)),
        ("running_mean", torch.randn(6)),
        ("running_var", torch.rand(6) + 0.1),
    ):
        getattr(frozen, name).data.copy_(values)
        getattr(batch, name).data.copy_(values)
    x = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(frozen(x), batch(x))


def test_frozen_batch_norm_by_hand() -> None:
    norm = FrozenBatchNorm(1, eps=0.0)
    for name, value in (("weight", 3.0), ("bias", 1.0), ("running_mean", 2.0), ("running_var", 4.0)):
        getattr(norm, name).fill_(value)
    x = torch.tensor([2.0, 4.0]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(norm(x).flatten(), torch.tensor([1.0, 4.0]))


def test_frozen_batch_norm_never_changes() -> None:
    norm = FrozenBatchNorm(3, eps=1e-5).train()
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    norm(x).sum().backward()
    assert list(norm.parameters()) == [] and x.grad is not None
    assert list(before) == ["weight", "bias", "running_mean", "running_var"]
    torch.testing.assert_close(dict(norm.named_buffers()), before)


def test_frozen_batch_norm_keeps_half_precision() -> None:
    assert FrozenBatchNorm(3, eps=1e-5)(torch.randn(1, 3, 4, 4).bfloat16()).dtype == torch.bfloat16


def test_frozen_batch_norm_of_no_images() -> None:
    assert FrozenBatchNorm(3, eps=1e-5)(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("none", nn.Identity),
        ("batch", nn.BatchNorm2d),
        ("frozen_batch", FrozenBatchNorm),
        ("group", nn.GroupNorm),
    ],
)
def test_norms_by_name(kind: str, layer: type[nn.Module]) -> None:
    norm = make_norm(kind, 64, eps=0.25)
    assert type(norm) is layer
    assert getattr(norm, "eps", 0.25) == 0.25


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (32, 32), (48, 16), (8, 8), (12, 4), (7, 1)])
def test_group_norm_has_32_groups_or_as_many_as_divide(channels: int, groups: int) -> None:
    assert make_norm("group", channels, eps=1e-5).num_groups == groups


@pytest.mark.parametrize("norm", ["none", "batch", "frozen_batch", "group"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_has_a_bias_only_without_norm_and_keeps_the_size(kernel: int, norm: str) -> None:
    layer = ConvNorm(4, 6, kernel, norm, 1e-5)
    assert (layer.conv.bias is not None) == (norm == "none")
    assert layer(torch.randn(2, 4, 5, 7)).shape == (2, 6, 5, 7)


@pytest.mark.parametrize("relu", [True, False])
def test_relu_if_wished(relu: bool) -> None:
    layer, x = ConvNorm(4, 6, 3, "none", 1e-5, relu=relu), torch.randn(2, 4, 5, 5)
    plain = layer.conv(x)
    torch.testing.assert_close(layer(x), plain.relu() if relu else plain)


@pytest.mark.parametrize(("relu", "gain", "factor"), [(True, 1.0, 2.0), (False, 1.0, 1.0), (False, 0.5, 0.25)])
def test_layers_make_up_for_the_variance_that_a_relu_takes(relu: bool, gain: float, factor: float) -> None:
    layer = nn.Conv2d(64, 128, 3)
    init_layer(layer, relu, gain)
    torch.testing.assert_close(layer.weight.std(), torch.tensor((factor / (9 * 64)) ** 0.5), rtol=0.02, atol=0)
    torch.testing.assert_close(layer.bias, torch.zeros(128))


def test_predictors_start_small() -> None:
    layer = nn.Linear(500, 100)
    init_predictor(layer, std=0.01)
    torch.testing.assert_close(layer.weight.std(), torch.tensor(0.01), rtol=0.02, atol=0)
    torch.testing.assert_close(layer.bias, torch.zeros(100))
