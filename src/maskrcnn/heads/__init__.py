"""Part 4: the heads, which answer for each crop: which class, which box, which pixels, which keypoints."""

from __future__ import annotations

from maskrcnn.heads.box import BoxHead, SampledRoIs
from maskrcnn.heads.keypoint import KeypointHead
from maskrcnn.heads.mask import MaskHead

__all__ = ["BoxHead", "KeypointHead", "MaskHead", "SampledRoIs"]
