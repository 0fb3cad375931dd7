"""`maskrcnn trace`."""

import json
import re

import numpy as np
import pytest
import torch
from cli_words import words
from PIL import Image
from safetensors.torch import load_file, save_file

import maskrcnn
from maskrcnn.data import CocoDataset
from tiny import tiny_data, tiny_model


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(tiny_data()[0][0]).save(path)
    return path


@pytest.fixture(scope="module")
def finding(tmp_path_factory):
    """Weights of a network that finds something, whatever it sees."""
    path = tmp_path_factory.mktemp("finding") / "finding.safetensors"
    tiny_model(box__score_threshold=0.0).save(path)
    return path


@pytest.fixture
def pets(settings):
    """Options for a tiny network of two classes."""
    return ("--preset", "small-fpn", "--set", "class_names=['cat', 'dog']", *settings)


@pytest.fixture
def listed(run):
    """Run with --json; return what it told."""

    def command(*arguments):
        status, out, err = run("trace", *arguments, "--json", "--quiet")
        assert (status, err) == (0, "")
        return json.loads(out)

    return command


def names(told):
    return [stage["name"] for stage in told["stages"]]


class TestTheTable:
    @pytest.mark.parametrize(("columns", "side_by_side"), [(80, False), (120, True)])
    def test_it_fits_the_terminal_and_no_cell_is_cut(self, run, weights, photo, monkeypatch, columns, side_by_side):
        monkeypatch.setenv("COLUMNS", str(columns))
        status, out, _ = run("trace", weights, photo, "--device", "cpu")
        lines = out.splitlines()
        assert status == 0 and "…" not in out
        assert max(map(len, lines)) <= columns
        assert ("Stage, shape" in lines[0]) is not side_by_side
        [row] = [number for number, line in enumerate(lines) if line.startswith("rpn_objectness ")]
        assert "N 1 × A 1023" in lines[row if side_by_side else row + 1]

    def test_stages_stand_under_their_parts_in_the_order_of_the_run(self, run, weights, photo):
        _, out, _ = run("trace", weights, photo)
        order = ["Image", "1 Backbone", "p2", "2 RPN", "proposals", "3 RoIAlign", "box_features", "4 Heads", "masks"]
        places = [re.search(rf"^ ?{re.escape(name)}\s", out, flags=re.MULTILINE).start() for name in order]
        assert places == sorted(places)

    def test_values_are_those_of_the_trace_in_python(self, weights, photo, listed):
        told = listed(weights, photo, "--device", "cpu")
        expected = maskrcnn.load(weights).trace(photo).summary()
        assert told == json.loads(json.dumps({"image": str(photo), "stages": expected}))

    def test_letters_of_the_shapes_are_explained(self, run, weights, photo):
        _, out, _ = run("trace", weights, photo, "--stage", "proposals")
        assert "N images · P proposals · xyxy left, top, right, bottom" in words(out)

    def test_nan_shows(self, run, photo, tmp_path):
        model = tiny_model()
        with torch.no_grad():
            model.fpn.output4.norm.bias[0] = float("nan")
        model.save(tmp_path / "bad.safetensors")
        _, out, _ = run("trace", tmp_path / "bad.safetensors", photo, "--stage", "p4")
        assert re.search(r"^p4 .* 16/0 *$", out, flags=re.MULTILINE)


class TestWhichStages:
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            (["p6"], ["p6"]),
            (["p?"], ["p2", "p3", "p4", "p5", "p6"]),
            (["p6", "c1"], ["c1", "p6"]),
            (["fpn_p6"], ["p6"]),
            (["rpn_class_logits"], ["rpn_objectness"]),
            (["backbone.layer3.0.conv1"], ["backbone.layer3.0.conv1"]),
            (["rpn.objectness@p3"], ["rpn.objectness@p3"]),
            (["rpn.objectness"], [f"rpn.objectness@p{k}" for k in range(2, 7)]),
        ],
        ids=["a stage", "a glob", "two", "Matterport's", "Matterport's, renamed", "a module", "a call", "all calls"],
    )
    def test_by_name(self, weights, photo, listed, wanted, found):
        assert names(listed(weights, photo, *(word for name in wanted for word in ("--stage", name)))) == found

    def test_an_unknown_one_is_refused_with_the_nearest_three(self, run, weights, photo):
        status, out, err = run("trace", weights, photo, "--stage", "proposal")
        assert (status, out) == (2, "")
        near = "'proposals', 'proposal_scores' or 'proposal_places'"
        assert f"This network has no stage or module 'proposal'. Did you mean {near}?" in words(err)


