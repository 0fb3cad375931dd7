"""`maskrcnn export`."""

import sys

import pytest
from cli_words import words
from narrow_torchvision import checkpoint

import maskrcnn

onnx = pytest.importorskip("onnx")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "model.onnx"


def told(graph):
    return {entry.key: entry.value for entry in graph.metadata_props}


def shapes(graph):
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.value_info}


def test_weights_become_a_file_for_netron(run, weights, output):
    status, out, err = run("export", weights, "--format", "onnx", "--for", "netron", "-o", output)
    assert (status, out) == (0, "")
    assert "Wrote" in err and "for looking at, not for running" in words(err) and "https://netron.app" in err
    graph = onnx.load(output)
    onnx.checker.check_model(graph, full_check=True)
    names = {node.name for node in graph.graph.node}
    assert {"fpn/lateral4/norm", "rpn/conv/p3", "box_head/nms"} <= names
    config = maskrcnn.load(weights).config
    assert maskrcnn.Config.from_json(told(graph)["configuration"]) == config
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    wanted = maskrcnn.load(weights).rpn.objectness.weight.detach().numpy()
    assert (stored["rpn.objectness.weight"] == wanted).all()


def test_weights_may_be_left_out(run, weights, output):
    status, _, _ = run("export", weights, "--for", "netron", "--weights-free", "-o", output)
    assert status == 0
    assert "left out" in told(onnx.load(output))["weights"]
    assert output.stat().st_size < 200_000 < weights.stat().st_size


def test_weights_of_other_implementations_do(run, tmp_path, output):
    import torch

    torch.save(checkpoint()[0], tmp_path / "theirs.pth")
    status, _, _ = run("export", tmp_path / "theirs.pth", "--for", "netron", "--quiet", "-o", output)
    assert status == 0
    onnx.checker.check_model(str(output), full_check=True)


def test_a_preset_needs_no_weights(run, output):
    status, _, err = run("export", "--preset", "resnet152-fpn", "--weights-free", "--for", "netron", "-o", output, "-q")
    assert (status, err) == (0, "")
    assert output.stat().st_size < 1_000_000
    graph = onnx.load(output)
    assert graph.graph.name == "Mask R-CNN on ResNet-152-FPN with 80 classes"
    onnx.checker.check_model(graph, full_check=True)


def test_random_weights_are_the_same_each_time(run, tmp_path):
    narrow = ("--set", "fpn.channels=16", "--set", "class_names=['cat', 'dog']")
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        assert run("export", "--preset", "small-fpn", "--random", "--for", "netron", *narrow, "-o", file)[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert told(onnx.load(files[0]))["class_names"] == '["cat", "dog"]'


def test_random_alone_is_the_default_preset(run, output):
    assert run("export", "--random", "--weights-free", "--for", "netron", "-o", output)[0] == 0
    assert "ResNet-101-FPN" in onnx.load(output).graph.name


def test_size_is_that_of_the_photo(run, output):
    arguments = ("--preset", "small-fpn", "--weights-free", "--for", "netron", "-o", output)
    assert run("export", *arguments, "--size", "240x320")[0] == 0
    assert shapes(onnx.load(output))["image"] == [1, 3, 320, 448]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "small-fpn", "--for", "tensorrt"), "--for must be netron; got 'tensorrt'."),
        (
            ("--preset", "small-fpn", "--format", "pt2", "--for", "netron"),
            "--for netron is for --format onnx; got pt2.",
        ),
        (("--preset", "small-fpn", "--format", "onx", "--for", "netron"), "Did you mean 'onnx'? There is: onnx"),
        (("--for", "netron"), "Name a weights file, or a preset: maskrcnn export --preset resnet50-fpn --random"),
        (("a.pth", "--random", "--for", "netron"), "--random and --preset take no weights; leave out a.pth"),
        (("none.pth", "--for", "netron"), "There is no weights file none.pth."),
        (("vgg16", "--for", "netron"), "vgg16 is a preset; name it with --preset vgg16."),
        (("--preset", "small", "--for", "netron"), "Unknown preset 'small'. Did you mean 'small-fpn'?"),
        (("--random", "--for", "netron", "--set", "backbone_weights=x"), "backbone_weights cannot be set"),
        (("--random", "--for", "netron", "--set", "rpn.nms=1"), "Unknown configuration key 'rpn.nms'."),
        (("--random", "--for", "netron", "--set", "class_names=cat"), "class_names must be a list of names"),
        (("--random", "--for", "netron", "--size", "640"), "--size must be height x width in pixels"),
        (("--random", "--for", "netron", "--size", "0x640"), "--size must be height x width in pixels"),
        (("--random", "--for", "netron", "--size", "99999999x640"), "--size must be height x width in pixels"),
        (("--random", "--for", "netron", "--precision", "int8"), "--precision has no use with --for netron."),
        (("--random", "--for", "netron", "--dynamic", "none"), "--dynamic has no use with --for netron."),
        (("--random", "--no-check", "--check-images", "."), "--check-images and --no-check exclude each other."),
        (("--random", "--for", "netron", "-o", "model.pb"), "--output must end in .onnx; got model.pb."),
    ],
)
def test_what_was_asked_wrongly_is_told_in_a_sentence(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("export", *arguments)
    assert (status, out) == (2, "")
    assert message in words(err) and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_told_before_the_work(run, tmp_path, output):
    output.mkdir()
    status, _, err = run("export", "none.pth", "--for", "netron", "-o", output)
    assert status == 1 and "it is a folder, not a file" in words(err)


def test_without_onnx_one_sentence_tells_how_to_get_it(run, weights, output, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, _, err = run("export", weights, "--for", "netron", "-o", output)
    assert status == 2 and "pip install 'maskrcnn[export]'" in words(err)


def test_help_has_an_example(run):
    status, out, _ = run("export", "--help")
    assert status == 0 and "maskrcnn export runs/photos/best.safetensors" in words(out)
    assert "for looking, not for running" in words(out)
