"""What the steps that look at values do in a program that is compiled for a CPU of this machine.

Such a program runs beside Python, so it can take the ways of an eager run: NMS looks at pairs of near boxes alone, and
as many candidates enter it as score enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.ops.nms import sweep

_BODIES = torch.library.Library("maskrcnn", "IMPL")  # type: ignore[no-untyped-call]


def _nms(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None, enough: int | None) -> Tensor:
    return sweep(boxes, valid, threshold, groups, enough)


def _top_above(scores: Tensor, threshold: float, at_least: int) -> tuple[Tensor, Tensor]:
    count = max(int((scores > threshold).sum(1).max()), at_least)
    best, place = scores.topk(count)
    return best, place


_BODIES.impl("nms", _nms, "CPU")  # type: ignore[no-untyped-call]
_BODIES.impl("top_above", _top_above, "CPU")  # type: ignore[no-untyped-call]
