"""ONNX files: what ONNX Runtime finds with them is what PyTorch finds, in standard operators alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import CheckpointError, InputError
from maskrcnn.export.agreement import agreement
from maskrcnn.export.graph import choose_sizes
from maskrcnn.export.load import load_exported
from maskrcnn.export.onnx.runtime import OnnxModel, load_onnx
from maskrcnn.export.onnx.write import build, describe, write
from maskrcnn.images import batch_images, prepare_image
from maskrcnn.prediction import unbatch
from tiny import TINY

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("default"),  # compilers warn of themselves
]

NARROW = {"backbone.width": 8, "rpn.channels": 16, "box.fc_channels": 32, "mask.channels": 16}
FEW = {key: value for key, value in TINY.items() if key.startswith(("image.", "rpn.", "box."))}
NETWORKS = {
    "torchvision": (
        "small-fpn",
        {
            **{
                **TINY,
                "image.min_size": 96,
                "image.max_size": 128,
                "anchors.stride": "measured",
                "mask.paste": "integer_box",
            },
            **{"roi_align.aligned": False, "keypoint_names": ("a", "b"), "keypoint.channels": 16},
        },
    ),
    "detectron2-c4": (
        "resnet50",
        {
            **{**FEW, **NARROW, "image.size_divisor": 1, "image.resize": "pil", "image.channel_order": "bgr"},
            **{"image.max_size": 96, "roi_align.sampling_ratio": 0, "box.min_size": None},
        },
    ),
    "matterport": (
        "small-fpn",
        {
            **{**TINY, "image.resize": "skimage", "image.padding": "square", "image.padding_place": "center"},
            **{"box_corners": "centers", "roi_align.method": "crop_and_resize", "roi_align.level_rounding": "nearest"},
            **{"rpn.per_level": False, "rpn.clip": "input", "rpn.min_size": None, "rpn.max_log_scale": None},
            **{"box.classes_per_roi": "best", "box.min_size": None, "box.round_boxes": True},
            **{"image.min_size": 96, "image.max_size": 128},
        },
    ),
    "vgg": ("vgg16", {**FEW, **NARROW, "roi_align.method": "pool", "image.max_size": 96, "box.class_agnostic": True}),
    "boxes of a dilated c5": (
        "resnet50-fpn",
        {
            **{**FEW, "backbone.width": 8, "fpn": None, "anchors.sizes": ((8, 16, 32),), "backbone.dilate_c5": True},
            **{"box_corners": "inclusive", "anchors.rounding": "base", "masks": False, "image.max_size": 96},
        },
    ),
}


def network(name):
    """A network whose random predictors are strong enough to find something, but not to make chaos of rounding."""
    torch.manual_seed(0)
    preset, overrides = NETWORKS[name]
    model = MaskRCNN(Config.preset(preset, class_names=["a", "b", "c"], overrides=overrides)).eval()
    with torch.no_grad():
        for layer in (model.rpn.deltas, model.rpn.objectness, model.box_head.class_logits, model.box_head.box_deltas):
            layer.weight.mul_(10)
        model.box_head.class_logits.bias[-1] = -3.0
    return model


def photos(*sizes):
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (6, 8, 3)).astype(np.uint8) for _ in sizes]
    return [
        np.asarray(
            torch.nn.functional.interpolate(torch.from_numpy(c).permute(2, 0, 1)[None].float(), size=s)[0].byte()
        )
        .transpose(1, 2, 0)
        .copy()
        for c, s in zip(coarse, sizes, strict=True)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A network, its graph and its file; each is made once."""
    kept = {}

    def make(name, **options):
        key = (name, *options.items())
        if key not in kept:
            model = network(name)
            sizes = choose_sizes(model.config, **options)
            proto = build(model, sizes)
            path = tmp_path_factory.mktemp("onnx") / "model.onnx"
            write(proto, path, lambda new: None)
            kept[key] = model, proto, path
        return kept[key]

    return make


def fixed(name):
    """Options of a file of one size that photos of 3 : 4 fit in."""
    side = 128 if name in ("matterport", "torchvision") else 96
    return {"size": (side, side), "dynamic": "none"}


