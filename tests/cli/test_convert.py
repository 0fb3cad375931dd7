"""`maskrcnn convert` and `maskrcnn pretrained`."""

import json
import re

import pytest
import torch
from cli_words import words
from narrow_torchvision import checkpoint

import maskrcnn


@pytest.fixture
def theirs(tmp_path):
    """A narrow Faster R-CNN as torchvision saves it."""
    torch.manual_seed(0)
    torch.save(checkpoint(masks=False)[0], tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def change(path, edit):
    tensors = torch.load(path, weights_only=True)
    edit(tensors)
    torch.save(tensors, path)


def test_what_is_written_is_what_load_gives(run, theirs, tmp_path):
    status, out, err = run("convert", theirs, "-o", tmp_path / "ours.safetensors")
    assert status == 0
    assert "is torchvision's Faster R-CNN on ResNet-18-FPN with 2 classes." in words(out)
    assert "backbone.norm_eps 1e-05" in words(out) and "Configuration" in out and "unused" not in out
    assert "Wrote" in err
    ours, direct = maskrcnn.load(tmp_path / "ours.safetensors"), maskrcnn.load(theirs)
    assert ours.config == direct.config
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), direct.state_dict().values(), strict=True))


def test_classes_may_be_named_after_converting(run, theirs, tmp_path):
    run("convert", theirs, "-o", tmp_path / "ours.safetensors")
    named = maskrcnn.load(tmp_path / "ours.safetensors", class_names=["cat", "dog"])
    assert torch.equal(named.box_head.class_logits.weight, maskrcnn.load(theirs).box_head.class_logits.weight)


def test_unused_and_missing_are_named(run, theirs, tmp_path):
    change(theirs, lambda t: t.update({"roi_heads.extra.weight": torch.zeros(1)}))
    status, out, _ = run("convert", theirs)
    assert status == 0 and "1 tensor unused: roi_heads.extra.weight" in words(out)
    change(theirs, lambda t: t.pop("rpn.head.cls_logits.bias"))
    output = tmp_path / "ours.safetensors"
    status, _, err = run("convert", theirs, "-o", output)
    assert status == 2 and "lacks: rpn.head.cls_logits.bias" in words(err) and not output.exists()
    status, out, _ = run("convert", theirs, "--partial", "-o", output)
    assert status == 0 and "1 tensor missing, started from random weights: rpn.objectness.bias" in words(out)
    assert output.exists()


def test_heads_that_are_left_out_are_unused_and_heads_that_are_asked_for_start_anew(run, theirs, tmp_path):
    status, out, _ = run("convert", theirs, "--set", "masks=true", "-o", tmp_path / "masks.safetensors")
    assert status == 0 and "tensors missing, started from random weights: mask_head.convs.0.conv.weight," in words(out)
    status, out, _ = run("convert", tmp_path / "masks.safetensors", "--set", "masks=false", "--json")
    result = json.loads(out)
    assert status == 0 and result["used"] == len(maskrcnn.load(theirs).state_dict())
    assert result["unused"] and all(name.startswith("mask_head.") for name in result["unused"])


def test_classes_that_go_are_told(run, weights):
    status, out, _ = run("convert", weights, "--classes", "square,Circle")
    assert status == 0 and "Classes: kept square; Circle (not circle) starts anew; dropped circle, triangle." in words(
        out
    )


def test_what_is_shown_can_be_set(run, weights):
    shown = words(run("convert", weights)[1])
    assert "fpn.norm" not in shown and "round_boxes false" in shown and "backbone_weights null" in shown
    for ratios in ("[0.5,1,3]", "(0.5, 1, 3)"):
        status, out, _ = run("convert", weights, "--set", f"anchors.ratios={ratios}")
        assert status == 0 and "ratios [0.5, 1, 3]" in words(out)


def test_quiet_prints_nothing(run, weights, tmp_path):
    status, out, err = run("convert", weights, "-q", "-o", tmp_path / "ours.safetensors")
    assert (status, out, err) == (0, "", "")


def test_json_has_all_of_it(run, theirs):
    change(theirs, lambda t: t.update({"roi_heads.extra.weight": torch.zeros(1)}))
    status, out, _ = run("convert", theirs, "--json", "--classes", "x, y, z", "--set", "box.score_threshold=0.3")
    result = json.loads(out)
    assert status == 0
    assert result["unused"] == ["roi_heads.extra.weight"] and result["missing"] == []
    assert result["used"] == len(maskrcnn.load(theirs).state_dict())
    assert result["config"]["class_names"] == ["x", "y", "z"] and result["config"]["box"]["score_threshold"] == 0.3
    assert result["assumed"][0]["field"] == "backbone.norm_eps"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "out.pth"], "--output must end in .safetensors"),
        (["--format", "caffe"], "format must be one of maskrcnn, torchvision"),
        (["--format", "matterport"], "is not of matterport: its tensors are called"),
        (["--set", "backbone.norm_esp=0"], "Did you mean 'norm_eps'"),
        (["--set", "backbone_weights=x.pth"], "these weights bring their own backbone"),
        (["--classes", "a,b,"], "names of classes and keypoints must not be blank"),
    ],
    ids=["suffix", "format", "other format", "override", "backbone", "blank"],
)
def test_wrong_arguments(run, theirs, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("convert", theirs, *arguments)
    assert status == 2 and said in words(err)


def test_the_file_itself_is_never_overwritten(run, weights):
    before = weights.read_bytes()
    status, _, err = run("convert", weights, "-o", weights)
    assert status == 2 and "is the file to convert" in words(err)
    assert weights.read_bytes() == before


def test_published_weights_are_listed(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    status, out, _ = run("pretrained")
    assert status == 0 and max(map(len, out.splitlines())) <= 80
    assert re.search(r"^torchvision/maskrcnn_resnet50_fpn_v2 +47\.4 +41\.8 +186 *$", out, re.MULTILINE)
    status, out, _ = run("pretrained", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["detectron2/mask_rcnn_R_50_FPN_3x"]["mask"] == 37.2
    assert rows["torchvision/maskrcnn_resnet50_fpn"]["digest"] == "bf2d0c1e"


def test_a_name_gives_the_path(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("MASKRCNN_OFFLINE", "1")
    path = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    assert run("pretrained", "torchvision/resnet50", "-q") == (0, f"{path}\n", "")
    status, _, err = run("pretrained", "torchvision/resnet5")
    assert status == 2 and "Did you mean 'torchvision/resnet50'?" in words(err)


def test_nan_weights_load_with_a_warning_that_names_them(run, theirs):
    change(theirs, lambda t: t["rpn.head.cls_logits.bias"].fill_(float("nan")))
    status, _, err = run("convert", theirs)
    assert status == 0
    assert "Warning:" in err and "rpn.head.cls_logits.bias" in words(err) and "site-packages" not in err
