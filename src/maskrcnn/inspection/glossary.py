"""What every stage is: the part it belongs to, its axes and what it holds, in the order of the figure."""

from __future__ import annotations

import fnmatch
from typing import NamedTuple

from maskrcnn.inspection.parts import PartName


class StageInfo(NamedTuple):
    """A stage's part, the names of its axes, and what it is in a few words."""

    part: PartName
    axes: str
    """One word per axis: a letter of the glossary in `structures`, or what the entries of a fixed axis are."""
    what: str


_CANDIDATES = "the best (RoI, class) pairs"
_T = "the best anchors of each level"

STAGES: dict[str, StageInfo] = {
    "image": StageInfo("input", "N C H W", "what the network sees: resized, normalised, padded"),
    "image_meta": StageInfo("input", "N meta", "size of the photo, place and scale in the input"),
    **{f"c{k}": StageInfo("backbone", "N C H W", f"the backbone's feature map at stride {2**k}") for k in range(1, 6)},
    **{f"p{k}": StageInfo("backbone", "N C H W", f"the pyramid's level at stride {2**k}") for k in range(2, 7)},
    "anchors": StageInfo("rpn", "A xyxy", "boxes of every size and ratio at every cell"),
    "rpn_objectness": StageInfo("rpn", "N A", "the logit of an object at every anchor"),
    "rpn_deltas": StageInfo("rpn", "N A deltas", "how to move every anchor onto its object"),
    "top_anchors": StageInfo("rpn", "N T", f"{_T}, as numbers of anchors"),
    "top_scores": StageInfo("rpn", "N T", "their objectness, −inf in slots that a small level leaves"),
    "proposals_before_refinement": StageInfo("rpn", "N T xyxy", _T),
    "proposals_before_nms": StageInfo("rpn", "N T xyxy", "the same boxes moved by their deltas, and clipped"),
    "top_kept": StageInfo("rpn", "N T", "which of them NMS keeps"),
    "proposal_places": StageInfo("rpn", "N P", "which of them each proposal is"),
    "proposals": StageInfo("rpn", "N P xyxy", "what is left after NMS, best first"),
    "proposal_scores": StageInfo("rpn", "N P", "the probability of an object in each proposal"),
    "sampled_rois": StageInfo("training", "N S xyxy", "proposals and ground truth drawn to train the heads on"),
    "sampled_rois_gt": StageInfo("training", "N S", "the ground truth that each overlaps most"),
    "sampled_rois_positive": StageInfo("training", "N S", "which of them are positive"),
    "sampled_rois_valid": StageInfo("training", "N S", "which slots hold a RoI"),
    "roi_levels": StageInfo("roi_align", "N R", "which level of the pyramid serves each RoI, 0 the finest"),
    "box_features": StageInfo("roi_align", "NR C y x", "the crop of every RoI for the class and box head"),
    "class_logits": StageInfo("heads", "NR K1", "a logit for every class, background last"),
    "box_deltas": StageInfo("heads", "NR Kb deltas", "how to move every RoI onto its object, for every class"),
    "candidate_rois": StageInfo("heads", "N Q", f"{_CANDIDATES}: the RoI"),
    "candidate_labels": StageInfo("heads", "N Q", f"{_CANDIDATES}: the class"),
    "candidate_scores": StageInfo("heads", "N Q", f"{_CANDIDATES}: the probability"),
    "detections_before_nms": StageInfo("heads", "N Q xyxy", "their boxes, refined and clipped"),
    "candidates_kept": StageInfo("heads", "N Q", "which of them pass the threshold and NMS"),
    "detection_places": StageInfo("heads", "N D", "which of them each detection is"),
    "detections": StageInfo("heads", "N D xyxy·label·score", "what was found, best first; zeros in free slots"),
    "mask_roi_levels": StageInfo("roi_align", "N R", "which level serves each detection's mask"),
    "mask_features": StageInfo("roi_align", "NR C y x", "the crop of every detection for the mask head"),
    "mask_logits": StageInfo("heads", "NR Km y x", "a mask for every class, in the frame of the detection's box"),
    "keypoint_features": StageInfo("roi_align", "NR C y x", "the crop of every detection for the keypoint head"),
    "keypoint_logits": StageInfo("heads", "NR Kp y x", "a heatmap for every keypoint"),
    "masks": StageInfo("output", "D height width", "each detection's mask pasted on the photo"),
    "keypoints": StageInfo("output", "D Kp x·y·score", "each detection's keypoints on the photo"),
    "matched_gt": StageInfo("training", "N A", "the ground truth that each anchor overlaps most"),
    "matched_positive": StageInfo("training", "N A", "which anchors learn to say object"),
    "matched_negative": StageInfo("training", "N A", "which learn to say background; the rest is left out"),
    "sampled_anchors": StageInfo("training", "N S", "the anchors drawn for the RPN's losses, positives first"),
    "sampled_anchors_valid": StageInfo("training", "N S", "which slots hold an anchor"),
    "mask_targets": StageInfo("training", "NR y x", "what the mask head should have said of each positive RoI"),
    "loss_rpn_objectness": StageInfo("training", "", "loss of the RPN's objectness"),
    "loss_rpn_box": StageInfo("training", "", "loss of the RPN's deltas"),
    "loss_class": StageInfo("training", "", "loss of the class head"),
    "loss_box": StageInfo("training", "", "loss of the box head"),
    "loss_mask": StageInfo("training", "", "loss of the mask head"),
    "loss_keypoint": StageInfo("training", "", "loss of the keypoint head"),
    "loss": StageInfo("training", "", "their sum"),
}
"""Every stage there can be. T: the best anchors of all levels, Q: candidates; other letters as in `structures`."""

