"""Part 1: the backbone, an image in and feature maps c1 … c5 out, and the FPN on top of it."""

from __future__ import annotations

from maskrcnn.backbones.fpn import FPN, SingleScale
from maskrcnn.backbones.resnet import ResNet, Stage
from maskrcnn.backbones.vgg import VGG

__all__ = ["FPN", "VGG", "ResNet", "SingleScale", "Stage"]
