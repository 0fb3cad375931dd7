"""Two networks beside each other on one sheet, what differs marked, with the fields that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskrcnn.config import Config
from maskrcnn.errors import printable
from maskrcnn.inspection.drawings.drawing import draw
from maskrcnn.inspection.drawings.place import LEGEND, MARGIN
from maskrcnn.inspection.drawings.sheet import (
    ASCENT,
    LINE,
    MIDDLE,
    Arrow,
    Box,
    Drawing,
    Group,
    Level,
    Point,
    Sheet,
    Swatch,
    TextLine,
)
from maskrcnn.inspection.drawings.text import shortened, width

BETWEEN = 36.0
"""Between the two networks."""
MOST = 24
"""Fields that are listed."""
LONGEST = 34
"""Characters of a value."""
SIZE = 13.0


def compare(
    a: Config,
    b: Config,
    level: Level = "parts",
    photo: tuple[int, int] | None = None,
    names: tuple[str, str] = ("A", "B"),
) -> Drawing:
    """Return the drawing of two networks side by side, with what differs marked, and the fields that differ below.

    A box is marked that only one of them has, or that has other lines in the other; these lines are underlined.

    Args:
        a: one configuration.
        b: the other.
        level: how much detail, as for `draw`.
        photo: (height, width) in pixels of the photo to take shapes for; by default one that fills each input.
        names: what the two are called, as the names of their files.

    Raises:
        InputError: there is no such level.

    Example:
        >>> small, large = (Config.preset(f"resnet{depth}-fpn", class_names=["cat"]) for depth in (50, 101))
        >>> sheet = compare(small, large, "blocks").sheets[0]
        >>> [box.key for box in sheet.boxes if box.mark]
        ['a:c4', 'b:c4']
    """
    left, right = draw(a, level, photo), draw(b, level, photo)
    fields = differing(a, b)
    sheets = [_beside(one, other, fields, names) for one, other in zip(left.sheets, right.sheets, strict=True)]
    return Drawing(level, f"{level}-compared", sheets)


def differing(a: Config, b: Config) -> dict[str, tuple[str, str]]:
    """Return the dotted fields in which two configurations differ, with both values in short.

    Of two kinds of backbone, fields that one alone has are left out.

    Example:
        >>> config = Config.preset(class_names=["cat"])
        >>> differing(config, config.replace({"rpn.nms_threshold": 0.6}))
        {'rpn.nms_threshold': ('0.7', '0.6')}
    """
    return dict(_differences(a.model_dump(mode="json"), b.model_dump(mode="json"), ""))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], before: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the fields that differ; of sections of two kinds, those alone that both have."""
    for key in (key for key in a if key in b):
        one, other = a[key], b[key]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{before}{key}.")
        elif one != other:
            yield before + key, (_short(one), _short(other))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        words = f"[{', '.join(map(_short, value))}]"
        return words if len(words) <= LONGEST else f"{len(value)}: {words[: LONGEST - 6]}…"
    return printable(str(value), LONGEST)


def _beside(a: Sheet, b: Sheet, fields: Mapping[str, tuple[str, str]], names: tuple[str, str]) -> Sheet:
    _mark(a, b)
    _mark(b, a)
    sheet = Sheet(a.key, f"{a.title}, compared with {b.title}", f"{len(fields)} fields differ")
    head = MARGIN + 30.0
    for side, name, one, x in (("a:", names[0], a, 0.0), ("b:", names[1], b, a.width + BETWEEN)):
        most = one.width - 2 * MARGIN
        words = shortened(printable(name, 200), SIZE + 2, most, bold=True)
        sheet.texts.append(TextLine(words, x + MARGIN, MARGIN + 10, SIZE + 2, True, "start", "muted"))
        _add(sheet, one, side, x, head - MARGIN)
    sheet.width = a.width + BETWEEN + b.width
    y = head - MARGIN + max(a.height, b.height) + 6
    sheet.height = _list(sheet, fields, y) + MARGIN
    return sheet


