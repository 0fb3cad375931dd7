"""The RPN's proposals: its best anchors, what their deltas make of them, and what NMS leaves."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from maskrcnn.drawing import color
from maskrcnn.errors import InputError
from maskrcnn.inspection.pictures.canvas import Box, Sketch, legend, stacked
from maskrcnn.inspection.pictures.colors import heat, level_color, scale_bar
from maskrcnn.inspection.pictures.views import NothingToShowError, boxes_in_photo, photo_view, rois_of, stage_of
from maskrcnn.inspection.trace import Trace

Which = Literal["before_refinement", "before_nms", "after"]


def proposals(trace: Trace, which: Which = "after", top: int = 30, max_side: int = 1000) -> Image.Image:
    """Return the best proposals on the photo, coloured by their probability of an object, the best on top.

    Args:
        trace: of a whole run.
        which: `before_refinement` are the anchors with the greatest objectness; `before_nms` the same moved by their
            deltas and cut to the image; `after` what NMS leaves.
        top: how many.
        max_side: as in `photo_view`.

    Raises:
        InputError: `which` is unknown, or `top` is not positive.
    """
    boxes, scores = _ranked(trace, which, top)
    photo, scale = photo_view(trace, max_side)
    sketch = Sketch(photo)
    inks = heat(scores[None].double().numpy(), 0.0, 1.0)[0].tolist()
    for box, ink in reversed(list(zip(boxes_in_photo(trace, boxes, scale), inks, strict=True))):
        sketch.box(box, (ink[0], ink[1], ink[2]), width=2.0)
    return stacked([sketch.finished(), scale_bar(photo.width, "0", "1", "probability of an object")])


def refinement(trace: Trace, top: int = 8, max_side: int = 1000) -> Image.Image:
    """Return how the best proposals came about: dashed the anchor, solid what its deltas made of it.

    Args:
        trace: of a whole run.
        top: how many of the proposals that NMS leaves, best first.
        max_side: as in `photo_view`.
    """
    places = _places(trace, top)
    before = stage_of(trace, "proposals_before_refinement")[0, places]
    after = stage_of(trace, "proposals_before_nms")[0, places]
    photo, scale = photo_view(trace, max_side)
    return moves(photo, boxes_in_photo(trace, before, scale), boxes_in_photo(trace, after, scale))


def moves(photo: Image.Image, before: list[Box], after: list[Box], labels: list[str] | None = None) -> Image.Image:
    """Return boxes before (dashed) and after (solid) a refinement, with arrows from corner to corner."""
    sketch = Sketch(photo)
    pairs = list(zip(before, after, strict=True))
    for number, (old, new) in reversed(list(enumerate(pairs))):
        ink = color(number)
        sketch.box(old, ink, 1.5, "dashed")
        sketch.box(new, ink, 2.5)
        for x, y in ((0, 1), (2, 3)):
            sketch.arrow((old[x], old[y]), (new[x], new[y]), ink, 2.0)
    for number, new in reversed(list(enumerate(after))):
        if labels:
            sketch.label((new[0], new[1] - 20), labels[number], color(number))
    return sketch.finished()


def proposals_by_level(trace: Trace, top: int = 50, max_side: int = 1000) -> Image.Image:
    """Return the best proposals in the colour of the level that their crops are cut from, with a legend.

    Args:
        trace: of a whole run.
        top: how many of the proposals that NMS leaves, best first; the legend counts these.
        max_side: as in `photo_view`.
    """
    _positive(top)
    rois = rois_of(trace)
    chosen = rois.valid.nonzero()[:top, 0]
    numbers = stage_of(trace, "roi_levels")[0, chosen].tolist()
    names = trace.run.roi_levels
    photo, scale = photo_view(trace, max_side)
    sketch = Sketch(photo)
    boxes = boxes_in_photo(trace, rois.boxes[chosen], scale)
    for box, number in reversed(list(zip(boxes, numbers, strict=True))):
        sketch.box(box, level_color(names[number]), 2.0)
    entries = [(level_color(name), f"{name}: {numbers.count(k)}") for k, name in enumerate(names)]
    return stacked([sketch.finished(), legend(entries, photo.width)])


def _ranked(trace: Trace, which: Which, top: int) -> tuple[Float[Tensor, "R 4"], Float[Tensor, " R"]]:
    """Return boxes and probabilities of the best proposals, the best first."""
    if which == "after":
        places = _places(trace, top)
    elif which in ("before_refinement", "before_nms"):
        _positive(top)
        scores = stage_of(trace, "top_scores")[0]
        places = scores.topk(min(top, len(scores)))[1]
        places = places[scores[places].isfinite()]
    else:
        raise InputError(f"which must be 'before_refinement', 'before_nms' or 'after'; got {which!r}.")
    stage = "proposals_before_refinement" if which == "before_refinement" else "proposals_before_nms"
    boxes = stage_of(trace, stage)[0, places]
    scores = stage_of(trace, "top_scores")[0, places].sigmoid()
    finite = boxes.isfinite().all(-1)
    return boxes[finite], scores[finite]


def _places(trace: Trace, top: int) -> Int64[Tensor, " R"]:
    """Return which of the boxes before NMS the best proposals are.

    Raises:
        NothingToShowError: there is no proposal.
    """
    _positive(top)
    places = stage_of(trace, "proposal_places")[0]
    kept = stage_of(trace, "top_kept")[0][places]
    chosen: Tensor = places[kept][:top]
    if not len(chosen):
        raise NothingToShowError("The RPN proposes nothing in this photo.")
    return chosen.to(torch.int64)


def _positive(top: int) -> None:
    if top < 1:
        raise InputError(f"top must be at least 1; got {top}.")
