"""A photo with its true objects: which were found, and at which stage the others were lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from maskrcnn.drawing import RGB, overlay, target_as_detections
from maskrcnn.inspection.misses.outcome import STAGES, ObjectOutcome
from maskrcnn.inspection.pictures.canvas import Sketch, captioned, stacked
from maskrcnn.inspection.pictures.colors import PAPER
from maskrcnn.structures import Target

FOUND: RGB = (0x23, 0xAC, 0x6A)
MISSED: RGB = (0xDF, 0x24, 0x14)
REMOVER: RGB = (255, 255, 255)
SIDE = 640
"""Small photos are enlarged to about this."""
MOST_SENTENCES = 12


def miss_picture(photo: UInt8[np.ndarray, "H W 3"], target: Target, outcomes: Sequence[ObjectOutcome]) -> Image.Image:
    """Return the photo with its true objects, green where found and red where missed, above what became of the missed.

    A box that removed an object's box in NMS is dashed.

    Args:
        photo: RGB.
        target: its objects, in the frame of the photo.
        outcomes: what `explain` said of them.
    """
    names = {outcome.label: outcome.name for outcome in outcomes}
    class_names = [names.get(label, "") for label in range(max(names, default=-1) + 1)]
    ordered = sorted(outcomes, key=lambda outcome: outcome.found)  # the missed lie on top
    chosen = target.select(torch.tensor([outcome.index for outcome in ordered], dtype=torch.int64))
    scale = max(1, SIDE // max(photo.shape[:2]))
    drawn = overlay(
        photo,
        target_as_detections(chosen, (photo.shape[0], photo.shape[1]), class_names),
        alpha=0.3,
        scale=scale,
        colors=[FOUND if outcome.found else MISSED for outcome in ordered],
        texts=[_chip(outcome) for outcome in ordered],
    )
    removers = [outcome.numbers["removed_by"] for outcome in ordered if "removed_by" in outcome.numbers]
    if removers:
        sketch = Sketch(drawn)
        for x1, y1, x2, y2 in removers:
            sketch.box((x1 * scale, y1 * scale, x2 * scale, y2 * scale), REMOVER, style="dashed")
        drawn = sketch.finished()
    return _told(drawn, [outcome for outcome in outcomes if not outcome.found])


def _chip(outcome: ObjectOutcome) -> str:
    what = "" if outcome.found else f": {STAGES[outcome.stage].short}"
    return f"{outcome.index} {outcome.name}{what}"


def _told(drawn: Image.Image, missed: Sequence[ObjectOutcome]) -> Image.Image:
    """Return a picture with the sentences on what was missed below it."""
    size = max(14, round(drawn.width / 60))
    texts = [f"{outcome.index} {outcome.name}: {outcome.sentence}" for outcome in missed[:MOST_SENTENCES]]
    if len(missed) > MOST_SENTENCES:
        texts.append(f"And {len(missed) - MOST_SENTENCES} more.")
    blank = Image.new("RGB", (max(drawn.width - 2 * size, 1), 1), PAPER)
    lines = [captioned(blank, text, size) for text in texts]
    below = Image.new("RGB", (drawn.width, sum(line.height for line in lines) + size), PAPER)
    y = size // 2
    for line in lines:
        below.paste(line, (size, y))
        y += line.height
    return stacked([drawn, below]) if texts else drawn
