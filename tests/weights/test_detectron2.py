"""Detectron2's names and what they tell, on narrow checkpoints made here; tests/parity has two whole ones."""

import re

import pytest
import torch

import maskrcnn
from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import CheckpointError

NARROW = {"backbone.width": 8, "rpn.channels": 16}
FPN = {**NARROW, "fpn.channels": 16, "box.fc_channels": 16, "mask.channels": 16}
LSJ = {
    **FPN,
    **{f"{part}.norm": "batch" for part in ("backbone", "fpn", "box", "mask")},
    "rpn.num_convs": 2,
    "box.num_convs": 4,
    "box.num_fcs": 1,
    "box.conv_channels": 16,
}
PLAIN = {"fpn": None, "anchors.sizes": ((32, 64, 128, 256, 512),), "image.size_divisor": 1}
NETWORKS = {
    "R50-FPN": ("resnet50-fpn", FPN),
    "R101-FPN, boxes only": ("resnet101-fpn", {**FPN, "masks": False}),
    "X101-FPN": ("resnet101-fpn", {**FPN, "backbone.groups": 4, "backbone.width_per_group": 32}),
    "R50-C4": ("resnet50", {**NARROW, "mask.channels": 16}),
    "R50-DC5": (
        "resnet50-fpn",
        {**PLAIN, **NARROW, "backbone.dilate_c5": True, "box.fc_channels": 16, "mask.channels": 16},
    ),
    "LSJ": ("resnet50-fpn", LSJ),
    "SyncBN": ("resnet50-fpn", {**LSJ, "rpn.num_convs": 1}),
    "keypoints": (
        "resnet50-fpn",
        {**FPN, "masks": False, "keypoint_names": tuple(f"keypoint {k}" for k in range(5)), "keypoint.channels": 16},
    ),
    "GN": ("resnet50-fpn", {**FPN, **{f"{part}.norm": "group" for part in ("backbone", "fpn", "mask")}}),
}

