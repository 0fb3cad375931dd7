"""Looking an image up among annotations by its name."""

import pytest

from maskrcnn.data import save_as_coco
from maskrcnn.data.find import find_image
from maskrcnn.errors import DatasetError
from tiny import tiny_data


@pytest.fixture
def photos(tmp_path):
    """A folder with annotations/train.json and val.json; images 000000.png … in annotations/train and val."""
    for split, data in (("train", tiny_data(3)), ("val", tiny_data(5, seed=1))):
        path = save_as_coco(data, tmp_path / split)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / split / "images").rename(tmp_path / "annotations" / split)
        path.rename(tmp_path / "annotations" / f"{split}.json")
        (tmp_path / split).rmdir()
    return tmp_path


def test_by_its_path_in_any_split(photos):
    for split, number in (("train", 2), ("val", 4)):
        paths = sorted((photos / "annotations" / split).rglob("*.png"))
        data, index = find_image(str(photos), str(paths[number]))
        assert data.image_name(index) == str(paths[number])


def test_by_its_name_alone(photos):
    [path] = (photos / "annotations" / "val").rglob("*3.png")
    data, index = find_image(str(photos / "annotations" / "val.json"), path.name)
    assert data.image_name(index) == str(path)


def test_a_name_that_two_splits_have(photos):
    with pytest.raises(DatasetError, match=r"has 2 images called 000001\.png: .*val/000001\.png, .*train/000001\.png"):
        find_image(str(photos), "000001.png")
    data, index = find_image(str(photos), "train/000001.png")
    assert data.image_name(index) == str(photos / "annotations" / "train" / "000001.png")


def test_a_made_image():
    data, index = find_image("shapes", "shapes/000007")
    assert (len(data), index) == (200, 7)


def test_no_image_of_the_name(photos):
    with pytest.raises(DatasetError, match=r"has no image called elsewhere/00001\.png\. Did you mean '.*png'"):
        find_image(str(photos), "elsewhere/00001.png")


def test_several_of_the_name(tmp_path):
    import json

    path = save_as_coco(tiny_data(2), tmp_path)
    contents = json.loads(path.read_text())
    for image, folder in zip(contents["images"], "ab", strict=True):
        (tmp_path / "images" / folder).mkdir()
        (tmp_path / "images" / image["file_name"]).rename(tmp_path / "images" / folder / "x.png")
        image["file_name"] = f"{folder}/x.png"
    path.write_text(json.dumps(contents))
    with pytest.raises(DatasetError, match=r"has 2 images called x\.png: .*a/x\.png, .*b/x\.png\. Tell more"):
        find_image(str(path), "x.png")
    data, index = find_image(str(path), "b/x.png")
    assert data.image_name(index).endswith("b/x.png")


def test_a_folder_without_annotations_is_told_of(tmp_path):
    with pytest.raises(DatasetError, match="holds no annotations for 'val'"):
        find_image(str(tmp_path), "x.png")


def test_no_such_data():
    with pytest.raises(DatasetError, match=r"There is no file or folder nothing\.json"):
        find_image("nothing.json", "x.png")
