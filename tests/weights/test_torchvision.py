"""torchvision's names and shapes, on narrow checkpoints made here; tests/parity has a whole one."""

import re

import pytest
import torch
from narrow_torchvision import checkpoint

import maskrcnn
from maskrcnn.errors import CheckpointError, InputError
from maskrcnn.weights.torchvision import our_name


@pytest.mark.parametrize("masks", [True, False], ids=["mask r-cnn", "faster r-cnn"])
def test_every_tensor_finds_its_place(masks):
    theirs, ours = checkpoint(masks=masks)
    model = maskrcnn.load(theirs, class_names=["cat", "dog"])
    assert model.config.masks == masks and model.config.backbone.depth == 18
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, ours[name], msg=lambda text, name=name: f"{name}: {text}")


def test_background_moves_from_first_to_last():
    theirs, _ = checkpoint()
    theirs["roi_heads.box_predictor.cls_score.bias"] = torch.tensor([9.0, 1.0, 2.0])
    model = maskrcnn.load(theirs)
    assert model.box_head.class_logits.bias.tolist() == [1.0, 2.0, 9.0]


def test_eps_is_assumed_by_rule_and_can_be_given():
    theirs, _ = checkpoint()
    assert maskrcnn.load(theirs).config.backbone.norm_eps == 1e-5
    assert maskrcnn.load(theirs, overrides={"backbone.norm_eps": 0.0}).config.backbone.norm_eps == 0.0


@pytest.mark.parametrize(
    ("network", "eps"),
    [
        ({}, 0.0),
        ({"backbone.depth": 18}, 1e-5),
        ({"backbone.groups": 2, "backbone.width_per_group": 32}, 1e-5),
    ],
    ids=["ResNet-50", "ResNet-18", "ResNeXt"],
)
def test_eps_of_the_released_weights_is_that_of_their_network_alone(network, eps):
    theirs, _ = checkpoint(
        90, masks=False, **{"backbone.depth": 50, "backbone.width": 8, "fpn.channels": 16, **network}
    )
    assert maskrcnn.load(theirs).config.backbone.norm_eps == eps


def test_names_of_older_files_are_known():
    assert our_name("backbone.fpn.inner_blocks.1.weight") == "fpn.lateral3.conv.weight"
    assert our_name("rpn.head.conv.bias") == "rpn.convs.0.bias"
    assert our_name("roi_heads.mask_head.mask_fcn4.weight") == "mask_head.convs.3.conv.weight"


def test_an_unknown_tensor_is_named(caplog):
    theirs, _ = checkpoint()
    maskrcnn.load({**theirs, "roi_heads.attribute_head.weight": torch.zeros(1)})
    assert "the mapping: no part of the network takes roi_heads.attribute_head.weight." in caplog.text


@pytest.mark.parametrize(
    "key",
    [
        "rpn.head.cls_logits.bias",
        "rpn.head.conv.0.0.weight",
        "roi_heads.box_predictor.cls_score.bias",
        "roi_heads.box_predictor.bbox_pred.weight",
        "roi_heads.box_head.fc6.weight",
        "backbone.fpn.layer_blocks.0.0.weight",
        "roi_heads.mask_predictor.mask_fcn_logits.weight",
    ],
)
def test_a_missing_tensor_is_named_as_in_the_file(key):
    theirs, _ = checkpoint()
    del theirs[key]
    with pytest.raises(CheckpointError, match=rf"^the mapping lacks: {re.escape(key)}\. partial=True"):
        maskrcnn.load(theirs)


def test_of_a_layer_that_is_not_there_at_all_our_name_is_told():
    theirs, _ = checkpoint()
    del theirs["backbone.body.layer3.1.conv1.weight"]
    with pytest.raises(CheckpointError, match=r"^the mapping lacks: backbone\.layer3\.1\.conv1\.weight\."):
        maskrcnn.load(theirs)


def test_a_tensor_of_another_shape_is_named_as_in_the_file():
    theirs, _ = checkpoint()
    theirs["backbone.body.layer2.0.conv1.weight"] = torch.zeros(7, 64, 3, 3)
    said = r"does not fit: backbone\.body\.layer2\.0\.conv1\.weight is \[7, 64, 3, 3\], not \[128, 64, 3, 3\]\."
    with pytest.raises(CheckpointError, match=said):
        maskrcnn.load(theirs)


def test_a_predictor_that_disagrees_with_its_bias_is_to_blame():
    theirs, _ = checkpoint()
    theirs["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(5, 16)
    said = r"^the mapping: roi_heads\.box_predictor\.cls_score\.weight has 5 rows, and .*cls_score\.bias has 3\."
    with pytest.raises(CheckpointError, match=said):
        maskrcnn.load(theirs)


def test_names_from_within_a_wrapper_for_several_gpus():
    theirs, ours = checkpoint()
    model = maskrcnn.load({f"module.{key}": tensor for key, tensor in theirs.items()})
    assert model.state_dict().keys() == ours.keys()


def test_an_unknown_format_is_refused():
    with pytest.raises(
        InputError, match=r"format must be one of maskrcnn, torchvision, .*; got 'torchvison'. Did you mean"
    ):
        maskrcnn.load(checkpoint()[0], format="torchvison")


def test_a_pth_file_loads_with_its_wrapping(tmp_path):
    theirs, _ = checkpoint()
    torch.save({"model": theirs, "epoch": torch.tensor(3)}, tmp_path / "c.pth")
    assert maskrcnn.load(tmp_path / "c.pth").config.num_classes == 2
