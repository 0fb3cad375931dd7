from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_utils

from maskrcnn.data import CocoDataset
from maskrcnn.errors import DatasetError, ImageFileError, InputError

SQUARE = [[2, 3, 8, 3, 8, 9, 2, 9]]
WIDTH, HEIGHT = 20, 16

Contents = dict[str, Any]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def good() -> Contents:
    """Two images: one with a polygon, a compressed and an uncompressed RLE (a crowd), one with nothing."""
    box = {"image_id": 7, "iscrowd": 0}
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 9, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "annotations": [
            {**box, "id": 1, "category_id": 30, "bbox": [2, 3, 6, 6], "area": 36,
             "segmentation": copy.deepcopy(SQUARE)},
            {**box, "id": 2, "category_id": 4, "bbox": [10, 2, 5, 4], "area": 20,
             "segmentation": compressed(rectangle(10, 2, 15, 6))},
            {**box, "id": 3, "category_id": 4, "bbox": [0, 0, 1, 16], "area": 16, "iscrowd": 1,
             "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 16, 304]}},
        ],
        "categories": [{"id": 30, "name": "dog"}, {"id": 4, "name": "cat"}],
    }  # fmt: skip


def write(folder: Path, contents: object, *, images: bool = True) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    if images:
        for name in ("a.png", "b.png"):
            Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(folder / "images" / name)
    path = folder / "truth.json"
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    return path


def test_reads_polygons_and_both_kinds_of_run_lengths(tmp_path: Path) -> None:
    dataset = CocoDataset(write(tmp_path, good()))
    image, target = dataset[0]
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert image[0, 0].tolist() == [1, 2, 3]
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (4, 30)
    assert target.labels.tolist() == [1, 0, 0]
    assert target.crowd is not None and target.crowd.tolist() == [False, False, True]
    assert target.area is not None and target.area.tolist() == [36, 20, 16]
    torch.testing.assert_close(target.boxes, torch.tensor([[2.0, 3, 8, 9], [10, 2, 15, 6], [0, 0, 1, 16]]))
    wanted = [rectangle(2, 3, 8, 9), rectangle(10, 2, 15, 6), rectangle(0, 0, 1, 16)]
    torch.testing.assert_close(target.masks, torch.from_numpy(np.stack(wanted)))
    assert dataset.problems == []


def test_an_image_without_objects_has_an_empty_target(tmp_path: Path) -> None:
    _, target = CocoDataset(write(tmp_path, good()))[1]
    assert target.boxes.shape == (0, 4) and target.boxes.dtype == torch.float32
    assert target.masks is not None and target.masks.shape == (0, HEIGHT, WIDTH)
    assert target.crowd is not None and target.crowd.dtype == torch.bool


