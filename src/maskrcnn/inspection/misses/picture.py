"""A photo with its true objects: which were found, and at which stage the others were lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from maskrcnn.drawing import RGB, overlay, target_as_detections
from maskrcnn.inspection.misses.outcome import STAGES, ObjectOutcome
from maskrcnn.structures import Target

FOUND: RGB = (0x23, 0xAC, 0x6A)
MISSED: RGB = (0xDF, 0x24, 0x14)
SIDE = 640
"""Small photos are enlarged to about this."""


def miss_picture(photo: UInt8[np.ndarray, "H W 3"], target: Target, outcomes: Sequence[ObjectOutcome]) -> Image.Image:
    """Return the photo with its true objects, green where found and red where missed, with the stage.

    Args:
        photo: RGB.
        target: its objects, in the frame of the photo.
        outcomes: what `explain` said of them.
    """
    names = {outcome.label: outcome.name for outcome in outcomes}
    class_names = [names.get(label, "") for label in range(max(names, default=-1) + 1)]
    ordered = sorted(outcomes, key=lambda outcome: outcome.found)  # the missed lie on top
    chosen = target.select(torch.tensor([outcome.index for outcome in ordered], dtype=torch.int64))
    return overlay(
        photo,
        target_as_detections(chosen, (photo.shape[0], photo.shape[1]), class_names),
        alpha=0.3,
        scale=max(1, SIDE // max(photo.shape[:2])),
        colors=[FOUND if outcome.found else MISSED for outcome in ordered],
        texts=[
            outcome.name if outcome.found else f"{outcome.name}: {STAGES[outcome.stage].short}" for outcome in ordered
        ],
    )
