"""`maskrcnn demo`."""

import json

import pytest
import torch
from cli_words import words
from PIL import Image
from safetensors.torch import load_file

import maskrcnn
from maskrcnn.cli import demo as module


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(module, "UNSEEN", 6)


def test_leaves_weights_figures_and_pictures(run, tmp_path):
    folder = tmp_path / "demo"
    status, out, err = run("demo", "-o", folder, "--steps", 2)
    assert status == 0
    assert maskrcnn.load(folder / "model.safetensors").config.class_names == ("circle", "square", "triangle")
    assert json.loads((folder / "evaluation.json").read_text())["num_images"] == 6
    assert len(list((folder / "pictures").glob("*.png"))) == 6
    with Image.open(folder / "predictions.png") as sheet:
        assert sheet.width > 4 * 4 * 128, "two pairs beside each other, four times enlarged"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "What the network does with made image" in page
    assert "COCO figures on 6 images" in out
    assert "On 6 unseen images: box AP50 0." in words(err)
    assert "maskrcnn train PHOTOS -o runs/photos" in err


def test_the_same_seed_gives_the_same_figures(run, tmp_path):
    run("demo", "-o", tmp_path / "a", "--steps", 2, "-q")
    run("demo", "-o", tmp_path / "b", "--steps", 2, "-q")
    run("demo", "-o", tmp_path / "c", "--steps", 2, "-q", "--seed", 1)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_a_later_demo_takes_the_place_of_an_earlier_one(run, tmp_path):
    run("demo", "-o", tmp_path / "demo", "--steps", 1, "-q")
    (tmp_path / "demo" / "pictures" / "old.png").touch()
    assert run("demo", "-o", tmp_path / "demo", "--steps", 1, "-q")[0] == 0
    assert not (tmp_path / "demo" / "pictures" / "old.png").exists()


@pytest.mark.parametrize("name", ["photo.jpg", "checkpoint.safetensors", "run.json"])
def test_a_folder_that_no_demo_made_is_left_alone(run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    status, _, err = run("demo", "-o", tmp_path, "--steps", 1)
    assert status == 2
    assert f"{tmp_path} holds files that no demo made; choose another folder with -o." in words(err)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_in_place_of_the_folder_fails(run, tmp_path):
    (tmp_path / "demo").write_text("mine")
    status, _, err = run("demo", "-o", tmp_path / "demo", "--steps", 1)
    assert status == 1
    assert "it is a file, not a folder" in words(err)
