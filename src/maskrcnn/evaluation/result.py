"""What an evaluation found: COCO's figures, as numbers, as JSON and as tables."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rich.console import Group
from rich.table import Table

from maskrcnn.errors import counted

FIGURES: dict[str, str] = {
    "AP": "mean over IoU 0.50 … 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects, under 32² pixels",
    "APm": "medium objects",
    "APl": "large objects, over 96² pixels",
    "AR1": "1 detection per image",
    "AR10": "10 detections per image",
    "AR100": "100 detections per image",
    "ARs": "small objects",
    "ARm": "medium objects",
    "ARl": "large objects",
}
"""COCO's twelve figures in its order, with their meaning; AP is average precision, AR average recall."""

KEYPOINT_FIGURES: dict[str, str] = {
    "AP": "mean over OKS 0.50 … 0.95",
    "AP50": "OKS 0.50",
    "AP75": "OKS 0.75",
    "APm": "medium objects, 32² to 96² pixels",
    "APl": "large objects",
    "AR": "20 detections per image",
    "AR50": "OKS 0.50",
    "AR75": "OKS 0.75",
    "ARm": "medium objects",
    "ARl": "large objects",
}
"""COCO's ten keypoint figures; OKS, object keypoint similarity, takes the place of IoU."""

Figures = dict[str, float | None]


@dataclass(frozen=True)
class EvaluationResult:
    """COCO's figures, each from 0 to 1; None where no object is there to measure it on.

    `mask` is None for a network without masks, `keypoint` for one without keypoints. `per_class` maps a class name to
    its AP under `box` and `mask`, and its AP50 under `box50` and `mask50`. Crowd regions are not among `num_objects`.
    """

    box: Figures
    mask: Figures | None
    per_class: dict[str, Figures]
    num_images: int
    num_objects: int
    num_detections: int
    keypoint: Figures | None = None

    def parts(self) -> dict[str, Figures]:
        """Return the figures of what was measured, by its name."""
        return {name: found for name in ("box", "mask", "keypoint") if (found := getattr(self, name)) is not None}

    def to_json(self) -> str:
        """Return all figures as JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def table(self) -> Table:
        """Return the twelve figures of boxes and masks, in percent as papers print them."""
        table = _table(f"COCO figures on {counted(self.num_images, 'image')} (%)")
        table.caption = f"{counted(self.num_objects, 'object')}, {counted(self.num_detections, 'detection')}"
        table.add_column("Figure", style="bold")
        for name in ("Box", "Mask") if self.mask is not None else ("Box",):
            table.add_column(name, justify="right")
        table.add_column("Measured on", style="dim")
        for figure, meaning in FIGURES.items():
            values = [self.box[figure]] if self.mask is None else [self.box[figure], self.mask[figure]]
            table.add_row(figure, *map(_percent, values), meaning, end_section=figure in ("AP75", "APl", "AR100"))
        return table

    def keypoint_table(self) -> Table:
        """Return the ten figures of keypoints, in percent."""
        table = _table("COCO keypoint figures (%)")
        table.add_column("Figure", style="bold")
        table.add_column("Keypoints", justify="right")
        table.add_column("Measured on", style="dim")
        for figure, meaning in KEYPOINT_FIGURES.items():
            table.add_row(
                figure,
                _percent((self.keypoint or {}).get(figure)),
                meaning,
                end_section=figure in ("AP75", "APl", "AR75"),
            )
        return table

    def class_table(self) -> Table:
        """Return AP and AP50 of every class, in percent."""
        table = _table("By class (%)")
        table.add_column("Class", style="bold", overflow="fold")
        columns = {"box": "Box AP", "box50": "Box AP50"}
        if self.mask is not None:
            columns |= {"mask": "Mask AP", "mask50": "Mask AP50"}
        for title in columns.values():
            table.add_column(title, justify="right")
        for name, figures in self.per_class.items():
            table.add_row(name.replace("[", r"\["), *(_percent(figures[key]) for key in columns))
        return table

    def __rich__(self) -> Group:
        if self.keypoint is None:
            return Group(self.table(), "", self.class_table())
        return Group(self.table(), "", self.keypoint_table(), "", self.class_table())


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", caption_justify="left", header_style="bold")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
