"""Tensors of one run by name: which there are, by which names, and that they are those of a normal run."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import InputError
from maskrcnn.images import prepare
from maskrcnn.inspection.glossary import ALIASES
from maskrcnn.inspection.glossary import STAGES as GLOSSARY
from maskrcnn.inspection.table import LETTERS, rendered
from maskrcnn.inspection.trace import Trace, trace
from maskrcnn.stages import recording

NARROW = {
    "image.min_size": 64,
    "image.max_size": 96,
    "backbone.width": 8,
    "fpn.channels": 8,
    "rpn.channels": 8,
    "box.fc_channels": 16,
    "mask.channels": 8,
    "rpn.post_nms_top_n": 50,
    "box.detections_per_image": 20,
}
STAGES = [
    *("image", "image_meta", "c1", "c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6"),
    *("anchors", "rpn_objectness", "rpn_deltas", "top_anchors", "top_scores"),
    *("proposals_before_refinement", "proposals_before_nms", "top_kept"),
    *("proposal_places", "proposals", "proposal_scores"),
    *("roi_levels", "box_features", "class_logits", "box_deltas"),
    *("candidate_rois", "candidate_labels", "candidate_scores"),
    *("detections_before_nms", "candidates_kept", "detection_places", "detections"),
    *("mask_roi_levels", "mask_features", "mask_logits", "masks"),
]


def network(**overrides: Any) -> MaskRCNN:
    torch.manual_seed(0)
    config = Config.preset("small-fpn", class_names=["cat", "dog"], overrides={**NARROW, **overrides})
    return MaskRCNN(config).eval()


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    return network()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def full(model: MaskRCNN, image: np.ndarray) -> Trace:
    return model.trace(image)


def test_every_stage_has_its_name(full: Trace) -> None:
    assert set(full) == set(STAGES) and len(full) == len(STAGES)


def test_stages_come_in_the_order_of_the_figure(full: Trace) -> None:
    assert list(full) == [name for name in GLOSSARY if name in full] == STAGES


def test_shapes_of_the_stages(full: Trace) -> None:
    anchors = sum(3 * (64 // s) * (96 // s) for s in (4, 8, 16, 32)) + 3 * 1 * 2
    expected = {
        "image": (1, 3, 64, 96),
        "c1": (1, 8, 32, 48),
        "c5": (1, 64, 2, 3),
        "p2": (1, 8, 16, 24),
        "p6": (1, 8, 1, 2),
        "anchors": (anchors, 4),
        "rpn_objectness": (1, anchors),
        "rpn_deltas": (1, anchors, 4),
        "proposals": (1, 50, 4),
        "proposal_scores": (1, 50),
        "roi_levels": (1, 50),
        "box_features": (50, 8, 7, 7),
        "class_logits": (50, 3),
        "box_deltas": (50, 2, 4),
        "detections": (1, 20, 6),
    }
    assert {name: tuple(full[name].shape) for name in expected} == expected
    assert full["masks"].shape[1:] == (48, 70)


def test_image_meta_is_matterports(full: Trace) -> None:
    # 48 × 70 becomes 64 × 93, with three columns of padding on the right; two classes and background.
    expected = torch.tensor([[0, 48, 70, 3, 64, 96, 3, 0, 0, 64, 93, 64 / 48, 0, 0, 0]])
    torch.testing.assert_close(full["image_meta"], expected)


def test_every_recorded_stage_has_all_its_slots(full: Trace) -> None:
    assert full["mask_features"].shape == (20, 8, 14, 14)
    assert full["mask_logits"].shape == (20, 2, 28, 28)


def test_a_normal_run_has_the_image_too(model: MaskRCNN, image: np.ndarray) -> None:
    batch = prepare([image], model.config.image)
    with torch.inference_mode(), recording() as stages:
        model(batch)
    assert stages["image"] is batch.tensor
    assert stages["image_meta"].shape == (1, 15)


def test_numbers_are_those_of_a_normal_run(model: MaskRCNN, image: np.ndarray, full: Trace) -> None:
    batch = prepare([image], model.config.image)
    with torch.inference_mode():
        found = model(batch)
    assert found.valid.any()
    torch.testing.assert_close(full["image"], batch.tensor)
    boxes, labels, scores = full["detections"].split((4, 1, 1), dim=-1)
    torch.testing.assert_close(boxes, found.boxes)
    torch.testing.assert_close(labels[..., 0].long(), found.labels)
    torch.testing.assert_close(scores[..., 0], found.scores)


def test_masks_are_those_of_predict(model: MaskRCNN, image: np.ndarray, full: Trace) -> None:
    [found] = model.predict(image, score_threshold=0.0)
    torch.testing.assert_close(full["masks"], found.masks)


@pytest.mark.parametrize("alias", ALIASES)
def test_alias_reads_our_stage(alias: str, full: Trace) -> None:
    assert full[alias] is full[ALIASES[alias]]


def test_aliases_may_be_asked_for(model: MaskRCNN, image: np.ndarray) -> None:
    assert set(model.trace(image, list(ALIASES))) == set(ALIASES.values())


def test_matterports_names_that_tutorials_use() -> None:
    assert ALIASES["fpn_p6"] == "p6"
    assert ALIASES["rpn_bbox"] == "rpn_deltas"
    assert ALIASES["ROI"] == "proposals"
    assert ALIASES["mrcnn_mask"] == "mask_logits"
    assert ALIASES["input_image_meta"] == "image_meta"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(["p2"], ["p2"], id="one"),
        pytest.param(["proposals", "c2"], ["c2", "proposals"], id="two"),
        pytest.param(["rpn_*"], ["rpn_objectness", "rpn_deltas"], id="glob"),
        pytest.param(["p?"], ["p2", "p3", "p4", "p5", "p6"], id="one letter"),
        pytest.param(["c[23]", "c2"], ["c2", "c3"], id="twice"),
        pytest.param([], [], id="none"),
        pytest.param("p2", ["p2"], id="a string"),
        pytest.param(["fpn_*"], ["p2", "p3", "p4", "p5", "p6"], id="Matterport's names by a glob"),
    ],
)
def test_only_wanted_stages(wanted: list[str] | str, expected: list[str], model: MaskRCNN, image: np.ndarray) -> None:
    assert list(model.trace(image, wanted)) == expected


def test_modules_by_their_dotted_name(model: MaskRCNN, image: np.ndarray, full: Trace) -> None:
    trace = model.trace(image, ["backbone.layer1.0.conv2", "fpn.lateral5"])
    assert list(trace) == ["backbone.layer1.0.conv2", "fpn.lateral5"]
    with torch.inference_mode():
        torch.testing.assert_close(trace["fpn.lateral5"], model.fpn.lateral5(full["c5"]))


def test_modules_by_a_glob(model: MaskRCNN, image: np.ndarray) -> None:
    trace = model.trace(image, ["backbone.layer2.?.conv?"])
    assert sorted(trace) == [f"backbone.layer2.{i}.conv{k}" for i in range(2) for k in (1, 2)]


def test_module_is_seen_before_the_relu_that_follows(model: MaskRCNN, image: np.ndarray) -> None:
    trace = model.trace(image, ["backbone.conv1", "backbone.bn1", "c1"])
    with torch.inference_mode():
        torch.testing.assert_close(trace["backbone.bn1"], model.backbone.bn1(trace["backbone.conv1"]))
    assert trace["backbone.bn1"].min() < 0
    torch.testing.assert_close(trace["c1"], trace["backbone.bn1"].relu())


def test_a_module_with_several_outputs_gives_each_its_name(model: MaskRCNN, image: np.ndarray) -> None:
    trace = model.trace(image, ["backbone", "rpn", "c3"])
    assert [name for name in trace if name.startswith("backbone")] == [f"backbone.c{k}" for k in range(1, 6)]
    assert {"rpn.anchors", "rpn.objectness", "rpn.deltas"} < set(trace)
    torch.testing.assert_close(trace["backbone.c3"], trace["c3"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("box_head.fcs", "The module 'box_head.fcs' is a part without an output of its own; ask for 'box_head.fcs.*'."),
        ("propsals", "This network has no stage or module 'propsals'. Did you mean 'proposals', 'proposal_scores' or"),
        ("backbone.layer9", "Did you mean 'backbone.layer"),
        ("zzzzzz", "This network has no stage or module 'zzzzzz'."),
        ("zz_*", "This network has no stage or module 'zz_*'."),
        ("p9", "no stage or module 'p9'. Its stages are: image, image_meta, c1, c2, c3, c4, c5, p2, p3, p4, p5, p6,"),
    ],
)
def test_unknown_names(name: str, message: str, model: MaskRCNN, image: np.ndarray) -> None:
    with pytest.raises(InputError) as error:
        model.trace(image, ["p2", name])
    assert message in str(error.value)


def test_network_without_masks_has_no_mask_stages(image: np.ndarray) -> None:
    trace = network(masks=False).trace(image)
    assert set(trace) == {name for name in STAGES if not name.startswith("mask")}


def test_nothing_found_is_traced_as_well(image: np.ndarray) -> None:
    trace = network(**{"box.score_threshold": 1.0}).trace(image)
    assert set(trace) == set(STAGES) and trace["masks"].shape == (0, 48, 70)
    assert "masks" in str(trace)


def test_model_is_left_as_it_was(model: MaskRCNN, image: np.ndarray) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.train()
    try:
        model.trace(image, ["backbone.*"])
        assert model.training
    finally:
        model.eval()
    assert not any(m._forward_hooks for m in model.modules())
    torch.testing.assert_close(dict(model.named_parameters()), before)


def test_an_error_leaves_no_hooks(image: np.ndarray) -> None:
    model = network().train()
    model.rpn.forward = None
    with pytest.raises(TypeError):
        model.trace(image, ["backbone.*"])
    assert model.training and not any(m._forward_hooks for m in model.modules())


def test_trace_is_a_mapping(full: Trace) -> None:
    assert "p2" in full and "p9" not in full
    with pytest.raises(KeyError, match="proposal is not in this trace. Did you mean 'proposals', 'proposal_s"):
        full["proposal"]
    with pytest.raises(KeyError, match=r"Ask for it with trace\(image, stages="):
        full["stage5.0.conv1"]


def test_predict_and_a_trace_agree_to_the_last_bit(model: MaskRCNN, image: np.ndarray, full: Trace) -> None:
    [found] = model.predict(image, score_threshold=0.0)
    traced = full.run.detections
    assert traced is not None and len(found) > 0
    for name in ("boxes", "scores", "labels", "masks"):
        assert torch.equal(getattr(traced, name), getattr(found, name)), name


TARGET = {
    "boxes": torch.tensor([[5.0, 6, 40, 40], [30, 8, 66, 44]]),
    "labels": torch.tensor([0, 1]),
    "masks": torch.ones(2, 48, 70, dtype=torch.bool),
}


@pytest.fixture(scope="module")
def step(model: MaskRCNN, image: np.ndarray) -> Trace:
    return model.trace(image, targets=TARGET)


def test_losses_are_those_of_a_normal_step_with_the_same_chance(model: MaskRCNN, step: Trace) -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        losses = model(step.run.batch, step.run.targets)
    assert step["loss"] == losses.total > 0
    for name, loss in losses.named().items():
        if name != "keypoint":
            assert step[f"loss_{name}"] == loss, name


def test_gradients_of_a_recorded_step_are_those_of_one_that_is_not(model: MaskRCNN, step: Trace) -> None:
    def gradients(into: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        trained = copy.deepcopy(model).train()
        torch.manual_seed(3)
        if into is None:
            trained(step.run.batch, step.run.targets).total.backward()
        else:
            with recording(into):
                trained(step.run.batch, step.run.targets).total.backward()
        return {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}

    stages: dict[str, torch.Tensor] = {}
    recorded, normal = gradients(stages), gradients(None)
    assert "mask_targets" in stages and len(normal) > 50
    assert [name for name in normal if not torch.equal(normal[name], recorded[name])] == []


def test_a_step_of_training_has_its_stages(step: Trace) -> None:
    shapes = {name: step.shape_of(name) for name in ("matched_gt", "sampled_rois", "mask_targets", "loss")}
    anchors = step["anchors"].shape[0]
    assert shapes["matched_gt"] == f"N 1 × A {anchors}" and shapes["loss"] == "scalar"
    assert shapes["sampled_rois"].startswith("N 1 × S ") and shapes["mask_targets"].endswith("y 28 × x 28")
    assert "detections" not in step and step.run.detections is None


def test_a_trace_takes_no_chance_from_others(model: MaskRCNN, image: np.ndarray) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model.trace(image, targets=TARGET)
    assert torch.equal(torch.rand(3), expected)


def test_everything_is_kept_besides_what_is_asked_for(model: MaskRCNN, image: np.ndarray, full: Trace) -> None:
    whole = trace(model, image, ["backbone.conv1", "p2"], everything=True)
    assert set(whole) == {*full, "backbone.conv1"}
    assert list(whole.only(["backbone.conv1", "fpn_p2"])) == ["backbone.conv1", "p2"]
    with pytest.raises(InputError, match="no stage or module 'p9'"):
        whole.only(["p9"])


def test_saved_tensors_are_those_of_the_trace(model: MaskRCNN, image: np.ndarray, tmp_path: Any) -> None:
    kept = model.trace(image, ["p2", "proposals", "rpn.convs.0"])
    kept.save(tmp_path / "tensors.safetensors")
    read = load_file(tmp_path / "tensors.safetensors")
    assert set(read) == set(kept) and "rpn.convs.0@p3" in read
    assert all(torch.equal(read[name], kept[name]) for name in kept)


def table(trace: Trace, width: int) -> list[str]:
    return [line.rstrip() for line in rendered(trace.table(width), width).splitlines()]


def test_printing_gives_a_table(model: MaskRCNN, image: np.ndarray) -> None:
    lines = str(model.trace(image, ["p2", "roi_levels"])).splitlines()
    assert lines[0].split() == ["Stage", "Shape", "Type", "Min", "Max", "Mean", "Zeros", "NaN/Inf"]
    assert any("p2" in line and "N 1 × C 8 × H 16 × W 24" in line and "float32" in line for line in lines)
    assert any("roi_levels" in line and "int64" in line for line in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_the_table_is_broken(width: int, full: Trace) -> None:
    lines = table(full, width)
    assert max(map(len, lines)) <= width
    per_row = 1 if width == 120 else 2
    headings = [line for line in lines if line.startswith(" ") and "×" not in line]
    assert len(lines) == 2 + len(headings) + per_row * len(full)


def test_rows_stand_under_the_parts_of_the_figure(full: Trace) -> None:
    lines = table(full, 120)
    headings = ["Image", "1 Backbone", "2 RPN", "3 RoIAlign", "4 Heads", "3 RoIAlign", "4 Heads", "Detections"]
    assert [line.strip() for line in lines if line.startswith(" ")] == headings
    assert lines.index(" 2 RPN") < next(i for i, line in enumerate(lines) if line.startswith("anchors"))


def test_what_is_odd_is_counted() -> None:
    odd = Trace({"p2": torch.tensor([0.0, 0.0, float("nan"), float("inf"), -float("inf"), 4.0, 1.0, 3.0])})
    [row] = odd.summary()
    assert (row["nan"], row["inf"], row["zeros"]) == (1, 2, 0.25)
    assert (row["min"], row["max"], row["mean"]) == (0.0, 4.0, 1.6)
    [line] = [line for line in table(odd, 120) if line.startswith("p2")]
    assert line.split()[-5:] == ["0", "4", "1.6", "25%", "1/2"]


def test_letters_are_explained_that_occur(full: Trace, model: MaskRCNN, image: np.ndarray) -> None:
    assert model.trace(image, ["p2"]).letters() == "N images · C channels · H height · W width"
    axes = {axis for name in full for axis in full.shape_of(name).split() if not axis.isdigit() and axis != "×"}
    told = {"meta", "height", "width", "xyxy·label·score"}  # that need no explanation
    assert axes - told <= set(LETTERS) and {"T", "Q", "K1"} <= axes


def test_empty_and_scalar_tensors_in_the_table() -> None:
    text = str(Trace({"anchors": torch.zeros(0, 4), "loss": torch.tensor(2.5), "mine": torch.zeros(3)}))
    assert "A 0 × 4 xyxy" in text and "scalar" in text and "2.5" in text and "Other" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (24031.0, "24031"), (3361.4, "3361"), (1.5, "1.5"), (-0.0078231, "-0.0078"), (3.8e-9, "3.8e-9"),
        (-1.234e12, "-1.2e12"), (0.02712, "0.0271"), (-3.0e38, "-3e38"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, shown: str) -> None:
    [line] = [line for line in table(Trace({"loss": torch.tensor(value, dtype=torch.float64)}), 120) if "loss" in line]
    assert line.split()[3] == shown and len(shown) <= 7


def test_flags_are_counted_without_becoming_numbers() -> None:
    flags = torch.tensor([[True, False, False, True], [False, False, False, True]])
    some, none, every = Trace({"a": flags, "b": torch.zeros(0, 2, dtype=torch.bool), "c": flags[:, 3:]}).summary()
    assert [some[key] for key in ("dtype", "min", "max", "mean", "zeros")] == ["bool", 0.0, 1.0, 0.375, 0.625]
    assert none["min"] is none["max"] is none["mean"] is none["zeros"] is None
    assert [every[key] for key in ("min", "max", "mean", "zeros", "nan", "inf")] == [1.0, 1.0, 1.0, 0.0, 0, 0]
