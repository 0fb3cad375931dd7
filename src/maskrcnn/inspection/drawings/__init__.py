"""Drawings of the architecture, from four boxes to single layers, as data and as files."""

from __future__ import annotations

from maskrcnn.inspection.drawings.comparing import compare, differing
from maskrcnn.inspection.drawings.drawing import FORMATS, LEVELS, draw, draw_structure, save, text
from maskrcnn.inspection.drawings.sheet import Arrow, Box, Drawing, Group, Level, Sheet
from maskrcnn.inspection.drawings.svg import svg

__all__ = [
    "FORMATS",
    "LEVELS",
    "Arrow",
    "Box",
    "Drawing",
    "Group",
    "Level",
    "Sheet",
    "compare",
    "differing",
    "draw",
    "draw_structure",
    "save",
    "svg",
    "text",
]
