"""From a configuration to a drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from maskrcnn.config import Config
from maskrcnn.errors import InputError, did_you_mean
from maskrcnn.inspection.drawings.blocks import blocks
from maskrcnn.inspection.drawings.overview import parts
from maskrcnn.inspection.drawings.sheet import Drawing, Level, Sheet
from maskrcnn.inspection.structure import Structure, read_structure

_SHEETS: dict[str, tuple[Callable[[Structure], Sheet], ...]] = {
    "parts": (parts,),
    "blocks": (blocks,),
}
LEVELS: tuple[str, ...] = get_args(Level)


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
    if level not in LEVELS:
        raise InputError(
            f"level must be one of {', '.join(LEVELS)}; got {level!r}.{did_you_mean(str(level), [*LEVELS])}"
        )
    structure = read_structure(config, photo)
    return Drawing(level, level, config, [sheet(structure) for sheet in _SHEETS[level]])
