"""Drawings as text for tools with a layout of their own: Mermaid and Graphviz."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from maskrcnn.inspection.drawings.sheet import Box, Drawing, Group, Sheet
from maskrcnn.inspection.parts import PARTS


def mermaid(drawing: Drawing) -> str:
    """Return a drawing as a Mermaid flowchart; of several sheets, all of them in one.

    Example:
        >>> from maskrcnn.config import Config
        >>> from maskrcnn.inspection.drawings import draw
        >>> print(mermaid(draw(Config.preset(class_names=["cat"]), "parts")).splitlines()[2])
        flowchart LR
    """
    lines = [f"%% {drawing.sheets[0].title}", f"%% {drawing.sheets[0].subtitle}", "flowchart LR"]
    for place, sheet in enumerate(drawing.sheets):
        ids = _ids(sheet, place)
        several = len(drawing.sheets) > 1
        if several:
            lines.append(f'  subgraph sheet{place}["{_mermaid(sheet.title)}"]')
        lines += _mermaid_frames(sheet, ids, place)
        lines += [f"  {ids[a]} --> {ids[b]}" for a, b in _pairs(sheet)]
        if several:
            lines.append("  end")
        lines += [f"  class {','.join(ids[b.key] for b in boxes)} {name}" for name, boxes in _classes(sheet).items()]
        for number, group in enumerate(sheet.groups):
            part = PARTS[group.part]
            dashes = ",stroke-dasharray:2 3" if group.parent else ""
            fill = "none" if group.parent else f"{part.fill}59"
            lines.append(f"  style f{place}_{number} fill:{fill},stroke:{part.ink},color:{part.ink}{dashes}")
    for part in PARTS.values():
        for kind, look in (("layer", ""), ("step", ",stroke-dasharray:5 3"), ("tensor", "")):
            fill = part.fill if kind == "layer" else "#ffffff"
            lines.append(f"  classDef {part.name}_{kind} fill:{fill},stroke:{part.ink},color:#1d2733{look}")
    lines.append("  classDef differs stroke:#c01f1f,stroke-width:3px")
    return "\n".join(lines) + "\n"


def _mermaid(text: str) -> str:
    return escape(text).replace("&#x27;", "'").replace("#", "#35;")


def _mermaid_frames(sheet: Sheet, ids: dict[str, str], place: int) -> Iterator[str]:
    """Yield nodes, in their frames."""

    def node(box: Box) -> str:
        words = "<br>".join(_mermaid(line.text) for line in box.text())
        begin, end = {"tensor": ("([", "])")}.get(box.kind, ("[", "]")) if not box.circle else ("((", "))")
        return f'{ids[box.key]}{begin}"{words}"{end}'

    def inside(parent: str, depth: int) -> Iterator[str]:
        for box in sheet.boxes:
            if _frame_of(sheet, box) == parent:
                yield "  " * depth + node(box)
        for number, group in enumerate(sheet.groups):
            if group.parent == parent:
                yield "  " * depth + f'subgraph f{place}_{number}["{_mermaid(_title(group))}"]'
                yield from inside(group.key, depth + 1)
                yield "  " * depth + "end"

    yield from inside("", 1)


def dot(drawing: Drawing) -> str:
    """Return a drawing as a graph for Graphviz; of several sheets, all of them in one.

    Example:
        >>> from maskrcnn.config import Config
        >>> from maskrcnn.inspection.drawings import draw
        >>> dot(draw(Config.preset(class_names=["cat"]), "parts")).startswith("digraph")
        True
    """
    lines = ["digraph maskrcnn {", '  charset="UTF-8";', "  rankdir=LR; fontname=Helvetica; labelloc=t;"]
    sheet = drawing.sheets[0]
    lines.append(f"  label={_quoted(f'{sheet.title}{chr(10)}{sheet.subtitle}')};")
    lines.append('  node [shape=box, fontname=Helvetica, fontsize=11]; edge [color="#46525f"];')
    for place, sheet in enumerate(drawing.sheets):
        ids = _ids(sheet, place)
        lines += _dot_frames(sheet, ids, place)
        lines += [f"  {ids[a]} -> {ids[b]};" for a, b in _pairs(sheet)]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_frames(sheet: Sheet, ids: dict[str, str], place: int) -> Iterator[str]:
    def node(box: Box) -> str:
        part = PARTS[box.part]
        words = _quoted("\n".join(line.text for line in box.text()))
        style = {"layer": "filled", "step": "filled,dashed", "tensor": "filled,rounded"}[box.kind]
        fill = part.fill if box.kind == "layer" else "#ffffff"
        ink, wide = ("#c01f1f", 3) if box.mark else (part.ink, 1)
        look = f'style="{style}", fillcolor="{fill}", color="{ink}", penwidth={wide}'
        shape = ", shape=circle, margin=0" if box.circle else ""
        return f"{ids[box.key]} [label={words}, {look}{shape}];"

    def inside(parent: str, depth: int) -> Iterator[str]:
        for box in sheet.boxes:
            if _frame_of(sheet, box) == parent:
                yield "  " * depth + node(box)
        for number, group in enumerate(sheet.groups):
            if group.parent == parent:
                ink = PARTS[group.part].ink
                yield "  " * depth + f"subgraph cluster_{place}_{number} {{"
                yield (
                    "  " * depth + f'  label={_quoted(_title(group))}; color="{ink}"; fontcolor="{ink}"; style=rounded;'
                )
                yield from inside(group.key, depth + 1)
                yield "  " * depth + "}"

    yield from inside("", 1)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _title(group: Group) -> str:
    return " ".join(line.text for line in group.text()).strip() or " "


def _frame_of(sheet: Sheet, box: Box) -> str:
    """Return the key of the innermost frame around a box, or an empty text."""
    return next((group.key for group in reversed(sheet.groups) if box.key in group.members), "")


def _ids(sheet: Sheet, place: int) -> dict[str, str]:
    return {box.key: f"s{place}_{number}" for number, box in enumerate(sheet.boxes)}


def _pairs(sheet: Sheet) -> list[tuple[str, str]]:
    return list(dict.fromkeys((arrow.source, arrow.target) for arrow in sheet.arrows))


def _classes(sheet: Sheet) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    for box in sheet.boxes:
        found.setdefault(f"{box.part}_{box.kind}", []).append(box)
        if box.mark:
            found.setdefault("differs", []).append(box)
    return found
