"""The class and box head (Mask R-CNN, figure 4), its losses, and detections from its answers."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from maskrcnn.config import BoxCorners, BoxHeadConfig
from maskrcnn.layers import ConvNorm, init_layer, init_predictor
from maskrcnn.matching import draw_sample, match
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops import stand_ins
from maskrcnn.ops.nms import nms
from maskrcnn.stages import is_recording, stage
from maskrcnn.structures import ImageBatch, Proposals, TargetBatch

CLASS_STD, BOX_STD = 0.01, 0.001
"""Standard deviations of the predictors' first weights (Fast R-CNN, section 2.3)."""


class SampledRoIs(NamedTuple):
    """Proposals drawn for training, positives first; `matched_gt` is meaningful for positives alone."""

    boxes: Float[Tensor, "N S 4"]
    matched_gt: Int64[Tensor, "N S"]
    positive: Bool[Tensor, "N S"]
    valid: Bool[Tensor, "N S"]


class Found(NamedTuple):
    """Detections before masks: boxes in the input frame, best first, padded where not `valid`."""

    boxes: Float[Tensor, "N D 4"]
    labels: Int64[Tensor, "N D"]
    scores: Float[Tensor, "N D"]
    valid: Bool[Tensor, "N D"]


class BoxHead(nn.Module):
    """Convolutions (if any), fully connected layers (if any, else the mean of the crop), two predictors."""

    def __init__(
        self,
        config: BoxHeadConfig,
        in_channels: int,
        crop_size: int,
        num_classes: int,
        corners: BoxCorners = "edges",
    ) -> None:
        super().__init__()
        self.config = config
        self.corners: BoxCorners = corners
        self.num_classes = num_classes
        convs = [in_channels] + [config.conv_channels] * config.num_convs
        self.convs = nn.Sequential(*(ConvNorm(a, b, 3, config.norm, config.norm_eps) for a, b in pairwise(convs)))
        pooled = convs[-1] * crop_size**2 if config.num_fcs else convs[-1]
        widths = [pooled] + [config.fc_channels] * config.num_fcs
        self.fcs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.class_logits = nn.Linear(widths[-1], num_classes + 1)
        self.box_deltas = nn.Linear(widths[-1], 4 * (1 if config.class_agnostic else num_classes))
        for fc in self.fcs:
            init_layer(fc)  # type: ignore[arg-type]
        init_predictor(self.class_logits, std=CLASS_STD)
        init_predictor(self.box_deltas, std=BOX_STD)

    def forward(self, crops: Float[Tensor, "R C size size"]) -> tuple[Float[Tensor, "R K1"], Float[Tensor, "R Kb 4"]]:
        """Return class logits, background last, and box deltas per class (or one, class-agnostic)."""
        x = self.convs(crops)
        x = x.flatten(1) if self.fcs else x.mean((2, 3))
        for fc in self.fcs:
            x = F.relu(fc(x))
        return self.class_logits(x).float(), self.box_deltas(x).unflatten(1, (-1, 4)).float()

    def sample(self, proposals: Proposals, targets: TargetBatch) -> SampledRoIs:
        """Draw the RoIs to train on; the ground-truth boxes join the proposals (Fast R-CNN, section 2.3)."""
        boxes = torch.cat((proposals.boxes, targets.boxes), dim=1)
        valid = torch.cat((proposals.valid, targets.valid), dim=1)
        matches = match(boxes, valid, targets.boxes, targets.valid, self.config.matching)
        drawn = draw_sample(matches, self.config.matching)
        return SampledRoIs(
            stage("sampled_rois", box_ops.gather_rows(boxes, drawn.chosen)),
            stage("sampled_rois_gt", box_ops.gather_rows(matches.matched_gt, drawn.chosen)),
            stage("sampled_rois_positive", drawn.positive),
            stage("sampled_rois_valid", drawn.valid),
        )

    def losses(
        self,
        class_logits: Float[Tensor, "NS K1"],
        box_deltas: Float[Tensor, "NS Kb 4"],
        rois: SampledRoIs,
        targets: TargetBatch,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the losses on classes and on boxes (Fast R-CNN, equations 1 to 3)."""
        positive, valid = rois.positive.flatten(), rois.valid.flatten()
        count = valid.sum().clamp(min=1)
        labels = box_ops.gather_rows(targets.labels, rois.matched_gt).flatten()
        labels = labels.masked_fill(~positive, self.num_classes)  # background is the last channel
        class_loss = (F.cross_entropy(class_logits, labels, reduction="none") * valid).sum() / count

        gt = box_ops.gather_rows(targets.boxes, rois.matched_gt)
        wanted = box_ops.encode(rois.boxes, gt, self.config.delta_weights).reshape(-1, 4)
        deltas = of_class(box_deltas, labels)
        per_box = F.smooth_l1_loss(deltas, wanted, reduction="none", beta=self.config.loss.beta).sum(-1)
        box_loss = torch.where(positive, per_box, 0.0).sum() / count
        return stage("loss_class", class_loss), stage("loss_box", box_loss)

    def detections(
        self,
        class_logits: Float[Tensor, "NP K1"],
        box_deltas: Float[Tensor, "NP Kb 4"],
        proposals: Proposals,
        images: ImageBatch,
    ) -> Found:
        """Return the best boxes over all classes, after NMS within each class (Mask R-CNN, section 3.1)."""
        config = self.config
        num_images, num_proposals = proposals.valid.shape
        scores = class_logits.softmax(-1)
        if config.classes_per_roi == "best":
            scores = torch.where(scores == scores.amax(-1, keepdim=True), scores, 0.0)
        scores = scores[:, :-1].reshape(num_images, num_proposals, -1)
        if config.classes_per_roi == "all":
            scores = torch.where(proposals.valid[..., None], scores, 0.0)
        scores = scores.flatten(1)
        slots = min(config.detections_per_image, scores.shape[1])
        scores, pair = _candidates(scores, config, slots)
        roi = stage("candidate_rois", pair // self.num_classes)
        labels = stage("candidate_labels", pair % self.num_classes)
        stage("candidate_scores", scores)
        box_deltas = box_deltas.reshape(num_images, num_proposals, -1, 4)
        column = torch.zeros_like(labels) if config.class_agnostic else labels
        deltas = box_ops.gather_rows(box_deltas.flatten(1, 2), roi * box_deltas.shape[2] + column)
        boxes = box_ops.decode(
            box_ops.gather_rows(proposals.boxes, roi), deltas, config.delta_weights, config.max_log_scale
        )
        boxes = stage("detections_before_nms", box_ops.clip(boxes, images.windows(), self.corners))
        valid = (scores > config.score_threshold) & box_ops.large_enough(boxes, config.min_size)
        enough = None if is_recording() else slots  # who records asks what became of every candidate
        keep = stage("candidates_kept", nms(boxes, valid, config.nms_threshold, groups=labels, enough=enough))
        ranked = torch.where(keep, scores, -1.0)
        best, order = ranked.topk(slots)
        found = best >= 0
        stage("detection_places", order)
        detections = Found(
            torch.where(found[..., None], box_ops.gather_rows(boxes, order), 0.0),
            box_ops.gather_rows(labels, order) * found,
            best.clamp(min=0),
            found,
        )
        if is_recording():
            whole = (detections.boxes, detections.labels[..., None], detections.scores[..., None])
            stage("detections", torch.cat(whole, dim=-1))
        return detections


def _candidates(
    scores: Float[Tensor, "N PK"], config: BoxHeadConfig, at_least: int
) -> tuple[Float[Tensor, "N candidates"], Int64[Tensor, "N candidates"]]:
    """Return scores and places of the (RoI, class) pairs that enter NMS, best first.

    They are a fixed number or, on an eager CPU and in ONNX, whose shapes may depend on values, all that score enough.
    """
    if stand_ins.exporting():
        return stand_ins.top_above(scores, config.score_threshold, at_least)
    wanted = max(config.candidates, at_least)
    if not torch.compiler.is_compiling() and scores.device.type == "cpu" and len(scores):
        wanted = max(wanted, int((scores > config.score_threshold).sum(1).max()))
    best, pair = scores.topk(min(wanted, scores.shape[1]))
    return best, pair


def of_class(per_class: Float[Tensor, "R K *rest"], labels: Int64[Tensor, " R"]) -> Float[Tensor, "R *rest"]:
    """Return each row's entry for its label; of the only one, if there is one for all classes."""
    index = labels.clamp(max=per_class.shape[1] - 1)
    return per_class[torch.arange(per_class.shape[0], device=labels.device), index]