RULES = [
    (r"backbone\.conv1", "backbone.BOTTOM_UP.stem.conv1"),
    (r"backbone\.bn1", "backbone.BOTTOM_UP.stem.conv1.norm"),
    (r"backbone\.layer(\d)\.(\d+)\.conv(\d)", lambda m: f"backbone.BOTTOM_UP.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}"),
    (r"backbone\.layer(\d)\.(\d+)\.bn(\d)", lambda m: f"backbone.BOTTOM_UP.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.0", lambda m: f"backbone.BOTTOM_UP.res{int(m[1]) + 1}.{m[2]}.shortcut"),
    (
        r"backbone\.layer(\d)\.(\d+)\.downsample\.1",
        lambda m: f"backbone.BOTTOM_UP.res{int(m[1]) + 1}.{m[2]}.shortcut.norm",
    ),
    (r"stage5\.(\d)\.conv(\d)", r"roi_heads.res5.\1.conv\2"),
    (r"stage5\.(\d)\.bn(\d)", r"roi_heads.res5.\1.conv\2.norm"),
    (r"stage5\.(\d)\.downsample\.0", r"roi_heads.res5.\1.shortcut"),
    (r"stage5\.(\d)\.downsample\.1", r"roi_heads.res5.\1.shortcut.norm"),
    (r"fpn\.(lateral|output)(\d)\.conv", r"backbone.fpn_\1\2"),
    (r"fpn\.(lateral|output)(\d)\.norm", r"backbone.fpn_\1\2.norm"),
    (r"rpn\.objectness", "proposal_generator.rpn_head.objectness_logits"),
    (r"rpn\.deltas", "proposal_generator.rpn_head.anchor_deltas"),
    (r"box_head\.convs\.(\d)\.conv", lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}"),
    (r"box_head\.convs\.(\d)\.norm", lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}.norm"),
    (r"box_head\.fcs\.(\d)", lambda m: f"roi_heads.box_head.fc{int(m[1]) + 1}"),
    (r"box_head\.class_logits", "roi_heads.box_predictor.cls_score"),
    (r"box_head\.box_deltas", "roi_heads.box_predictor.bbox_pred"),
    (r"mask_head\.convs\.(\d)\.conv", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}"),
    (r"mask_head\.convs\.(\d)\.norm", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.norm"),
    (r"mask_head\.(deconv|predictor)", r"roi_heads.mask_head.\1"),
    (r"keypoint_head\.convs\.(\d)\.conv", lambda m: f"roi_heads.keypoint_head.conv_fcn{int(m[1]) + 1}"),
    (r"keypoint_head\.deconv", "roi_heads.keypoint_head.score_lowres"),
]


def their_name(name, network):
    several = network.config.rpn.num_convs > 1
    rules = [*RULES, (r"rpn\.convs\.(\d)", r"proposal_generator.rpn_head.conv" + (r".conv\1" if several else ""))]
    for pattern, replacement in rules:
        if re.match(pattern + r"\.", name):
            bottom_up = "bottom_up." if network.config.fpn is not None else ""
            return re.sub("^" + pattern, replacement, name).replace("BOTTOM_UP.", bottom_up)
    raise AssertionError(name)


def checkpoint(name, classes=2):
    """A state dict in Detectron2's names, made from a network of ours by the reverse renaming."""
    preset, overrides = NETWORKS[name]
    torch.manual_seed(0)
    network = MaskRCNN(Config.preset(preset, class_names=[f"c{k}" for k in range(classes)], overrides=overrides))
    ours = network.state_dict()
    return {their_name(key, network): tensor for key, tensor in ours.items()}, ours, network.config


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_finds_its_place_and_the_network_is_recognised(name):
    theirs, ours, wanted = checkpoint(name)
    model = maskrcnn.load(theirs)
    assert model.state_dict().keys() == ours.keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, ours[key]), key
    config = model.config
    for field in ("depth", "width", "groups", "width_per_group", "norm", "dilate_c5"):
        assert getattr(config.backbone, field) == getattr(wanted.backbone, field), field
    assert config.fpn == wanted.fpn and config.masks == wanted.masks
    assert config.keypoint_names == wanted.keypoint_names
    for part, fields in {
        "rpn": ("num_convs", "channels"),
        "box": ("num_convs", "num_fcs", "fc_channels", "norm", "pool_size"),
        "mask": ("num_convs", "norm") if wanted.masks else (),
    }.items():
        for field in fields:
            assert getattr(getattr(config, part), field) == getattr(getattr(wanted, part), field), f"{part}.{field}"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_runs(name):
    model = maskrcnn.load(checkpoint(name)[0], overrides={"rpn.pre_nms_top_n": 20, "rpn.post_nms_top_n": 10})
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 96, 128)).boxes.shape == (1, min(100, 10 * 2), 4)


@pytest.mark.parametrize(
    ("name", "stride_in_1x1", "std", "frozen"),
    [
        ("R50-FPN", True, (1.0, 1.0, 1.0), 2),
        ("R50-C4", True, (1.0, 1.0, 1.0), 2),
        ("X101-FPN", False, (57.375, 57.12, 58.395), 2),
        ("LSJ", True, (1.0, 1.0, 1.0), 0),
        ("SyncBN", False, (1.0, 1.0, 1.0), 0),
        ("GN", False, (1.0, 1.0, 1.0), 0),
    ],
)
def test_what_no_tensor_tells_is_as_in_the_model_zoo(name, stride_in_1x1, std, frozen):
    config = maskrcnn.load(checkpoint(name)[0]).config
    assert (config.backbone.stride_in_1x1, config.backbone.frozen_stages) == (stride_in_1x1, frozen)
    assert (config.image.channel_order, config.image.std) == ("bgr", std)
    assert config.image.mean == (103.53, 116.28, 123.675)


