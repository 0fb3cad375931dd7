"""What a traced run and the truth say together: every object beside proposals, scores and detections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskrcnn.batching import resize_target
from maskrcnn.config import Config
from maskrcnn.heads.box import of_class
from maskrcnn.inspection.places import boxes_as_found, detection_slots, need, only, valid_proposals
from maskrcnn.inspection.trace import Run, Trace
from maskrcnn.ops import boxes as box_ops
from maskrcnn.structures import Detections, Target

NEEDED = (
    *("anchors", "rpn_objectness", "rpn_deltas", "top_anchors", "top_scores", "proposals_before_nms", "top_kept"),
    *("proposal_places", "proposals", "class_logits", "box_deltas", "candidate_rois", "candidate_labels"),
    *("candidate_scores", "detections_before_nms", "candidates_kept", "detection_places", "detections"),
)


class Limits(NamedTuple):
    """What counts as found."""

    score: float
    """Least score of a detection."""
    iou: float
    """Least IoU of a detection's box with the object's."""
    mask_iou: float
    """Least IoU of its mask with the object's."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """A traced run beside the true objects of its photo, on the CPU."""

    trace: Trace
    target: Target
    """Without crowds."""
    limits: Limits

    def __post_init__(self) -> None:
        need(self.trace, NEEDED)

    @property
    def run(self) -> Run:
        """The run that was traced."""
        return self.trace.run

    @property
    def config(self) -> Config:
        """The network's."""
        return self.trace.run.config

    @property
    def detections(self) -> Detections:
        """What was found, of every score."""
        assert self.run.detections is not None  # need() makes sure
        return self.run.detections

    @property
    def roi_iou(self) -> float:
        """IoU from which a proposal is on an object: what the head was trained with, or less if less is asked for."""
        return min(self.limits.iou, self.config.box.matching.positive_iou)

    @cached_property
    def truth(self) -> Float[Tensor, "G 4"]:
        """The objects' boxes in the input frame, with corners as the network has them."""
        height, width = self.run.photo.shape[:2]
        rows, columns = (int(v) for v in self.run.batch.sizes[0])
        bare = Target(boxes=self.target.boxes, labels=self.target.labels)
        boxes = resize_target(bare, (height, width), (rows, columns), self.config.image.resize).boxes
        boxes = boxes + self.run.batch.starts[0].flip(-1).repeat(2)
        return box_ops.move_ends(boxes, -1.0) if self.config.box_corners == "centers" else boxes

    @cached_property
    def proposals(self) -> Float[Tensor, "P 4"]:
        """All slots."""
        return only(self.trace, "proposals")

    @cached_property
    def valid(self) -> Bool[Tensor, " P"]:
        """Which slots hold a proposal."""
        return valid_proposals(self.trace)

    @cached_property
    def proposal_overlaps(self) -> Float[Tensor, "G P"]:
        """IoU of every object with every proposal, 0 in free slots."""
        return overlaps(self.truth, self.proposals).masked_fill(~self.valid, 0.0)

    @cached_property
    def probabilities(self) -> Float[Tensor, "P K1"]:
        """Of every class, background last."""
        return self.trace["class_logits"].softmax(-1).cpu()

    @cached_property
    def likeliest(self) -> Int64[Tensor, " P"]:
        """The likeliest class of each proposal; K for background."""
        return self.probabilities.argmax(-1)

    def scores(self, label: int) -> Float[Tensor, " P"]:
        """Return what the box head makes of every proposal's probability of a class: 0 where it leaves it out."""
        scores = self.probabilities[:, label]
        if self.config.box.classes_per_roi == "best":
            scores = torch.where(scores == self.probabilities.amax(-1), scores, 0.0)
        return scores.masked_fill(~self.valid, 0.0)

    def confident(self, scores: Float[Tensor, "*b"]) -> Bool[Tensor, "*b"]:
        """Return which scores pass both the configuration's threshold and the one that was asked for."""
        return (scores > self.config.box.score_threshold) & (scores >= self.limits.score)

    def refined(self, label: int) -> Float[Tensor, "P 4"]:
        """Return every proposal's box as refined for a class, as it would be found in the photo."""
        config = self.config.box
        deltas = self.trace["box_deltas"].float().cpu()
        deltas = of_class(deltas, torch.full((len(deltas),), label))
        boxes = box_ops.decode(self.proposals, deltas, config.delta_weights, config.max_log_scale)
        clipped = box_ops.clip(boxes[None], self.run.batch.windows(), self.config.box_corners)[0]
        boxes = boxes_as_found(clipped, self.run)
        found = self.detections.labels == label  # to the last bit what was found
        rois = only(self.trace, "candidate_rois")[only(self.trace, "detection_places")[detection_slots(self.trace)]]
        boxes[rois[found]] = self.detections.boxes[found]
        return boxes

    @cached_property
    def anchors(self) -> Float[Tensor, "A 4"]:
        """All anchors, input frame."""
        return self.trace["anchors"].cpu()

    @cached_property
    def objectness(self) -> Float[Tensor, " A"]:
        """Every anchor's logit."""
        return only(self.trace, "rpn_objectness")

    @cached_property
    def moved_anchors(self) -> Float[Tensor, "A 4"]:
        """All anchors as the RPN refines them, clipped; input frame."""
        rpn = self.config.rpn
        boxes = box_ops.decode(self.anchors, only(self.trace, "rpn_deltas"), rpn.delta_weights, rpn.max_log_scale)
        boxes = box_ops.clip(boxes[None], self.run.batch.windows(rpn.clip), self.config.box_corners)[0]
        taken = only(self.trace, "top_scores").isfinite()  # to the last bit what NMS saw
        boxes[only(self.trace, "top_anchors")[taken]] = only(self.trace, "proposals_before_nms")[taken]
        return boxes

    @cached_property
    def top_places(self) -> Int64[Tensor, " A"]:
        """Every anchor's place among the T that entered NMS, −1 for those that did not."""
        places = torch.full((len(self.anchors),), -1)
        taken = only(self.trace, "top_scores").isfinite().nonzero()[:, 0]
        places[only(self.trace, "top_anchors")[taken]] = taken
        return places

    def nearest(self, box: Float[Tensor, "4"], boxes: Float[Tensor, "G 4"]) -> tuple[int, float]:
        """Return which of the objects' `boxes` a box overlaps most, and by how much."""
        best, index = overlaps(box[None], boxes)[0].max(0)
        return int(index), float(best)

    def called(self, g: int) -> str:
        """Return what sentences call an object."""
        return f"object {g} ({self.config.class_names[int(self.target.labels[g])]})"


def overlaps(a: Float[Tensor, "R 4"], b: Float[Tensor, "G 4"]) -> Float[Tensor, "R G"]:
    """Return the IoU of every box with every other; 0 where a network gave NaN."""
    return box_ops.iou(a, b).nan_to_num(0.0)
