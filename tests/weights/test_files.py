"""Files of weights: what is written comes back, and what is not ours to read is refused."""

import json
import pickle

import numpy as np
import pytest
import torch
from narrow_torchvision import checkpoint

import maskrcnn
from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import CheckpointError, ConfigError, InputError, WriteError
from maskrcnn.weights import files

SMALL = {"backbone.width": 8, "fpn.channels": 16, "rpn.channels": 16, "box.fc_channels": 32, "mask.channels": 16}


@pytest.fixture
def model():
    return MaskRCNN(Config.preset("small-fpn", class_names=["cat", "dog"], overrides=SMALL)).eval()


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_saving_and_loading_gives_identical_numbers(model, saved):
    again = maskrcnn.load(saved)
    assert again.config == model.config
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for a, b in zip(model(images), again(images), strict=True):
            assert torch.equal(a, b)


def test_loaded_networks_are_in_eval_mode(saved):
    assert not maskrcnn.load(saved).training


def test_overrides_change_the_configuration(saved):
    assert maskrcnn.load(saved, overrides={"box.nms_threshold": 0.3}).config.box.nms_threshold == 0.3


def test_an_unknown_override_is_refused(saved):
    with pytest.raises(ConfigError, match="'box.nms_treshold'. Did you mean 'nms_threshold'"):
        maskrcnn.load(saved, overrides={"box.nms_treshold": 0.3})


def test_an_override_renames_the_classes(model, saved):
    renamed = maskrcnn.load(saved, overrides={"class_names": ["lion", "wolf"]})
    assert renamed.config.class_names == ("lion", "wolf")
    assert torch.equal(renamed.box_head.class_logits.weight, model.box_head.class_logits.weight)


def test_weights_of_our_own_are_mapped_not_copied(saved):
    imported = files.import_weights(saved)
    model, missing = files.build(imported)
    assert not missing
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == imported.tensors[name].data_ptr(), name


def test_no_random_weights_are_drawn_in_place_of_those_of_a_file(saved, monkeypatch):
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", lambda *a, **k: pytest.fail("drawn"))
    monkeypatch.setattr(torch.nn.init, "normal_", lambda *a, **k: pytest.fail("drawn"))
    maskrcnn.load(saved)


def test_a_mapping_keeps_its_memory_to_itself():
    theirs, _ = checkpoint()
    before = {key: tensor.clone() for key, tensor in theirs.items()}
    loaded = maskrcnn.load(theirs)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert all(torch.equal(theirs[key], before[key]) for key in before)


@pytest.mark.parametrize("head", ["masks", "keypoints"])
def test_a_head_can_be_left_out(tmp_path, head):
    changes = {**SMALL, "keypoint_names": ["a"], "keypoint.channels": 8}
    model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"], overrides=changes))
    model.save(tmp_path / "w.safetensors")
    less = {"masks": False} if head == "masks" else {"keypoint_names": []}
    names = maskrcnn.load(tmp_path / "w.safetensors", overrides=less).state_dict()
    assert not any(name.startswith(head.removesuffix("s")) for name in names)


