"""`maskrcnn predict`."""

import json

import numpy as np
import pytest
from cli_words import words
from PIL import Image
from pycocotools import mask as mask_utils

import maskrcnn
from maskrcnn.weights.download import place
from maskrcnn.weights.releases import DEFAULT, find
from tiny import SIDE, tiny_data


@pytest.fixture
def predict(run, weights, tmp_path):
    """Predict with everything the random network finds."""

    def command(*arguments, output=tmp_path / "found"):
        return run("predict", weights, "-o", output, "--threshold", 0, "--device", "cpu", *arguments)

    return command


def results(folder):
    return json.loads((folder / "detections.json").read_text())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
def test_writes_pictures_and_coco_results(predict, album, weights, tmp_path):
    status, out, err = predict(album)
    assert (status, out) == (0, "")
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == ["0.png", "1.png", "2.png", "detections.json"]
    found = maskrcnn.load(weights).predict(album / "1.png", score_threshold=0.0)[0]
    told = [r for r in results(tmp_path / "found") if r["image_id"] == str(album / "1.png")]
    assert len(told) == len(found) > 0
    for result, box, label, score, mask in zip(told, found.boxes, found.labels, found.scores, found.masks, strict=True):
        x, y, width, height = result["bbox"]
        np.testing.assert_allclose([x, y, x + width, y + height], box, atol=0.02)
        assert result["category_id"] == int(label) + 1
        assert result["score"] == pytest.approx(float(score), abs=1e-4)
        assert np.array_equal(mask_utils.decode(result["segmentation"]), mask.numpy())
    assert f"{len(results(tmp_path / 'found'))} detections in 3 images: {tmp_path / 'found'}" in words(err)


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture)


def test_pictures_show_the_photo_with_something_on_it(predict, album, tmp_path):
    predict(album / "0.png")
    picture, photo = pixels(tmp_path / "found" / "0.png"), pixels(album / "0.png")
    assert picture.shape == photo.shape
    assert 0.005 < np.mean(picture != photo) < 1


def test_masks_are_written_and_drawn_without_all_their_pixels(predict, album, tmp_path, monkeypatch):
    monkeypatch.setattr("maskrcnn.prediction.paste_masks", None)
    status, _, _ = predict(album / "0.png")
    assert status == 0 and results(tmp_path / "found")


def test_a_broken_file_is_named_and_left_out(predict, album, tmp_path):
    (album / "1.png").write_bytes((album / "1.png").read_bytes()[:500])
    (album / "9.jpg").touch()
    status, _, err = predict(album)
    assert status == 1
    assert f"Warning: {album / '1.png'}: the image is truncated or damaged" in words(err)
    assert f"Warning: {album / '9.jpg'}: the file is empty (0 bytes). It is left out." in words(err)
    assert "in 2 images" in err
    assert "(2 left out)" in err
    assert {r["image_id"] for r in results(tmp_path / "found")} == {str(album / "0.png"), str(album / "2.png")}


