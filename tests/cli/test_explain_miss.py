"""`maskrcnn explain-miss`."""

import json

import pytest
from cli_words import words
from PIL import Image

import maskrcnn
from maskrcnn.data import CocoDataset
from maskrcnn.inspection.misses import explain_dataset


@pytest.fixture
def truth(labelled):
    """The annotations of two images."""
    return labelled / "annotations" / "val.json"


def test_the_whole_data_set(run, weights, labelled):
    status, out, err = run("explain-miss", weights, "--annotations", labelled, "--quiet")
    assert (status, err) == (0, "")
    assert "in 2 images" in out and "Small" in out and "found" in out
    assert "• " in out


def test_json_is_what_python_gives(run, weights, truth):
    status, out, _ = run("explain-miss", weights, "-a", truth, "--json", "--threshold", 0.3, "--device", "cpu")
    assert status == 0
    expected = explain_dataset(maskrcnn.load(weights), CocoDataset(truth), score_threshold=0.3)
    assert json.loads(out) == json.loads(json.dumps(expected.summary()))


def test_one_image_is_told_of_object_by_object(run, weights, labelled, truth):
    image = labelled / "annotations" / "val" / "000001.png"
    status, out, _ = run("explain-miss", weights, image, "-a", truth)
    assert status == 0
    assert "000001.png: 0 of" in words(out)
    assert "What became of" in out and "Share" not in out


@pytest.mark.parametrize("name", ["000001.png", "val/000001.png"])
def test_the_end_of_the_path_is_enough(run, weights, truth, name):
    _, out, _ = run("explain-miss", weights, name, "-a", truth, "--json")
    assert {o["image"][-10:] for o in json.loads(out)["outcomes"]} == {"000001.png"}


def test_a_copy_elsewhere_is_found_by_its_name(run, weights, truth, labelled, tmp_path):
    copy = tmp_path / "000000.png"
    copy.write_bytes((labelled / "annotations" / "val" / "000000.png").read_bytes())
    status, out, _ = run("explain-miss", weights, copy, "-a", truth, "--json")
    assert status == 0 and json.loads(out)["images"] == 1


def test_a_folder_of_images(run, weights, labelled, truth):
    _, out, _ = run("explain-miss", weights, labelled / "annotations" / "val", "-a", truth, "--json")
    assert json.loads(out)["images"] == 2


def test_a_limit(run, weights, truth):
    assert json.loads(run("explain-miss", weights, "-a", truth, "--json", "--limit", 1)[1])["images"] == 1


def test_made_images_have_names_too(run, weights):
    status, out, _ = run("explain-miss", weights, "shapes/000003", "-a", "shapes", "--json")
    assert status == 0 and {o["image"] for o in json.loads(out)["outcomes"]} == {"shapes/000003"}


def test_a_picture_for_each_image_with_misses(run, weights, truth, tmp_path):
    status, _, err = run("explain-miss", weights, "-a", truth, "--pictures", tmp_path / "new" / "misses")
    assert status == 0
    files = sorted((tmp_path / "new" / "misses").iterdir())
    assert [p.name for p in files] == ["000000.png", "000001.png"]
    with Image.open(files[0]) as picture:
        assert picture.width == 640
    assert "2 of 2 images have misses" in words(err)


def test_settings_change_the_network(run, weights, truth):
    settings = ("--set", "rpn.pre_nms_top_n=1", "--set", "rpn.per_level=false", "--json")
    _, out, _ = run("explain-miss", weights, "-a", truth, *settings)
    assert "rpn_score" in json.loads(out)["stages"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.safetensors", "-a", "DATA"], "There is no weights file none.safetensors."),
        (["WEIGHTS", "-a", "nowhere"], "There is no file or folder nowhere."),
        (["WEIGHTS"], "Missing option '--annotations'"),
        (["WEIGHTS", "000007.png", "-a", "DATA"], "has no image called 000007.png. Did you mean '000001.png'?"),
        (["WEIGHTS", "EMPTY", "-a", "DATA"], "has no image in the folder"),
        (["WEIGHTS", "-a", "DATA", "--pictures", "PHOTOS"], "which a picture of the same name could overwrite"),
        (["WEIGHTS", "-a", "DATA", "--iou", "0"], "Invalid value for '--iou'"),
        (["WEIGHTS", "-a", "DATA", "--set", "rpn.nms_treshold=1"], "Did you mean 'nms_threshold'?"),
    ],
    ids=["weights", "data", "no data", "image", "folder", "pictures", "iou", "setting"],
)
def test_wrong_arguments(run, weights, labelled, truth, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    places = {"WEIGHTS": weights, "DATA": truth, "EMPTY": tmp_path / "empty", "PHOTOS": truth.parent / "val"}
    status, out, err = run("explain-miss", *(places.get(a, a) for a in arguments))
    assert (status, out) == (2, "")
    assert said in words(err)


def test_an_image_of_another_split(run, weights, labelled):
    status, _, err = run("explain-miss", weights, "other.jpg", "-a", labelled)
    assert status == 2 and "has no image called other.jpg. --split chooses other annotations" in words(err)


def test_an_image_that_another_split_has_is_said_to_be_there(run, weights, labelled, truth):
    train = json.loads((labelled / "annotations" / "train.json").read_text())
    here = {image["file_name"] for image in json.loads(truth.read_text())["images"]}
    name = "elsewhere.png"
    assert name not in here
    train["images"][0]["file_name"] = name
    photos = next(path for path in labelled.rglob("*.png"))
    (photos.parent / name).write_bytes(photos.read_bytes())
    (labelled / "annotations" / "train.json").write_text(json.dumps(train))
    status, _, err = run("explain-miss", weights, name, "-a", labelled)
    assert status == 2 and "has no image called elsewhere.png. It is among its others: --split train" in words(err)


def test_several_images_of_one_name(run, weights, labelled, truth):
    contents = json.loads(truth.read_text())
    for k, image in enumerate(contents["images"]):
        folder = truth.parent / "val" / f"cam{k}"
        folder.mkdir()
        (truth.parent / "val" / image["file_name"]).rename(folder / "a.png")
        image["file_name"] = f"cam{k}/a.png"
    truth.write_text(json.dumps(contents))
    status, _, err = run("explain-miss", weights, "a.png", "-a", truth)
    assert status == 2 and "has 2 images called a.png" in words(err)
    status, out, _ = run("explain-miss", weights, "cam1/a.png", "-a", truth, "--json")
    assert status == 0 and json.loads(out)["images"] == 1


def test_other_classes_are_refused(run, weights, truth):
    truth.write_text(truth.read_text().replace('"circle"', '"disc"'))
    status, _, err = run("explain-miss", weights, "-a", truth)
    assert status == 2
    assert "classes that the network does not know: disc. It knows circle, square, triangle." in words(err)


def test_annotations_without_objects_are_refused(run, weights, truth):
    contents = json.loads(truth.read_text())
    contents["annotations"] = []
    truth.write_text(json.dumps(contents))
    status, out, err = run("explain-miss", weights, "-a", truth)
    assert (status, out) == (2, "")
    assert "No object is annotated in these images" in words(err)


def test_an_image_that_cannot_be_read_shows_in_the_status(run, weights, truth):
    (truth.parent / "val" / "000001.png").write_bytes(b"no picture")
    status, out, err = run("explain-miss", weights, "-a", truth, "--json", "-q")
    assert status == 1
    assert (json.loads(out)["images"], json.loads(out)["unreadable"]) == (1, 1)
    assert "000001.png: not an image" in words(err) and "It is left out." in words(err)
