"""`maskrcnn evaluate`."""

import json

import pytest
from cli_words import words

import maskrcnn
from maskrcnn.data import CocoDataset
from maskrcnn.evaluation import evaluate


@pytest.fixture
def expected(weights, labelled):
    """The figures that Python gives."""
    return evaluate(maskrcnn.load(weights), CocoDataset(labelled / "annotations" / "val.json"))


def test_figures_are_those_of_python(run, weights, labelled, expected, tmp_path):
    path = tmp_path / "new" / "figures.json"
    status, out, _ = run("evaluate", weights, labelled, "--json", "-o", path, "--device", "cpu")
    assert status == 0
    assert json.loads(out) == json.loads(path.read_text()) == json.loads(expected.to_json())
    assert expected.num_detections > 0


def test_shows_tables(run, weights, labelled):
    status, out, err = run("evaluate", weights, labelled / "annotations" / "val.json", "--quiet")
    assert (status, err) == (0, "")
    assert "COCO figures on 2 images" in out
    assert all(word in out for word in ("AP75", "ARl", "Mask AP50", "triangle"))


def test_another_split(run, weights, labelled):
    assert json.loads(run("evaluate", weights, labelled, "--split", "train", "--json")[1])["num_images"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.safetensors", "DATA"], "There is no weights file none.safetensors."),
        (["DATA", "WEIGHTS"], "is a folder, not a file of weights. Weights come first, then data or images."),
        (["WEIGHTS", "nowhere"], "There is no file or folder nowhere."),
        (["WEIGHTS", "DATA", "--split", "test"], "holds no annotations for 'test': no annotations/test.json."),
        (["WEIGHTS", "shapes", "--split", "trian"], "shapes has no split 'trian'"),
        (["WEIGHTS", "DATA", "--set", "box.fc_channels=64"], "does not fit: box_head.fcs.0.weight"),
    ],
    ids=["weights", "swapped", "data", "split", "split of shapes", "other shapes"],
)
def test_wrong_arguments(run, weights, labelled, arguments, said):
    places = {"WEIGHTS": weights, "DATA": labelled}
    status, out, err = run("evaluate", *(places.get(a, a) for a in arguments))
    assert (status, out) == (2, "")
    assert said in words(err)


def test_other_classes_are_refused(run, weights, labelled):
    path = labelled / "annotations" / "val.json"
    path.write_text(path.read_text().replace('"circle"', '"disc"'))
    status, _, err = run("evaluate", weights, labelled)
    assert status == 2
    assert "classes that the network does not know: disc. It knows circle, square, triangle." in words(err)


def test_a_result_that_cannot_be_written_fails(run, weights, labelled, tmp_path):
    status, _, err = run("evaluate", weights, labelled, "-o", tmp_path)
    assert status == 1
    assert f"Cannot write {tmp_path}: it is a folder, not a file." in words(err)


def test_an_image_that_cannot_be_read_shows_in_the_status(run, weights, labelled):
    (labelled / "annotations" / "val" / "000001.png").write_bytes(b"no picture")
    status, out, err = run("evaluate", weights, labelled, "--json", "-q")
    assert status == 1
    assert json.loads(out)["num_images"] == 1
    assert "000001.png: not an image" in words(err)
