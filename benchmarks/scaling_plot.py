"""The plot of scaling.py: two panels for each quantity, time above memory, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
matplotlib.rcParams["svg.hashsalt"] = "maskrcnn"

INK, GREY, FAINT = "#1b1f24", "#57606a", "#d4d8dd"
COLORS = {"inference": "#1f6feb", "training": "#c2410c", "pixels": "#1f6feb", "rle": "#0f8a6d"}
COSTS = {"seconds": (1e3, "time, ms"), "megabytes": (1.0, "memory, MB")}
COLUMNS = 3
GROUP_HEIGHT = 4.2
"""Inches of a row of quantities, both panels."""
LEAST_RANGE = 12.0
"""A panel spans this factor upwards at least, so that what is flat looks flat."""
NEAREST_TICKS = 1.6
"""Values nearer to each other than this factor share a tick."""


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
    figure = Figure(figsize=(8, GROUP_HEIGHT * rows), dpi=100, facecolor="white")
    groups = figure.add_gridspec(
        rows, columns, left=0.09, right=0.98, top=1 - 0.3 / rows / GROUP_HEIGHT, bottom=0.28 / rows / GROUP_HEIGHT,
        wspace=0.27, hspace=0.2,
    )  # fmt: skip
    for place, axis in enumerate(shown):
        inner = groups[place // columns, place % columns].subgridspec(2, 1, hspace=0.1)
        pair = [figure.add_subplot(inner[k]) for k in range(2)]
        of_axis = [c for c in curves if c.axis == axis]
        for panel, (cost, (factor, label)) in zip(pair, COSTS.items(), strict=True):
            _panel(panel, of_axis, results, cost, factor)
            if not place % columns:
                panel.set_ylabel(label, color=GREY, fontsize=9)
        pair[0].set_title(axes[axis], fontsize=11, color=INK, loc="left", weight="bold")
        pair[0].tick_params(labelbottom=False)
        _legend(pair[0], of_axis, kinds, with_guide=not place)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(
    panel: Axes, curves: Sequence[Any], results: Mapping[str, Mapping[str, Any]], cost: str, factor: float
) -> None:
    """Draw what the curves of a quantity cost, each with the straight line that ends where it does."""
    x = curves[0].values
    power = 2 if curves[0].axis == "side" else 1  # an image's work goes with its pixels
    every = []
    for curve in curves:
        costs = [factor * v for v in results[curve.name][cost]]
        guide = [costs[-1] * (v / x[-1]) ** power for v in (x[0], x[-1])]
        color = COLORS[curve.kind]
        panel.plot((x[0], x[-1]), guide, color=color, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6, zorder=1)
        panel.plot(x, costs, color=color, linewidth=1.8, marker="o", markersize=3.5)
        every += costs
    panel.set_xscale("log")
    panel.set_yscale("log")
    low, high = min(every) / 1.5, max(every) * 1.9
    panel.set_ylim(min(low, high / LEAST_RANGE), high)
    panel.set_xlim(x[0] / (x[-1] / x[0]) ** 0.04, x[-1] * (x[-1] / x[0]) ** 0.06)
    panel.set_xticks(_ticks(x))
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_locator(NullLocator())
    panel.grid(axis="y", color=FAINT, linewidth=0.6)
    panel.tick_params(labelcolor=GREY, labelsize=8.5, length=3, color=FAINT)
    for side, spine in panel.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)


def _ticks(values: Sequence[int]) -> list[int]:
    """Return the values that are far enough from the next one to be written, the last one in any case."""
    span = (values[-1] / values[0]) ** 0.2
    ticks = [values[-1]]
    for value in reversed(values[:-1]):
        if ticks[-1] / value > max(NEAREST_TICKS, span):
            ticks.append(value)
    return ticks


def _legend(panel: Axes, curves: Sequence[Any], kinds: Mapping[str, str], with_guide: bool) -> None:
    """Name the curves at the top of the panel, in their colours."""
    lines = [(kinds[curve.kind], COLORS[curve.kind]) for curve in reversed(curves)]
    lines += [("dashed: in proportion", GREY)] if with_guide else []
    for number, (text, color) in enumerate(lines):
        panel.text(0.03, 0.98 - 0.1 * number, text, color=color, fontsize=9, va="top", transform=panel.transAxes)
