"""Finding the data that a command line names."""

import json

import pytest

from maskrcnn.data import CocoDataset, ShapesDataset, save_as_coco
from maskrcnn.data.open import open_dataset
from maskrcnn.errors import DatasetError


@pytest.fixture
def photos(tmp_path):
    """A folder of two images without annotations, and the text of those."""
    text = save_as_coco(ShapesDataset(2, (32, 32)), tmp_path).read_text()
    (tmp_path / "annotations.json").unlink()
    return tmp_path, text


def put(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("annotations/train.json", "train"),
        ("annotations/instances_train2017.json", "train"),
        ("annotations/instances_val2017.json", "val"),
        ("val.json", "val"),
        ("annotations.json", "train"),
        ("annotations/instances_default.json", "train"),
        ("annotations/valid.json", "val"),
    ],
)
def test_a_folder_in_the_habits_of_several_tools(photos, name, split):
    folder, text = photos
    put(folder, name, text)
    dataset = open_dataset(str(folder), split)
    assert isinstance(dataset, CocoDataset)
    assert dataset.annotation_file == folder / name
    assert len(dataset) == 2


def test_roboflows_folders_have_the_images_beside_the_file(photos):
    folder, text = photos
    (folder / "images").rename(folder / "valid")
    put(folder, "valid/_annotations.coco.json", text)
    assert open_dataset(str(folder), "val").image_path(0) == folder / "valid" / "000000.png"


def test_a_file_is_the_training_set_alone(photos):
    folder, text = photos
    put(folder, "any.json", text)
    assert len(open_dataset(str(folder / "any.json"), "train")) == 2
    assert open_dataset(str(folder / "any.json"), "val", optional=True) is None


def test_a_split_that_is_not_there(photos):
    folder, text = photos
    put(folder, "labels/mine.json", text)
    assert open_dataset(str(folder), "val", optional=True) is None
    with pytest.raises(
        DatasetError, match=r"no annotations for 'val': no annotations/val\.json\. Its JSON files: labels"
    ):
        open_dataset(str(folder), "val")


def test_a_folder_without_any_json(tmp_path):
    with pytest.raises(DatasetError, match="It has no JSON file at all"):
        open_dataset(str(tmp_path), "train")


def test_nothing_there():
    with pytest.raises(DatasetError, match="There is no file or folder nowhere"):
        open_dataset("nowhere", "train")


def test_shapes_have_splits_that_share_no_image():
    train, val = open_dataset("shapes", "train"), open_dataset("shapes", "val")
    assert (len(train), len(val)) == (2000, 200)
    assert (train[0][0] != val[0][0]).any()
    with pytest.raises(DatasetError, match=r"shapes has no split 'trian'; .* Did you mean 'train'\?"):
        open_dataset("shapes", "trian")


def test_options_are_handed_on(photos):
    folder, text = photos
    contents = json.loads(text)
    contents["annotations"] = [a for a in contents["annotations"] if a["image_id"] == 1]
    put(folder, "train.json", json.dumps(contents))
    assert len(open_dataset(str(folder), "train")) == 2
    assert len(open_dataset(str(folder), "train", keep_empty=False)) == 1
    assert open_dataset(str(folder), "train", masks=False)[0][1].masks is None
    assert len(open_dataset(str(folder), "train", folder / "images")) == 2
