"""Finding one's way in a trace: which slot holds a detection, where an anchor stands, which box removed which."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import InputError
from maskrcnn.inspection.trace import Run, Trace
from maskrcnn.ops import boxes as box_ops

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2)."""


def plain_box(box: Float[Tensor, "4"]) -> Box:
    """Return a box as four plain numbers."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return x1, y1, x2, y2


def need(trace: Trace, names: tuple[str, ...]) -> None:
    """Raise `InputError` unless the trace is of a run without targets and holds all these stages."""
    if trace.run.detections is None:
        raise InputError("This trace is of a run of training, which finds nothing; trace the photo without targets.")
    missing = [name for name in names if name not in trace]
    if missing:
        raise InputError(
            f"The trace lacks the stage{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            "make it with model.trace(photo), without stages=…."
        )


def only(trace: Trace, name: str) -> Tensor:
    """Return a stage of a trace's one image, without the axis of images, on the CPU."""
    return trace[name][0].cpu()


def boxes_as_found(boxes: Float[Tensor, "R 4"], run: Run) -> Float[Tensor, "R 4"]:
    """Return boxes of the input frame as `predict` gives them: pixels of the photo, clipped, rounded if configured."""
    height, width = run.photo.shape[:2]
    found = box_ops.clip(run.to_photo(boxes)[None], torch.tensor([[0, 0, width, height]]), "edges")[0]
    return found.round() if run.config.box.round_boxes else found


def detection_slots(trace: Trace) -> Int64[Tensor, " D"]:
    """Return the slot of `detections`, `mask_features` … that holds each of `trace.run.detections`.

    Free slots, and boxes that are empty in the photo, are none of them.
    """
    kept = only(trace, "candidates_kept")[only(trace, "detection_places")]
    boxes = boxes_as_found(only(trace, "detections")[:, :4], trace.run)
    return (kept & box_ops.large_enough(boxes, 0.0)).nonzero()[:, 0]


class AnchorPlace(NamedTuple):
    """Where an anchor stands: its level, its cell there, and which of the cell's anchors it is, all from 0."""

    level: str
    row: int
    column: int
    size_number: int
    ratio_number: int
    first: int
    """Number of the level's first anchor."""
    total: int
    """Anchors of the level."""


def level_maps(trace: Trace) -> dict[str, tuple[int, int]]:
    """Return (height, width) of the feature map of every level that the RPN looks at, finest first."""
    return {name: (int(trace[name].shape[-2]), int(trace[name].shape[-1])) for name in trace.run.strides}


def anchor_place(index: int, maps: dict[str, tuple[int, int]], config: Config) -> AnchorPlace:
    """Return the place of an anchor, by its number among all.

    Args:
        index: its number.
        maps: what `level_maps` returns.
        config: of the network.

    Example:
        >>> config = Config.preset(class_names=["cat"])  # one size and three ratios on each level
        >>> place = anchor_place(3 * 64 + 4, {"p5": (8, 8), "p6": (4, 4)}, config)
        >>> place.level, place.row, place.column, place.ratio_number
        ('p6', 0, 1, 1)
    """
    per_cell, ratios = config.anchors.per_cell, len(config.anchors.ratios)
    first = 0
    for level, (height, width) in maps.items():
        count = height * width * per_cell
        if index < first + count:
            cell, k = divmod(index - first, per_cell)
            return AnchorPlace(level, cell // width, cell % width, k // ratios, k % ratios, first, count)
        first += count
    raise InputError(f"There is no anchor {index}; there are {first}.")


class NMSList(NamedTuple):
    """Boxes that NMS compared with each other, best first."""

    boxes: Float[Tensor, "R 4"]
    valid: Bool[Tensor, " R"]
    """Which took part."""
    kept: Bool[Tensor, " R"]
    threshold: float

    def overlaps(self, place: int) -> Float[Tensor, " R"]:
        """Return every box's IoU with one of them."""
        return box_ops.iou(self.boxes[place : place + 1], self.boxes)[0]

    def remover_of(self, place: int) -> int | None:
        """Return the place of the box that removed another: the best that was kept and overlaps it too much."""
        before = self.kept[:place].nonzero()[:, 0]
        overlaps = box_ops.iou(self.boxes[place : place + 1], self.boxes[before])[0]
        over = (overlaps > self.threshold).nonzero()[:, 0]
        return int(before[over[0]]) if len(over) else None

    def removed_by(self, place: int) -> list[int]:
        """Return the places of the boxes that one removed, best first; each was removed by one alone."""
        removed = self.valid & ~self.kept & (self.overlaps(place) > self.threshold)
        removed[: place + 1] = False
        return [other for other in removed.nonzero()[:, 0].tolist() if self.remover_of(other) == place]


def valid_proposals(trace: Trace) -> Bool[Tensor, " P"]:
    """Return which of the slots for proposals hold one."""
    return only(trace, "top_kept")[only(trace, "proposal_places")]


def rpn_list(trace: Trace, place: int) -> tuple[NMSList, int]:
    """Return the list that NMS of the RPN went through for one of its T boxes, and where that box stands in it."""
    config = trace.run.config.rpn
    scores, boxes = only(trace, "top_scores"), only(trace, "proposals_before_nms")
    lists = len(trace.run.strides) if config.per_level else 1
    length = len(scores) // lists
    begin = place // length * length
    part = slice(begin, begin + length)
    valid = box_ops.large_enough(boxes[part], config.min_size) & scores[part].isfinite()
    return NMSList(boxes[part], valid, only(trace, "top_kept")[part], config.nms_threshold), place - begin


def class_list(trace: Trace, label: int) -> tuple[NMSList, Int64[Tensor, " R"]]:
    """Return the list that NMS within a class went through, and which of the candidates stand in it."""
    config = trace.run.config.box
    members = (only(trace, "candidate_labels") == label).nonzero()[:, 0]
    boxes, scores = only(trace, "detections_before_nms")[members], only(trace, "candidate_scores")[members]
    valid = (scores > config.score_threshold) & box_ops.large_enough(boxes, config.min_size)
    return NMSList(boxes, valid, only(trace, "candidates_kept")[members], config.nms_threshold), members


def level_number(box: Float[Tensor, "4"], config: Config) -> float | None:
    """Return what equation 1 of FPN gives for a box of the input frame, before it is rounded to a level there is.

    None for a box without area, and for a network with one level, which needs no choice.
    """
    side = float(box_ops.area(box).clamp(min=0).sqrt())
    if config.fpn is None or side == 0:
        return None
    rule = config.roi_align
    return rule.canonical_level + float(torch.log2(torch.tensor(side / rule.canonical_size)))
