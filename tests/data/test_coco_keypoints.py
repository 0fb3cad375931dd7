"""Keypoints in COCO files: names, limbs, objects without any, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.data import CocoDataset, save_as_coco
from maskrcnn.errors import DatasetError

NAMES = ["nose", "left_hand", "right_hand"]


def contents():
    person = {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
    annotation = {"image_id": 7, "category_id": 1, "bbox": [2, 3, 6, 6], "area": 36, "iscrowd": 0}
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 20, "height": 16}],
        "annotations": [
            {**annotation, "id": 1, "keypoints": [5, 4, 2, 3, 6.5, 1, 0, 0, 0], "num_keypoints": 2},
            {**annotation, "id": 2},
        ],
        "categories": [person, {"id": 2, "name": "ball"}],
    }


def write(folder, data):
    Image.new("RGB", (20, 16)).save(folder / "a.png")
    (folder / "truth.json").write_text(json.dumps(data))
    return folder / "truth.json"


def read(folder, data, **options):
    return CocoDataset(write(folder, data), masks=False, keypoints=True, **options)


def test_names_limbs_and_values(tmp_path):
    dataset = read(tmp_path, contents())
    assert dataset.keypoint_names == tuple(NAMES) and dataset.skeleton == ((0, 1), (0, 2))
    _, target = dataset[0]
    assert target.keypoints.tolist() == [[[5, 4, 2], [3, 6.5, 1], [0, 0, 0]], [[0, 0, 0]] * 3]


def test_without_the_wish_there_are_none(tmp_path):
    dataset = CocoDataset(write(tmp_path, contents()), masks=False)
    assert dataset.keypoint_names == () and dataset[0][1].keypoints is None


def test_what_is_written_is_read_again(tmp_path):
    first = read(tmp_path, contents())
    path = save_as_coco(first, tmp_path / "again")
    again = CocoDataset(path, masks=False, keypoints=True)
    assert (again.keypoint_names, again.skeleton) == (first.keypoint_names, first.skeleton)
    assert torch.equal(again[0][1].keypoints, first[0][1].keypoints)
    counts = [a["num_keypoints"] for a in again.coco_ground_truth()["annotations"]]
    assert counts == [2, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda d: d["categories"].pop(0) and d["categories"][0].update(id=1),
            "no category names keypoints.* set keypoint_names",
        ),
        (lambda d: d["categories"][1].update(keypoints=["top"]), "person and ball name different keypoints"),
        (lambda d: d["categories"][0].update(keypoints=["a", "a"]), "must be a list of different names"),
        (lambda d: d["categories"][0].update(skeleton=[[0, 1]]), "must be pairs of numbers 1 … 3"),
    ],
    ids=["no names", "two sets", "names twice", "limbs from 0"],
)
def test_names_that_are_refused(tmp_path, change, said):
    data = contents()
    change(data)
    with pytest.raises(DatasetError, match=said):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("keypoints", "said"),
    [
        ([1, 2, 3], r"annotation 1 .*keypoints must be 9 numbers, \(x, y, visibility\) of 3; got \[1, 2, 3\]"),
        ([1, 2, 3] * 3, "their visibility 0, 1 or 2"),
        ("many", "keypoints must be 9 numbers"),
    ],
    ids=["too few", "visibility", "text"],
)
def test_faulty_keypoints_leave_the_annotation_out(tmp_path, keypoints, said):
    data = contents()
    data["annotations"][0]["keypoints"] = keypoints
    dataset = read(tmp_path, data)
    assert len(dataset[0][1]) == 1
    with pytest.raises(DatasetError, match=said):
        read(tmp_path, data, on_error="raise")


def test_pixels_are_untouched(tmp_path):
    assert np.array_equal(read(tmp_path, contents())[0][0], np.zeros((16, 20, 3), np.uint8))