def assert_same(model, exported, images):
    batch = exported.prepare(images)
    with torch.no_grad():
        ours = model(batch)
    theirs = exported.detect(batch)
    found = agreement(ours, theirs, model.config.box.score_threshold)
    assert found.detections >= 4 and found.holds, str(found)
    assert bool((ours.valid == theirs.valid).all())
    for field in ("mask_logits", "keypoint_logits"):
        torch.testing.assert_close(getattr(ours, field), getattr(theirs, field), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_finds_what_pytorch_finds(made, name):
    model, proto, path = made(name, **fixed(name))
    assert {node.domain for node in proto.graph.node} == {""} and proto.opset_import[0].version == 18
    onnx.checker.check_model(proto, full_check=True)
    for photo in photos((60, 80), (90, 120)):
        assert_same(model, load_onnx(path), [photo])


def test_a_file_takes_any_batch_and_any_size(made):
    model, proto, path = made("torchvision", dynamic="both")
    shape = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, "height", "width"]
    exported = load_onnx(path)
    for sizes in ([(60, 80)], [(80, 60), (50, 70), (64, 64)]):
        assert_same(model, exported, photos(*sizes))


def test_predict_gives_the_detections_of_the_network(made):
    model, _, path = made("torchvision", dynamic="both")
    images = photos((60, 80), (120, 90))
    for ours, theirs in zip(model.predict(images, 0.0, 2), load_exported(path).predict(images, 0.0, 2), strict=True):
        assert len(ours) == len(theirs) > 0 and ours.image_size == theirs.image_size
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-3, atol=1e-2)
        assert float((ours.masks != theirs.masks).float().mean()) < 1e-3
        torch.testing.assert_close(ours.keypoints, theirs.keypoints, rtol=1e-2, atol=0.5)


def test_the_file_tells_what_it_is_and_nothing_of_this_machine(made, tmp_path):
    model, _, path = made("vgg", **fixed("vgg"))
    told = load_onnx(path)
    assert told.config == model.config and (told.sizes.height, told.sizes.dynamic) == (96, "none")
    written = path.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in written and b"site-packages" not in written
    names = {node.name for node in onnx.load(path).graph.node}
    assert {"backbone/block1/0/conv/Conv", "rpn/objectness/Conv", "mask_head/deconv/ConvTranspose"} <= names


def test_a_photo_that_does_not_fit_is_told_with_what_would(made):
    _, _, path = made("vgg", **fixed("vgg"))
    exported = load_onnx(path)
    wide = OnnxModel(exported.config.replace({"image.max_size": 200}), exported.sizes, exported.session)
    with pytest.raises(InputError, match=r"images\[0\] is 64 × 200 pixels once resized, .* exported for 96 × 96"):
        wide.predict(photos((64, 200)))


def test_reduced_files_find_nearly_the_same(made):
    from maskrcnn.export.onnx.precision import to_half, to_int8

    model, proto, _ = made("torchvision", dynamic="both")
    exported = load_onnx(made("torchvision", dynamic="both")[2])
    images = photos((60, 80), (80, 60), (64, 64))
    told = []
    variants = {
        "fp16": to_half(onnx.ModelProto.FromString(proto.SerializeToString())),
        "int8": to_int8(proto, images, lambda photo: exported.prepare([photo]), lambda: told.append(1)),
    }
    assert len(told) == 3
    batch = exported.prepare(images)
    with torch.no_grad():
        ours = model(batch)
    for name, reduced in variants.items():
        describe(reduced, model.config, exported.sizes, "network", name)
        session = onnxruntime.InferenceSession(reduced.SerializeToString(), providers=["CPUExecutionProvider"])
        theirs = OnnxModel(model.config, exported.sizes, session).detect(batch)
        both = ours.valid.sum(), theirs.valid.sum()
        assert abs(int(both[0]) - int(both[1])) <= 3
        assert float((ours.scores - theirs.scores).abs().mean()) < (0.01 if name == "fp16" else 0.05)
    weights = {t.name: t.data_type for t in variants["fp16"].graph.initializer}
    assert weights[next(n for n in weights if "layer1" in n and n.endswith("weight"))] == onnx.TensorProto.FLOAT16
    assert "QuantizeLinear" in {node.op_type for node in variants["int8"].graph.node}


