"""Photos prepared on the device are those prepared on the CPU, pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.config import ImageConfig
from maskrcnn.errors import InputError
from maskrcnn.images import prepare
from maskrcnn.optimized.photos import PRECISION, prepare_on, resize_as_pillow, taps

CPU = torch.device("cpu")
SIZES = {
    "shrunk": ((120, 163), (80, 109)),
    "shrunk much": ((333, 217), (40, 26)),
    "enlarged": ((30, 41), (80, 109)),
    "enlarged much": ((7, 5), (50, 3)),
    "one side alone": ((60, 90), (60, 45)),
    "squeezed": ((37, 211), (211, 37)),
    "one pixel": ((1, 1), (9, 9)),
    "as it is": ((20, 30), (20, 30)),
}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("old", "new"), SIZES.values(), ids=SIZES)
def test_resized_pixels_are_pillows(old, new):
    photo = noise(*old)
    expected = np.asarray(Image.fromarray(photo).resize((new[1], new[0]), Image.Resampling.BILINEAR))
    torch.testing.assert_close(resize_as_pillow(torch.from_numpy(photo), new), torch.from_numpy(expected.copy()))


@pytest.mark.parametrize("value", [0, 255])
def test_extreme_pixels_keep_their_value(value):
    photo = torch.full((50, 70, 3), value, dtype=torch.uint8)
    assert (resize_as_pillow(photo, (33, 101)) == value).all()


@pytest.mark.parametrize(("old", "new"), [(1000, 7), (7, 1000), (1, 1), (801, 800)])
def test_weights_of_a_pixel_sum_to_one(old, new):
    weights = taps(old, new).weight
    assert (weights >= 0).all()
    assert (weights.sum(0) - 2**PRECISION).abs().max() <= len(weights)


CONFIGS = {
    "pil": {"resize": "pil"},
    "pil_floor bgr": {"resize": "pil_floor", "channel_order": "bgr", "pixel_scale": 1.0, "mean": (103, 116, 123)},
    "float": {"resize": "float"},
    "skimage": {"resize": "skimage", "padding": "square", "padding_place": "center", "padding_fill": "black"},
    "square": {"padding": "square"},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_batches_are_those_of_prepare(changes):
    config = ImageConfig(min_size=64, max_size=96, **changes)
    photos = [noise(50, 80), noise(100, 60, 1), Image.fromarray(noise(64, 96, 2))]
    ours = prepare_on(photos, config, CPU, 0, lambda height, width: (height, width))
    for a, b in zip(ours, prepare(photos, config), strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_batches_are_padded_to_the_size_asked_for():
    asked = []

    def padded(height, width):
        asked.append((height, width))
        return 128, 160

    batch = prepare_on([noise(50, 80), noise(80, 50)], ImageConfig(min_size=64, max_size=96), CPU, 0, padded)
    assert asked == [(96, 96)]
    assert batch.tensor.shape == (2, 3, 128, 160)
    assert (batch.tensor[:, :, 96:] == 0).all()


def test_pixels_that_cannot_be_written_to_are_taken():
    photo = noise(50, 80)
    photo.flags.writeable = False
    config = ImageConfig(min_size=64, max_size=96)
    batch = prepare_on([photo], config, CPU, 0, lambda height, width: (0, 0))
    torch.testing.assert_close(batch.tensor, prepare([photo], config).tensor)


@pytest.mark.parametrize(
    ("photos", "text"), [([], "at least one image"), ([np.zeros((3, 9, 9), np.uint8)], r"images\[4\] must")]
)
def test_bad_photos_are_named(photos, text):
    with pytest.raises(InputError, match=text):
        prepare_on(photos, ImageConfig(), CPU, 4, lambda height, width: (0, 0))
