"""What a report is made of: the network, one run on one photo, and the objects that are told of."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from maskrcnn.drawing import PALETTE
from maskrcnn.inspection.follow import ObjectTrail, follow
from maskrcnn.inspection.pictures import css
from maskrcnn.inspection.places import valid_proposals
from maskrcnn.inspection.report.album import Album
from maskrcnn.inspection.report.layers import Seen
from maskrcnn.inspection.report.overlays import Box
from maskrcnn.inspection.structure import Structure
from maskrcnn.inspection.trace import Run, Summary, Trace

MOST_OBJECTS, FEWEST_OBJECTS = 16, 5
"""At most so many detections are followed; and so many of the best where none reaches the threshold."""
SHOWN_PROPOSALS = 50


@dataclass
class Subject:
    """One photo in one network. Boxes that leave here are in pixels of the photo."""

    structure: Structure
    trace: Trace
    seen: dict[str, Seen]
    threshold: float
    name: str
    """Of the photo."""
    model_name: str
    random: bool
    """Whether the weights are random numbers."""
    album: Album = field(default_factory=Album)

    @property
    def run(self) -> Run:
        """The run: photo, configuration, detections."""
        return self.trace.run

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the photo."""
        return self.run.photo.shape[0], self.run.photo.shape[1]

    @cached_property
    def found(self) -> int:
        """How many detections reach the threshold."""
        assert self.run.detections is not None
        return int((self.run.detections.scores >= self.threshold).sum())

    @cached_property
    def objects(self) -> list[ObjectTrail]:
        """The detections that are followed, best first."""
        assert self.run.detections is not None
        there = len(self.run.detections)
        wanted = min(self.found, MOST_OBJECTS) or min(there, FEWEST_OBJECTS)
        return [follow(self.trace, number) for number in range(wanted)]

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Figures of every stage, by its name."""
        return {row["name"]: row for row in self.trace.summary()}

    @cached_property
    def proposals(self) -> list[tuple[int, Box, float, str]]:
        """The best proposals: number, box, probability and the level that serves it."""
        count = min(int(valid_proposals(self.trace).sum()), SHOWN_PROPOSALS)
        boxes = self.boxes(self.trace["proposals"][0, :count])
        scores = self.trace["proposal_scores"][0, :count].tolist()
        levels = [self.run.roi_levels[k] for k in self.trace["roi_levels"][0, :count].tolist()]
        return list(zip(range(count), boxes, scores, levels, strict=True))

    def boxes(self, boxes: Float[Tensor, "R 4"]) -> list[Box]:
        """Return boxes of the input frame in the photo, clipped to a margin around it."""
        height, width = self.size
        limit = torch.tensor([2 * width, 2 * height] * 2)
        moved = torch.minimum(torch.maximum(self.run.to_photo(boxes.cpu()), -limit / 2), limit)
        return [(x1, y1, x2, y2) for x1, y1, x2, y2 in moved.tolist()]

    def belongs(self, proposal: int) -> str:
        """Return the words by which shapes of a proposal are lit up: the object it became, and its own."""
        objects = [f"object-{trail.number}" for trail in self.objects if trail.proposal == proposal]
        return " ".join([*objects, f"proposal-{proposal}"])

    def color(self, trail: ObjectTrail) -> str:
        """Return the colour of an object, the same in all pictures."""
        return css(PALETTE[trail.number % len(PALETTE)])

    def photo_picture(self, longest: int = 1280) -> Image.Image:
        """Return the photo for the page, reduced where it is large."""
        picture = Image.fromarray(self.run.photo)
        picture.thumbnail((longest, longest))
        return picture
