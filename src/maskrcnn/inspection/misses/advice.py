"""What would help against a kind of loss, from the numbers of the objects that were lost so."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from maskrcnn.config import Config
from maskrcnn.inspection.misses.outcome import Stage

Numbers = Sequence[dict[str, Any]]
"""Those of one `ObjectOutcome` each."""


def advise(stage: Stage, lost: Numbers, config: Config) -> str:
    """Return what to change, in one or two sentences; empty for what was found.

    Args:
        stage: where the objects were lost.
        lost: `numbers` of one object or of several.
        config: of the network.
    """
    if stage == "no_anchor":
        return _anchors(lost, config)
    if stage == "other_class":
        names = ", ".join(dict.fromkeys(str(n["taken_for"]) for n in lost))
        return (
            f"Check the labels of such objects; if they are right, train on more objects of both classes (seen as: "
            f"{names})."
        )
    if stage == "background":
        best = max(n["placed_score"] for n in lost)
        which = "it" if len(lost) == 1 else "the likeliest"
        hint = (
            f" A score threshold of {_floored(best)} would show {which}." if best > config.box.score_threshold else ""
        )
        return (
            "Train longer, or on more objects like it; check that all of its kind are annotated: those that are not "
            f"teach background.{hint}"
        )
    if stage == "score":
        return _score(lost, config)
    if stage == "taken":
        return _taken(lost, config)
    if stage == "rpn_nms":
        return _nms(lost, "rpn.nms_threshold", config.rpn.nms_threshold)
    if stage == "class_nms":
        return _nms(lost, "box.nms_threshold", config.box.nms_threshold)
    return _PLAIN.get(stage, "").format(
        pre=config.rpn.pre_nms_top_n,
        post=config.rpn.post_nms_top_n,
        limit=lost[0].get("limit", ""),
        limited_to=lost[0].get("limited_to", ""),
        mask=2 * config.mask.pool_size,
    )


_PLAIN: dict[Stage, str] = {
    "rpn_box": "Train longer, or on more objects of this size and shape: the RPN has not learned to fit them.",
    "rpn_score": "Train longer, or on more objects like it; until then an rpn.pre_nms_top_n over {pre} lets more boxes "
    "through, at the cost of time.",
    "rpn_too_small": "Lower rpn.min_size.",
    "rpn_cut": "Raise rpn.post_nms_top_n over {post}.",
    "box": "Train longer, or on more objects like it; check that their boxes are annotated tightly.",
    "too_small": "Lower box.min_size.",
    "cut": "Raise {limit} over {limited_to}.",
    "mask": "Train longer, and check the outlines in the annotations; what is thin next to its box needs more than "
    "{mask} × {mask} cells: a larger mask.pool_size.",
}


def _anchors(lost: Numbers, config: Config) -> str:
    """Compare the objects' sizes and shapes in the input with those of the anchors."""
    sizes = sorted(size for level in config.anchors.sizes for size in level)
    ratios = sorted(config.anchors.ratios)
    side, ratio = median(n["side"] for n in lost), median(n["ratio"] for n in lost)
    these = f"the object is {side:.0f} px" if len(lost) == 1 else f"these objects are {side:.0f} px (median)"
    if side < sizes[0]:
        return (
            f"anchors.sizes start at {sizes[0]:g} px in the input, and {these}: use smaller anchors.sizes, or a larger "
            f"image.min_size (now {config.image.min_size}), and train again."
        )
    if side > sizes[-1]:
        return (
            f"anchors.sizes end at {sizes[-1]:g} px in the input, and {these}: use larger anchors.sizes, or a smaller "
            f"image.max_size (now {config.image.max_size}), and train again."
        )
    if not ratios[0] / 1.4 <= ratio <= ratios[-1] * 1.4:
        shape = f"{ratio:.1f} times as high as wide" if ratio > 1 else f"{1 / ratio:.1f} times as wide as high"
        return (
            f"anchors.ratios are {ratios[0]:g} to {ratios[-1]:g}, and {'it is' if len(lost) == 1 else 'these are'} "
            f"{shape}: add such a ratio to anchors.ratios, and train again."
        )
    return (
        f"Anchors have {', '.join(f'{s:g}' for s in sizes)} px, and {these}: add sizes between to anchors.sizes, and "
        "train again."
    )


def _nms(lost: Numbers, field: str, threshold: float) -> str:
    """A box of a neighbour is kept by a higher threshold; one on the same object that fits worse must not win."""
    neighbours = sum(n["remover_object"] is not None for n in lost)
    if neighbours:
        some = "" if neighbours == len(lost) else f" (so were {neighbours} of these lost)"
        return f"Objects lie close together: raise {field} over {threshold:g}, so that boxes of neighbours stay{some}."
    return "Train longer, so that what fits better also scores higher: here a box that fits worse won."


def _taken(lost: Numbers, config: Config) -> str:
    own = sum(n["own_iou"] is not None for n in lost)
    begin = "Objects lie close together: train on more such groups"
    if not own:
        return f"{begin}; the network has no box for each of them."
    some = "" if own == len(lost) else f" ({own} of these had a box of their own)"
    return f"{begin}, and raise box.nms_threshold over {config.box.nms_threshold:g}, so that each keeps its box{some}."


def _score(lost: Numbers, config: Config) -> str:
    best, lowest = max(n["score"] for n in lost), min(n["score"] for n in lost)
    own = config.box.score_threshold
    if best <= own:
        return (
            f"Lower box.score_threshold (now {own:g}): --set box.score_threshold={_floored(lowest)}; or train longer."
        )
    which = "it" if len(lost) == 1 else "all of them"
    also = "" if lowest > own else f" and a box.score_threshold under {own:g}"
    return f"A score threshold of {_floored(lowest)}{also} would show {which}; training longer raises scores."


def _floored(score: float) -> str:
    """Return a threshold that a score passes, to two digits."""
    digits = 2 if score >= 0.02 else 4
    return f"{max(int(score * 10**digits - 1e-9), 0) / 10**digits:g}"
