"""Names of keypoints, and what follows from them: the side each is on, and which two change places in a mirror."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

COCO_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
"""COCO's 17 keypoints of a person, in the order of its annotation files."""

COCO_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
"""COCO's limbs, as pairs of places in `COCO_KEYPOINTS`."""

Side = Literal["left", "right"] | None

_SIDES = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))


def moved(keypoints: Float[Tensor, "n Kp 3"], by: float) -> Float[Tensor, "n Kp 3"]:
    """Return (x, y, v) of keypoints with x and y moved, where v is not 0, as for what is not labelled."""
    return torch.cat((keypoints[..., :2] + by * (keypoints[..., 2:] != 0), keypoints[..., 2:]), dim=-1)


def mirrored_order(names: Sequence[str]) -> list[int]:
    """Return where each keypoint of a mirrored image comes from: what is left becomes right.

    Example:
        >>> mirrored_order(["nose", "left_eye", "right_eye"])
        [0, 2, 1]
    """
    places = {name: place for place, name in enumerate(names)}
    return [places.get(_opposite(name), place) for place, name in enumerate(names)]


def side_of(name: str) -> Side:
    """Return the side that a keypoint's name tells, None for one in the middle.

    Example:
        >>> [side_of(name) for name in ("nose", "left_eye", "right_eye")]
        [None, 'left', 'right']
    """
    for left, right in _SIDES:
        if left in name:
            return "left"
        if right in name:
            return "right"
    return None


def _opposite(name: str) -> str:
    for left, right in _SIDES:
        if left in name:
            return name.replace(left, right)
        if right in name:
            return name.replace(right, left)
    return name
