from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.data import CocoDataset, ShapesDataset, save_as_coco
from maskrcnn.errors import InputError, WriteError


@pytest.fixture(scope="module")
def shapes() -> ShapesDataset:
    return ShapesDataset(length=40)


def test_items_depend_on_seed_and_index_alone(shapes: ShapesDataset) -> None:
    short = ShapesDataset(length=4)
    image, target = shapes[3]
    again, same = short[3]
    np.testing.assert_array_equal(image, again)
    torch.testing.assert_close(target.masks, same.masks)
    assert not np.array_equal(image, ShapesDataset(length=4, seed=1)[3][0])
    assert not np.array_equal(image, shapes[2][0])


def test_items_have_the_types_and_shapes_of_a_data_set() -> None:
    image, target = ShapesDataset(length=1, image_size=(64, 96))[0]
    assert image.shape == (64, 96, 3)
    assert image.dtype == np.uint8
    assert target.masks is not None and target.masks.shape == (len(target), 64, 96)
    assert target.masks.dtype == torch.bool
    assert target.boxes.dtype == torch.float32
    assert target.labels.dtype == torch.int64


def test_boxes_are_tight_around_the_visible_masks(shapes: ShapesDataset) -> None:
    for _, target in shapes:
        assert target.masks is not None
        for box, mask in zip(target.boxes, target.masks, strict=True):
            y, x = torch.nonzero(mask, as_tuple=True)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_masks_do_not_overlap_and_carry_one_color(shapes: ShapesDataset) -> None:
    for image, target in shapes:
        assert target.masks is not None
        assert target.masks.sum(0).max() <= 1
        for mask in target.masks.numpy():
            # The noise is at most ±20 around one colour.
            assert (np.ptp(image[mask].astype(int), axis=0) <= 40).all()


def test_there_are_one_to_four_objects_of_every_class(shapes: ShapesDataset) -> None:
    counts = {len(target) for _, target in shapes}
    assert counts == {1, 2, 3, 4}
    assert {int(k) for _, target in shapes for k in target.labels} == {0, 1, 2}


def test_objects_are_a_seventh_to_two_fifths_of_the_image(shapes: ShapesDataset) -> None:
    sides = torch.cat([t.boxes[:, 2:] - t.boxes[:, :2] for _, t in shapes])
    assert sides.max() <= 50
    assert sides.max(dim=1).values.median() >= 18


def test_visible_parts_are_at_least_three_tenths() -> None:
    from maskrcnn.data.shapes import _visible

    whole = np.zeros((40, 40), bool)
    whole[:10, :10] = True
    hides_80 = np.zeros((40, 40), bool)
    hides_80[:8, :10] = True
    kept, masks = _visible([whole, hides_80], (40, 40))
    assert kept == [1]
    hides_70 = np.zeros((40, 40), bool)
    hides_70[:7, :10] = True
    kept, masks = _visible([whole, hides_70], (40, 40))
    assert kept == [0, 1]
    assert masks.sum(axis=(1, 2)).tolist() == [30, 70]


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.0, 0, 0), (0.5, 8, 32), (1.0, 40, 40)])
def test_empty_fraction_leaves_images_without_objects(fraction: float, low: int, high: int) -> None:
    targets = [t for _, t in ShapesDataset(length=40, empty_fraction=fraction)]
    assert low <= sum(len(t) == 0 for t in targets) <= high
    empty = [t for t in targets if len(t) == 0]
    for target in empty:
        assert target.boxes.shape == (0, 4)
        assert target.masks is not None and target.masks.shape == (0, 128, 128)
        assert target.labels.dtype == torch.int64


def test_names_and_indices(shapes: ShapesDataset) -> None:
    assert shapes.image_name(12) == "shapes/000012"
    assert shapes.image_name(-1) == "shapes/000039"
    with pytest.raises(IndexError, match="image 40 of 40"):
        shapes[40]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": -1}, "length and seed must be 0 or more; got -1 and 0"),
        ({"length": 1, "image_size": (16, 64)}, r"image_size must be at least \(32, 32\)"),
        ({"length": 1, "empty_fraction": 1.5}, r"empty_fraction must be in 0 … 1; got 1\.5"),
        ({"length": 1, "max_objects": 0}, "max_objects must be at least 1; got 0"),
    ],
    ids=["length", "image_size", "empty_fraction", "max_objects"],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ShapesDataset(**arguments)  # type: ignore[arg-type]


def test_saved_as_coco_it_reads_back_the_same(tmp_path: Path) -> None:
    shapes = ShapesDataset(length=6, image_size=(48, 64), empty_fraction=0.3)
    path = save_as_coco(shapes, tmp_path / "shapes")
    coco = CocoDataset(path, on_error="raise")
    assert coco.class_names == shapes.class_names
    assert coco.category_ids == (1, 2, 3)
    assert len(coco) == 6
    for (image, target), (read, found) in zip(shapes, coco, strict=True):
        np.testing.assert_array_equal(image, read)
        for name in ("boxes", "labels", "masks", "crowd", "area"):
            torch.testing.assert_close(getattr(found, name), getattr(target, name))
    assert isinstance(json.loads(path.read_text())["annotations"][0]["segmentation"]["counts"], str)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(WriteError, match="taken"):
        save_as_coco(ShapesDataset(length=1), tmp_path / "taken")
