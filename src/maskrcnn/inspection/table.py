"""The table of a trace: one row for every tensor, under the parts of the figure, for wide and narrow terminals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskrcnn.inspection.glossary import STAGES, axes_of
from maskrcnn.inspection.parts import PARTS, PartName, part_of

WIDE = 114
"""Columns from which on name and shape stand side by side."""

LETTERS = {
    "N": "images",
    "C": "channels",
    "H": "height",
    "W": "width",
    "A": "anchors",
    "T": "best anchors of all levels",
    "P": "proposals",
    "S": "sampled anchors or RoIs",
    "R": "RoIs of an image",
    "NR": "RoIs of all images",
    "K1": "classes and, last, background",
    "Kb": "classes, or 1 for boxes of any class",
    "Km": "classes, or 1 for masks of any class",
    "Kp": "keypoints",
    "Q": "best (RoI, class) pairs",
    "D": "detections",
    "y": "row of a crop",
    "x": "column of a crop",
    "xyxy": "left, top, right, bottom",
    "deltas": "dx, dy, dw, dh",
}
"""What the axes of the table are, in the order in which the note tells of them."""

_SHORT = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "int32": "i32"}


def trace_table(rows: Sequence[dict[str, Any]], width: int = WIDE) -> Table:
    """Return the rows of `Trace.summary()` as a table.

    Args:
        rows: name, axes, dtype, min, max, mean, zeros, nan and inf of every tensor.
        width: columns that there is room for; below `WIDE` the shape stands under the name, and types are short.
    """
    wide = width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, int(wide), 0, 0), show_edge=False)
    table.add_column("Stage" if wide else "Stage, shape", overflow="fold")
    if wide:
        table.add_column("Shape", overflow="fold")
    table.add_column("Type", no_wrap=True)
    for title in ("Min", "Max", "Mean", "Zeros", "NaN/Inf"):
        table.add_column(title, justify="right", no_wrap=True)
    last: PartName | None = None
    for row in rows:
        part = part_of_stage(row["name"])
        if part != last:
            table.add_row(part_heading(part))
            last = part
        cells = [row["name"], row["axes"]] if wide else [f"{row['name']}\n {row['axes']}"]
        numbers = [_number(row[key]) for key in ("min", "max", "mean")]
        dtype = row["dtype"] if wide else _SHORT.get(row["dtype"], row["dtype"])
        table.add_row(*map(Text, [*cells, dtype, *numbers]), *_oddities(row))
    return table


def part_of_stage(name: str) -> PartName | None:
    """Return the part that a stage or a module's output belongs to; None of what is neither.

    Example:
        >>> part_of_stage("p2"), part_of_stage("rpn.convs.0@p3"), part_of_stage("mine")
        ('backbone', 'rpn', None)
    """
    if name in STAGES:
        return STAGES[name].part
    try:
        return part_of(name)
    except KeyError:
        return None


def part_heading(part: PartName | None) -> Text:
    """Return a part's number and title in its colour, which is legible on dark and on white."""
    if part is None:
        return Text("Other", style="bold")
    told = PARTS[part]
    return Text(f" {told.number} {told.title} ".replace("  ", " "), style=f"bold {told.ink} on {told.fill}")


def letters_note(names: dict[str, int]) -> str:
    """Return what the letters mean that the shapes of these stages have; `names` tells each one's number of axes.

    Example:
        >>> letters_note({"proposals": 3})
        'N images · P proposals · xyxy left, top, right, bottom'
    """
    there = {axis for name, rank in names.items() for axis in axes_of(name.partition("@")[0], rank)}
    return " · ".join(f"{letter} {meaning}" for letter, meaning in LETTERS.items() if letter in there)


def rendered(table: Any, width: int = 118) -> str:
    """Return what rich would print, as plain text."""
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _number(value: float | None) -> str:
    """Return three digits of a number, more of a large one and fewer where seven characters do not hold them."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if 1e3 <= abs(value) < 1e6:
        return f"{value:.0f}"
    tries = [f"{value:.{n}{kind}}" for n, kind in ((3, "g"), (2, "e"), (2, "g"), (1, "e"))]
    short = [text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e") for text in tries]
    return next((text for text in short if len(text) <= 7), short[-1])


def share(part: float) -> str:
    """Return a share in per cent; of nearly all it is not said to be all, nor of hardly any to be none.

    Example:
        >>> share(0.25), share(0.998), share(1.0), share(0.001)
        ('25%', '>99%', '100%', '<1%')
    """
    if 0 < part < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= part < 1 else f"{100 * part:.0f}%"


def _oddities(row: dict[str, Any]) -> list[Text]:
    """Return the share of zeros and the counts of NaN and infinite values, red where they tell of a fault."""
    zeros = "–" if row["zeros"] is None else share(row["zeros"])
    count = row["nan"] or row["inf"]
    alarming = row["nan"] or (row["inf"] and row["name"] != "top_scores")
    odd = Text(f"{row['nan']}/{row['inf']}" if count else "0", style="bold red" if alarming else "")
    return [Text(zeros), odd]
