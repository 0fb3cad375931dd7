"""Draw docs/images/rois.svg: one RoI on one feature map, and what each way of cutting it out reads.

Run as `python docs/pictures/rois.py`. Sampling points are not computed here: they are read off by cutting crops out
of a map that holds its own coordinates.
"""

from __future__ import annotations

from pathlib import Path

import torch

from maskrcnn.config import RoIAlignConfig
from maskrcnn.ops.boxes import move_ends
from maskrcnn.roi_align import FlatPyramid, RoIAlign

CELLS, STRIDE, BINS = 8, 16, 3
BOX = (24.0, 38.0, 91.0, 99.0)  # input pixels
UNIT, GAP, TOP, LEFT = 30, 60, 80, 24
INK, MUTED, GRID, FILL, POINT = "#1d2733", "#5b6875", "#c9d1d9", "#f6f8fa", "#0969da"
BOX_INK, BIN_INK = "#cf222e", "#e8a0a5"

PANELS = (
    ("RoIAlign, aligned", "Detectron2", "Cell k has its centre at k + ½.", RoIAlignConfig(aligned=True)),
    ("RoIAlign, not aligned", "torchvision", "The same points half a cell too far.", RoIAlignConfig(aligned=False)),
    (
        "crop_and_resize",
        "Matterport",
        "One point a bin, border to border.",
        RoIAlignConfig(method="crop_and_resize"),
    ),
    ("RoIPool", "Fast R-CNN", "Whole cells; bins keep the largest.", RoIAlignConfig(method="pool")),
)


def crops(config: RoIAlignConfig, bins: int, sign: float = 1.0) -> tuple[list[float], list[float]]:
    """Return the x of each column and the y of each row that the crop's bins read, in cells."""
    ramp = sign * torch.arange(float(CELLS))
    maps = torch.stack((ramp.expand(CELLS, CELLS), ramp[:, None].expand(CELLS, CELLS)))[None]
    box, level = torch.tensor([[BOX]]), torch.zeros(1, 1, dtype=torch.int64)
    corners = "centers" if config.method == "crop_and_resize" else "edges"
    cut = RoIAlign(config, bins, corners)
    [crop] = cut(FlatPyramid.of([maps], [STRIDE]), move_ends(box, -1.0) if corners == "centers" else box, level)
    return (sign * crop[0, 0]).tolist(), (sign * crop[1, :, 0]).tolist()


def panel(x: int, title: str, who: str, says: str, config: RoIAlignConfig) -> list[str]:
    """Return one map with the RoI, its bins and what they read."""
    side = CELLS * UNIT
    parts = [f'<g transform="translate({x} {TOP})">']
    parts += [f'<text x="0" y="-44" class="title">{title}</text><text x="0" y="-24" class="who">{who}</text>']
    parts += [f'<rect width="{side}" height="{side}" fill="{FILL}"/>']
    read_x, read_y = crops(config, BINS if config.method != "align" else 2 * BINS)
    if config.method == "pool":
        first_x, first_y = crops(config, BINS, sign=-1.0)
        parts += [
            f'<rect x="{a * UNIT + 2}" y="{c * UNIT + 2}" width="{(b + 1 - a) * UNIT - 4}" '
            f'height="{(d + 1 - c) * UNIT - 4}" rx="4" fill="{POINT}" fill-opacity="0.16" stroke="{POINT}"/>'
            for a, b in zip(first_x, read_x, strict=True)
            for c, d in zip(first_y, read_y, strict=True)
        ]
    lines = "".join(f"M0 {k * UNIT}H{side}M{k * UNIT} 0V{side}" for k in range(CELLS + 1))
    parts += [f'<path d="{lines}" stroke="{GRID}" fill="none"/>']
    centres = [(k + 0.5) * UNIT for k in range(CELLS)]
    parts += [f'<circle cx="{cx}" cy="{cy}" r="1.6" fill="{MUTED}"/>' for cx in centres for cy in centres]
    x1, y1, x2, y2 = (side / STRIDE * UNIT for side in BOX)
    if config.method == "align":
        inner = "".join(
            f"M{x1 + (x2 - x1) * k / BINS:.1f} {y1:.1f}V{y2:.1f}M{x1:.1f} {y1 + (y2 - y1) * k / BINS:.1f}H{x2:.1f}"
            for k in range(1, BINS)
        )
        parts += [f'<path d="{inner}" stroke="{BIN_INK}" fill="none"/>']
    parts += [
        f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="none" '
        f'stroke="{BOX_INK}" stroke-width="2"/>'
    ]
    if config.method != "pool":
        parts += [
            f'<circle cx="{(a + 0.5) * UNIT:.1f}" cy="{(b + 0.5) * UNIT:.1f}" r="3.6" fill="{POINT}" stroke="white"/>'
            for a in read_x
            for b in read_y
        ]
    parts += [f'<text x="0" y="{side + 26}" class="says">{says}</text></g>']
    return parts


def main() -> None:
    """Write the picture."""
    side = CELLS * UNIT
    width = 2 * LEFT + len(PANELS) * side + (len(PANELS) - 1) * GAP
    height = TOP + side + 48
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="One RoI cut out in four ways">',
        "<style>text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif}"
        f".title{{font-size:19px;font-weight:600;fill:{INK}}}.who{{font-size:15px;fill:{MUTED}}}"
        f".says{{font-size:13.5px;fill:{INK}}}</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (title, who, says, config) in enumerate(PANELS):
        parts += panel(LEFT + number * (side + GAP), title, who, says, config)
    path = Path(__file__).parents[1] / "images" / "rois.svg"
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
