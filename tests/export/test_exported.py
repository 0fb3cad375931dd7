"""What is made of photos that fit an exported network's input, of those that do not, and of batches of any number."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn import ImageBatch
from maskrcnn.data import ShapesDataset
from maskrcnn.errors import InputError
from maskrcnn.evaluation import evaluate
from maskrcnn.export.check import compare
from maskrcnn.export.exported import ExportedModel
from maskrcnn.export.graph import Sizes, choose_sizes
from maskrcnn.export.load import load_exported
from maskrcnn.structures import Target
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


def test_prepared_images_of_another_size_are_refused():
    size = torch.tensor([[64, 64]])
    with pytest.raises(InputError, match=r"images must be 64 × 96, which the file was exported for; got 64 × 64\."):
        Echo(1, 64, 96, "none", 32, 64).detect(ImageBatch(torch.zeros(1, 3, 64, 64), size, size))


def test_several_images_are_compared_at_a_time_where_the_file_takes_several():
    model = tiny_model().eval()
    for dynamic, batches in (("none", [1, 1]), ("batch", [1, 1, 2])):
        exported = Echo(1, 96, 96, dynamic, 32, 96)
        compare(model, exported, [photo(40, 40), photo(30, 60)])
        assert [shape[0] for shape, _ in exported.ran] == batches


def test_a_fixed_size_is_what_a_square_network_pads_to():
    config = tiny_model(image__padding="square", image__max_size=100).config
    assert choose_sizes(config, dynamic="none") == choose_sizes(config, 1, (128, 128), "none")
    with pytest.raises(
        InputError, match=r"must be 128x128: .* For 96x128 add --set image\.padding=batch --set image\.max"
    ):
        choose_sizes(config, 1, (96, 128), "none")
    assert choose_sizes(config, 1, (96, 128), "size").any_size


def test_a_photo_that_does_not_fit_is_named_by_its_data_set():
    class Data:
        class_names = ShapesDataset.class_names

        def image_name(self, index):
            return f"photo-{index}.jpg"

        def __len__(self):
            return 2

        def __getitem__(self, index):
            height, width = ((80, 40), (40, 80))[index]
            masks = torch.ones(1, height, width, dtype=torch.bool)
            return photo(height, width), Target(torch.tensor([[1.0, 1, 20, 20]]), torch.tensor([0]), masks)

    with pytest.raises(InputError, match=r"^photo-1\.jpg is 32 × 64 pixels once resized"):
        evaluate(Echo(1, 64, 32, "none", 32, 32), Data(), batch_size=2)


@pytest.mark.parametrize("device", ["mps", "nonsense", "xla:0"])
def test_a_device_that_exported_networks_do_not_run_on_is_refused(device, tmp_path):
    with pytest.raises(InputError, match=f"An exported network runs on cpu or cuda; got the device '{device}'"):
        load_exported(tmp_path / "model.onnx", device)