@pytest.mark.parametrize("paste", [False, True], ids=["probabilities", "pasted"])
@pytest.mark.parametrize("name", ["torchvision", "matterport"])
def test_with_preprocessing_boxes_and_masks_are_those_of_the_photo(made, tmp_path, name, paste):
    from maskrcnn.export.onnx.photo_model import PhotoModel
    from maskrcnn.export.onnx.with_photo import with_photo

    options = fixed(name) if name == "matterport" else {"dynamic": "both"}
    model, proto, path = made(name, **options)
    sizes = load_onnx(path).sizes
    whole = with_photo(onnx.ModelProto.FromString(proto.SerializeToString()), model.config, sizes, paste)
    describe(whole, model.config, sizes, "photo")
    onnx.checker.check_model(whole, full_check=True)
    write(whole, tmp_path / "photo.onnx", lambda new: None)
    exported = load_onnx(tmp_path / "photo.onnx")
    assert isinstance(exported, PhotoModel)
    # The rules of one of them resize to the last bit; the other's photos have the network's size.
    for size in ((60, 80), (130, 70)) if name == "matterport" else ((96, 128), (128, 96)):
        [photo] = photos(size)
        least = (sizes.height, sizes.width) if name == "matterport" else (sizes.least, sizes.least)
        batch = batch_images([prepare_image(photo, model.config.image)], [size], model.config.image, least)
        with torch.no_grad():
            [ours] = unbatch(model(batch), batch, model.config, 0.0)
        [theirs] = exported.predict(photo, 0.0)
        assert len(ours) == len(theirs) > 2 and bool((ours.labels == theirs.labels).all())
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
        assert float((ours.masks != theirs.masks).float().mean()) < 2e-3
        [rles] = exported.predict(photo, 0.0, masks="rle")
        assert bool((rles.with_masks().masks == theirs.masks).all())


def test_with_preprocessing_nothing_found_is_no_error(made, tmp_path):
    from maskrcnn.export.onnx.with_photo import with_photo

    model, proto, path = made("torchvision", dynamic="both")
    never = onnx.ModelProto.FromString(proto.SerializeToString())
    bias = next(t for t in never.graph.initializer if t.name.endswith("class_logits.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 0, 0, 1e4], np.float32), bias.name))
    whole = with_photo(never, model.config, load_onnx(path).sizes, True)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["boxes", "masks"], {"photo": photos((60, 80))[0][None]})
    assert [f.shape for f in found] == [(0, 4), (0, 60, 80)]


def changed(path, tmp_path, about):
    """Return a copy of a file that tells something else of itself."""
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, about)
    onnx.save(proto, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


def test_files_of_others_and_damaged_ones_are_refused_in_a_sentence(made, tmp_path):
    _, _, path = made("vgg", **fixed("vgg"))
    with pytest.raises(CheckpointError, match="was not written by maskrcnn export --format onnx"):
        load_onnx(changed(path, tmp_path, {}))
    for about in ("{", "{}", json.dumps({"configuration": {"class_names": 3}, "sizes": {}, "variant": "network"})):
        with pytest.raises(CheckpointError, match="is damaged, or of another version of maskrcnn"):
            load_onnx(changed(path, tmp_path, {"maskrcnn": about}))
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut\.onnx is damaged, or no ONNX file"):
        load_onnx(tmp_path / "cut.onnx")
    with pytest.raises(CheckpointError, match=r"none\.onnx: No such file"):
        load_onnx(tmp_path / "none.onnx")


def test_weights_beyond_what_a_file_holds_go_beside_it(made, tmp_path, monkeypatch):
    from maskrcnn.export.onnx import write as module

    model, proto, _ = made("vgg", **fixed("vgg"))
    monkeypatch.setattr(module, "LARGEST", 1000)
    path = tmp_path / "large.onnx"
    mine = onnx.ModelProto.FromString(proto.SerializeToString())
    write(mine, path, load_onnx)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert_same(model, load_onnx(path), photos((60, 80)))
    weights = [[t.raw_data for t in each.graph.initializer] for each in (mine, proto)]
    assert weights[0] == weights[1]  # so that it can be written once more

    link = tmp_path / "links" / "link.onnx"
    link.parent.mkdir()
    link.symlink_to(path)
    write(mine, link, load_onnx)
    assert [p.name for p in link.parent.iterdir()] == ["link.onnx"] and link.is_symlink()
    assert_same(model, load_onnx(link), photos((60, 80)))