class TestWhatIsWritten:
    def test_saved_tensors_are_those_of_the_table(self, weights, photo, listed, tmp_path):
        path = tmp_path / "new" / "stages.safetensors"
        told = listed(weights, photo, "--stage", "p?", "--stage", "masks", "--save", path, "--device", "cpu")
        saved = load_file(path)
        assert told["saved"] == str(path) and sorted(saved) == sorted(names(told))
        expected = maskrcnn.load(weights).trace(photo)
        for name, tensor in saved.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)

    def test_the_size_of_what_was_saved_is_told(self, run, weights, photo, tmp_path):
        _, _, err = run("trace", weights, photo, "--stage", "p2", "--save", tmp_path / "p2.safetensors")
        assert re.search(r"1 tensor, 0\.0 MB: .*p2\.safetensors", words(err))

    @pytest.mark.parametrize("lost", ["weights", "photo"])
    def test_what_is_read_is_not_overwritten(self, run, weights, photo, lost):
        target = {"weights": weights, "photo": photo}[lost]
        before = target.read_bytes()
        status, _, err = run("trace", weights, photo, "--save", target)
        assert status == 2 and f"would overwrite {target}, which is read" in words(err)
        assert target.read_bytes() == before

    def test_pictures(self, finding, photo, listed, tmp_path):
        wanted = ("--stage", "backbone.layer3.0.conv1", "--object", 1, "--pictures", tmp_path / "inside")
        told = listed(finding, photo, *wanted)
        files = sorted(path.name for path in (tmp_path / "inside").iterdir())
        assert files == sorted(path.rpartition("/")[2] for path in told["pictures"])
        assert {"01-input.png", "object-1.png"} < set(files)
        assert any(name.endswith("-backbone.layer3.0.conv1.png") for name in files)
        assert names(told) == ["backbone.layer3.0.conv1"]


class TestAnObject:
    def test_it_is_followed(self, run, finding, photo):
        status, out, err = run("trace", finding, photo, "--object", 2, "--stage", "masks", "--threshold", 0)
        assert status == 0
        assert "Detection 2:" in out and "Anchor" in out and "Refinement by the head" in out
        assert "Found, by the numbers of --object: 0 " in words(err) and ", 2 " in err

    def test_json_has_it(self, finding, photo, listed):
        told = listed(finding, photo, "--object", 2, "--stage", "masks")
        assert told["object"]["number"] == 2 and names(told) == ["masks"]

    @pytest.mark.parametrize("number", [10, -1])
    def test_there_must_be_one_of_this_number(self, run, finding, photo, number):
        status, out, err = run("trace", finding, photo, "--object", number)
        assert (status, out) == (2, "")
        assert f"There is no detection {number}; of 10 detections choose 0 to 9." in words(err)

    def test_something_must_be_found(self, run, weights, photo):
        nothing = ("--set", "box.score_threshold=0.99")
        status, _, err = run("trace", weights, photo, "--object", 0, *nothing)
        assert status == 2 and "Nothing was found on this photo with a score above 0.99" in words(err)

    def test_finding_nothing_is_told(self, run, weights, photo):
        _, _, err = run("trace", weights, photo, "--set", "box.score_threshold=0.99")
        assert "Nothing was found with a score of 0.5 or more." in words(err)
        _, _, err = run("trace", weights, photo, "--set", "box.score_threshold=0", "--threshold", 0.9)
        assert re.search(r"Nothing was found with a score of 0.9 or more; the best has 0\.\d\d\d\.", words(err))


class TestAStepOfTraining:
    def test_the_photo_is_looked_up_among_the_annotations(self, weights, labelled, listed):
        image = labelled / "annotations" / "val" / "000001.png"
        told = listed(weights, image, "--annotations", labelled, "--device", "cpu")
        assert {"matched_gt", "sampled_rois", "mask_targets", "loss"} < set(names(told))
        photo, target = CocoDataset(labelled / "annotations" / "val.json")[1]
        expected = maskrcnn.load(weights).trace(photo, targets=target).summary()
        assert told["stages"] == json.loads(json.dumps(expected))

    def test_it_needs_no_checkpoint(self, run, labelled, settings):
        status, out, err = run(
            "trace", "val/000000.png", "--preset", "small-fpn", *settings, "--annotations", labelled, "--stage", "loss*"
        )
        assert status == 0 and "loss_mask" in out
        assert "Random weights of small-fpn with 3 classes" in words(err) and "Found" not in err

    def test_made_images_have_names_too(self, listed, settings):
        arguments = ("shapes/000003", "--annotations", "shapes", "--preset", "small-fpn", *settings)
        assert names(listed(*arguments, "--stage", "loss")) == ["loss"]

    def test_labels_are_the_networks_of_the_same_name(self, weights, labelled, tmp_path, listed):
        def loss(folder):
            return listed(weights, "val/000000.png", "--annotations", folder, "--stage", "loss")["stages"][0]["max"]

        before = loss(labelled)
        file = labelled / "annotations" / "val.json"
        contents = json.loads(file.read_text())
        ids = sorted(entry["id"] for entry in contents["categories"])
        turned = dict(zip(ids, ids[::-1], strict=True))
        for entry in contents["categories"]:
            entry["id"] = turned[entry["id"]]
        for entry in contents["annotations"]:
            entry["category_id"] = turned[entry["category_id"]]
        file.write_text(json.dumps(contents))
        assert CocoDataset(file).class_names != maskrcnn.load(weights).config.class_names
        assert loss(labelled) == before

    def test_other_classes_are_refused(self, run, weights, labelled):
        file = labelled / "annotations" / "val.json"
        file.write_text(file.read_text().replace('"circle"', '"disc"'))
        status, _, err = run("trace", weights, "val/000000.png", "--annotations", file)
        assert status == 2
        assert "classes that the network does not know: disc. It knows circle, square, triangle." in words(err)

    def test_pictures_are_those_of_training(self, weights, labelled, listed, tmp_path):
        told = listed(weights, "val/000000.png", "--annotations", labelled, "--pictures", tmp_path / "inside")
        written = " ".join(told["pictures"])
        assert "sampled-rois" in written and "mask-targets" in written and "detections" not in written