def test_keep_empty_false_leaves_out_images_without_objects(tmp_path: Path) -> None:
    path = write(tmp_path, good())
    assert len(CocoDataset(path)) == 2
    assert len(CocoDataset(path, keep_empty=False)) == 1
    contents = good()
    for annotation in contents["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(DatasetError, match="no image has an object"):
        CocoDataset(write(tmp_path, contents), keep_empty=False)


def test_names_and_ids(tmp_path: Path) -> None:
    dataset = CocoDataset(write(tmp_path, good()))
    assert dataset.image_name(1) == str(tmp_path / "images" / "b.png")
    assert [dataset.image_id(i) for i in range(2)] == [7, 9]
    with pytest.raises(IndexError):
        dataset[2]


def test_masks_false_needs_no_segmentations(tmp_path: Path) -> None:
    contents = good()
    for annotation in contents["annotations"]:
        del annotation["segmentation"]
    path = write(tmp_path, contents)
    dataset = CocoDataset(path, masks=False)
    assert dataset[0][1].masks is None
    assert len(dataset[0][1]) == 3
    assert "segmentation" not in dataset.coco_ground_truth()["annotations"][0]
    with pytest.raises(DatasetError, match=r"none of the 3 .* no segmentation.*pass masks=False"):
        CocoDataset(path)


def test_boxes_are_clipped_to_the_image(tmp_path: Path) -> None:
    contents = good()
    contents["annotations"][0]["bbox"] = [-3, 10, 30, 10]
    dataset = CocoDataset(write(tmp_path, contents))
    assert dataset[0][1].boxes[0].tolist() == [0, 10, WIDTH, HEIGHT]
    assert dataset.coco_ground_truth()["annotations"][0]["bbox"] == [-3, 10, 30, 10]


@pytest.mark.parametrize("value", ["missing", None, 0, float("nan"), -1])
def test_missing_box_and_area_come_from_the_mask(tmp_path: Path, value: object) -> None:
    contents = good()
    annotation = contents["annotations"][1]
    del annotation["bbox"], annotation["area"]
    if value != "missing":
        annotation["area"] = value
    _, target = CocoDataset(write(tmp_path, contents), on_error="raise")[0]
    assert target.boxes[1].tolist() == [10, 2, 15, 6]
    assert target.area is not None and target.area[1] == 20


def test_ground_truth_is_a_coco_dictionary_of_the_images_in_use(tmp_path: Path) -> None:
    truth = CocoDataset(write(tmp_path, good()), keep_empty=False).coco_ground_truth()
    json.dumps(truth)
    assert [i["id"] for i in truth["images"]] == [7]
    assert [a["category_id"] for a in truth["annotations"]] == [30, 4, 4]
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 0, 1]
    for annotation in truth["annotations"]:
        assert mask_utils.area(annotation["segmentation"]) == annotation["area"]


def test_survives_pickling_for_worker_processes(tmp_path: Path) -> None:
    dataset = pickle.loads(pickle.dumps(CocoDataset(write(tmp_path, good()))))
    assert len(dataset[0][1]) == 3


# ---- where the images are


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("truth.json", "images"),
        ("truth.json", "."),
        ("truth.json", "truth"),
        ("annotations/truth.json", "images"),
        ("annotations/truth.json", "truth"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
    ],
)
def test_finds_the_images_near_the_file(tmp_path: Path, annotations: str, images: str) -> None:
    (tmp_path / annotations).parent.mkdir(exist_ok=True)
    (tmp_path / images).mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / images / name)
    (tmp_path / annotations).write_text(json.dumps(good()))
    dataset = CocoDataset(tmp_path / annotations)
    assert dataset.images_folder == tmp_path / images
    assert len(dataset[0][1]) == 3


def test_images_not_found_lists_where_it_looked(tmp_path: Path) -> None:
    path = write(tmp_path, good(), images=False)
    with pytest.raises(DatasetError) as caught:
        CocoDataset(path)
    message = str(caught.value)
    assert "such as 'a.png', are not found; pass images_folder" in message
    assert f"{tmp_path / 'images'}\n" in message
    assert f"{tmp_path / 'truth'} (no such folder)" in message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b.png"], r"truth\.json: 1 of 2 image files missing: .*a\.png\."),
        (["A.PNG", "b.png"], r"There is 'A\.PNG': upper and lower case differ\."),
        (["a.jpg", "b.png"], r"There is 'a\.jpg': the ending differs\."),
        ([], r"2 of 2 image files missing: .*a\.png, .*b\.png\."),
    ],
    ids=["missing", "case", "ending", "all"],
)
def test_missing_image_files_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    path = write(tmp_path, good(), images=False)
    for name in names:
        (tmp_path / "images" / name).touch()
    with pytest.raises(DatasetError, match=message):
        CocoDataset(path, tmp_path / "images")


