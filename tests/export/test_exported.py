"""What is made of photos that fit an exported network's input, of those that do not, and of batches of any number."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn import ImageBatch
from maskrcnn.errors import InputError
from maskrcnn.export.exported import ExportedModel
from maskrcnn.export.graph import Sizes
from tiny import tiny_model


class Echo(ExportedModel):
    """Finds the image itself, and remembers what it was run on."""

    def __init__(self, *sizes, **config):
        super().__init__(tiny_model(**config).config, Sizes(*sizes))
        self.ran = []

    def run(self, images, sizes, offsets):
        self.ran.append((tuple(images.shape), None if offsets is None else offsets.tolist()))
        n = len(images)
        boxes = torch.zeros(n, 1, 4)
        boxes[:, 0, 2:] = sizes.float().flip(1)
        ones = torch.ones(n, 1)
        masks = torch.zeros(n, 1, 28, 28)
        return {"boxes": boxes, "labels": ones.long(), "scores": ones, "mask_logits": masks, "valid": ones.bool()}


def photo(height, width):
    return np.zeros((height, width, 3), np.uint8)


def test_photos_are_padded_to_the_one_size_there_is():
    batch = Echo(1, 96, 128, "none", 32, 96).prepare([photo(50, 64)])
    assert batch.tensor.shape == (1, 3, 96, 128)
    assert batch.sizes.tolist() == [[50, 64]]


def test_photos_of_any_size_are_padded_to_the_least_there_is():
    assert Echo(1, 96, 96, "size", 32, 96).prepare([photo(10, 64)]).tensor.shape == (1, 3, 96, 96)


def test_a_photo_that_does_not_fit_is_named_with_its_size_and_what_there_is(tmp_path):
    Image.fromarray(photo(80, 40)).save(tmp_path / "tall.png")
    wanted = r"tall\.png is 64 × 32 pixels once resized, and this file was exported for 32 × 64 \(height × width\)\."
    with pytest.raises(InputError, match=wanted):
        Echo(1, 32, 64, "none", 32, 32).predict(tmp_path / "tall.png")


def test_few_images_fill_the_batch_and_many_are_split():
    model = Echo(2, 64, 64, "none", 32, 64)
    sizes = torch.tensor([[10, 20], [30, 40], [50, 60]])
    found = model.detect(ImageBatch(torch.zeros(3, 3, 64, 64), sizes, sizes))
    assert [shape[0] for shape, _ in model.ran] == [2, 2]
    assert found.boxes[:, 0, 2:].tolist() == [[20, 10], [40, 30], [60, 50]]


def test_any_number_of_images_runs_at_once():
    model = Echo(2, 64, 64, "batch", 32, 64)
    model.predict([photo(64, 64)] * 3, batch_size=3)
    assert [shape[0] for shape, _ in model.ran] == [3]


def test_the_program_is_told_where_centred_images_begin():
    model = Echo(1, 96, 96, "none", 32, 64, image__padding_place="center")
    model.predict(photo(64, 64))
    assert model.ran == [((1, 3, 96, 96), [[16, 16]])]


def test_predictions_are_those_of_the_program():
    [found] = Echo(1, 64, 64, "none", 32, 64).predict([photo(40, 64)])
    assert found.boxes.tolist() == [[0, 0, 64, 40]] and found.labels.tolist() == [1]