def test_pixel_statistics_in_the_file_tell_a_network_of_torchvisions_kind():
    theirs, *_ = checkpoint("R50-FPN")
    theirs["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).reshape(3, 1, 1)
    theirs["pixel_std"] = torch.tensor([58.395, 57.12, 57.375]).reshape(3, 1, 1)
    config = maskrcnn.load(theirs).config
    assert config.image.channel_order == "rgb" and not config.backbone.stride_in_1x1
    assert config.image.mean == (123.675, 116.28, 103.53) and config.image.std == (58.395, 57.12, 57.375)


def test_what_is_assumed_is_logged_and_can_be_overridden(caplog):
    theirs, *_ = checkpoint("R50-FPN")
    config = maskrcnn.load(theirs, overrides={"backbone.stride_in_1x1": False}).config
    assert not config.backbone.stride_in_1x1
    [record] = caplog.records
    assert "the mapping is Detectron2's Mask R-CNN on ResNet-50-FPN with 2 classes" in record.message
    assert "image.mean = [103.53, 116.28, 123.675]; " in record.message and "image.min_size = 800; " in record.message
    assert "stride_in_1x1" not in record.message


def test_dialect_without_fpn():
    config = maskrcnn.load(checkpoint("R50-C4")[0]).config
    assert (config.image.size_divisor, config.rpn.pre_nms_top_n) == (1, 6000)
    assert config.anchors.sizes == ((32, 64, 128, 256, 512),)


def test_keypoints_of_a_person_have_cocos_names():
    theirs, *_ = checkpoint("keypoints", classes=1)
    head = "roi_heads.keypoint_head.score_lowres"
    theirs[f"{head}.weight"], theirs[f"{head}.bias"] = torch.zeros(16, 17, 4, 4), torch.zeros(17)
    config = maskrcnn.load(theirs).config
    assert config.class_names == ("person",) and config.keypoint_names[5] == "left_shoulder"
    assert len(config.keypoint.skeleton) == 19 and config.keypoint.scores == "softmax"
    assert (config.box.loss.beta, config.rpn.post_nms_top_n_training) == (0.5, 1500)


def test_dilated_network_keeps_stride_16():
    model = maskrcnn.load(checkpoint("R50-DC5")[0])
    with torch.inference_mode():
        features = model.fpn(model.backbone(torch.zeros(1, 3, 64, 96)))
    assert {name: tuple(f.shape) for name, f in features.items()} == {"c5": (1, 8 * 32, 4, 6)}


def test_buffers_of_older_files_are_left_aside(caplog):
    theirs, *_ = checkpoint("R50-FPN")
    for k in range(5):
        theirs[f"proposal_generator.anchor_generator.cell_anchors.{k}"] = torch.zeros(3, 4)
    maskrcnn.load(theirs)
    assert "no part of the network takes" not in caplog.text


def test_anchors_of_older_files_are_those_of_the_network():
    theirs, *_ = checkpoint("R50-FPN")
    for k, size in enumerate((8, 16, 32, 64, 128)):
        sides = [(size * r**-0.5, size * r**0.5) for r in (0.5, 1.0, 2.0)]
        boxes = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])
        theirs[f"proposal_generator.anchor_generator.cell_anchors.{k}"] = boxes
    anchors = maskrcnn.load(theirs).config.anchors
    assert anchors.sizes == ((8,), (16,), (32,), (64,), (128,)) and anchors.ratios == (0.5, 1.0, 2.0)