@pytest.mark.parametrize(
    ("source", "options", "error", "said"),
    [
        (None, {}, InputError, "weights must be a path or a mapping of tensors; got NoneType"),
        (torch.nn.Linear(1, 1), {}, InputError, r"got Linear\. For a network pass its state_dict\(\)"),
        ("SAVED", {"format": 3}, InputError, "format must be one of maskrcnn, torchvision"),
        ("SAVED", {"format": "detectron2"}, CheckpointError, "is not of detectron2: its tensors are called backbone"),
        ("SAVED", {"overrides": [1]}, ConfigError, "overrides must map fields to values"),
        ("SAVED", {"class_names": "cat"}, ConfigError, r"must be a list of names, as \['cat'\]; got 'cat'"),
        ("SAVED", {"class_names": ["a", " "]}, ConfigError, "names of classes and keypoints must not be blank"),
        ("SAVED", {"overrides": {"class_names": ["a"]}}, ConfigError, "renames the 2 classes that there are"),
        ("SAVED", {"class_names": ["a"], "overrides": {"class_names": ["a"]}}, ConfigError, "renames the 2 classes"),
    ],
    ids=["none", "module", "format", "other format", "overrides", "text", "blank", "rename to fewer", "twice"],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_of_load(saved, source, options, error, said):
    with pytest.raises(error, match=said):
        maskrcnn.load(saved if source == "SAVED" else source, **options)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("fc.weight", "is an image classifier, no detector; it starts a new network's backbone"),
        ("head.classification_head.conv.0.0.weight", "is a one-stage detector"),
        ("backbone.0.0.weight", "on MobileNet"),
        ("backbone.bottom_up.s1.b1.a.conv.weight", "on RegNet"),
        ("rpn_head.rpn_conv.weight", "of MMDetection"),
    ],
)
def test_what_else_people_have_is_refused_by_name(key, said):
    with pytest.raises(CheckpointError, match=f"^the mapping .*{said}"):
        maskrcnn.load({key: torch.ones(2, 2)})


def test_a_published_name_is_no_file():
    with pytest.raises(
        CheckpointError, match=r"maskrcnn\.pretrained\('torchvision/maskrcnn_resnet50_fpn'\) fetches it"
    ):
        maskrcnn.load("torchvision/maskrcnn_resnet50_fpn")


def test_a_mask_head_that_is_asked_for_starts_anew_and_one_that_is_lost_is_missing(tmp_path):
    model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"], overrides={**SMALL, "masks": False}))
    model.save(tmp_path / "w.safetensors")
    assert maskrcnn.load(tmp_path / "w.safetensors", overrides={"masks": True}).mask_head.predictor.out_channels == 1
    theirs, _ = checkpoint()
    kept = {key: tensor for key, tensor in theirs.items() if "mask_fcn_logits" not in key}
    with pytest.raises(CheckpointError, match="lacks: "):
        maskrcnn.load(kept, overrides={"masks": True})


def test_weights_may_be_trained_without_touching_the_file(saved):
    before = saved.read_bytes()
    model = maskrcnn.load(saved)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert saved.read_bytes() == before


def test_half_precision_is_read_as_single(model, tmp_path):
    halves = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    files.write_tensors(tmp_path / "h.safetensors", halves, {files.METADATA_KEY: model.config.to_json()})
    assert {p.dtype for p in maskrcnn.load(tmp_path / "h.safetensors").parameters()} == {torch.float32}


def test_a_failed_write_leaves_the_older_file(model, saved, monkeypatch):
    before = saved.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskrcnn.weights.files.save_file", full)
    with pytest.raises(WriteError, match="No space left on device. What was there before is unchanged"):
        model.save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_an_override_that_changes_shapes_is_refused(saved):
    with pytest.raises(CheckpointError, match="does not fit: .* is .*, not "):
        maskrcnn.load(saved, overrides={"box.fc_channels": 64})


class Evil:
    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (pathlib.Path("ran.txt"),)


def _truncated(path, model):
    model.save(path)
    path.write_bytes(path.read_bytes()[:-1000])


BAD = {
    "missing": (lambda path, model: None, "x.safetensors", "No such file"),
    "empty": (lambda path, model: path.touch(), "x.safetensors", "is empty: download it again"),
    "text": (lambda path, model: path.write_text("hello, I am not weights"), "x.safetensors", "is text, beginning"),
    "truncated": (_truncated, "x.safetensors", "damaged or cut short"),
    "pickle of code": (lambda path, model: path.write_bytes(pickle.dumps(Evil())), "x.pth", "could run code"),
    "torch file of code": (lambda path, model: torch.save({"w": Evil()}, path), "x.pth", "could run code"),
    "not tensors": (lambda path, model: torch.save({"a": 1}, path), "x.pth", "mapping from names to tensors"),
    "foreign": (lambda path, model: torch.save({"a": torch.zeros(1)}, path), "x.pth", "no known format"),
}


