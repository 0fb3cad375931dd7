"""Part 2: the Region Proposal Network (Faster R-CNN, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from maskrcnn.anchors import cell_corners, make_anchors
from maskrcnn.config import AnchorConfig, BoxCorners, RPNConfig
from maskrcnn.layers import init_predictor
from maskrcnn.matching import draw_sample, match
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.nms import nms
from maskrcnn.stages import is_recording, stage
from maskrcnn.structures import ImageBatch, Proposals, TargetBatch


class RPNOutput(NamedTuple):
    """The RPN's answer at every anchor of every level, finest level first; boxes in the input frame."""

    anchors: Float[Tensor, "A 4"]
    objectness: Float[Tensor, "N A"]
    deltas: Float[Tensor, "N A 4"]
    level_sizes: tuple[int, ...]
    """How many of the A anchors each level has."""
    maps: tuple[Float[Tensor, "N C _H _W"], ...] | None = None
    """The features of each level, where the answers carry no gradient and those learnt from are computed anew."""


class RPN(nn.Module):
    """A small network slid over the features: at each anchor, is there an object, and where exactly?"""

    def __init__(
        self,
        config: RPNConfig,
        anchors: AnchorConfig,
        in_channels: int,
        strides: Mapping[str, int],
        corners: BoxCorners = "edges",
    ) -> None:
        super().__init__()
        self.config = config
        self.corners: BoxCorners = corners
        self.anchor_config = anchors
        self.strides = dict(strides)
        self.cells = [cell_corners(anchors, level, stride) for level, stride in enumerate(strides.values())]
        widths = [in_channels] + [config.channels] * config.num_convs
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.objectness = nn.Conv2d(config.channels, anchors.per_cell, 1)
        self.deltas = nn.Conv2d(config.channels, anchors.per_cell * 4, 1)
        for layer in (*self.convs, self.objectness, self.deltas):
            init_predictor(layer, std=0.01)

    def forward(
        self, features: Mapping[str, Float[Tensor, "N C _H _W"]], images: ImageBatch, training: bool = False
    ) -> RPNOutput:
        """Return anchors, objectness logits and box deltas of all levels.

        In training the answers carry no gradient where the losses need but a few of them: see `at`.
        """
        maps = [features[name] for name in self.strides]
        anchors = make_anchors(
            self.anchor_config,
            [(m.shape[2], m.shape[3]) for m in maps],
            list(self.strides.values()),
            (images.tensor.shape[2], images.tensor.shape[3]),
            images.tensor.device,
            self.corners,
            self.cells,
        )
        all_anchors = stage("anchors", torch.cat(anchors))
        few = training and len(self.convs) == 1
        with torch.no_grad() if few else nullcontext():
            heads = [self._head(m) for m in maps]
        return RPNOutput(
            all_anchors,
            stage("rpn_objectness", torch.cat([objectness for objectness, _ in heads], dim=1)),
            stage("rpn_deltas", torch.cat([deltas for _, deltas in heads], dim=1)),
            tuple(a.shape[0] for a in anchors),
            tuple(maps) if few else None,
        )

    def _head(self, x: Float[Tensor, "N C H W"]) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N A 4"]]:
        for conv in self.convs:
            x = F.relu(conv(x))
        objectness = self.objectness(x).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4)
        return objectness.float(), deltas.float()

    def at(
        self,
        maps: Sequence[Float[Tensor, "N C _H _W"]],
        level_sizes: Sequence[int],
        chosen: Int64[Tensor, "N S"],
    ) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N S 4"]]:
        """Return logits and deltas of chosen anchors alone, of an RPN with one convolution.

        Of hundreds of thousands of anchors a few hundred are learnt from. Each answer depends on 3 × 3 cells, so these
        suffice, and the gradient need not go back through a convolution over all of the features.
        """
        per_cell = self.anchor_config.per_cell
        anchor = (chosen % per_cell)[..., None]
        # Weights and biases are views here: autocast would take its copies from the pass without gradients.
        [conv] = self.convs
        assert isinstance(conv, nn.Conv2d)
        patches = _around(maps, level_sizes, chosen // per_cell, per_cell)
        x = F.relu(F.linear(patches, conv.weight.permute(0, 2, 3, 1).flatten(1), _view(conv.bias)))
        logits = F.linear(x, self.objectness.weight.flatten(1), _view(self.objectness.bias))
        deltas = F.linear(x, self.deltas.weight.flatten(1), _view(self.deltas.bias))
        deltas = deltas.reshape(*chosen.shape, per_cell, 4)
        deltas = deltas.gather(2, anchor[..., None].expand(*anchor.shape, 4))
        return logits.gather(2, anchor)[..., 0].float(), deltas[:, :, 0].float()

    def propose(self, output: RPNOutput, images: ImageBatch, training: bool) -> Proposals:
        """Return the best boxes of each image, near-duplicates removed (Faster R-CNN, section 3.3; FPN, 4.1)."""
        config = self.config
        pre_nms, post_nms = config.pre_nms_top_n, config.post_nms_top_n
        if training:
            pre_nms, post_nms = config.pre_nms_top_n_training, config.post_nms_top_n_training
        level_sizes = output.level_sizes if config.per_level else (sum(output.level_sizes),)
        scores, index = _top_of_each_level(output.objectness.detach(), level_sizes, pre_nms)
        levels, most = index.shape[1:]  # [N, L, most]: levels with fewer anchors repeat their first with −inf
        flat = stage("top_anchors", index.flatten(1))
        scores = stage("top_scores", scores.flatten(1))
        reference = stage("proposals_before_refinement", output.anchors[flat])
        deltas = box_ops.gather_rows(output.deltas.detach(), flat)
        boxes = box_ops.decode(reference, deltas, config.delta_weights, config.max_log_scale)
        boxes = stage("proposals_before_nms", box_ops.clip(boxes, images.windows(config.clip), self.corners))
        valid = box_ops.large_enough(boxes, config.min_size) & scores.isfinite()
        keep = nms(boxes.reshape(-1, most, 4), valid.reshape(-1, most), config.nms_threshold)
        keep = stage("top_kept", keep.reshape(-1, levels * most))
        best, order = scores.masked_fill(~keep, float("-inf")).topk(min(post_nms, levels * most))
        stage("proposal_places", order)
        kept = best.isfinite()
        return Proposals(
            stage("proposals", torch.where(kept[..., None], box_ops.gather_rows(boxes, order), 0.0)),
            stage("proposal_scores", best.sigmoid()),
            kept,
        )

    def losses(self, output: RPNOutput, targets: TargetBatch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the losses on objectness and on deltas (Faster R-CNN, equation 1)."""
        config = self.config
        anchors = output.anchors.expand(len(targets.boxes), -1, 4)
        everywhere = torch.ones(anchors.shape[:2], dtype=torch.bool, device=anchors.device)
        matches = match(anchors, everywhere, targets.boxes, targets.valid, config.matching)
        if is_recording():
            stage("matched_gt", matches.matched_gt)
            stage("matched_positive", matches.positive)
            stage("matched_negative", matches.negative)
        sample = draw_sample(matches, config.matching)
        stage("sampled_anchors", sample.chosen)
        stage("sampled_anchors_valid", sample.valid)
        if output.maps is not None:
            logits, deltas = self.at(output.maps, output.level_sizes, sample.chosen)
        else:
            logits = box_ops.gather_rows(output.objectness, sample.chosen)
            deltas = box_ops.gather_rows(output.deltas, sample.chosen)
        truth = sample.positive.to(logits.dtype)
        per_anchor = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        count = sample.valid.sum().clamp(min=1)
        if config.loss.normalizer == "configured":
            count = torch.full_like(count, config.matching.samples_per_image * len(anchors))
        objectness = (per_anchor * sample.valid).sum() / count

        gt = box_ops.gather_rows(targets.boxes, box_ops.gather_rows(matches.matched_gt, sample.chosen))
        wanted = box_ops.encode(box_ops.gather_rows(anchors, sample.chosen), gt, config.delta_weights)
        per_box = F.smooth_l1_loss(deltas, wanted, reduction="none", beta=config.loss.beta).sum(-1)
        return stage("loss_rpn_objectness", objectness), stage(
            "loss_rpn_box", torch.where(sample.positive, per_box, 0.0).sum() / count
        )


def _view(bias: Tensor | None) -> Tensor:
    assert bias is not None
    return bias.view(-1)


def _around(
    maps: Sequence[Float[Tensor, "N C _H _W"]], level_sizes: Sequence[int], cells: Int64[Tensor, "N S"], per_cell: int
) -> Float[Tensor, "N S C9"]:
    """Return the features in the 3 × 3 cells around each of these, row by row; 0 outside the map.

    Cells are counted over all maps, row by row within each.
    """
    step = torch.arange(3, device=cells.device) - 1
    patches, begin = torch.zeros((), dtype=maps[0].dtype, device=cells.device), 0
    for m, size in zip(maps, level_sizes, strict=True):
        height, width = m.shape[2:]
        cell = cells - begin
        there = (cell >= 0) & (cell < size // per_cell)
        cell = cell.clamp(0, size // per_cell - 1)
        y, x = (cell // width)[..., None, None] + step[:, None], (cell % width)[..., None, None] + step
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & there[..., None, None]
        index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)
        rows = box_ops.gather_rows(m.permute(0, 2, 3, 1).flatten(1, 2), index)
        patches = patches + torch.where(inside.reshape(*index.shape, 1), rows, 0.0)
        begin += size // per_cell
    return patches.reshape(*cells.shape, -1)


def _top_of_each_level(
    objectness: Float[Tensor, "N A"], level_sizes: tuple[int, ...], pre_nms: int
) -> tuple[Float[Tensor, "N L most"], Int64[Tensor, "N L most"]]:
    """Return the best `pre_nms` anchors of each level, best first, and their indices among all anchors.

    Where a level has fewer, its first anchor stands for those missing, with a score of −inf.
    """
    compiled = torch.compiler.is_compiling()  # then sizes may be unknown, and how many are taken may not depend on them
    most = pre_nms if compiled else min(pre_nms, max(level_sizes))
    scores, indices = [], []
    begin = 0
    for size in level_sizes:
        missing = most if compiled else max(most - size, 0)
        level = F.pad(objectness[:, begin : begin + size], (0, missing), value=float("-inf"))
        best, index = level.topk(most)
        scores.append(best)
        indices.append(torch.where(index < size, index, 0) + begin)
        begin += size
    return torch.stack(scores, dim=1), torch.stack(indices, dim=1)