def test_a_cascade_is_refused_by_name():
    theirs, *_ = checkpoint("R50-FPN")
    theirs["roi_heads.box_predictor.0.cls_score.weight"] = torch.zeros(3, 16)
    with pytest.raises(CheckpointError, match="is a Cascade R-CNN, with three box heads"):
        maskrcnn.load(theirs)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("roi_heads.box_predictor.cls_score.weight", ()),
        ("roi_heads.box_predictor.bbox_pred.weight", ()),
        ("roi_heads.box_head.fc1.weight", (3,)),
        ("roi_heads.mask_head.predictor.weight", (3,)),
        ("backbone.bottom_up.stem.conv1.weight", (8, 3)),
        ("backbone.bottom_up.res2.0.conv2.weight", (1,)),
        ("proposal_generator.rpn_head.conv.weight", (1,)),
    ],
)
def test_a_tensor_with_other_axes_is_named(key, shape):
    theirs, *_ = checkpoint("R50-FPN")
    theirs[key] = torch.zeros(shape) if shape else torch.tensor(0.0)
    with pytest.raises(CheckpointError, match=r"^the mapping: [a-z0-9_.]+ must have \d axes; it is \["):
        maskrcnn.load(theirs)


@pytest.mark.parametrize(
    "dropped",
    [
        "roi_heads.",
        "roi_heads.box_predictor.",
        "proposal_generator.",
        "roi_heads.mask_head.predictor",
        "backbone.fpn_out",
    ],
)
def test_whole_parts_may_start_anew(dropped):
    theirs, ours, _ = checkpoint("R50-FPN")
    kept = {key: tensor for key, tensor in theirs.items() if not key.startswith(dropped)}
    with pytest.raises(CheckpointError, match="lacks: "):
        maskrcnn.load(kept)
    model = maskrcnn.load(kept, partial=True, class_names=["x", "y", "z"])
    assert model.config.num_classes == 3
    assert torch.equal(model.backbone.conv1.weight, ours["backbone.conv1.weight"])
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))


def test_a_file_without_classes_is_named():
    theirs, *_ = checkpoint("R50-FPN")
    for part in ("weight", "bias"):
        theirs[f"roi_heads.box_predictor.cls_score.{part}"] = theirs[f"roi_heads.box_predictor.cls_score.{part}"][:1]
    with pytest.raises(CheckpointError, match=r"^the mapping does not fit together: class_names must name at least"):
        maskrcnn.load(theirs)


def test_tensors_without_a_place_are_named(caplog):
    theirs, *_ = checkpoint("R50-FPN")
    maskrcnn.load({**theirs, "roi_heads.attribute_head.weight": torch.zeros(1)})
    assert "the mapping: no part of the network takes roi_heads.attribute_head.weight." in caplog.text


def test_norms_of_scale_and_shift_alone_are_frozen_ones():
    theirs, ours, _ = checkpoint("R50-FPN")
    theirs = {key: tensor for key, tensor in theirs.items() if "running" not in key}
    model = maskrcnn.load(theirs)
    assert model.config.backbone.norm == "frozen_batch"
    assert torch.equal(model.backbone.bn1.running_var, torch.ones(8))
    assert torch.equal(model.backbone.layer3[1].bn2.weight, ours["backbone.layer3.1.bn2.weight"])


@pytest.mark.parametrize(
    "key",
    [
        "proposal_generator.rpn_head.objectness_logits.bias",
        "roi_heads.box_predictor.cls_score.bias",
        "roi_heads.mask_head.predictor.weight",
        "backbone.fpn_output2.weight",
        "backbone.bottom_up.res4.1.conv1.weight",
    ],
)
def test_a_missing_tensor_is_named(key):
    theirs, *_ = checkpoint("R50-FPN")
    del theirs[key]
    with pytest.raises(
        CheckpointError, match=r"^the mapping lacks: [a-z0-9_.]+\. partial=True \(--partial\) starts it anew"
    ):
        maskrcnn.load(theirs)


def test_parts_may_start_anew_if_asked_for(caplog):
    theirs, ours, _ = checkpoint("R50-FPN")
    del theirs["backbone.bottom_up.res4.1.conv1.weight"]
    model = maskrcnn.load(theirs, partial=True)
    assert "the mapping: from random weights start backbone.layer3.1.conv1.weight." in caplog.text
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, ours[k])]
    assert changed == ["backbone.layer3.1.conv1.weight"]
