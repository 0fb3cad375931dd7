"""The Feature Pyramid Network by hand on constant maps, and the single-scale alternative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.backbones import FPN, SingleScale
from maskrcnn.config import FPNConfig

CHANNELS = {"c2": 1, "c3": 2, "c4": 3, "c5": 4}


def plain(network: FPN) -> FPN:
    """Make each lateral the sum of its channels, and each output its middle cell: no smoothing."""
    for lateral in (network.lateral2, network.lateral3, network.lateral4, network.lateral5):
        nn.init.ones_(lateral.conv.weight)
        nn.init.zeros_(lateral.conv.bias)
    for output in (network.output2, network.output3, network.output4, network.output5):
        nn.init.dirac_(output.conv.weight)
        nn.init.zeros_(output.conv.bias)
    return network


def constant(values: dict[str, float], sides: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    return {name: torch.full((1, CHANNELS[name], *sides[name]), value) for name, value in values.items()}


SIDES = {"c2": (16, 24), "c3": (8, 12), "c4": (4, 6), "c5": (2, 3)}


def test_sums_by_hand_on_constant_maps() -> None:
    # Laterals are 2 · 1, 3 · 2, 5 · 3, 7 · 4; every level adds the one above it.
    maps = constant({"c2": 2.0, "c3": 3.0, "c4": 5.0, "c5": 7.0}, SIDES)
    pyramid = plain(FPN(FPNConfig(channels=1), CHANNELS))(maps)
    sums = {"p2": 51.0, "p3": 49.0, "p4": 43.0, "p5": 28.0}
    assert list(pyramid) == ["p2", "p3", "p4", "p5", "p6"]
    for name, value in sums.items():
        side = SIDES["c" + name[1]]
        torch.testing.assert_close(pyramid[name], torch.full((1, 1, *side), value))
    torch.testing.assert_close(pyramid["p6"], torch.full((1, 1, 1, 2), 28.0))


def test_coarser_maps_are_enlarged_by_nearest_neighbour() -> None:
    maps = constant({"c2": 0.0, "c3": 0.0, "c4": 0.0, "c5": 0.0}, SIDES)
    maps["c5"][0, 0, 1, 2] = 1.0
    pyramid = plain(FPN(FPNConfig(channels=1), CHANNELS))(maps)
    for name, factor in (("p4", 2), ("p3", 4), ("p2", 8)):
        expected = torch.zeros_like(pyramid[name])
        expected[0, 0, factor:, 2 * factor :] = 1.0
        torch.testing.assert_close(pyramid[name], expected)


def test_maps_of_odd_sides() -> None:
    sides = {"c2": (17, 25), "c3": (9, 13), "c4": (5, 7), "c5": (3, 4)}
    maps = constant({"c2": 2.0, "c3": 3.0, "c4": 5.0, "c5": 7.0}, sides)
    pyramid = plain(FPN(FPNConfig(channels=1), CHANNELS))(maps)
    assert {name: tuple(x.shape[2:]) for name, x in pyramid.items()} == {
        "p2": (17, 25),
        "p3": (9, 13),
        "p4": (5, 7),
        "p5": (3, 4),
        "p6": (2, 2),
    }
    torch.testing.assert_close(pyramid["p2"], torch.full((1, 1, 17, 25), 51.0))


def test_p6_is_every_second_row_and_column_of_p5() -> None:
    maps = constant({"c2": 0.0, "c3": 0.0, "c4": 0.0, "c5": 0.0}, SIDES)
    maps["c5"] = torch.randn(1, 4, 2, 3)
    pyramid = FPN(FPNConfig(channels=5), CHANNELS)(maps)
    torch.testing.assert_close(pyramid["p6"], pyramid["p5"][:, :, ::2, ::2])


@pytest.mark.parametrize("norm", ["none", "batch", "frozen_batch", "group"])
def test_every_norm_runs(norm: str) -> None:
    maps = {name: torch.randn(2, c, *SIDES[name]) for name, c in CHANNELS.items()}
    network = FPN(FPNConfig(channels=12, norm=norm), CHANNELS)
    pyramid = network(maps)
    assert all(x.shape[:2] == (2, 12) and x.isfinite().all() for x in pyramid.values())
    assert (network.output3.conv.bias is None) == (norm != "none")


def test_nothing_is_rectified() -> None:
    maps = constant({"c2": -2.0, "c3": -3.0, "c4": -5.0, "c5": -7.0}, SIDES)
    pyramid = plain(FPN(FPNConfig(channels=1), CHANNELS))(maps)
    torch.testing.assert_close(pyramid["p2"], torch.full((1, 1, 16, 24), -51.0))


def test_no_images() -> None:
    maps = {name: torch.zeros(0, c, *SIDES[name]) for name, c in CHANNELS.items()}
    assert FPN(FPNConfig(channels=5), CHANNELS)(maps)["p6"].shape == (0, 5, 1, 2)


def test_strides_are_those_of_the_maps() -> None:
    assert FPN.strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


def test_single_scale_is_c4_alone() -> None:
    maps, network = {name: torch.randn(1, c, 2, 2) for name, c in CHANNELS.items()}, SingleScale(CHANNELS)
    assert network.channels == 3 and network.strides == {"c4": 16}
    result = network(maps)
    assert list(result) == ["c4"] and result["c4"] is maps["c4"]
