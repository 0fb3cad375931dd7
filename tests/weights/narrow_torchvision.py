"""A narrow network as torchvision saves it."""

import re

import torch

from maskrcnn import Config, MaskRCNN

NARROW = {"backbone.depth": 18, "backbone.width": 64, "fpn.channels": 256, "box.fc_channels": 16}


def checkpoint(classes=2, masks=True, **overrides):
    """A state dict in torchvision's names and layout, made from a network of ours by the reverse renaming."""
    names = [f"c{k}" for k in range(classes)]
    config = Config.preset("resnet18-fpn", class_names=names, overrides={**NARROW, "masks": masks, **overrides})
    ours = MaskRCNN(config).state_dict()
    theirs = {}
    for name, tensor in ours.items():
        key = _their_name(name)
        if "class_logits" in name:
            tensor = tensor.roll(1, dims=0)
        if "box_deltas" in name:
            tensor = torch.cat((torch.zeros_like(tensor[:4]), tensor))
        if "mask_head.predictor" in name:
            tensor = torch.cat((torch.zeros_like(tensor[:1]), tensor))
        theirs[key] = tensor
    return theirs, ours


def _their_name(name):
    rules = [
        (r"backbone\.", "backbone.body."),
        (r"fpn\.lateral(\d)\.conv", lambda m: f"backbone.fpn.inner_blocks.{int(m[1]) - 2}.0"),
        (r"fpn\.output(\d)\.conv", lambda m: f"backbone.fpn.layer_blocks.{int(m[1]) - 2}.0"),
        (r"rpn\.convs\.(\d)", r"rpn.head.conv.\1.0"),
        (r"rpn\.objectness", "rpn.head.cls_logits"),
        (r"rpn\.deltas", "rpn.head.bbox_pred"),
        (r"box_head\.fcs\.0", "roi_heads.box_head.fc6"),
        (r"box_head\.fcs\.1", "roi_heads.box_head.fc7"),
        (r"box_head\.class_logits", "roi_heads.box_predictor.cls_score"),
        (r"box_head\.box_deltas", "roi_heads.box_predictor.bbox_pred"),
        (r"mask_head\.convs\.(\d)\.conv", r"roi_heads.mask_head.\1.0"),
        (r"mask_head\.deconv", "roi_heads.mask_predictor.conv5_mask"),
        (r"mask_head\.predictor", "roi_heads.mask_predictor.mask_fcn_logits"),
    ]
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub("^" + pattern, replacement, name)
    raise AssertionError(name)
