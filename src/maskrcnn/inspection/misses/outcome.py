"""What became of a true object: found, or lost at one of the stages that every object must pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from maskrcnn.inspection.places import Box

Stage = Literal[
    "no_anchor",
    "rpn_box",
    "rpn_score",
    "rpn_too_small",
    "rpn_nms",
    "rpn_cut",
    "background",
    "other_class",
    "score",
    "box",
    "too_small",
    "class_nms",
    "cut",
    "taken",
    "mask",
    "found",
]
Size = Literal["small", "medium", "large"]

SIZES: dict[Size, str] = {"small": "under 32² pixels", "medium": "32² to 96²", "large": "96² and more"}
"""COCO's sizes, by the area of the object in the photo."""


class StageText(NamedTuple):
    """How a stage is called."""

    title: str
    """In tables: what happened."""
    short: str
    """On pictures."""


STAGES: dict[Stage, StageText] = {
    "no_anchor": StageText("no anchor overlaps it enough", "no anchor"),
    "rpn_box": StageText("the RPN's boxes miss it", "RPN boxes miss"),
    "rpn_score": StageText("scored too low by the RPN", "RPN score too low"),
    "rpn_too_small": StageText("its proposals are under rpn.min_size", "proposal too small"),
    "rpn_nms": StageText("removed by the RPN's NMS", "RPN NMS"),
    "rpn_cut": StageText("cut by rpn.post_nms_top_n", "proposals cut"),
    "background": StageText("classified as background", "background"),
    "other_class": StageText("classified as something else", "other class"),
    "score": StageText("under the score threshold", "score too low"),
    "box": StageText("the head's box misses it", "head's box misses"),
    "too_small": StageText("its box is under box.min_size", "box too small"),
    "class_nms": StageText("removed by NMS within its class", "class NMS"),
    "cut": StageText("cut by box.detections_per_image", "detections cut"),
    "taken": StageText("one detection covers two objects", "shares a detection"),
    "mask": StageText("found, but the mask misses", "mask misses"),
    "found": StageText("found", "found"),
}
"""In the order of the network."""


@dataclass(frozen=True)
class ObjectOutcome:
    """What became of one true object."""

    index: int
    """Its place in the target, from 0."""
    label: int
    name: str
    box: Box
    """In the photo."""
    area: float
    """Pixels of the photo: what the annotations say, else those of the mask, else those of the box."""
    stage: Stage
    """Where it was lost; `found` if it was not."""
    sentence: str
    """What happened there, with the numbers."""
    advice: str
    """What would help; empty for what was found."""
    detection: int | None
    """The detection that found it, from 0, also where its mask misses."""
    numbers: dict[str, Any]
    """The sentence's numbers and some more, as plain values."""

    @property
    def found(self) -> bool:
        """Whether it was found, mask and all."""
        return self.stage == "found"

    @property
    def size(self) -> Size:
        """Its size by COCO's areas."""
        return "small" if self.area < 32**2 else "medium" if self.area < 96**2 else "large"

    def summary(self) -> dict[str, Any]:
        """Return it as plain values that JSON takes."""
        return {
            "object": self.index,
            "name": self.name,
            "box": list(self.box),
            "area": self.area,
            "size": self.size,
            "stage": self.stage,
            "detection": self.detection,
            "sentence": self.sentence,
            "advice": self.advice,
            "numbers": self.numbers,
        }


class Loss(NamedTuple):
    """Where an object was lost, what happened, and the numbers."""

    stage: Stage
    sentence: str
    numbers: dict[str, Any]
