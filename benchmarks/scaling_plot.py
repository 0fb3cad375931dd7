"""The plot of scaling.py: a panel for each quantity, time above memory, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
matplotlib.rcParams["svg.hashsalt"] = "maskrcnn"

INK, GREY, FAINT = "#1b1f24", "#6b7280", "#d4d8dd"
COLORS = {"inference": "#1f6feb", "training": "#c2410c", "pixels": "#1f6feb", "rle": "#0f8a6d"}
COLUMNS = 3


def draw(
    curves: Sequence[Any],
    results: Mapping[str, Mapping[str, Any]],
    axes: Mapping[str, str],
    kinds: Mapping[str, str],
    path: Path,
) -> None:
    """Write the plot of all curves."""
    shown = [axis for axis in axes if any(c.axis == axis for c in curves)]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(8, 4.3 * rows), dpi=100, facecolor="white")
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for place in range(rows * columns):
        pair = [grid[2 * (place // columns) + k, place % columns] for k in range(2)]
        if place >= len(shown):
            for panel in pair:
                panel.set_visible(False)
            continue
        of_axis = [c for c in curves if c.axis == shown[place]]
        for panel, cost, factor, unit in zip(pair, ("seconds", "megabytes"), (1e3, 1), ("ms", "MB"), strict=True):
            _panel(panel, of_axis, results, cost, factor, shown[place] == "side")
            panel.set_ylabel(f"time, {unit}" if unit == "ms" else f"memory, {unit}", color=GREY, fontsize=9)
            if place % columns:
                panel.set_ylabel(unit, color=GREY, fontsize=9)
        pair[0].set_title(axes[shown[place]], fontsize=11, color=INK, loc="left", weight="bold")
        pair[0].tick_params(labelbottom=False)
        _legend(pair[0], of_axis, kinds)
    figure.subplots_adjust(left=0.085, right=0.985, top=1 - 0.27 / rows / 4.3, bottom=0.3 / rows / 4.3)
    figure.subplots_adjust(wspace=0.24, hspace=0.2)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(
    panel: Axes,
    curves: Sequence[Any],
    results: Mapping[str, Mapping[str, Any]],
    cost: str,
    factor: float,
    squared: bool,
) -> None:
    x, y = curves[0].values, [factor * v for c in curves for v in results[c.name][cost]]
    for curve in curves:
        costs = [factor * v for v in results[curve.name][cost]]
        panel.plot(x, costs, color=COLORS[curve.kind], linewidth=1.8, marker="o", markersize=3.5, clip_on=False)
        power = 2 if squared else 1
        guide = [costs[-1] * (v / x[-1]) ** power for v in x]
        panel.plot(x, guide, color=COLORS[curve.kind], linewidth=0.9, linestyle=(0, (3, 3)), alpha=0.55, zorder=1)
    panel.set_xscale("log")
    panel.set_yscale("log")
    low, high = min(y), max(y)
    panel.set_ylim(low / 1.8, high * 1.6)
    panel.set_xlim(x[0] / 1.12, x[-1] * 1.12)
    ticks = (
        list(x)
        if len(x) <= 4
        else [v for v in x if v not in (30, 250, 500 if x[-1] > 500 else 50, 1000 if x[-1] == 1203 else 0)]
    )
    panel.set_xticks(ticks)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(axis="y", color=FAINT, linewidth=0.6)
    panel.tick_params(colors=GREY, labelsize=8.5, length=3, color=FAINT)
    panel.tick_params(axis="y", which="minor", length=0)
    for side, spine in panel.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)


def _legend(panel: Axes, curves: Sequence[Any], kinds: Mapping[str, str]) -> None:
    """Name the curves at the top of the panel, in their colours."""
    for number, curve in enumerate(reversed(curves)):
        panel.text(
            0.03,
            0.97 - 0.1 * number,
            kinds[curve.kind],
            color=COLORS[curve.kind],
            fontsize=9,
            va="top",
            transform=panel.transAxes,
        )
