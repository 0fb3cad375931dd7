"""maskrcnn-benchmark's names and dialect, on narrow checkpoints made here."""

import re

import pytest
import torch

import maskrcnn
from maskrcnn import Config, MaskRCNN

NARROW = {"backbone.width": 8, "rpn.channels": 16, "mask.channels": 16}
NETWORKS = {
    "FPN": ("resnet50-fpn", {**NARROW, "fpn.channels": 16, "box.fc_channels": 16}),
    "X101-FPN": (
        "resnet101-fpn",
        {
            **NARROW,
            "fpn.channels": 16,
            "box.fc_channels": 16,
            "backbone.groups": 4,
            "backbone.width_per_group": 32,
        },
    ),
    "C4": ("resnet50", NARROW),
}
RULES = [
    (r"backbone\.(conv1|bn1)", r"backbone.body.stem.\1"),
    (r"backbone\.layer", "backbone.body.layer"),
    (r"stage5", "roi_heads.box.feature_extractor.head.layer4"),
    (r"fpn\.lateral(\d)\.conv", lambda m: f"backbone.fpn.fpn_inner{int(m[1]) - 1}"),
    (r"fpn\.output(\d)\.conv", lambda m: f"backbone.fpn.fpn_layer{int(m[1]) - 1}"),
    (r"rpn\.convs\.0", "rpn.head.conv"),
    (r"rpn\.objectness", "rpn.head.cls_logits"),
    (r"rpn\.deltas", "rpn.head.bbox_pred"),
    (r"box_head\.fcs\.0", "roi_heads.box.feature_extractor.fc6"),
    (r"box_head\.fcs\.1", "roi_heads.box.feature_extractor.fc7"),
    (r"box_head\.class_logits", "roi_heads.box.predictor.cls_score"),
    (r"box_head\.box_deltas", "roi_heads.box.predictor.bbox_pred"),
    (r"mask_head\.convs\.(\d)\.conv", lambda m: f"roi_heads.mask.feature_extractor.mask_fcn{int(m[1]) + 1}"),
    (r"mask_head\.deconv", "roi_heads.mask.predictor.conv5_mask"),
    (r"mask_head\.predictor", "roi_heads.mask.predictor.mask_fcn_logits"),
]


def their_name(name):
    for pattern, replacement in RULES:
        if re.match(pattern, name):
            return re.sub("^" + pattern, replacement, name)
    raise AssertionError(name)


def checkpoint(name):
    """A state dict in their names and layout: background first, and anchors by ratio, then size."""
    preset, overrides = NETWORKS[name]
    torch.manual_seed(0)
    ours = MaskRCNN(Config.preset(preset, class_names=["a", "b"], overrides=overrides)).state_dict()
    theirs = {}
    for key, tensor in ours.items():
        if "class_logits" in key:
            tensor = tensor.roll(1, dims=0)
        if "box_deltas" in key:
            tensor = torch.cat((torch.zeros_like(tensor[:4]), tensor))
        if "mask_head.predictor" in key:
            tensor = torch.cat((torch.zeros_like(tensor[:1]), tensor))
        if key.startswith(("rpn.objectness", "rpn.deltas")):
            numbers = 4 if "deltas" in key else 1
            by_size = tensor.reshape(-1, 3, numbers, *tensor.shape[1:])  # size, ratio, number
            tensor = torch.stack([by_size[size, ratio] for ratio in range(3) for size in range(len(by_size))])
            tensor = tensor.flatten(0, 1)
        theirs[f"module.{their_name(key)}"] = tensor
    return theirs, ours


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_finds_its_place(name):
    theirs, ours = checkpoint(name)
    model = maskrcnn.load(theirs)
    assert model.state_dict().keys() == ours.keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, ours[key]), key


def test_the_mask_branchs_copy_of_stage_five_is_left_aside(caplog):
    theirs, _ = checkpoint("C4")
    for key in [k for k in theirs if "box.feature_extractor.head" in k]:
        theirs[key.replace("roi_heads.box", "roi_heads.mask")] = theirs[key]
    maskrcnn.load(theirs)
    assert "no part of the network takes" not in caplog.text


@pytest.mark.parametrize(
    ("name", "stride_in_1x1", "sampling", "divisor", "pre_nms"),
    [("FPN", True, 2, 32, 1000), ("X101-FPN", False, 2, 32, 1000), ("C4", True, 0, 1, 6000)],
)
def test_dialect(name, stride_in_1x1, sampling, divisor, pre_nms):
    config = maskrcnn.load(checkpoint(name)[0]).config
    assert config.box_corners == "inclusive"
    assert (config.backbone.stride_in_1x1, config.backbone.norm_eps) == (stride_in_1x1, 0.0)
    assert (config.roi_align.aligned, config.roi_align.sampling_ratio) == (False, sampling)
    assert (config.image.size_divisor, config.rpn.pre_nms_top_n) == (divisor, pre_nms)
    assert (config.anchors.rounding, config.anchors.offset) == ("base", 0.5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_runs(name):
    few = {"rpn.pre_nms_top_n": 20, "rpn.post_nms_top_n": 10, "box.score_threshold": 0.0}
    model = maskrcnn.load(checkpoint(name)[0], overrides=few)
    [found] = model.predict(torch.zeros(3, 96, 128, dtype=torch.uint8), score_threshold=0.0)
    assert len(found) > 0
