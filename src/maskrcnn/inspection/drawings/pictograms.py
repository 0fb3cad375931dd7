"""Small pictures for the boxes of the sheet `parts`: what each part does, without words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from maskrcnn.inspection.drawings.sheet import Box, Point, Shape
from maskrcnn.inspection.parts import PartName
from maskrcnn.inspection.structure import Structure

SCALE = 1.2
HEIGHT = 92.0
"""Of a pictogram, before it is scaled; it is at most `WIDTH` wide."""
WIDTH = 150.0


def pictogram(box: Box, structure: Structure) -> list[Shape]:
    """Return the picture of a box of the sheet `parts`, above its title."""
    draw: dict[str, Callable[[float, float, Structure], list[Shape]]] = {
        "input": _photo,
        "backbone": _backbone,
        "rpn": _rpn,
        "roi_align": _roi_align,
        "heads": _heads,
        "output": _found,
    }
    x, y = box.middle[0], box.y + 18
    shapes = draw[box.key](x, y, structure)

    def scaled(point: Point) -> Point:
        return x + SCALE * (point[0] - x), y + SCALE * (point[1] - y)

    return [s._replace(points=tuple(map(scaled, s.points)), thick=SCALE * s.thick, box=box.key) for s in shapes]


def _rect(part: PartName, x: float, y: float, w: float, h: float, fill: str = "none", thick: float = 1.3) -> Shape:
    return Shape("rect", part, ((x, y), (x + w, y + h)), fill, thick)  # type: ignore[arg-type]


def _line(part: PartName, *points: Point, thick: float = 1.3, fill: str = "none") -> Shape:
    return Shape("line", part, points, fill, thick)  # type: ignore[arg-type]


def _dot(part: PartName, x: float, y: float, radius: float, fill: str = "ink") -> Shape:
    return Shape("ellipse", part, ((x - radius, y - radius), (x + radius, y + radius)), fill)  # type: ignore[arg-type]


def _scene(part: PartName, x: float, y: float, w: float, h: float) -> list[Shape]:
    """Return a photo of hills and a figure."""
    hills = [(x, y + 0.74 * h), (x + 0.26 * w, y + 0.42 * h), (x + 0.48 * w, y + 0.7 * h)]
    hills += [(x + 0.74 * w, y + 0.34 * h), (x + w, y + 0.62 * h)]
    return [
        _rect(part, x, y, w, h, "paper", 1.6),
        _line(part, *hills),
        _dot(part, x + 0.17 * w, y + 0.2 * h, 5.0, "none"),
    ]


def _photo(middle: float, y: float, structure: Structure) -> list[Shape]:
    return _scene("input", middle - 48, y + 10, 96.0, 72.0)


def _backbone(middle: float, y: float, structure: Structure) -> list[Shape]:
    """Return the maps, smaller and smaller; with a pyramid its levels beside them."""
    pyramid = "p2" in structure.shapes
    names = [name for name in ("c5", "c4", "c3", "c2", "c1") if name in structure.shapes]
    pitch, high = HEIGHT / len(names), 11.0
    shapes: list[Shape] = []
    left = middle - (40.0 if pyramid else 0.0)
    for place in range(len(names)):
        wide, top = 22.0 + 13 * place, y + place * pitch + (pitch - high) / 2
        shapes.append(_rect("backbone", left - wide / 2, top, wide, high, "paper"))
        if pyramid and place < len(names) - 1:
            shapes.append(_rect("backbone", middle + 40 - wide / 2, top, wide, high, "ink"))
            shapes.append(
                _line("backbone", (left + wide / 2, top + high / 2), (middle + 40 - wide / 2, top + high / 2))
            )
    return shapes


def _grid(part: PartName, x: float, y: float, columns: int, rows: int, cell: float) -> list[Shape]:
    shapes = [_rect(part, x, y, columns * cell, rows * cell, "paper", 1.0)]
    shapes += [_line(part, (x + k * cell, y), (x + k * cell, y + rows * cell), thick=0.5) for k in range(1, columns)]
    shapes += [_line(part, (x, y + k * cell), (x + columns * cell, y + k * cell), thick=0.5) for k in range(1, rows)]
    return shapes


def _rpn(middle: float, y: float, structure: Structure) -> list[Shape]:
    """Return a map with the anchors of one cell."""
    cell, columns, rows = 14.0, 9, 6
    x, top = middle - columns * cell / 2, y + 4
    at = (x + 4.5 * cell, top + 3 * cell)
    shapes = _grid("rpn", x, top, columns, rows, cell)
    for wide, high in ((34.0, 66.0), (50.0, 50.0), (70.0, 36.0)):
        shapes.append(_rect("rpn", at[0] - wide / 2, at[1] - high / 2, wide, high, thick=2.0))
    return [*shapes, _dot("rpn", *at, 3.2)]


def _roi_align(middle: float, y: float, structure: Structure) -> list[Shape]:
    """Return a RoI on a map with its bins and sampling points, and the crop beside it."""
    cell = 15.0
    x, top = middle - 75, y + 1
    shapes = _grid("roi_align", x, top, 6, 6, cell)
    left, upper, side = x + 0.7 * cell, top + 1.25 * cell, 3.9 * cell
    shapes.append(_rect("roi_align", left, upper, side, side, thick=2.2))
    third = side / 3
    for k in (1, 2):
        shapes.append(_line("roi_align", (left + k * third, upper), (left + k * third, upper + side), thick=1.2))
        shapes.append(_line("roi_align", (left, upper + k * third), (left + side, upper + k * third), thick=1.2))
    spots = [(k + 0.5) * third / 2 for k in range(6)]
    shapes += [_dot("roi_align", left + dx, upper + dy, 1.5) for dx in spots for dy in spots]
    arrow, at = x + 6 * cell + 6, top + 3 * cell
    shapes.append(_line("roi_align", (arrow, at), (arrow + 12, at), thick=1.6))
    shapes.append(_line("roi_align", (arrow + 8, at - 4), (arrow + 12, at), (arrow + 8, at + 4), thick=1.6))
    crop = 13.0
    x, top = arrow + 18, at - 1.5 * crop
    return [
        *shapes,
        *(_rect("roi_align", x + i * crop, top + j * crop, crop, crop, "pale") for i in range(3) for j in range(3)),
    ]


def _figure(part: PartName, x: float, y: float, scale: float, fill: str) -> list[Shape]:
    """Return a standing figure about 1 wide and 2.3 high, `x` its middle and `y` its top."""
    body: Sequence[Point] = (
        (x - 0.5 * scale, y + 2.3 * scale),
        (x - 0.42 * scale, y + 1.1 * scale),
        (x - 0.2 * scale, y + 0.8 * scale),
        (x + 0.2 * scale, y + 0.8 * scale),
        (x + 0.42 * scale, y + 1.1 * scale),
        (x + 0.5 * scale, y + 2.3 * scale),
        (x - 0.5 * scale, y + 2.3 * scale),
    )
    return [_line(part, *body, fill=fill), _dot(part, x, y + 0.36 * scale, 0.34 * scale, fill)]


def _heads(middle: float, y: float, structure: Structure) -> list[Shape]:
    """Return class scores as bars, a box, and where there is one, a mask and keypoints."""
    config = structure.config
    count = 2 + config.masks + bool(config.keypoint_names)
    pitch = WIDTH / count
    xs = [middle + (k - (count - 1) / 2) * pitch for k in range(count)]
    top = y + 12
    shapes = [
        _rect("heads", xs[0] - 15, top + 6 + 18 * k, long, 10.0, "ink" if k == 1 else "paper")
        for k, long in enumerate((12.0, 30.0, 8.0))
    ]
    shapes += [_rect("heads", xs[1] - 16, top, 32.0, 66.0, thick=2.2), *_figure("heads", xs[1], top + 7, 23.0, "paper")]
    if config.masks:
        shapes += _figure("heads", xs[2], top + 7, 23.0, "ink")
    if config.keypoint_names:
        x, scale = xs[-1], 23.0
        joints = [(0.0, 0.36), (-0.4, 1.1), (0.4, 1.1), (-0.3, 2.2), (0.3, 2.2)]
        at = [(x + dx * scale, top + 7 + dy * scale) for dx, dy in joints]
        shapes += [_line("heads", at[3], at[1], at[2], at[4]), _line("heads", at[0], (x, at[1][1]))]
        shapes += [_dot("heads", *spot, 3.0) for spot in at]
    return shapes


def _found(middle: float, y: float, structure: Structure) -> list[Shape]:
    """Return the photo with what was found."""
    shapes = _scene("output", middle - 48, y + 10, 96.0, 72.0)
    masks = structure.config.masks
    for x, top, scale in ((middle - 14, y + 32, 17.0), (middle + 24, y + 40, 14.0)):
        if masks:
            shapes += _figure("heads", x, top, scale, "ink")
        shapes.append(_rect("heads", x - 0.68 * scale, top - 2, 1.36 * scale, 2.3 * scale + 4, thick=1.8))
    return shapes