@pytest.mark.parametrize("case", BAD, ids=list(BAD))
def test_files_that_are_no_weights_are_refused_by_name(case, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, name, message = BAD[case]
    path = tmp_path / name
    write(path, model)
    with pytest.raises(CheckpointError, match=message) as caught:
        maskrcnn.load(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "ran.txt").exists()


def _changed(config, dotted, value):
    values = json.loads(config.to_json())
    section, _, field = dotted.rpartition(".")
    (values[section] if section else values)[field] = value
    return json.dumps(values)


HOSTILE = {
    "nested": (lambda config: "[" * 100_000, "holds a configuration .* is not valid JSON"),
    "number of 5000 digits": (lambda config: '{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
    "a billion layers": (
        lambda config: _changed(config, "box.num_convs", 10**9),
        "should be less than or equal to 100",
    ),
    "wide": (lambda config: _changed(config, "backbone.width", 10**18), "describes a network that cannot be built"),
    "too wide": (lambda config: _changed(config, "backbone.width", 10**30), "describes a network that cannot be built"),
    "many classes": (lambda config: _changed(config, "class_names", [str(k) for k in range(10**5)]), "does not fit"),
    "names of numbers": (lambda config: _changed(config, "class_names", [0] * 10**5), "And 99990 more"),
    "long value": (lambda config: _changed(config, "masks", "x" * 10**6), r"masks should be .*x…\."),
    "controls": (lambda config: _changed(config, "class_names", ["\x1b[1m"] * 2), r"differ from each other; \?\[1m"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_configurations_end_in_one_short_error(case, model, tmp_path):
    make, message = HOSTILE[case]
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, model.state_dict(), {files.METADATA_KEY: make(model.config)})
    with pytest.raises(CheckpointError, match=message) as caught:
        maskrcnn.load(path)
    assert len(str(caught.value)) < 2000 and "\x1b" not in str(caught.value)


def test_a_network_of_gigabytes_is_not_started_anew(model, tmp_path):
    heads = ("box_head.", "mask_head.")
    rest = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(heads)}
    huge = {files.METADATA_KEY: _changed(model.config, "box.fc_channels", 10**6)}
    files.write_tensors(tmp_path / "x.safetensors", rest, huge)
    with pytest.raises(CheckpointError, match="weights, too many to start anew"):
        maskrcnn.load(tmp_path / "x.safetensors", partial=True)


def test_whole_numbers_are_no_weights(model, tmp_path):
    whole = {name: tensor.int() for name, tensor in model.state_dict().items()}
    files.write_tensors(tmp_path / "x.safetensors", whole, {files.METADATA_KEY: model.config.to_json()})
    with pytest.raises(CheckpointError, match="holds whole numbers, which weights are not, in backbone.conv1.weight"):
        maskrcnn.load(tmp_path / "x.safetensors")


def test_names_of_tensors_are_told_without_control_characters(model, tmp_path):
    tensors = {**model.state_dict(), "\x1b[31mred\n": torch.ones(1)}
    files.write_tensors(tmp_path / "x.safetensors", tensors, {files.METADATA_KEY: model.config.to_json()})
    with pytest.raises(CheckpointError, match=r"has unknown tensors: \?\[31mred\?\."):
        maskrcnn.load(tmp_path / "x.safetensors")


def test_groups_wider_than_their_layer_are_told():
    theirs, _ = checkpoint(**{"backbone.depth": 50})
    theirs["backbone.body.layer1.0.conv2.weight"] = torch.ones(1, 3, 3, 3)
    with pytest.raises(CheckpointError, match="does not fit"):
        maskrcnn.load(theirs)


def test_a_bare_state_dict_is_told_from_a_whole_file(model):
    arrays = {name: np.asarray(t) for name, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"the mapping holds our tensors without .* model\.save\(path\)"):
        maskrcnn.load(arrays)


def test_a_checkpoint_is_told_from_weights(model, tmp_path):
    files.write_tensors(tmp_path / "c.safetensors", model.state_dict(), {files.TRAINING_KEY: "{}"})
    with pytest.raises(CheckpointError, match="checkpoint to resume a run from; its weights are in model.safetensors"):
        maskrcnn.load(tmp_path / "c.safetensors")
