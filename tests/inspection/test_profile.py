"""What a photo costs: time from stage to stage, memory, FLOPs, and that a measured run is a normal one."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn import MaskRCNN
from maskrcnn.errors import ImageFileError, InputError
from maskrcnn.images import prepare
from maskrcnn.inspection import profile as module
from maskrcnn.inspection.glossary import STAGES
from maskrcnn.inspection.profile import Profile, profile
from maskrcnn.inspection.structure import read_structure
from maskrcnn.inspection.table import rendered
from maskrcnn.stages import is_recording
from tiny import SIDE, tiny_data, tiny_model

FIND = {"box__score_threshold": 0.0, "box__detections_per_image": 8}
"""As many slots as the smallest bucket of the mask head has."""


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    return tiny_model(**FIND).eval()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return tiny_data()[0][0]


@pytest.fixture(scope="module")
def costs(model: MaskRCNN, photo: np.ndarray) -> Profile:
    return profile(model, photo, runs=2)


def test_every_stage_has_a_row_in_its_order(costs: Profile, model: MaskRCNN, photo: np.ndarray) -> None:
    names = [stage.name for stage in costs.stages]
    assert names == ["prepare", *model.trace(photo), "result"]
    assert {stage.part for stage in costs.stages} == {"input", "backbone", "rpn", "roi_align", "heads", "output"}
    assert all(stage.part == STAGES[stage.name].part for stage in costs.stages[1:-1])


def test_parts_and_total_are_the_sums_of_their_stages(costs: Profile) -> None:
    assert sum(part.seconds for part in costs.parts) == pytest.approx(costs.seconds)
    assert sum(part.share for part in costs.parts) == pytest.approx(1)
    assert sum(part.flops for part in costs.parts) == costs.flops
    assert max(part.bytes for part in costs.parts) == costs.bytes
    assert costs.seconds > 0 and costs.seconds_unwatched > 0


def test_time_is_that_from_the_stage_before(
    model: MaskRCNN, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    measured = profile(model, photo, runs=3)
    assert {stage.seconds for stage in measured.stages} == {1.0}, "one tick from mark to mark"
    assert measured.seconds == len(measured.stages)
    assert measured.seconds_unwatched == 1.0


def test_the_median_of_the_runs_is_told(model: MaskRCNN, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter([1.0, 9.0, 2.0])
    monkeypatch.setattr(module, "_seconds_of", lambda run, device: next(lengths))
    assert profile(model, photo, runs=3).seconds_unwatched == 2.0


def test_flops_are_those_of_the_structure(costs: Profile, model: MaskRCNN) -> None:
    structure = read_structure(model.config, (SIDE, SIDE))
    counted = {part.part: part.flops for part in costs.parts}
    expected = structure.multiply_adds
    classes = model.config.num_classes
    predictor = structure.layers["mask_head.predictor"].multiply_adds
    expected["heads"] -= predictor // classes * (classes - 1)  # a run gives each detection the mask of its class alone
    for part in ("backbone", "rpn", "heads"):
        assert counted[part] == 2 * expected[part] > 0


def test_flops_are_those_of_torchs_counter(costs: Profile, model: MaskRCNN, photo: np.ndarray) -> None:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(prepare([photo], model.config.image))
    network = sum(stage.flops for stage in costs.stages if stage.part != "output")
    assert network == counter.get_total_flops()


def test_parameters_are_all_of_the_networks(costs: Profile, model: MaskRCNN) -> None:
    assert sum(costs.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert {part.part for part in costs.parts if part.parameters} == {"backbone", "rpn", "heads"}


def test_memory_is_what_tensors_take_at_once() -> None:
    memory = module._TensorMemory()
    with memory:
        a = torch.zeros(1000)
        b = a[:500].view(50, 10)  # the same memory
        memory.mark("first")
        c = b + 1
        del a, b
        memory.mark("second")
        c.add_(1)
        memory.mark("third")
        del c
        memory.mark("fourth")
    assert dict(memory.peaks) == {"first": 4000, "second": 6000, "third": 2000, "fourth": 2000}
    assert memory.now == 0


def test_memory_of_a_stage_holds_at_least_its_tensor(costs: Profile, model: MaskRCNN, photo: np.ndarray) -> None:
    trace = model.trace(photo)
    for stage in costs.stages[1:-1]:
        assert stage.bytes >= trace[stage.name].nbytes, stage.name


def test_the_measured_run_is_a_normal_one(model: MaskRCNN, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    forward = model.mask_head.forward

    def watched(crops: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        rows.append((len(crops), is_recording()))
        return forward(crops, labels)

    empty = tiny_model(box__score_threshold=1.0).eval()
    monkeypatch.setattr(empty.mask_head, "forward", watched)
    profile(empty, photo, runs=1)
    assert {count for count, _ in rows} == {8}, "the smallest bucket, with a clock and without"
    assert {recorded for _, recorded in rows} == {True, False}


def test_the_model_is_left_as_it_was(photo: np.ndarray) -> None:
    model = tiny_model().train()
    profile(model, photo, runs=1)
    assert model.training and not is_recording()


def test_json_holds_all_of_it(costs: Profile) -> None:
    told = json.loads(costs.to_json())
    assert told["total"] == {"seconds": costs.seconds, "bytes": costs.bytes, "flops": costs.flops}
    assert [row["name"] for row in told["stages"]] == [stage.name for stage in costs.stages]
    assert told["parts"][1] == {
        "part": "backbone", "seconds": costs.parts[1].seconds, "share": costs.parts[1].share,
        "bytes": costs.parts[1].bytes, "flops": costs.parts[1].flops, "parameters": costs.parameters["backbone"],
    }  # fmt: skip
    assert (told["runs"], told["device"]) == (2, "cpu")


def test_the_tables_fit_a_narrow_terminal(costs: Profile) -> None:
    lines = rendered(costs.table(), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:2] == ["1", "Backbone"] for line in lines)
    assert any(line.startswith("rpn_objectness") for line in lines)
    assert "Median of 2 runs on cpu" in str(costs)


@pytest.mark.parametrize("preset", ["resnet18", "vgg16"])
def test_networks_without_a_pyramid_or_masks(preset: str, photo: np.ndarray) -> None:
    from maskrcnn import Config

    narrow = {"image.min_size": 64, "image.max_size": 64, "backbone.width": 8, "rpn.channels": 8}
    narrow |= {"box.fc_channels": 8, "rpn.post_nms_top_n": 20}
    model = MaskRCNN(Config.preset(preset, class_names=["a"], masks=False, overrides=narrow))
    names = [stage.name for stage in profile(model, photo, runs=1).stages]
    assert "c4" in names and "p2" not in names and "masks" not in names


@pytest.mark.parametrize("runs", [0, -1])
def test_there_must_be_runs(runs: int, model: MaskRCNN, photo: np.ndarray) -> None:
    with pytest.raises(InputError, match=f"runs must be at least 1; got {runs}"):
        profile(model, photo, runs=runs)


def test_a_missing_photo_is_named(model: MaskRCNN) -> None:
    with pytest.raises(ImageFileError, match="none.jpg: no such file"):
        profile(model, "none.jpg")
