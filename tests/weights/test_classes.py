"""Fine-tuning on other classes: what both know is kept, what is new starts anew."""

import pytest
import torch

import maskrcnn
from maskrcnn import Config, MaskRCNN
from maskrcnn.weights.classes import ROWS, carry_classes

NARROW = {"backbone.width": 8, "fpn.channels": 16, "rpn.channels": 16, "box.fc_channels": 32, "mask.channels": 16}


def network(names=("cat", "dog", "bird"), **overrides):
    torch.manual_seed(0)
    model = MaskRCNN(Config.preset("small-fpn", class_names=names, overrides={**NARROW, **overrides}))
    with torch.no_grad():
        for layer in (layer for layer in ROWS if f"{layer}.weight" in model.state_dict()):
            for parameter in model.get_submodule(layer).parameters():
                parameter.normal_()
    return model


def carried(model, names, names_known=True):
    return carry_classes(model.config, dict(model.state_dict()), names, names_known)


def rows(tensors, layer, names, name):
    """What belongs to one class, of a layer."""
    index, each = names.index(name), ROWS[layer]
    return [tensors[f"{layer}.{suffix}"][index * each : (index + 1) * each] for suffix in ("weight", "bias")]


@pytest.mark.parametrize(
    ("names", "kept", "started"),
    [
        (("dog", "cat", "bird"), ("dog", "cat", "bird"), ()),
        (("horse", "dog"), ("dog",), ("horse",)),
        (("bird",), ("bird",), ()),
        (("a", "b", "c", "d"), (), ("a", "b", "c", "d")),
        (("lion", "wolf", "crow"), (), ("lion", "wolf", "crow")),
    ],
    ids=["another order", "one shared", "fewer", "more, none shared", "as many, none shared"],
)
def test_rows_of_shared_classes_are_kept_and_others_start_anew(names, kept, started):
    model = network()
    new = carried(model, names)
    assert (new.config.class_names, new.kept, new.started) == (names, kept, started)
    old = model.state_dict()
    for layer in ROWS:
        for name in kept:
            now, before = rows(new.tensors, layer, names, name), rows(old, layer, model.config.class_names, name)
            assert torch.equal(now[0], before[0]) and torch.equal(now[1], before[1])
        for name in started:
            weight, bias = rows(new.tensors, layer, names, name)
            assert 0 < float(weight.std()) < 0.1 and not bias.any()
    for suffix in ("weight", "bias"):  # background
        key = f"box_head.class_logits.{suffix}"
        assert torch.equal(new.tensors[key][-1], old[key][-1])
    others = [k for k in old if k.rsplit(".", 1)[0] not in ROWS]
    assert all(torch.equal(new.tensors[k], old[k]) for k in others)


def test_the_same_names_change_nothing():
    model = network()
    new = carried(model, ["cat", "dog", "bird"])
    assert new.started == () and all(torch.equal(new.tensors[k], v) for k, v in model.state_dict().items())


def test_names_for_a_file_that_has_none():
    model = network(("class 0", "class 1", "class 2"))
    new = carried(model, ("lion", "wolf", "crow"), names_known=False)
    assert new.kept == ("lion", "wolf", "crow") and new.started == ()
    assert all(torch.equal(new.tensors[k], v) for k, v in model.state_dict().items())


def test_numbers_are_no_names_that_could_be_shared():
    new = carried(network(("class 0", "class 1")), ("class 0", "wolf", "crow"), names_known=False)
    assert new.kept == () and new.started == ("class 0", "wolf", "crow")


def test_one_row_for_all_classes_is_not_that_of_a_single_class():
    model = network(("cat",), **{"box.class_agnostic": True, "mask.class_agnostic": True})
    new = carried(model, ("cat", "dog"))
    assert torch.equal(new.tensors["box_head.box_deltas.weight"], model.box_head.box_deltas.weight)
    assert len(new.tensors["box_head.class_logits.weight"]) == 3


def test_numbered_names_of_our_own_files_are_none(caplog, tmp_path):
    network(("class 0", "class 1")).save(tmp_path / "w.safetensors")
    model = maskrcnn.load(tmp_path / "w.safetensors", class_names=["cat", "dog"])
    assert model.config.class_names == ("cat", "dog")
    assert "classes: cat, dog, as the names of the 2 that the file has." in caplog.text


@pytest.mark.parametrize("section", ["box", "mask"])
def test_layers_for_all_classes_stay(section):
    model = network(**{f"{section}.class_agnostic": True})
    layer = {"box": "box_head.box_deltas", "mask": "mask_head.predictor"}[section]
    new = carried(model, ("dog", "horse"))
    assert torch.equal(new.tensors[f"{layer}.weight"], model.state_dict()[f"{layer}.weight"])


def test_a_network_without_masks():
    new = carried(network(masks=False), ("dog", "horse"))
    assert new.kept == ("dog",) and "mask_head.predictor.weight" not in new.tensors


def test_load_says_what_was_kept(tmp_path, caplog):
    model = network()
    model.save(tmp_path / "w.safetensors")
    again = maskrcnn.load(tmp_path / "w.safetensors", class_names=["dog", "horse", "cow"])
    assert again.config.class_names == ("dog", "horse", "cow")
    assert "w.safetensors: classes: kept dog; horse, cow start anew; dropped cat, bird." in caplog.text
    assert torch.equal(again.box_head.class_logits.weight[0], model.box_head.class_logits.weight[1])
    with torch.inference_mode():
        again(torch.zeros(1, 3, 64, 64))
