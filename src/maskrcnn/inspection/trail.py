"""The way of one detection through the network: what `follow` returns, as a table and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from maskrcnn.errors import counted
from maskrcnn.inspection.places import Box


@dataclass(frozen=True)
class AnchorOf:
    """The anchor that a detection began as; numbers count from 0, ranks from 1, and equal scores share a rank."""

    index: int
    """Its number among all anchors."""
    level: str
    stride: int
    row: int
    column: int
    size_number: int
    ratio_number: int
    size: float
    """Square root of its area, input pixels."""
    ratio: float
    """Height over width."""
    box: Box
    """Input frame."""
    box_in_photo: Box
    """May reach over the photo's border."""
    objectness: float
    """Logit."""
    probability: float
    rank_on_level: int
    """By objectness, before NMS."""
    anchors_on_level: int
    rank: int
    anchors: int


@dataclass(frozen=True)
class Removed:
    """A box that NMS took away because of another."""

    box: Box
    """Input frame."""
    box_in_photo: Box
    score: float
    """Probability."""
    iou: float
    """With the box that stayed."""


@dataclass(frozen=True)
class Refinement:
    """A box moved by the network's answer."""

    before: Box
    """Input frame, as are all but the last."""
    deltas: Box
    """(dx, dy, dw, dh) as the network gives them, before they are divided by `delta_weights`."""
    after: Box
    """Clipped."""
    before_in_photo: Box
    after_in_photo: Box


@dataclass(frozen=True, eq=False)
class Crop:
    """What RoIAlign cut out."""

    level: str
    """Which level of the pyramid served it."""
    level_number: float | None
    """FPN, equation 1, before it is rounded to a level there is; None where there is one level only."""
    values: Float[Tensor, "C size size"]

    @property
    def choice(self) -> str:
        """How the level was chosen, in brackets; empty where there is one level only."""
        if self.level_number is None:
            return ""
        return f" (FPN's equation 1 gives {self.level_number:.2f}, then rounded and kept among the levels)"


