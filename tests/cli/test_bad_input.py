"""What people's files get wrong, through the command line: one clear sentence that names the file and the item.

Some faults stop the command (status 2, and nothing is written); others are named, left out, and the rest goes on.
"""

import json
import logging

import pytest
from cli_words import words
from PIL import Image

NAN = float("nan")


def annotation(**changes):
    """Change the first annotation."""

    def change(contents):
        contents["annotations"][0].update(changes)

    return change


def drop(key):
    def change(contents):
        del contents[key]

    return change


def repeat(key):
    def change(contents):
        contents[key].append(dict(contents[key][0]))

    return change


def gaps(contents):
    for category in contents["categories"]:
        category["id"] = category["id"] ** 2 * 100
    for found in contents["annotations"]:
        found["category_id"] = found["category_id"] ** 2 * 100


def nothing(contents):
    contents["annotations"] = []


def wide(contents):
    contents["images"][1]["width"] = 99


def rename(contents):
    contents["images"][2]["file_name"] = "gone.png"


SIDE = [64, 64]
STOPS = {
    "a missing image": (rename, "1 of 4 image files missing: {photos}/annotations/train/gone.png."),
    "no images key": (drop("images"), "{file}: is not a COCO annotation file; it lacks 'images'."),
    "no annotations key": (drop("annotations"), "{file}: is not a COCO annotation file; it lacks 'annotations'."),
    "no categories key": (drop("categories"), "{file}: is not a COCO annotation file; it lacks 'categories'."),
    "an image id twice": (repeat("images"), "{file}: images[0] and images[4] have the same id 1; it must be unique."),
    "an annotation id twice": (repeat("annotations"), "have the same id 1; it must be unique."),
    "a category id twice": (repeat("categories"), "{file}: categories[0] and categories[3] have the same id 1"),
    "no object": (nothing, "{file}: no image has an object to learn from."),
    "a size that is not the image's": (wide, "is 64 × 64 pixels, but {file} says 99 × 64"),
}
LEFT_OUT = {
    "an image id that points nowhere": (annotation(image_id=77), "its image_id 77 is not among the file's images"),
    "a category id that points nowhere": (annotation(category_id=77), "its category_id 77 is not among"),
    "a polygon of two points": (annotation(segmentation=[[1, 1, 9, 9]]), "its polygon has 2 points; it needs"),
    "a polygon with NaN": (annotation(segmentation=[[1, 1, 9, NAN, 9, 9]]), "a coordinate that is NaN or infinite"),
    "an RLE of another size": (annotation(segmentation={"size": [9, 9], "counts": [0, 81]}), "its RLE has size [9, 9]"),
    "an RLE that does not add up": (annotation(segmentation={"size": SIDE, "counts": [5, 9]}), "its RLE is damaged"),
    "a box without area": (annotation(bbox=[4, 4, 0, 9]), "has no area"),
    "a box with NaN": (annotation(bbox=[4, NAN, 5, 9]), "has a NaN or infinite number"),
}


@pytest.fixture
def spoil(labelled):
    """Change the training annotations; return their file."""
    path = labelled / "annotations" / "train.json"

    def apply(change):
        contents = json.loads(path.read_text())
        change(contents)
        path.write_text(json.dumps(contents))
        return path

    return apply


@pytest.mark.parametrize("fault", STOPS)
def test_a_fault_of_the_whole_file_stops(train, labelled, spoil, tmp_path, fault):
    change, said = STOPS[fault]
    file = spoil(change)
    status, _, err = train(labelled)
    assert status == 2
    assert err.count("Error: ") == 1
    assert said.format(file=file, photos=labelled) in words(err)
    assert ("Saved after step 1 of 2" in err) == (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("fault", LEFT_OUT)
def test_a_faulty_annotation_is_named_and_the_rest_trains(train, labelled, spoil, tmp_path, caplog, fault):
    change, said = LEFT_OUT[fault]
    file = spoil(change)
    with caplog.at_level(logging.WARNING, "maskrcnn"):
        status, _, _ = train(labelled)
    assert status == 0
    [told] = [r.getMessage() for r in caplog.records if r.name == "maskrcnn"]
    assert f"{file}: left out 1 annotation: annotation 1" in words(told)
    assert said in words(told)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_category_ids_may_have_gaps(train, labelled, spoil):
    spoil(gaps)
    assert train(labelled)[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty."),
        ("not JSON", "is not JSON: Expecting value at line 1, column 1."),
        ('{"images": [', "is not JSON: Expecting value at line 1, column 13. The file looks cut off."),
        ("[]", "is not a COCO annotation file; it lacks 'images', 'annotations' and 'categories'."),
        ("\xff\xfe", "is not JSON"),
    ],
    ids=["empty", "text", "cut off", "list", "binary"],
)
def test_annotations_that_are_not_json(train, labelled, text, said):
    file = labelled / "annotations" / "train.json"
    file.write_bytes(text.encode("latin1"))
    status, _, err = train(labelled)
    assert status == 2
    assert str(file) in words(err)
    assert said.format(file=file) in words(err)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2]], ids=["empty", "truncated"])
def test_a_broken_photo_is_named_and_the_rest_trains(train, labelled, spoil, tmp_path, damage):
    def as_jpeg(contents):
        contents["images"][0]["file_name"] = "photo.jpg"

    spoil(as_jpeg)
    folder = labelled / "annotations" / "train"
    with Image.open(folder / "000000.png") as image:
        image.save(folder / "photo.jpg", quality=95)
    (folder / "photo.jpg").write_bytes(damage((folder / "photo.jpg").read_bytes()))
    status, _, err = train(labelled)
    assert status == 0
    assert f"Warning: {folder / 'photo.jpg'}: the " in words(err)
    assert "It is left out." in err
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_brackets_in_names_are_no_markup(train, labelled, tmp_path):
    photos = labelled.rename(tmp_path / "[red]photos")
    status, _, err = train(photos, output=tmp_path / "[bold]run")
    assert status == 0
    assert f"Best weights: {tmp_path / '[bold]run' / 'best.safetensors'}" in words(err)
    (photos / "annotations" / "train.json").write_text("no")
    _, _, err = train(photos, output=tmp_path / "other")
    assert f"Error: {photos / 'annotations' / 'train.json'}: is not JSON" in words(err)