def _mark(sheet: Sheet, other: Sheet) -> None:
    """Mark what differs from the other sheet; the other's marks do not matter."""
    for box in sheet.boxes:
        if box.key not in other:
            box.mark = "only here"
            continue
        twin = other[box.key]
        lines = {place for place, line in enumerate(box.lines) if line not in twin.lines}
        lines |= {-1} if box.title != twin.title else set()
        if lines or len(box.lines) != len(twin.lines):
            box.mark, box.marked = "differs", frozenset(lines)
    groups = {group.key: group for group in other.groups}
    for group in sheet.groups:
        same = groups.get(group.key)
        if group.note and same is not None and same.note != group.note:
            group.mark = "differs"


def _add(sheet: Sheet, one: Sheet, side: str, dx: float, dy: float) -> None:
    """Add all of a sheet, moved, and its keys with the side before them."""

    def point(at: Point) -> Point:
        return at[0] + dx, at[1] + dy

    def line(text: TextLine) -> TextLine:
        return text._replace(x=text.x + dx, y=text.y + dy)

    def box(it: Box) -> Box:
        return replace(it, key=side + it.key, x=it.x + dx, y=it.y + dy)

    def group(it: Group) -> Group:
        members, parent = tuple(side + key for key in it.members), side + it.parent if it.parent else ""
        return replace(it, key=side + it.key, members=members, parent=parent, x=it.x + dx, y=it.y + dy)

    def arrow(it: Arrow) -> Arrow:
        return Arrow(side + it.source, side + it.target, [point(p) for p in it.points], [line(t) for t in it.labels])

    sheet.boxes += map(box, one.boxes)
    sheet.groups += map(group, one.groups)
    sheet.arrows += map(arrow, one.arrows)
    sheet.texts += map(line, one.texts)
    sheet.shapes += [s._replace(points=tuple(map(point, s.points)), box=side + s.box) for s in one.shapes]
    sheet.legend += [s._replace(x=s.x + dx, y=s.y + dy) for s in one.legend]


def _list(sheet: Sheet, fields: Mapping[str, tuple[str, str]], y: float) -> float:
    """Write the fields that differ in columns; return the lower end."""
    title = "These configuration fields differ:" if fields else "The two configurations are the same."
    sheet.texts.append(TextLine(title, MARGIN, y + ASCENT * (SIZE + 1), SIZE + 1, True, "start", "ink"))
    if any(box.mark for box in sheet.boxes):
        x = MARGIN + width(title, SIZE + 1, bold=True) + 40
        sheet.legend.append(Swatch("input", "mark", x, y + 3, 22.0, 13.0))
        words = "box that differs, or that one side alone has; lines that differ are underlined"
        sheet.texts.append(TextLine(words, x + 30, y + 9.5 + MIDDLE * SIZE, SIZE, False, "start", "muted"))
    y += LEGEND + 8
    rows = [(key, *values) for key, values in fields.items()]
    left_out = len(rows) - MOST
    rows = rows[:MOST]
    columns = 2 if len(rows) > 4 else 1
    high = -(-len(rows) // columns)
    for column in range(columns):
        some = rows[column * high : (column + 1) * high]
        if not some:
            continue
        key_wide, value_wide = (max(width(row[place], SIZE) for row in some) for place in (0, 1))
        x = MARGIN + column * (sheet.width + BETWEEN) / 2
        for number, (key, one, other) in enumerate(some):
            baseline = y + number * SIZE * LINE + ASCENT * SIZE
            second = x + key_wide + 24
            sheet.texts.append(TextLine(key, x, baseline, SIZE, False, "start", "muted"))
            sheet.texts.append(TextLine(one, second, baseline, SIZE, False, "start", "ink"))
            third = second + value_wide + 16
            sheet.texts.append(TextLine(f"→  {other}", third, baseline, SIZE, False, "start", "ink"))
    y += high * SIZE * LINE
    if left_out > 0:
        words = f"and {left_out} more"
        sheet.texts.append(TextLine(words, MARGIN, y + ASCENT * SIZE, SIZE, False, "start", "muted"))
        y += SIZE * LINE
    return y