@dataclass(frozen=True, eq=False)
class ObjectTrail:
    """The way of one detection through the network; boxes are (x1, y1, x2, y2).

    The parts that a network lacks (mask head, keypoint head) are None.
    """

    number: int
    """Its place in `trace.run.detections`, from 0."""
    label: int
    name: str
    score: float
    box: Box
    """Pixels of the photo."""
    anchor: AnchorOf
    proposal: int
    """Which of the proposals it comes from, from 0; they stand best first, so this is its rank after the RPN's NMS."""
    proposals: int
    rpn_refinement: Refinement
    rpn_removed: tuple[Removed, ...]
    """What its box removed in the RPN's NMS, best first."""
    box_crop: Crop
    class_scores: tuple[tuple[str, float], ...]
    """Name and probability of every class and of the background, likeliest first."""
    head_refinement: Refinement
    class_removed: tuple[Removed, ...]
    """What its box removed in the NMS within its class, best first."""
    mask_crop: Crop | None
    mask_logits: Float[Tensor, "M M"] | None
    """Of its class."""
    mask: Bool[Tensor, "H W"] | None
    """In the photo."""
    keypoint_crop: Crop | None
    keypoint_logits: Float[Tensor, "Kp S S"] | None
    keypoints: Float[Tensor, "Kp 3"] | None
    """(x, y, score) in the photo."""

    @property
    def mask_area(self) -> int | None:
        """Pixels of the photo that the mask covers."""
        return None if self.mask is None else int(self.mask.sum())

    def summary(self) -> dict[str, Any]:
        """Return all of it as plain values that JSON takes; of tensors their shapes and ranges."""
        return {
            "number": self.number,
            "label": self.label,
            "name": self.name,
            "score": self.score,
            "box": list(self.box),
            "anchor": _plain(vars(self.anchor)),
            "rpn_refinement": _plain(vars(self.rpn_refinement)),
            "rpn_nms": {
                "rank_after": self.proposal + 1,
                "proposals": self.proposals,
                "removed": [_plain(vars(r)) for r in self.rpn_removed],
            },
            "box_crop": _crop_summary(self.box_crop),
            "class_scores": [{"name": name, "probability": p} for name, p in self.class_scores],
            "head_refinement": _plain(vars(self.head_refinement)),
            "class_nms": {"removed": [_plain(vars(r)) for r in self.class_removed]},
            "mask_crop": _crop_summary(self.mask_crop),
            "mask_logits": _range(self.mask_logits),
            "mask_area": self.mask_area,
            "keypoint_crop": _crop_summary(self.keypoint_crop),
            "keypoint_logits": _range(self.keypoint_logits),
            "keypoints": None if self.keypoints is None else self.keypoints.tolist(),
        }

    def table(self) -> Table:
        """Return the way as a table, a row per step."""
        table = Table(
            title=f"Detection {self.number}: {escape(self.name)} {self.score:.3f}",
            title_justify="left",
            header_style="bold",
        )
        table.add_column("Step", style="bold", no_wrap=True)
        table.add_column("What happened to it", overflow="fold")
        for step, text in self.steps():
            table.add_row(step, escape(text))
        return table

    def steps(self) -> list[tuple[str, str]]:
        """Return the way as pairs of a step's title and a line with its numbers, in order."""
        a, rpn, head = self.anchor, self.rpn_refinement, self.head_refinement
        steps = [
            (
                "Anchor",
                f"number {a.index:,} on {a.level} (stride {a.stride}), row {a.row}, column {a.column}: size "
                f"{a.size:g}, ratio {a.ratio:g}, at {_told(a.box_in_photo)} in the photo",
            ),
            (
                "Objectness",
                f"{a.probability:.3f} (logit {a.objectness:.2f}): rank {a.rank_on_level:,} of {a.anchors_on_level:,} "
                f"on {a.level}, {a.rank:,} of {a.anchors:,} in all",
            ),
            ("Refinement by the RPN", f"{_deltas(rpn)} to {_told(rpn.after_in_photo)}"),
            (
                "NMS of the RPN",
                f"removed {_removed_told(self.rpn_removed)}; is proposal {self.proposal + 1:,} of {self.proposals:,}",
            ),
            ("Crop for class and box", _crop_told(self.box_crop)),
            ("Class scores", ", ".join(f"{name} {p:.3f}" for name, p in self.class_scores[:5])),
            ("Refinement by the head", f"{_deltas(head)} to {_told(head.after_in_photo)}"),
            ("NMS within the class", f"removed {_removed_told(self.class_removed)}"),
        ]
        if self.mask_crop is not None and self.mask_logits is not None:
            low, high = (float(v) for v in self.mask_logits.aminmax())
            size = "{} × {}".format(*self.mask_logits.shape)
            steps += [
                ("Crop for the mask", _crop_told(self.mask_crop)),
                ("Mask logits", f"{size}, from {low:.3g} to {high:.3g}"),
                ("Mask", f"{counted(self.mask_area or 0, 'pixel')} of the photo"),
            ]
        if self.keypoint_crop is not None and self.keypoints is not None:
            steps += [
                ("Crop for the keypoints", _crop_told(self.keypoint_crop)),
                ("Keypoints", f"{counted(len(self.keypoints), 'keypoint')}, the best scores "
                 f"{float(self.keypoints[:, 2].max()):.2f}"),
            ]  # fmt: skip
        return steps


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _crop_summary(crop: Crop | None) -> dict[str, Any] | None:
    if crop is None:
        return None
    return {"level": crop.level, "level_number": crop.level_number, **(_range(crop.values) or {})}


def _range(values: Float[Tensor, "..."] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    low, high = values.aminmax()
    return {"shape": list(values.shape), "min": float(low), "max": float(high)}


def _told(box: Sequence[float]) -> str:
    return "({:.0f}, {:.0f}, {:.0f}, {:.0f})".format(*box)


def _deltas(refinement: Refinement) -> str:
    return "moved by dx {:+.2f}, dy {:+.2f}, dw {:+.2f}, dh {:+.2f}".format(*refinement.deltas)


def _removed_told(removed: Sequence[Removed]) -> str:
    if not removed:
        return "no other box"
    low, high = min(r.iou for r in removed), max(r.iou for r in removed)
    overlap = f"IoU {low:.2f}" if len(removed) == 1 else f"IoU {low:.2f} to {high:.2f}"
    return f"{counted(len(removed), 'box')} ({overlap}, the best scored {removed[0].score:.3f})"


def _crop_told(crop: Crop) -> str:
    channels, height, width = crop.values.shape
    return f"{channels} channels of {height} × {width} from {crop.level}{crop.choice}"
