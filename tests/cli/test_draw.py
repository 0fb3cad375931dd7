"""`maskrcnn draw`."""

from xml.etree import ElementTree as ET

import pytest
import torch
from cli_words import words
from narrow_torchvision import checkpoint

from maskrcnn.config import Config
from maskrcnn.model import MaskRCNN
from maskrcnn.weights.files import write_tensors


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_without_arguments_the_default_network_is_drawn(run, here):
    status, out, err = run("draw")
    assert status == 0 and not out and "Wrote resnet101-fpn-parts.svg" in words(err)
    text = (here / "resnet101-fpn-parts.svg").read_text()
    assert "Mask R-CNN on ResNet-101-FPN with 80 classes" in text and "261,888 anchors" in text


def test_weights_are_drawn_by_their_configuration(run, weights, here):
    status, _, _ = run("draw", weights, "--level", "blocks", "-o", "tiny.svg")
    text = (here / "tiny.svg").read_text()
    assert status == 0 and "ResNet-18-FPN with 3 classes" in text and "16×1×1" in text


def test_the_ending_chooses_the_format(run, here):
    status, _, _ = run("draw", "--preset", "vgg16", "--level", "layers", "-o", "n.drawio", "--classes", "2")
    pages = ET.fromstring((here / "n.drawio").read_text())
    assert status == 0 and [page.get("name") for page in pages] == ["features", "heads"]


def test_several_sheets_of_svg_become_several_files(run, here):
    status, _, err = run("draw", "vgg16", "--level", "layers")
    assert status == 0 and "Wrote vgg16-layers-1.svg Wrote vgg16-layers-2.svg" in words(err)
    assert sorted(path.name for path in here.iterdir()) == ["vgg16-layers-1.svg", "vgg16-layers-2.svg"]


def test_text_formats_go_to_standard_output(run, here):
    status, out, err = run("draw", "--preset", "small-fpn", "--format", "mermaid", "-o", "-", "--classes", "cat,dog")
    assert status == 0 and not err and out.startswith("%% Mask R-CNN on ResNet-18-FPN with 2 classes")
    assert list(here.iterdir()) == []


def test_fields_and_the_photo_can_be_set(run, here):
    options = ("--set", "masks=false", "--set", "box.fc_channels=512", "--size", "480x640")
    status, out, _ = run("draw", "--preset", "vgg16", "--level", "blocks", "--format", "dot", "-o", "-", *options)
    assert status == 0 and "3×608×800" in out and "fc 512" in out and "Mask head" not in out


def test_quiet_says_nothing(run, here):
    assert run("draw", "--quiet", "-o", "n.svg") == (0, "", "")


def test_two_networks_are_compared(run, weights, here):
    status, _, err = run("draw", weights, "--compare", "small-fpn", "--set", "rpn.nms_threshold=0.5")
    assert status == 0 and "Wrote tiny-small-fpn-parts.svg" in words(err)
    text = (here / "tiny-small-fpn-parts.svg").read_text()
    assert "rpn.nms_threshold" in text and "class_names" not in text  # the preset takes the classes of the weights


def test_presets_are_compared_with_settings_for_the_first(run, here):
    status, _, _ = run("draw", "vgg16", "--set", "masks=false", "--compare", "vgg16", "-o", "n.svg")
    text = (here / "n.svg").read_text()
    assert status == 0 and "Faster R-CNN on VGG-16" in text and "Mask R-CNN on VGG-16" in text


def test_weights_of_others_are_drawn(run, tmp_path, here):
    torch.manual_seed(0)
    torch.save(checkpoint(masks=False)[0], tmp_path / "theirs.pth")
    status, _, _ = run("draw", tmp_path / "theirs.pth", "-o", "n.svg", "--quiet")
    assert status == 0 and "Faster R-CNN on ResNet-18-FPN with 2 classes" in (here / "n.svg").read_text()


def test_weights_without_a_configuration_are_named(run, tmp_path, here):
    config = Config.preset("small-fpn", class_names=["cat"], overrides={"backbone.width": 8, "fpn.channels": 16})
    path = tmp_path / "bare.safetensors"
    write_tensors(path, MaskRCNN(config).state_dict(), {})
    status, _, err = run("draw", path)
    assert status == 2 and "bare.safetensors holds our tensors without their configuration" in words(err)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--level", "layer"], "level must be one of parts, blocks, layers; got 'layer'. Did you mean 'layers'?"),
        (["--format", "jpg"], "format must be one of svg, png, pdf, drawio, mermaid, dot; got 'jpg'."),
        (["-o", "n.jpg"], "n.jpg: its ending tells no format."),
        (["--format", "svg", "-o", "n.png"], "--format svg does not fit n.png, whose ending says another; .svg would."),
        (["--preset", "vgg17"], "Unknown preset 'vgg17'. Did you mean 'vgg16'?"),
        (["vgg17"], "There is no weights file vgg17. Did you mean 'vgg16'?"),
        (["--compare", "vgg17"], "There is no weights file vgg17. Did you mean 'vgg16'?"),
        (["vgg16", "--preset", "vgg16"], "Name weights or a preset, not both"),
        (["--size", "480"], "--size must be height x width in pixels, 1 to 20000, as 480x640; got '480'."),
        (["--size", "0x640"], "--size must be height x width in pixels"),
        (["--classes", "0"], "--classes must be from 1 to 100000, or names with commas; got 0."),
        (["--classes", "cat,cat"], "class_names must differ from each other"),
        (["--set", "rpn.nms_treshold=1"], "Unknown configuration key 'rpn.nms_treshold'."),
        (["--format", "png", "-o", "-"], "png cannot go to standard output"),
        (["--level", "layers", "-o", "-"], "An SVG file holds one sheet, and layers has 2"),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence(run, here, arguments, message):
    status, out, err = run("draw", *arguments)
    assert status == 2 and not out and message in words(err) and "Traceback" not in err
    assert list(here.iterdir()) == []


def test_classes_are_for_presets(run, weights, here):
    status, _, err = run("draw", weights, "--classes", "3")
    assert status == 2 and "--classes is for presets; weights bring their own classes." in words(err)
