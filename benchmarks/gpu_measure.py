"""How gpu.py measures: time, memory, the matrix rate, whether detections are the same; and what it prints."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn.ops import boxes as box_ops
from maskrcnn.structures import DetectionBatch

Work = Callable[[], Any]
LEAST_SECONDS = 0.3
"""A run is repeated in its turn until it takes so long."""


class Tolerance(NamedTuple):
    """When two detections are the same, and how many must be."""

    iou: float
    score: float
    share: float

    def __str__(self) -> str:
        return (
            f"same class, IoU above {self.iou}, scores within {self.score:g}, for at least {100 * self.share:.0f} % "
            "of the detections of both"
        )


class Row(NamedTuple):
    """One line of the table; None where something was not measured."""

    part: str
    network: str
    batch: int
    precision: str
    run: str
    milliseconds: float | None = None
    gigabytes: float | None = None
    """Peak of a run above what weights and inputs take, in 10^9 bytes."""
    of_limit: float | None = None
    """Share of the matrix rate that was measured in this run of the benchmark."""
    beside: float | None = None
    """How many times as fast as torchvision."""
    same: float | None = None
    """Share of detections that the reference has, too; in training the greatest relative difference of a loss."""
    holds: bool = True
    note: str = ""

    @property
    def images_per_second(self) -> float | None:
        return None if self.milliseconds is None else 1000 * self.batch / self.milliseconds


HEADER = ("part", "network", "batch", "precision", "run", "img/s", "ms", "GB", "of limit", "× tv", "equal")
WIDTHS = (10, 15, 6, 10, 12, 9, 9, 7, 9, 7, 9)


def header() -> str:
    return _line(HEADER)


def line(row: Row) -> str:
    """Return a row as text; what was not measured is a dash."""

    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    equal = shown(row.same, ".2%") + ("" if row.holds else " !")
    figures = (
        *(shown(row.images_per_second, ".1f"), shown(row.milliseconds, ".2f"), shown(row.gigabytes, ".2f")),
        *(shown(row.of_limit, ".1%"), shown(row.beside, ".2f"), equal),
    )
    text = _line((row.part, row.network, str(row.batch), row.precision, row.run, *figures))
    return f"{text}  {row.note}" if row.note else text


def _line(cells: Sequence[str]) -> str:
    left = 5
    pairs = zip(cells, WIDTHS, strict=True)
    return "".join(f"{c:<{w}}" if i < left else f"{c:>{w}}" for i, (c, w) in enumerate(pairs)).rstrip()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Work, device: torch.device, times: int) -> float:
    """Return what one of `times` runs takes: by CUDA's events on a GPU, by the clock elsewhere."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - start) / times
    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
    begin, end = events
    begin.record(torch.cuda.current_stream(device))
    for _ in range(times):
        run()
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / times


def medians(runs: Mapping[str, Work], device: torch.device, rounds: int) -> dict[str, float]:
    """Return the median seconds of each run; they take turns, so that what else happens falls on all."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    times = {}
    for name, run in runs.items():
        run()
        times[name] = max(math.ceil(LEAST_SECONDS / max(seconds(run, device, 1), 1e-6)), 1)
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run, device, min(times[name], 1000)))
    return {name: statistics.median(each) for name, each in taken.items()}


def with_peak(run: Work, device: torch.device) -> tuple[Any, float | None]:
    """Return a run's result, and the most memory it took above what was taken before, in 10^9 bytes."""
    if device.type != "cuda":
        return run(), None
    synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    result = run()
    synchronize(device)
    return result, (torch.cuda.max_memory_allocated(device) - before) / 1e9


def flops_of(run: Work) -> float:
    """Return the operations of a run's convolutions and matrix products, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Return the operations per second of a product of two square matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    [taken] = medians({"product": lambda: a @ b}, device, 5).values()
    return 2 * side**3 / taken


Found = list[dict[str, Tensor]]
"""Boxes, labels and scores of each image."""


def as_found(batch: DetectionBatch) -> Found:
    """Return detections image by image, on the CPU."""
    fields = {"boxes": batch.boxes, "labels": batch.labels, "scores": batch.scores}
    return [
        {name: each[n, batch.valid[n]].float().cpu() if name != "labels" else each[n, batch.valid[n]].cpu()
         for name, each in fields.items()}
        for n in range(len(batch.valid))
    ]  # fmt: skip


def same_share(one: Found, other: Found, tolerance: Tolerance) -> float:
    """Return the share of the detections of both that have a counterpart; 0 where nothing is found at all."""
    total = matched = 0
    for a, b in zip(one, other, strict=True):
        pairs = (
            (box_ops.iou(a["boxes"], b["boxes"]) > tolerance.iou)
            & (a["labels"][:, None] == b["labels"][None])
            & ((a["scores"][:, None] - b["scores"][None]).abs() <= tolerance.score)
        )
        total += len(a["scores"]) + len(b["scores"])
        matched += int(pairs.any(1).sum()) + int(pairs.any(0).sum())
    return matched / total if total else 0.0


def greatest_difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Return the greatest relative difference of a loss that both have; infinite for one that is not finite."""
    both = [(ours[name], theirs[name]) for name in ours.keys() & theirs.keys()]
    if not both or not all(math.isfinite(v) for pair in both for v in pair):
        return math.inf
    return max(abs(a - b) / max(abs(a), abs(b), 1e-3) for a, b in both)