ALIASES = {
    "input_image": "image",
    "input_image_meta": "image_meta",
    **{f"fpn_p{k}": f"p{k}" for k in range(2, 7)},
    "rpn_class_logits": "rpn_objectness",
    "rpn_bbox": "rpn_deltas",
    "ROI": "proposals",
    "roi_align_classifier": "box_features",
    "mrcnn_class_logits": "class_logits",
    "mrcnn_bbox": "box_deltas",
    "mrcnn_detection": "detections",
    "roi_align_mask": "mask_features",
    "mrcnn_mask": "mask_logits",
}
"""Matterport's layer names for our stages."""

_FIXED = ("xyxy", "deltas", "meta", "xyxy·label·score", "x·y·score")


def axes_of(name: str, rank: int) -> tuple[str, ...]:
    """Return the names of a stage's or a module's axes; of an unknown number of axes, none.

    Example:
        >>> axes_of("p4", 4), axes_of("box_head.fcs.0", 2)
        (('N', 'C', 'H', 'W'), ('NR', 'features'))
    """
    info = STAGES.get(name)
    if info is not None:
        axes = tuple(info.axes.split())
    elif fnmatch.fnmatchcase(name, "*_head*") or "roi_align" in name or name.startswith("stage5"):
        axes = {2: ("NR", "features"), 4: ("NR", "C", "y", "x")}.get(rank, ())
    else:
        axes = {2: ("N", "features"), 4: ("N", "C", "H", "W")}.get(rank, ())
    return axes if len(axes) == rank else ()


def named_shape(name: str, shape: tuple[int, ...]) -> str:
    """Return a shape with its axes' names.

    Example:
        >>> named_shape("rpn_deltas", (1, 261888, 4)), named_shape("loss", ())
        ('N 1 × A 261888 × 4 deltas', 'scalar')
    """
    axes = axes_of(name, len(shape)) or ("",) * len(shape)
    both = (f"{n} {axis}" if axis in _FIXED else f"{axis} {n}".strip() for axis, n in zip(axes, shape, strict=True))
    return " × ".join(both) or "scalar"