def test_an_images_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"the images folder .*elsewhere does not exist"):
        CocoDataset(write(tmp_path, good()), tmp_path / "elsewhere")


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    contents = good()
    contents["images"][0]["file_name"] = r"images\a.png"
    contents["images"][1]["file_name"] = r"images\b.png"
    assert len(CocoDataset(write(tmp_path, contents))[0][1]) == 3


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((40, 30), r"a\.png: is 40 × 30 pixels, but .*truth\.json says 20 × 16 for image 7\.$"),
        ((HEIGHT, WIDTH), "Width and height are swapped: it looks rotated by EXIF"),
    ],
    ids=["other", "swapped"],
)
def test_an_image_of_another_size_than_the_file_says(tmp_path: Path, size: tuple[int, int], message: str) -> None:
    dataset = CocoDataset(write(tmp_path, good()))
    Image.new("RGB", size).save(tmp_path / "images" / "a.png")
    with pytest.raises(DatasetError, match=message):
        dataset[0]


def test_a_broken_image_is_an_image_error(tmp_path: Path) -> None:
    dataset = CocoDataset(write(tmp_path, good()))
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageFileError, match=r"a\.png"):
        dataset[0]


# ---- files that cannot be used as a whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ('{"images": [1,\n 2', "is not JSON: .* at line 2, column .*The file looks cut off"),
        ('{"images": oops}', r"is not JSON: Expecting value at line 1, column 12\.$"),
        ("[" * 100_000, "is not JSON that can be read"),
        ("[]", "lacks 'images', 'annotations' and 'categories'"),
        ('"text"', "is not a COCO annotation file"),
        ('{"images": [], "annotation": [], "categories": []}', "Did you mean 'annotation'"),
        (
            '[{"image_id": 1, "category_id": 1, "bbox": [], "score": 1}]',
            "looks like a list of COCO results",
        ),
        ('{"shapes": [], "imagePath": "a.jpg"}', "looks like a LabelMe file"),
        ('{"a.jpg123": {"filename": "a.jpg", "regions": []}}', "VGG Image Annotator"),
        ('{"_via_img_metadata": {}}', "VGG Image Annotator"),
    ],
    ids=[
        "empty",
        "cut-off",
        "syntax",
        "nested",
        "list",
        "text",
        "typo",
        "results",
        "labelme",
        "via",
        "via2",
    ],
)
def test_files_that_are_not_coco_are_named_with_what_they_look_like(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        CocoDataset(write(tmp_path, text))
    assert str(tmp_path / "truth.json") in str(caught.value)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.json: no such annotation file"):
        CocoDataset(tmp_path / "none.json")
    with pytest.raises(DatasetError, match="is a folder"):
        CocoDataset(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DatasetError, match="not even text in UTF-8"):
        CocoDataset(tmp_path / "binary.json")


def put(path: str, value: object) -> Callable[[Contents], None]:
    """Return a change that sets, say, `annotations.0.bbox`, or deletes it for the value `...`."""

    def change(contents: Contents) -> None:
        *parents, last = path.split(".")
        place: Any = contents
        for name in parents:
            place = place[int(name) if name.isdigit() else name]
        key = int(last) if last.isdigit() else last
        if value is ...:
            del place[key]
        else:
            place[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("images", {}), "'images' must be a list; got dict"),
        (put("images", []), "'images' is empty"),
        (put("images.1", 5), r"images\[1\] must be an object; got 5"),
        (put("images.1.id", ...), r"'id' of images\[1\] must be a number or text; it is missing"),
        (put("images.1.width", ...), "'width' of image 9 must be a whole number from 1 .*; it is missing"),
        (put("images.1.height", -3), "'height' of image 9 must be a whole number from 1 .*; got -3"),
        (put("images.1.file_name", 3), "'file_name' of image 9 must be text; got 3"),
        (put("images.1.id", 7), r"images\[0\] and images\[1\] have the same id 7"),
        (put("annotations.2.id", 1), r"annotations\[0\] and annotations\[2\] have the same id 1"),
        (put("annotations.2", "x"), r"annotations\[2\] must be an object; got 'x'"),
        (put("annotations.0.segments_info", []), "COCO panoptic"),
        (put("categories", []), "'categories' is empty"),
        (put("categories.0.id", "4"), r"categories\[0\]\.id must be a whole number; got '4'"),
        (put("categories.0.name", ""), r"categories\[0\]\.name must be text"),
        (put("categories.1.id", 30), r"categories\[0\] and categories\[1\] have the same id 30"),
        (put("categories.1.name", "dog"), "have the same name 'dog'"),
    ],
)
def test_faults_of_the_whole_file_raise(tmp_path: Path, change: Callable[[Contents], None], message: str) -> None:
    contents = good()
    change(contents)
    with pytest.raises(DatasetError, match=message) as caught:
        CocoDataset(write(tmp_path, contents))
    assert str(caught.value).startswith(str(tmp_path / "truth.json"))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[5, 5, 18, 12], [10, 8, 20, 16], [11, 9, 19, 15]], r"look like \(x1, y1, x2, y2\)"),
        (
            [[0.1, 0.1, 0.5, 0.5], [0, 0, 0.3, 0.9], [0.5, 0.5, 0.5, 0.5]],
            "look like fractions of the image",
        ),
    ],
    ids=["corners", "fractions"],
)
def test_boxes_of_another_format_raise(tmp_path: Path, boxes: list[list[float]], message: str) -> None:
    contents = good()
    for annotation, box in zip(contents["annotations"], boxes, strict=True):
        annotation["bbox"] = box
    with pytest.raises(DatasetError, match=message):
        CocoDataset(write(tmp_path, contents))


