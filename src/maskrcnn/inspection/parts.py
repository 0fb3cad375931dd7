"""The four parts of the figure: their names and colours, the same in drawings, pictures and the report."""

from __future__ import annotations

from typing import Literal, NamedTuple

PartName = Literal["input", "backbone", "rpn", "roi_align", "heads", "output", "training"]


class Part(NamedTuple):
    """A part of the network; colours are CSS hex, `fill` pale enough for dark text."""

    name: PartName
    number: str
    """As in the figure; empty for what is no part of the network."""
    title: str
    paper: str
    fill: str
    ink: str
    """Outline and heading: dark enough for text on white (contrast 4.5 or more)."""
    dark_fill: str
    """`fill` on a dark page, for pale text."""
    dark_ink: str


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("input", "", "Image", "", "#eef1f4", "#4b5663", "#2a3139", "#aab4bf"),
        Part(
            "backbone", "1", "Backbone", "He et al. 2015; Lin et al. 2016", "#dbe9fb", "#1d5aa6", "#16304f", "#86b7f4"
        ),
        Part("rpn", "2", "RPN", "Ren et al. 2015, section 3.1", "#fde6cb", "#a85208", "#4a2c0c", "#f3b26b"),
        Part("roi_align", "3", "RoIAlign", "He et al. 2017, section 3", "#d6f0de", "#1f7042", "#12391f", "#7fd29b"),
        Part("heads", "4", "Heads", "He et al. 2017, figure 4", "#ecdff7", "#74379f", "#38204c", "#cfa4ef"),
        Part("output", "", "Detections", "", "#eef1f4", "#4b5663", "#2a3139", "#aab4bf"),
        Part("training", "", "Training", "Ren et al. 2015, section 3.1.2", "#fbdfe3", "#a8283c", "#4b1820", "#f39aa7"),
    )
}

_OF_MODULE: dict[str, PartName] = {
    "backbone": "backbone",
    "fpn": "backbone",
    "rpn": "rpn",
    "box_roi_align": "roi_align",
    "mask_roi_align": "roi_align",
    "keypoint_roi_align": "roi_align",
    "stage5": "heads",
    "box_head": "heads",
    "mask_head": "heads",
    "keypoint_head": "heads",
}


def part_of(path: str) -> PartName:
    """Return the part that a module or a parameter of `MaskRCNN` belongs to.

    Example:
        >>> part_of("fpn.lateral4.conv.weight"), part_of("mask_head.deconv")
        ('backbone', 'heads')
    """
    return _OF_MODULE[path.split(".", 1)[0].partition("@")[0]]
