"""Preprocessing inside an ONNX graph gives the pixels that `images.prepare` gives."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn.config import ImageConfig
from maskrcnn.export.graph import Sizes
from maskrcnn.export.onnx.photo_model import PHOTO
from maskrcnn.images import batch_images, prepare_image, resized_size

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

PLAIN = {"min_size": 100, "max_size": 160}
CAFFE = {"channel_order": "bgr", "pixel_scale": 1.0, "mean": (103.5, 116.3, 123.7), "std": (1.0, 1.0, 1.0)}
CONFIGS = {
    "float": {**PLAIN, "resize": "float"},
    "pil": {**PLAIN, **CAFFE, "resize": "pil"},
    "pil_floor": {**PLAIN, "resize": "pil_floor", "padding_fill": "black"},
    "skimage": {
        **{**PLAIN, **CAFFE, "resize": "skimage", "channel_order": "rgb", "padding": "square", "max_size": 128},
        **{"padding_place": "center", "padding_fill": "black", "size_divisor": 64},
    },
}
LEVELS = {"float": 0.01, "pil": 2.0, "pil_floor": 2.0, "skimage": 0.0}
"""Largest difference of a pixel, of 255. Pillow's is rounded twice, each time perhaps to the neighbouring level."""

PHOTOS = [(60, 80), (45, 150), (250, 166), (400, 31), (100, 100), (101, 100), (32, 32), (160, 161), (268, 280)]
ANY = Sizes(1, 96, 96, "size", 32, 96)


@pytest.fixture(scope="module", params=CONFIGS)
def rule(request):
    """A configuration, how far its pixels may be off, and the graph that prepares photos so."""
    from maskrcnn.export.onnx.photo import prepare_photo
    from maskrcnn.export.onnx.steps import FLOAT, INT64, UINT8, Steps

    config, steps = ImageConfig(**CONFIGS[request.param]), Steps("preprocess")
    names = prepare_photo(steps, PHOTO, config, ANY)
    outputs = {names.images: FLOAT, names.sizes: INT64, names.offsets: INT64}
    graph = onnx.helper.make_graph(
        steps.nodes,
        "preprocessing",
        [onnx.helper.make_tensor_value_info(PHOTO, UINT8, [1, "h", "w", 3])],
        [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        steps.constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return config, LEVELS[request.param], lambda photo: session.run(None, {PHOTO: photo[None]})


def photo(size):
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", PHOTOS, ids=lambda s: f"{s[0]}x{s[1]}")
def test_pixels_are_those_of_prepare(rule, size):
    config, level, run = rule
    wanted = batch_images([prepare_image(photo(size), config)], [size], config, (ANY.least, ANY.least))
    images, sizes, offsets = run(photo(size))
    assert images.shape == tuple(wanted.tensor.shape)
    assert (sizes == wanted.sizes.numpy()).all() and (offsets == wanted.starts.numpy()).all()
    off = np.abs(images - wanted.tensor.numpy()) * np.array(config.std).reshape(1, 3, 1, 1) / config.pixel_scale
    assert off.max() <= level + 1e-4


def test_sizes_are_rounded_as_prepare_rounds_them(rule):
    config, _, run = rule
    rng = np.random.default_rng(1)
    for height, width in rng.integers(20, 400, (40, 2)).tolist():
        sizes = run(np.zeros((height, width, 3), np.uint8))[1]
        assert tuple(sizes[0]) == resized_size(height, width, config)