# ---- faults of single annotations

NAN = float("nan")


def first(key: str, value: object) -> Callable[[Contents], None]:
    return put(f"annotations.0.{key}", value)


def mask(value: object) -> Callable[[Contents], None]:
    return first("segmentation", value)


def rle(counts: object = None, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Callable[[Contents], None]:
    return mask({"size": list(size), "counts": counts})


def bbox(value: object) -> Callable[[Contents], None]:
    return first("bbox", value)


FAULTS = {
    "no image": (first("image_id", 70), "its image_id 70 is not among the file's images"),
    "image list": (first("image_id", [7]), r"its image_id \[7\] is not among"),
    "image missing": (first("image_id", ...), "it has no image_id"),
    "no category": (first("category_id", 5), "its category_id 5 is not among the file's categories"),
    "crowd": (first("iscrowd", "yes"), "iscrowd must be 0 or 1; got 'yes'"),
    "two points": (mask([[1, 1, 5, 5]]), "its polygon has 2 points; it needs at least 3"),
    "odd": (mask([[1, 1, 5, 5, 7, 7, 2]]), r"odd number of coordinates \(7\)"),
    "second part": (mask([*SQUARE, [1, 1]]), "polygon 2 has 1 point; it needs"),
    "nan point": (mask([[1, 1, 5, NAN, 7, 7]]), "a coordinate that is NaN or infinite"),
    "text point": (mask([[1, 1, 5, "5", 7, 7]]), "must be a list of numbers"),
    "huge point": (mask([[1, 1, 5, 10**400, 7, 7]]), "must be a list of numbers"),
    "far point": (mask([[1, 1, 5, 1e9, 7, 7]]), "reaches far outside the image of 20 × 16"),
    "flat": (mask(SQUARE[0]), "flat list; a polygon must stand in a list of polygons"),
    "kind": (mask("x"), "must be polygons or run lengths .*; got str"),
    "none": (mask([]), "it has no segmentation"),
    "thin": (mask([[3, 3, 9, 3, 5, 3]]), "its polygon covers no pixel"),
    "outside": (mask([[-9, 3, -5, 3, -5, 9]]), "its polygon covers no pixel"),
    "rle size": (rle([320], size=(4, 4)), r"its RLE has size \[4, 4\], its image \[16, 20\]"),
    "rle swapped": (rle([320], size=(20, 16)), "height and width look swapped"),
    "rle sum": (rle([0, 16, 30]), "must add up to 16 × 20 = 320 pixels"),
    "rle negative": (rle([0, -16, 336]), "must add up to"),
    "rle overflow": (rle([0, 2**32, 320]), "must add up to"),
    "rle fraction": (rle([0.5, 319.5]), "a list of whole numbers"),
    "rle counts": (rle(None), "must be text, or a list of whole numbers"),
    "rle letters": (rle("ÿ~!"), "not a run-length string"),
    "rle empty text": (rle(""), "not a run-length string"),
    "rle cut off": (rle("0`0P"), "not a run-length string"),
    "rle endless": (rle("o" * 50 + "0"), "not a run-length string"),
    "rle nothing": (rle([320]), "its mask is empty"),
    "box zero": (bbox([2, 3, 0, 6]), r"bbox \[2, 3, 0, 6\] has no area"),
    "box hair": (bbox([10.0, 3, 1e-9, 6]), "has no area"),
    "box negative": (bbox([2, 3, -4, 6]), "has a negative width or height"),
    "box nan": (bbox([2, NAN, 4, 6]), "has a NaN or infinite number"),
    "box three": (bbox([2, 3, 4]), "bbox must be four numbers"),
    "box text": (bbox("2 3 4 5"), "bbox must be four numbers"),
    "box outside": (bbox([50, 3, 4, 6]), "lies outside the image of 20 × 16 pixels"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_faulty_annotation_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Contents], None], message: str
) -> None:
    contents = good()
    change(contents)
    path = write(tmp_path, contents)
    with caplog.at_level(logging.WARNING, "maskrcnn"):
        dataset = CocoDataset(path)
    assert len(dataset.problems) == 1
    assert dataset.problems[0].startswith("annotation 1")
    assert len(dataset[0][1]) == 2
    assert [r.getMessage() for r in caplog.records] == [f"{path}: left out 1 annotation:\n  {dataset.problems[0]}"]
    with pytest.raises(DatasetError, match=message) as caught:
        CocoDataset(path, on_error="raise")
    assert str(caught.value).startswith(f"{path}: annotation 1")


