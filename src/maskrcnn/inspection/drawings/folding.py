"""Repeated blocks, folded: consecutive blocks whose layers are alike are one unit with a count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maskrcnn.inspection.structure import Layer


@dataclass
class Unit:
    """A residual block, or a single layer, with how often it stands in a row."""

    name: str
    """Path of the block in the network, without the part it is in; of a folded one, that of all."""
    rounds: list[list[Layer]]
    """The layers of every repetition."""

    @property
    def layers(self) -> list[Layer]:
        """The layers of the first repetition."""
        return self.rounds[0]

    @property
    def times(self) -> int:
        """How often the block is repeated."""
        return len(self.rounds)

    def keys(self, place: int) -> tuple[str, ...]:
        """Return the keys of the layers at one place of the block, in all repetitions."""
        return tuple(layers[place].key for layers in self.rounds)


def units(layers: Sequence[Layer]) -> list[Unit]:
    """Return layers in blocks, with repeated ones folded.

    Example:
        >>> from maskrcnn.config import Config
        >>> from maskrcnn.inspection.structure import read_structure
        >>> structure = read_structure(Config.preset(class_names=["cat"]))
        >>> third = [layer for layer in structure.layers.values() if layer.path.startswith("backbone.layer3.")]
        >>> [(unit.name, unit.times) for unit in units(third)]
        [('layer3.0', 1), ('layer3.1 … 22', 22)]
    """
    blocks: list[tuple[str, list[Layer]]] = []
    for layer in layers:
        path = _block(layer.path)
        if path and blocks and blocks[-1][0] == path:
            blocks[-1][1].append(layer)
        else:
            blocks.append((path, [layer]))
    found: list[Unit] = []
    for path, members in blocks:
        alike = found and [_signature(a) for a in found[-1].layers] == [_signature(b) for b in members]
        if alike:
            found[-1].rounds.append(members)
        else:
            found.append(Unit(path.removeprefix("backbone."), [members]))
    for unit in found:
        if unit.name and unit.times > 1:
            unit.name += f" … {_block(unit.rounds[-1][0].path).rpartition('.')[2]}"
    return found


def _block(path: str) -> str:
    """Return the path of the residual block that a layer is in, or an empty text."""
    words = path.split(".")
    if words[0] == "stage5":
        return ".".join(words[:2])
    return ".".join(words[:3]) if words[0] == "backbone" and words[1].startswith("layer") else ""


def _signature(layer: Layer) -> tuple[object, ...]:
    block = _block(layer.path)
    place = layer.path.removeprefix(block) if block else ""
    numbers = (layer.kernel, layer.stride, layer.dilation, layer.groups, layer.norm, layer.activation)
    return (place, layer.kind, layer.in_shape, layer.out_shape, *numbers)
