"""From a configuration to a drawing, and from a drawing to files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from maskrcnn.config import Config
from maskrcnn.errors import InputError, did_you_mean
from maskrcnn.files import replacing, write_text
from maskrcnn.inspection.drawings.blocks import blocks
from maskrcnn.inspection.drawings.drawio import drawio
from maskrcnn.inspection.drawings.features import feature_layers
from maskrcnn.inspection.drawings.graphs import dot, mermaid
from maskrcnn.inspection.drawings.heads import head_layers
from maskrcnn.inspection.drawings.overview import parts
from maskrcnn.inspection.drawings.sheet import Drawing, Level, Sheet
from maskrcnn.inspection.drawings.svg import svg
from maskrcnn.inspection.structure import Structure, read_structure

_SHEETS: dict[str, tuple[Callable[[Structure], Sheet], ...]] = {
    "parts": (parts,),
    "blocks": (blocks,),
    "layers": (feature_layers, head_layers),
}
LEVELS: tuple[str, ...] = get_args(Level)
FORMATS = {"svg": ".svg", "png": ".png", "pdf": ".pdf", "drawio": ".drawio", "mermaid": ".mmd", "dot": ".dot"}
"""Formats and the suffixes of their files."""


def draw(config: Config, level: Level = "parts", photo: tuple[int, int] | None = None) -> Drawing:
    """Return the drawing of the network that a configuration describes.

    Args:
        config: the configuration.
        level: how much detail. `parts`: the four parts on one slide. `blocks`: stages of the backbone, levels of the
            pyramid, steps of the RPN and the heads. `layers`: every layer, on one sheet for the features and one for
            what becomes of them.
        photo: (height, width) in pixels of the photo to take shapes for; by default one that fills the input.

    Raises:
        InputError: there is no such level.

    Example:
        >>> sheet = draw(Config.preset(class_names=["cat"]), "blocks").sheets[0]
        >>> sheet["p6"].lines[0]
        '256×16×16'
    """
    checked_level(level)
    return draw_structure(read_structure(config, photo), level)


def draw_structure(structure: Structure, level: Level = "parts") -> Drawing:
    """Return the drawing of a network whose structure has been read; see `draw`."""
    checked_level(level)
    return Drawing(level, level, [sheet(structure) for sheet in _SHEETS[level]])


def text(drawing: Drawing, format: str) -> str:
    """Return a drawing as the text of one file.

    Raises:
        InputError: the format is none of text, or holds one sheet alone and there are several.
    """
    if format == "svg" and len(drawing.sheets) > 1:
        raise InputError(
            f"An SVG file holds one sheet, and {drawing.name} has {len(drawing.sheets)}; name a file to write, or take "
            "the format drawio, mermaid or dot."
        )
    if format == "svg":
        return svg(drawing.sheets[0])
    writers = {"drawio": drawio, "mermaid": mermaid, "dot": dot}
    if format not in writers:
        raise InputError(f"{format} is no format of text; svg, drawio, mermaid and dot are.")
    return writers[format](drawing)


def save(drawing: Drawing, path: str | os.PathLike[str], format: str | None = None) -> list[Path]:
    """Write a drawing into a file, or, as SVG or PNG of several sheets, into files NAME-1, NAME-2; return them.

    A PDF and a draw.io file have a page for each sheet.

    Args:
        drawing: the drawing.
        path: the file.
        format: one of `FORMATS`; by default that of the path's suffix.

    Raises:
        InputError: the format is unknown, or needs matplotlib, which is not installed.
        WriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> drawing = draw(Config.preset(class_names=["cat"]), "layers")
        >>> [file.name for file in save(drawing, Path(tempfile.mkdtemp()) / "network.svg")]
        ['network-1.svg', 'network-2.svg']
    """
    path = Path(path)
    format = checked_format(format) if format else format_of(path)
    if format == "pdf":
        from maskrcnn.inspection.drawings.plots import write_pdf

        with replacing(path) as new:
            write_pdf(drawing.sheets, new)
        return [path]
    if format not in ("svg", "png"):
        write_text(path, text(drawing, format))
        return [path]
    several = len(drawing.sheets) > 1
    files = [
        path.with_name(f"{path.stem}-{place}{path.suffix}") if several else path
        for place in range(1, len(drawing.sheets) + 1)
    ]
    for file, sheet in zip(files, drawing.sheets, strict=True):
        if format == "svg":
            write_text(file, svg(sheet))
        else:
            from maskrcnn.inspection.drawings.plots import write_png

            with replacing(file) as new:
                write_png(sheet, new)
    return files


def checked_level(level: str) -> None:
    """Raise `InputError` if there is no level of this name."""
    if level not in LEVELS:
        hint = did_you_mean(str(level), [*LEVELS])
        raise InputError(f"level must be one of {', '.join(LEVELS)}; got {level!r}.{hint}")


def checked_format(format: str) -> str:
    """Return the format of this name; raise `InputError` if there is none."""
    if format not in FORMATS:
        hint = did_you_mean(format, [*FORMATS])
        raise InputError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.{hint}")
    return format


def format_of(path: Path) -> str:
    """Return the format that a file's suffix stands for; raise `InputError` if it stands for none."""
    known = {suffix: name for name, suffix in FORMATS.items()} | {".mermaid": "mermaid", ".gv": "dot"}
    found = known.get(path.suffix.lower())
    if found is None:
        raise InputError(
            f"{path}: its ending tells no format. Known are {', '.join(known)}; or name one with --format."
        )
    return found
