"""The mask head (Mask R-CNN, figure 4) and its loss."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from maskrcnn.config import MaskHeadConfig
from maskrcnn.heads.box import SampledRoIs
from maskrcnn.layers import ConvNorm, init_layer, init_predictor
from maskrcnn.ops.masks import crop_masks
from maskrcnn.stages import records_all_slots, stage
from maskrcnn.structures import TargetBatch

MASK_STD = 0.001
"""Standard deviation of the predictor's first weights."""


class MaskPredictor(nn.Conv2d):
    """A 1 × 1 convolution to a mask for every class, or, told the class of each crop, to that one alone."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes, 1)

    def forward(
        self, features: Float[Tensor, "R C M M"], labels: Int64[Tensor, " R"] | None = None
    ) -> Float[Tensor, "R *Km M M"]:
        """Return mask logits; with labels [R, M, M], a product with the kernel of each crop's class."""
        if labels is None:
            return super().forward(features)
        assert self.bias is not None
        labels = labels.clamp(max=self.out_channels - 1)
        kernels, bias = self.weight.flatten(1).index_select(0, labels), self.bias.index_select(0, labels)
        masks = torch.bmm(kernels[:, None], features.flatten(2))
        return masks.reshape(features.shape[0], *features.shape[2:]) + bias[:, None, None]


class MaskHead(nn.Module):
    """A small fully convolutional network: one mask per class, twice as fine as the crop."""

    def __init__(self, config: MaskHeadConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        widths = [in_channels] + [config.channels] * config.num_convs
        self.convs = nn.Sequential(*(ConvNorm(a, b, 3, config.norm, config.norm_eps) for a, b in pairwise(widths)))
        self.deconv = nn.ConvTranspose2d(widths[-1], config.channels, 2, stride=2)
        self.predictor = MaskPredictor(config.channels, 1 if config.class_agnostic else num_classes)
        init_layer(self.deconv)
        init_predictor(self.predictor, std=MASK_STD)

    def forward(
        self, crops: Float[Tensor, "R C size size"], labels: Int64[Tensor, " R"] | None = None
    ) -> Float[Tensor, "R *Km M M"]:
        """Return mask logits for every class (or one, class-agnostic); with labels, of each crop's class alone.

        The masks of all 1,203 classes of LVIS on 100 crops would be 377 MB, and take longer than the rest of the head.
        """
        features = F.relu(self.deconv(self.convs(crops)))
        if labels is None:
            return self.predictor(features).float()
        if not records_all_slots():
            return stage("mask_logits", self.predictor(features, labels).float())
        with torch.no_grad():
            stage("mask_logits", self.predictor(features).float())
        return self.predictor.forward(features, labels).float()  # past hooks, which have seen all classes

    def loss(
        self,
        mask_logits: Float[Tensor, "NF M M"],
        rois: SampledRoIs,
        targets: TargetBatch,
        aligned: bool,
    ) -> Float[Tensor, ""]:
        """Return the mean binary cross-entropy of the positive RoIs, of the masks of their own class (section 3)."""
        size = mask_logits.shape[-1]
        wanted = crop_masks(targets.masks, rois.matched_gt, rois.boxes, size, aligned)
        if self.config.binary_targets:
            wanted = (wanted >= 0.5).to(mask_logits.dtype)
        stage("mask_targets", wanted)
        positive = rois.positive.flatten()
        per_roi = F.binary_cross_entropy_with_logits(mask_logits, wanted, reduction="none").sum((1, 2))
        count = positive.sum().clamp(min=1) * size**2
        return stage("loss_mask", torch.where(positive, per_roi, 0.0).sum() / count)
