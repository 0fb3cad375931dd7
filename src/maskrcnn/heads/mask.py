"""The mask head (Mask R-CNN, figure 4) and its loss."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.config import MaskHeadConfig
from maskrcnn.heads.box import SampledRoIs, of_class
from maskrcnn.layers import ConvNorm, init_layer, init_predictor
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.masks import crop_masks
from maskrcnn.stages import stage
from maskrcnn.structures import TargetBatch

MASK_STD = 0.001
"""Standard deviation of the predictor's first weights."""


class MaskHead(nn.Module):
    """A small fully convolutional network: one mask per class, twice as fine as the crop."""

    def __init__(self, config: MaskHeadConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        widths = [in_channels] + [config.channels] * config.num_convs
        self.convs = nn.Sequential(*(ConvNorm(a, b, 3, config.norm, config.norm_eps) for a, b in pairwise(widths)))
        self.deconv = nn.ConvTranspose2d(widths[-1], config.channels, 2, stride=2)
        self.predictor = nn.Conv2d(config.channels, 1 if config.class_agnostic else num_classes, 1)
        init_layer(self.deconv)
        init_predictor(self.predictor, std=MASK_STD)

    def forward(self, crops: Float[Tensor, "R C size size"]) -> Float[Tensor, "R Km M M"]:
        """Return mask logits for every class (or one, class-agnostic)."""
        return self.predictor(F.relu(self.deconv(self.convs(crops)))).float()

    def loss(
        self,
        mask_logits: Float[Tensor, "NF Km M M"],
        rois: SampledRoIs,
        targets: TargetBatch,
        aligned: bool,
    ) -> Float[Tensor, ""]:
        """Return the mean binary cross-entropy of the positive RoIs' own class (Mask R-CNN, section 3)."""
        size = mask_logits.shape[-1]
        labels = box_ops.gather_rows(targets.labels, rois.matched_gt).flatten()
        logits = of_class(mask_logits, labels)
        wanted = crop_masks(targets.masks, rois.matched_gt, rois.boxes, size, aligned)
        if self.config.binary_targets:
            wanted = (wanted >= 0.5).to(logits.dtype)
        stage("mask_targets", wanted)
        positive = rois.positive.flatten()
        per_roi = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum((1, 2))
        count = positive.sum().clamp(min=1) * size**2
        return stage("loss_mask", torch.where(positive, per_roi, 0.0).sum() / count)
