"""Dead and exploded layers are flagged, ordinary ones are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import InputError
from maskrcnn.inspection import pictures
from maskrcnn.inspection.pictures import NothingToShowError, colors, weights
from tiny import tiny_model


def flags(model: nn.Module) -> dict[str, str]:
    return {row.layer: row.flag for row in pictures.weight_health(model) if row.flag}


def edited(path: str, change: Any) -> MaskRCNN:
    model = tiny_model()
    with torch.no_grad():
        change(model.get_parameter(f"{path}.weight"))
    return model


@pytest.mark.parametrize("preset", ["resnet18-fpn", "resnet50", "vgg16-fpn", "small-fpn"])
def test_a_random_start_has_no_flags(preset: str) -> None:
    narrow = {"backbone.width": 8, "box.fc_channels": 64}
    assert flags(MaskRCNN(Config.preset(preset, class_names=["a", "b"], overrides=narrow))) == {}


def test_every_layer_has_a_row_in_the_order_of_the_network() -> None:
    rows = pictures.weight_health(tiny_model())
    names = [row.layer for row in rows]
    assert names[0] == "backbone.conv1" and names[-1] == "mask_head.predictor"
    assert {row.kind for row in rows} == {"layer", "norm"}


def test_the_numbers_of_a_known_layer() -> None:
    weight = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    [row] = pictures.weight_health({"fc.weight": weight, "fc.bias": torch.zeros(2)})
    assert (row.layer, row.shape, row.mean, row.expected, row.dead, row.flag) == ("fc", (2, 2), 0.0, 1.0, 0.5, "")
    assert row.std == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    ("path", "change", "flag"),
    [
        ("fpn.output3.conv", lambda w: w.zero_(), "dead"),
        ("fpn.output3.norm", lambda w: w.zero_(), "dead"),
        ("fpn.output3.conv", lambda w: w[:8].zero_(), ""),
        ("mask_head.deconv", lambda w: w[:8].zero_(), ""),
        ("box_head.fcs.1", lambda w: w[:31].mul_(1e-9), "dead"),
        ("rpn.convs.0", lambda w: w.mul_(1e4), "exploded"),
        ("rpn.convs.0", lambda w: w[0, 0, 0, 0].fill_(float("nan")), "exploded"),
        ("backbone.bn1", lambda w: w.fill_(1e5), "exploded"),
        ("backbone.bn1", lambda w: w.fill_(float("inf")), "exploded"),
    ],
    ids=["zero", "zero norm", "half zero", "half the inputs", "nearly all tiny", "large", "nan", "large norm", "inf"],
)
def test_what_is_wrong_with_a_layer_is_told(path: str, change: Any, flag: str) -> None:
    assert flags(edited(path, change)) == ({path: flag} if flag else {})


def test_outputs_of_a_deconvolution_stand_on_its_second_axis() -> None:
    rows = {row.layer: row for row in pictures.weight_health(edited("mask_head.deconv", lambda w: w[:, :4].zero_()))}
    assert rows["mask_head.deconv"].dead == 0.25


def test_reasons_are_words_and_numbers() -> None:
    [row] = [r for r in pictures.weight_health(edited("rpn.convs.0", lambda w: w.fill_(float("nan")))) if r.flag]
    assert row.why == "2,304 values are not finite" and np.isnan(row.std)


def test_flagged_layers_are_framed() -> None:
    good, bad = (pictures.weight_histograms(m, "rpn.*") for m in (tiny_model(), edited("rpn.deltas", torch.zero_)))
    alarms = [(np.asarray(p) == np.array(colors.ALARM)).all(-1).sum() for p in (good, bad)]
    assert alarms[0] == 0 and alarms[1] > 500


def test_norms_are_shown_on_request() -> None:
    without, with_them = (pictures.weight_histograms(tiny_model(), "fpn.*", norms=norms) for norms in (False, True))
    assert with_them.height > without.height


def test_a_histogram_counts_every_value_within_its_reach() -> None:
    limit, counts = weights._counts(torch.linspace(-2, 2, 1001))
    assert counts.sum() == 1001 and limit == pytest.approx(2, rel=0.01)
    assert weights._counts(torch.full((3,), float("nan")))[1].sum() == 0


def test_weights_of_another_network_are_drawn_too() -> None:
    assert pictures.weight_histograms(nn.Sequential(nn.Linear(4, 4)).half()).size


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(NothingToShowError, match=r"No layer of this network is called 'fpm.\*'"):
        pictures.weight_histograms(tiny_model(), "fpm.*")
    with pytest.raises(InputError, match="columns must be at least 1; got 0"):
        pictures.weight_histograms(tiny_model(), columns=0)
    with pytest.raises(InputError, match="There are no weights among these tensors"):
        pictures.weight_health({"bias": torch.zeros(3)})