class TestRandomWeights:
    def test_they_are_the_same_each_time(self, photo, listed, pets):
        assert listed(photo, *pets) == listed(photo, *pets)

    def test_it_says_so_and_lists_what_scores_low(self, run, photo, pets):
        status, _, err = run("trace", photo, "--random", *pets, "--stage", "p2", "--set", "box.detections_per_image=12")
        assert status == 0
        assert "Random weights of small-fpn with 2 classes" in words(err) and "mean nothing" in words(err)
        assert "Found, by the numbers of --object: 0 " in words(err) and "and 2 more." in words(err)

    def test_a_preset_alone_is_enough(self, photo, listed, pets):
        told = listed(photo, *pets, "--stage", "class_logits")
        assert told["stages"][0]["shape"][1] == 3


class TestProfile:
    def test_tables_of_parts_and_stages(self, run, weights, photo):
        status, out, _ = run("trace", weights, photo, "--profile", "--stage", "p2", "--device", "cpu")
        assert status == 0
        assert re.search(r"^Part +Time +Share +Memory +GFLOPs +Parameters", out, flags=re.MULTILINE)
        assert re.search(r"^rpn_objectness .*%", out, flags=re.MULTILINE) and "Median of 5 runs on cpu" in words(out)

    def test_json_has_it(self, weights, photo, listed):
        costs = listed(weights, photo, "--profile", "--stage", "p2")["profile"]
        assert costs["total"]["seconds"] > 0 and costs["total"]["flops"] > 0
        assert [part["part"] for part in costs["parts"]][:2] == ["input", "backbone"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["WEIGHTS"], "Name a photo after the weights: maskrcnn trace"),
        (["WEIGHTS", "PHOTO", "PHOTO"], "trace takes one photo; got"),
        (["none.safetensors", "PHOTO"], "There is no weights file none.safetensors."),
        (["WEIGHTS", "none.jpg"], "none.jpg: no such file"),
        (["WEIGHTS", "BROKEN"], "broken.jpg: not an image"),
        (["BARE", "PHOTO"], "bare.safetensors is of no known format"),
        (["WEIGHTS", "PHOTO", "--random"], "--random and --preset take no weights; leave out"),
        (["PHOTO", "--preset", "resnet5-fpn"], "Did you mean 'resnet50-fpn'"),
        (["WEIGHTS", "PHOTO", "--annotations", "shapes"], "shapes has no image called"),
        (["WEIGHTS", "PHOTO", "--images", "TMP"], "--images is the folder of the images of --annotations"),
        (["WEIGHTS", "000000.png", "--annotations", "DATA", "--object", "0"], "a step of training finds none"),
        (["WEIGHTS", "000000.png", "--annotations", "DATA", "--profile"], "not a step of training"),
        (["WEIGHTS", "PHOTO", "--threshold", "2"], "Invalid value for '--threshold'"),
        (["WEIGHTS", "PHOTO", "--set", "rpn.nms_treshold=1"], "Did you mean 'nms_threshold'?"),
    ],
    ids=[
        *("no photo", "two photos", "no weights", "no file", "no image", "no configuration", "weights and random"),
        *("preset", "not annotated", "images alone", "object in training", "profile of training", "threshold", "set"),
    ],
)
def test_wrong_arguments(run, weights, photo, labelled, tmp_path, arguments, said):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    save_file({"weight": torch.zeros(3)}, tmp_path / "bare.safetensors")
    places = {"WEIGHTS": weights, "PHOTO": photo, "DATA": labelled, "TMP": tmp_path}
    places |= {"BROKEN": tmp_path / "broken.jpg", "BARE": tmp_path / "bare.safetensors"}
    status, out, err = run("trace", *(places.get(a, a) for a in arguments))
    assert (status, out) == (2, "")
    assert said in words(err)


@pytest.mark.parametrize(("option", "place"), [("--save", "FOLDER"), ("--pictures", "FILE")])
def test_results_that_cannot_be_written(run, weights, photo, tmp_path, option, place):
    places = {"FOLDER": tmp_path, "FILE": photo}
    status, out, err = run("trace", weights, photo, option, places[place])
    assert (status, out) == (1, "")
    assert "Cannot write" in err


def test_a_photo_in_any_mode_will_do(listed, weights, tmp_path):
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "grey.png")
    assert listed(weights, tmp_path / "grey.png", "--stage", "image")["stages"][0]["shape"] == [1, 3, 64, 64]
