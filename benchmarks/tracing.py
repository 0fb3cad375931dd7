"""What naming the stages costs: a forward pass as it is, one without the names, and traced ones, in turns on a CPU.

Without the names is with `stage` replaced by a function that returns its tensor and does nothing else. The difference
is far below what a machine's load makes of one run, so the kinds take turns and medians are compared; the last row,
as it is once more, tells how far two medians of the same differ by chance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from maskrcnn import Config, MaskRCNN
from maskrcnn.images import prepare
from maskrcnn.stages import recording, stage
from maskrcnn.structures import ImageBatch

CALLS = 1000
"""Calls of `stage` that the cost of one is taken from."""


def unnamed(name: str, tensor: Tensor) -> Tensor:
    """Stand in for `stage`."""
    return tensor


@contextmanager
def without_names() -> Iterator[None]:
    """Replace `stage` in every module of the package that calls it."""
    callers = [
        name
        for name, module in list(sys.modules.items())
        if name.startswith("maskrcnn.") and getattr(module, "stage", None) is stage and name != "maskrcnn.stages"
    ]
    with ExitStack() as stack:
        for name in callers:
            stack.enter_context(patch(f"{name}.stage", unnamed))
        yield


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(model: MaskRCNN, batch: ImageBatch, runs: int) -> dict[str, list[float]]:
    """Return the seconds of every run of each kind."""

    def plain() -> object:
        return model(batch)

    def nameless() -> object:
        with without_names():
            return model(batch)

    def recorded() -> object:  # every tensor kept, and the mask head run on all slots
        with recording():
            return model(batch)

    def recorded_as_it_runs() -> object:  # every tensor kept, of the run as it is without a recording
        with recording(all_slots=False):
            return model(batch)

    kinds: dict[str, Callable[[], object]] = {
        "without the names": nameless,
        "as it is": plain,
        "traced": recorded_as_it_runs,
        "traced, every slot": recorded,
        "as it is, again": plain,
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    with torch.inference_mode():
        for work in kinds.values():
            work()
        for turn in range(runs):
            order = list(kinds)[turn % len(kinds) :] + list(kinds)[: turn % len(kinds)]
            for name in order:
                found[name].append(seconds(kinds[name]))
    return found


def one_call() -> float:
    """Return the seconds of one call of `stage` when nothing is recorded."""
    tensor = torch.zeros(1)
    return statistics.median(seconds(lambda: [stage("p2", tensor) for _ in range(CALLS)]) / CALLS for _ in range(50))


def report(found: dict[str, list[float]], calls: int) -> None:
    """Print a table of medians and their ratios."""
    medians = {name: statistics.median(times) for name, times in found.items()}
    base = medians["without the names"]
    table = Table("forward pass", "median ms", "ratio", "ratio of the fastest")
    fastest = min(found["without the names"])
    for name, median in medians.items():
        table.add_row(name, f"{1e3 * median:.2f}", f"{median / base:.4f}", f"{min(found[name]) / fastest:.4f}")
    console = Console()
    console.print(table)
    call = one_call()
    console.print(
        f"{calls} calls of stage, {1e9 * call:.0f} ns each: {1e6 * calls * call:.1f} µs of a run, "
        f"{100 * calls * call / medians['as it is']:.4f} %."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small-fpn")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="of the photo")
    parser.add_argument("--runs", type=int, default=60, help="of each kind")
    parser.add_argument("--json", action="store_true", help="print all times in seconds")
    options = parser.parse_args()
    torch.manual_seed(0)
    overrides = {"box.score_threshold": 0.0}
    model = MaskRCNN(Config.preset(options.preset, class_names=["a", "b", "c"], overrides=overrides)).eval()
    rng = np.random.default_rng(0)
    batch = prepare([rng.integers(0, 256, (*options.size, 3), np.uint8)], model.config.image)
    found = measure(model, batch, options.runs)
    if options.json:
        print(json.dumps(found))
        return
    with torch.inference_mode(), recording() as tensors:
        model(batch)
    report(found, len(tensors))


if __name__ == "__main__":
    main()
