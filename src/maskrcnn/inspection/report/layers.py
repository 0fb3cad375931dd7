"""What every single layer said of the image: seen while the network runs, since all of it together would not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from maskrcnn.inspection.calls import call_name
from maskrcnn.inspection.pictures.colors import heat
from maskrcnn.inspection.structure import Structure
from maskrcnn.model import MaskRCNN

CHANNELS, COLUMNS = 16, 8
"""Of a map: how many of its strongest channels are shown, and how many in a row."""
TILE, GAP = 40, 2
"""Longest side of a channel's tile, and the space between tiles, in pixels."""


@dataclass
class Seen:
    """A layer's output on this image, its activation included."""

    low: float
    high: float
    mean: float
    zeros: float
    """Share of exact zeros."""
    odd: int
    """How many values are NaN or infinite."""
    picture: UInt8[np.ndarray, "h w 3"]
    what: str
    """What the picture shows."""


@contextmanager
def seeing_layers(model: MaskRCNN, structure: Structure) -> Iterator[dict[str, Seen]]:
    """Look at every layer's output in the runs inside the block; yields what was seen, by the layer's key."""
    seen: dict[str, Seen] = {}
    ends = {layer.end: layer for layer in structure.layers.values() if layer.end}
    modules = dict(model.named_modules())
    handles = []
    calls: Counter[str] = Counter()

    def watch(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            name = call_name(model, path, calls[path])
            calls[path] += 1
            if name in ends and isinstance(output, Tensor):
                layer = ends[name]
                values = output.detach().float()
                seen[layer.key] = look(values.clamp(min=0) if layer.activation else values, layer.part == "heads")

        return hook

    for path in {end.partition("@")[0] for end in ends}:
        handles.append(modules[path].register_forward_hook(watch(path)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def look(values: Tensor, per_roi: bool) -> Seen:
    """Return figures and a small picture of a layer's output: [N, C, H, W], or [R, C] of linear layers.

    Args:
        values: the output.
        per_roi: whether the first axis counts RoIs; the picture is of the first, the best.
    """
    low, high, odd, shown = 0.0, 0.0, 0, values
    if values.numel():
        low, high = (float(v) for v in values.aminmax())
        if not np.isfinite((low, high)).all():  # NaN or Inf somewhere: the range of the rest
            finite = values.isfinite()
            odd, shown = int((~finite).sum()), values[finite]
            low, high = (float(v) for v in shown.aminmax()) if shown.numel() else (0.0, 0.0)
    mean = float(shown.mean()) if shown.numel() else 0.0
    zeros = 1 - int(values.count_nonzero()) / values.numel() if values.numel() else 0.0
    picture, what = _picture(values, per_roi)
    return Seen(low, high, mean, zeros, odd, picture, what)


def _picture(values: Tensor, per_roi: bool) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    if not len(values):
        return np.zeros((1, 1, 3), np.uint8), "nothing: there is no RoI"
    first = values[0]
    of = " of the best RoI" if per_roi else ""
    if first.dim() == 1:
        side = int(np.ceil(len(first) ** 0.5))
        square = F.pad(first, (0, side * side - len(first))).reshape(side, side)
        return heat(square.cpu().numpy()), f"its {len(first)} numbers{of}, row by row"
    strength = first[:, :: max(first.shape[1] // 64, 1), :: max(first.shape[2] // 64, 1)].abs().mean((1, 2))
    best = strength.nan_to_num(0.0).topk(min(CHANNELS, len(strength))).indices.sort().values
    height, width = first.shape[1:]
    scale = min(TILE / max(height, width), 1.0)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    tiles = F.adaptive_avg_pool2d(first[best][None], size)[0].cpu().numpy()
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    step_y, step_x = size[0] + GAP, size[1] + GAP
    sheet = np.full((rows * step_y - GAP, columns * step_x - GAP, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * step_y, i % columns * step_x
        sheet[y : y + size[0], x : x + size[1]] = heat(tile)
    return sheet, f"its {len(tiles)} strongest channels{of}, each by its own range"
