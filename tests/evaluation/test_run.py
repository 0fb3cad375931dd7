"""Running a network over a data set: which classes and which images count."""

import pytest
import torch

from maskrcnn.data import CocoDataset, ShapesDataset, save_as_coco
from maskrcnn.errors import DatasetError
from maskrcnn.evaluation import evaluate
from maskrcnn.evaluation.run import _places, _relabelled
from maskrcnn.structures import Detections
from tiny import tiny_data, tiny_model


class Some(list):
    """A data set of given items and classes."""

    def __init__(self, items, class_names=ShapesDataset.class_names):
        super().__init__(items)
        self.class_names = class_names


def test_any_data_set_and_a_coco_file_give_the_same(tmp_path):
    model, data = tiny_model(), tiny_data(4)
    from_file = evaluate(model, CocoDataset(save_as_coco(data, tmp_path)))
    assert evaluate(model, data, batch_size=2) == from_file
    assert from_file.num_detections > 0


def test_masks_are_measured_without_their_pixels(monkeypatch):
    model, data = tiny_model(), tiny_data(3)
    collected = []
    with_pixels = evaluate(model, data, collect=lambda index, found: collected.append(found.masks))
    assert all(masks is not None for masks in collected)
    monkeypatch.setattr("maskrcnn.prediction.paste_masks", None)
    assert evaluate(model, data) == with_pixels


def test_a_network_may_know_more_classes_than_the_data():
    place = _places(("a", "unused", "b", "c"), ("c", "a"))
    assert place.tolist() == [1, -1, -1, 0]
    found = Detections(torch.zeros(4, 4), torch.tensor([3, 1, 0, 2]), torch.ones(4), None, (8, 8), ("a", "b", "c", "d"))
    kept = _relabelled(found, place, ("c", "a"))
    assert kept.labels.tolist() == [0, 1]
    assert kept.names == ["c", "a"]


def test_what_is_found_of_other_classes_is_left_aside():
    model, data = tiny_model(), tiny_data(3)
    squares = []
    for index in range(3):
        image, target = data[index]
        kept = target.select(target.labels == 1)
        kept.labels[:] = 0
        squares.append((image, kept))
    whole, part = evaluate(model, data), evaluate(model, Some(squares, ("square",)))
    assert part.per_class["square"] == whole.per_class["square"]
    assert 0 < part.num_detections < whole.num_detections


def test_a_class_that_the_network_does_not_know_is_refused():
    data = Some([tiny_data(1)[0]], ("circle", "hexagon", "square", "star"))
    with pytest.raises(DatasetError, match=r"does not know: hexagon, star\. It knows circle, square, triangle"):
        evaluate(tiny_model(), data)


def test_nothing_that_can_be_read_is_an_error():
    with pytest.raises(DatasetError, match="No image of the data to evaluate on can be read"):
        evaluate(tiny_model(), Some([("missing.jpg", {"boxes": [], "labels": []})]))


def test_an_image_that_cannot_be_read_is_left_out_with_its_truth():
    good = tiny_data(1)[0]
    result = evaluate(tiny_model(), Some([good, ("missing.jpg", {"boxes": [], "labels": []})]))
    assert (result.num_images, result.num_objects) == (1, len(good[1]))


def test_every_image_and_its_detections_are_handed_over_in_order():
    seen = {}
    evaluate(tiny_model(), tiny_data(3), batch_size=2, collect=lambda index, found: seen.update({index: found}))
    assert list(seen) == [0, 1, 2]
    assert all(found.boxes.isfinite().all() for found in seen.values())