def test_problems_name_the_image_and_are_logged_in_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = good()
    bad = contents["annotations"].pop(0)
    for k in range(5):
        contents["annotations"].append({**bad, "id": 100 + k, "bbox": [1, 1, 0, 0]})
    del contents["annotations"][-1]["id"]
    with caplog.at_level(logging.WARNING, "maskrcnn"):
        dataset = CocoDataset(write(tmp_path, contents))
    assert dataset.problems[0] == "annotation 100 (image 7, a.png): bbox [1, 1, 0, 0] has no area."
    assert dataset.problems[4].startswith("annotations[6] (image 7, a.png)")
    (record,) = caplog.records
    assert "left out 5 annotations" in record.getMessage()
    assert record.getMessage().endswith("… and 2 more, in .problems")


def test_a_polygon_found_empty_only_when_drawn_is_left_out_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = good()
    # Wide and high, but a line: back along the way it came.
    contents["annotations"][0]["segmentation"] = [[2, 2, 9, 9, 2, 2]]
    path = write(tmp_path, contents)
    dataset = CocoDataset(path)
    with caplog.at_level(logging.WARNING, "maskrcnn"):
        assert len(dataset[0][1]) == 2
        assert len(dataset[0][1]) == 2
    assert dataset.problems == ["annotation 1 (image 7, a.png): its polygon covers no pixel."]
    assert len(caplog.records) == 1
    assert len(dataset.coco_ground_truth()["annotations"]) == 2
    with pytest.raises(DatasetError, match=r"annotation 1 .* covers no pixel"):
        CocoDataset(path, on_error="raise")[0]


def test_a_file_without_one_usable_annotation_raises(tmp_path: Path) -> None:
    contents = good()
    for annotation in contents["annotations"]:
        annotation["category_id"] += 1
    with pytest.raises(DatasetError, match=r"none of the 3 annotations is usable\. annotation 1 .*category_id 31"):
        CocoDataset(write(tmp_path, contents))


def test_an_unknown_on_error_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="on_error must be 'warn' or 'raise'; got 'ignore'"):
        CocoDataset(write(tmp_path, good()), on_error="ignore")