def test_every_kind_of_photo(predict, tmp_path):
    folder = tmp_path / "kinds"
    folder.mkdir()
    rgb = Image.fromarray(tiny_data()[0][0]).resize((SIDE, SIDE // 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    rgb.save(folder / "exif.jpg", exif=exif)
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("RGBA").save(folder / "alpha.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(folder / "16 bit.png")
    status, _, _ = predict(folder)
    assert status == 0
    shapes = {p.stem: pixels(p).shape[:2] for p in (tmp_path / "found").glob("*.png")}
    flat = (SIDE // 2, SIDE)
    assert shapes == {"exif": flat[::-1], "grey": flat, "alpha": flat, "cmyk": flat, "16 bit": flat}


def test_ids_come_from_an_annotation_file(predict, labelled, tmp_path):
    annotations = labelled / "annotations" / "val.json"
    contents = json.loads(annotations.read_text())
    for category in contents["categories"]:
        category["id"] *= 10
    for image in contents["images"]:
        image["id"] += 500
    annotations.write_text(json.dumps(contents))
    status, _, _ = predict(labelled / "annotations" / "val", "--annotations", annotations)
    assert status == 0
    told = results(tmp_path / "found")
    assert {r["image_id"] for r in told} == {501, 502}
    assert {r["category_id"] for r in told} <= {10, 20, 30}


def test_the_longest_name_tells_images_apart(predict, album, tmp_path):
    """An image is named by its path from the images folder; backslashes are of Windows."""
    (album / "b").mkdir()
    (album / "b" / "1.png").write_bytes((album / "1.png").read_bytes())
    images = [{"id": 5, "file_name": "1.png"}, {"id": 6, "file_name": "b\\1.png"}]
    categories = [{"id": 1 + k, "name": name} for k, name in enumerate(("circle", "square", "triangle"))]
    file = tmp_path / "ids.json"
    file.write_text(json.dumps({"images": images, "categories": categories}))
    for path, wanted in ((album / "1.png", 5), (album / "b" / "1.png", 6)):
        assert predict(path, "--annotations", file)[0] == 0
        assert {r["image_id"] for r in results(tmp_path / "found")} == {wanted}


def test_a_category_without_a_number_is_refused(predict, album, tmp_path):
    file = tmp_path / "ids.json"
    file.write_text(json.dumps({"images": [], "categories": [{"id": "x", "name": "circle"}]}))
    status, _, err = predict(album, "--annotations", file)
    assert status == 2
    assert f"{file} is not COCO JSON with images and categories." in words(err)


def test_a_picture_never_follows_a_link_to_a_photo(predict, album, tmp_path):
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "0.png").symlink_to(album / "0.png")
    before = (album / "0.png").read_bytes()
    assert predict(album / "0.png")[0] == 0
    assert (album / "0.png").read_bytes() == before
    assert not (tmp_path / "found" / "0.png").is_symlink()


def test_results_of_before_stay_when_nothing_was_done(predict, album, tmp_path, monkeypatch):
    predict(album)
    before = results(tmp_path / "found")

    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("maskrcnn.cli.predict.load_image", stop)
    assert predict(album)[0] == 130
    assert results(tmp_path / "found") == before


def test_what_was_found_is_kept_when_a_picture_cannot_be_written(predict, album, tmp_path):
    (tmp_path / "found" / "1.png").mkdir(parents=True)
    status, _, err = predict(album)
    assert status == 1
    assert f"Cannot write {tmp_path / 'found' / '1.png'}: Is a directory." in words(err)
    assert {r["image_id"] for r in results(tmp_path / "found")} == {str(album / "0.png"), str(album / "1.png")}


def test_a_link_that_leads_nowhere_is_named(predict, album):
    (album / "link.png").symlink_to(album / "gone.png")
    status, _, err = predict(album)
    assert status == 1
    assert f"{album / 'link.png'}: no such file" in words(err)


def test_a_photo_that_the_annotation_file_lacks_is_refused_at_once(predict, album, labelled, tmp_path):
    status, _, err = predict(album, "--annotations", labelled / "annotations" / "val.json")
    assert status == 2
    assert "has no image called 0.png." in words(err)
    assert not (tmp_path / "found").exists()


def test_globs_and_pictures_of_one_name(predict, album, tmp_path):
    (album / "deeper").mkdir()
    (album / "deeper" / "0.png").write_bytes((album / "0.png").read_bytes())
    status, _, _ = predict(album / "*.png", album / "deeper" / "0.png")
    assert status == 0
    assert {p.name for p in (tmp_path / "found").glob("*.png")} == {"0.png", "0_2.png", "1.png", "2.png"}


def test_json_without_pictures(predict, album, tmp_path):
    status, out, _ = predict(album, "--json", "--no-pictures")
    told = json.loads(out)
    assert status == 0
    assert (told["images"], told["unreadable"]) == (3, 0)
    assert told["results"] == results(tmp_path / "found")
    assert list((tmp_path / "found").glob("*.png")) == []


def test_threshold_leaves_out_what_scores_less(run, weights, album, tmp_path):
    run("predict", weights, album, "-o", tmp_path / "few", "--threshold", 0.999)
    assert results(tmp_path / "few") == []


def test_photos_are_never_written_over(predict, album):
    before = (album / "0.png").read_bytes()
    status, _, err = predict(album / "0.png", output=album)
    assert status == 2
    assert "is the folder of 0.png, which a picture of the same name could overwrite" in words(err)
    assert (album / "0.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jpg"], "nowhere.jpg: no such file or folder"),
        (["*.nothing"], "the pattern *.nothing matches no pictures"),
        (["ALBUM", "--color-by", "mood"], "--color-by must be instance or class; got 'mood'."),
        (["ALBUM", "--device", "tpu9"], "The device 'tpu9' cannot be used here"),
    ],
    ids=["file", "glob", "colour", "device"],
)
def test_wrong_arguments(predict, album, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    status, _, err = predict(*(album if a == "ALBUM" else a for a in arguments))
    assert status == 2
    assert said in words(err)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"", "is empty: download it again"),
        (b"hello, this is text", 'is text, beginning "hello, this is text"'),
        (None, "is damaged or cut short"),
    ],
    ids=["empty", "text", "half"],
)
def test_weights_that_are_none(run, weights, album, tmp_path, contents, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(weights.read_bytes()[:-500] if contents is None else contents)
    status, _, err = run("predict", path, album, "-o", tmp_path / "found")
    assert status == 2
    assert f"{path} {said}" in words(err)


@pytest.fixture
def cached(monkeypatch, tmp_path, weights):
    """A cache in which the default weights are there already; nothing may be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MASKRCNN_OFFLINE", "1")
    path = place(find(DEFAULT))
    path.parent.mkdir(parents=True)
    path.write_bytes(weights.read_bytes())
    return path


def test_no_weights_named_are_the_published_ones(run, cached, album, tmp_path):
    status, _, _ = run("predict", album, "-o", tmp_path / "found", "--device", "cpu")
    assert status == 0 and (tmp_path / "found" / "detections.json").exists()


@pytest.mark.parametrize("place_of_weights", ["option", "first"])
def test_weights_by_their_published_name(run, cached, album, tmp_path, place_of_weights):
    named = ["--weights", DEFAULT, album] if place_of_weights == "option" else [DEFAULT, album]
    status, _, _ = run("predict", *named, "-o", tmp_path / "found", "--device", "cpu")
    assert status == 0


def test_published_weights_that_are_not_here(run, cached, album, tmp_path):
    status, _, err = run("predict", "-w", "detectron2/mask_rcnn_R_50_FPN_3x", album, "-o", tmp_path / "found")
    assert status == 1
    assert "By hand: download https://dl.fbaipublicfiles.com/detectron2/COCO-Instance" in words(err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-w", "torchvision/maskrcnn_resnet50_fnp"], "Did you mean 'torchvision/maskrcnn_resnet50_fpn'?"),
        (["torchvision/maskrcnn_resnet50_fnp"], "Did you mean 'torchvision/maskrcnn_resnet50_fpn'?"),
        (["-w", "maskrcnn_resnet50_fpn"], "Did you mean 'torchvision/maskrcnn_resnet50_fpn'?"),
        (["-w", "torchvision/resnet50"], "torchvision/resnet50 is an image classifier, no detector."),
    ],
    ids=["typing error", "typing error, first", "no publisher", "classifier"],
)
def test_names_that_stand_for_no_detector(run, cached, album, arguments, said):
    status, _, err = run("predict", *arguments, album)
    assert status == 2 and said in words(err)


def test_weights_after_the_images(run, weights, album):
    status, _, err = run("predict", album, weights)
    assert status == 2 and f"{weights} is no image. Weights stand before the images" in words(err)


def test_weights_without_images(run, weights):
    status, _, err = run("predict", weights)
    assert status == 2 and "Name images after the weights" in words(err)


def test_a_folder_that_cannot_be_made_fails_before_the_work(predict, album, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, _, err = predict(album, output=tmp_path / "file")
    assert status == 1
    assert f"Cannot write into {tmp_path / 'file'}: it is a file, not a folder." in words(err)
    assert (tmp_path / "file").read_text() == "mine"
