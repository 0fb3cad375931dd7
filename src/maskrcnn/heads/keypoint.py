"""The keypoint head (Mask R-CNN, section 5) and its loss."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.config import KeypointHeadConfig
from maskrcnn.heads.box import SampledRoIs
from maskrcnn.layers import ConvNorm, init_predictor
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.keypoints import heatmap_targets
from maskrcnn.stages import stage
from maskrcnn.structures import TargetBatch

KEYPOINT_STD = 0.001
"""Standard deviation of the predictor's first weights."""


class KeypointHead(nn.Module):
    """A small fully convolutional network: one heatmap per keypoint, four times as fine as the crop."""

    def __init__(self, config: KeypointHeadConfig, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.config = config
        self.in_channels = in_channels
        widths = [in_channels] + [config.channels] * config.num_convs
        self.convs = nn.Sequential(*(ConvNorm(a, b, 3, "none", 0.0) for a, b in pairwise(widths)))
        self.deconv = nn.ConvTranspose2d(widths[-1], num_keypoints, 4, stride=2, padding=1)
        init_predictor(self.deconv, std=KEYPOINT_STD)

    def forward(self, crops: Float[Tensor, "R C size size"]) -> Float[Tensor, "R Kp S S"]:
        """Return heatmap logits; the last doubling is bilinear."""
        heatmaps = self.deconv(self.convs(crops))
        return F.interpolate(heatmaps, scale_factor=2.0, mode="bilinear", align_corners=False).float()

    def loss(
        self, keypoint_logits: Float[Tensor, "NF Kp S S"], rois: SampledRoIs, targets: TargetBatch
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy over a heatmap's cells, mean over the visible keypoints in the positive RoIs."""
        assert targets.keypoints is not None  # checked at the door
        wanted = box_ops.gather_rows(targets.keypoints, rois.matched_gt).flatten(0, 1)
        cells, valid = heatmap_targets(wanted, rois.boxes.flatten(0, 1), keypoint_logits.shape[-1])
        valid = valid & rois.positive.flatten()[:, None]
        per_keypoint = F.cross_entropy(keypoint_logits.flatten(2).flatten(0, 1), cells.flatten(), reduction="none")
        count = valid.sum().clamp(min=1)
        return stage("loss_keypoint", torch.where(valid.flatten(), per_keypoint, 0.0).sum() / count)
