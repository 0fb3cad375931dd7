"""How time and memory grow with what a network is given, on a CPU; and what pasting a large photo's masks takes.

Every point is a fresh process, so that none profits from memory that another has left behind. The points of all
curves are visited in a shuffled order, several rounds of it, and medians are taken. Memory is the process's peak
resident size above what it holds once weights and input are loaded. Time is the processor's, of one thread: unlike the
clock's it hardly depends on what else the machine does. The weights are random, from a fixed seed, with
predictors strong enough that every run finds as many objects as it may. As on the command line PyTorch asks for huge
pages; THP_MEM_ALLOC_ENABLE=0 measures without.

The growth of a curve is its slope on logarithmic axes over the last three points: 1 is linear, less is better. What a
run costs anyway makes it less than 1; tests/test_scaling.py counts what is left when that is taken off.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from maskrcnn import Config, MaskRCNN, TargetBatch
from maskrcnn.devices import ask_for_huge_pages
from maskrcnn.evaluation import coco_results
from maskrcnn.ops.masks import paste_masks
from maskrcnn.ops.rle import paste_rles
from worker import peak, reset_peak, resident, settle_allocator

HERE = Path(__file__).parent
SIDE = 512
"""Pixels along a side of the input where nothing else is said."""
PHOTO = (4000, 6000)
WORSE = 1.1
"""Growth from which a curve is worse than linear; a straight one comes out a few hundredths above 1 by chance."""
LAST = 3
"""Points that growth is taken from."""
LEAST_SECONDS = 0.5
"""A point runs until so many seconds have passed, twice at least."""

Work = Callable[[], object]


class Curve(NamedTuple):
    """A quantity that is varied, and the values it takes."""

    axis: str
    kind: str
    values: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.axis} {self.kind}"


SIDES, BATCHES = (256, 512, 1024, 2048), (1, 2, 4, 8)
DETECTIONS, CLASSES = (1, 10, 30, 100, 300, 1000), (1, 10, 80, 365, 1000, 1203)
CURVES = (
    Curve("side", "inference", SIDES),
    Curve("batch", "inference", BATCHES),
    Curve("batch", "training", BATCHES),
    Curve("detections", "pixels", DETECTIONS),
    Curve("detections", "rle", DETECTIONS),
    Curve("classes", "inference", CLASSES),
    Curve("classes", "training", CLASSES),
    Curve("truths", "training", (1, 10, 50, 100, 200, 500)),
    Curve("proposals", "inference", (100, 250, 500, 1000, 2000, 4000)),
)
AXES = {
    "side": "image side, pixels",
    "batch": "images in a batch",
    "detections": "detections",
    "classes": "classes",
    "truths": "ground truths in an image",
    "proposals": "proposals",
}
KINDS = {"inference": "inference", "training": "training step", "pixels": "masks as pixels", "rle": "as run lengths"}
PASTES = {
    "objects": "pasting objects of 60 to 1,500 pixels",
    "quarters": "pasting a quarter of the photo each",
    "whole": "pasting the whole photo each",
    "predict": "from the photo to COCO's results",
}


# What one process measures


def measure(work: Work) -> dict[str, Any]:
    """Return the times of several runs and the peak memory above what is loaded."""
    settle_allocator()
    gc.collect()
    before = resident()
    reset_peak()
    seconds: list[float] = []
    work()  # warms up
    began = time.process_time()
    while len(seconds) < 2 or time.process_time() - began < LEAST_SECONDS:
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
        del result
    return {"seconds": statistics.median(seconds), "megabytes": (peak() - before) / 1e6}


def network(preset: str, classes: int = 10, **fields: Any) -> MaskRCNN:
    """Return a network of random weights that finds all it may: hundreds of boxes, a few classes for each."""
    torch.manual_seed(0)
    overrides = {name.replace("__", "."): value for name, value in fields.items()}
    config = Config.preset(preset, class_names=[f"class {k}" for k in range(classes)], overrides=overrides)
    model = MaskRCNN(config).eval()
    with torch.no_grad():
        for layer, spread in ((model.rpn.objectness, 1.0), (model.rpn.deltas, 0.2), (model.box_head.box_deltas, 0.2)):
            torch.nn.init.normal_(layer.weight, std=spread / math.sqrt(layer.weight[0].numel()))
        logits = model.box_head.class_logits
        torch.nn.init.normal_(logits.weight, std=30 / math.sqrt(logits.weight.shape[1]))
        logits.bias[-1] = -100.0  # nothing is background
    return model


def inference(model: MaskRCNN, images: Tensor) -> Work:
    """Run the network on prepared images."""

    def run() -> object:
        with torch.inference_mode():
            return model(images)

    return run


def training(model: MaskRCNN, images: Tensor, truths: int) -> Work:
    """Do a step: forward, backward and SGD."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-9)
    targets = ground_truth(len(images), truths, int(images.shape[-1]), model.config.num_classes)

    def step() -> object:
        optimizer.zero_grad()
        model(images, targets).total.backward()
        optimizer.step()
        return None

    return step


def ground_truth(count: int, truths: int, side: int, classes: int) -> TargetBatch:
    """Return boxes of 16 to 128 pixels, filled by their masks."""
    generator = torch.Generator().manual_seed(0)
    sides = 16 * 8 ** torch.rand(count, truths, 2, generator=generator)
    start = torch.rand(count, truths, 2, generator=generator) * (side - sides)
    boxes = torch.cat((start, start + sides), dim=-1)
    masks = torch.zeros(count, truths, side, side, dtype=torch.bool)
    for mask, box in zip(masks.flatten(0, 1), boxes.flatten(0, 1).round().int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    labels = torch.randint(classes, (count, truths), generator=generator)
    return TargetBatch(boxes, labels, masks, torch.ones(count, truths, dtype=torch.bool))


def work_of(curve: str, value: int, preset: str) -> Work:
    """Return what a point of a curve runs."""
    axis, kind = curve.split()
    images = torch.randn(value if axis == "batch" else 1, 3, *[value if axis == "side" else SIDE] * 2)
    if kind == "training":
        model = network(preset, value if axis == "classes" else 10)
        return training(model, images, value if axis == "truths" else 10)
    if axis == "detections":
        fields: dict[str, Any] = {
            "box__score_threshold": 0.0,
            "box__nms_threshold": 0.9,
            "image__min_size": SIDE,
            "image__max_size": SIDE,
        }
        model = network(preset, 10, box__detections_per_image=value, **fields)
        photo = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)

        def predict() -> object:
            [found] = model.predict(photo, 0.0, masks=kind)  # type: ignore[arg-type]
            assert len(found) == value, f"{len(found)} of {value} detections found"
            return found

        return predict
    if axis == "proposals":
        model = network(preset, rpn__pre_nms_top_n=value, rpn__post_nms_top_n=value, rpn__nms_threshold=0.95)
        return inference(model, images)
    return inference(network(preset, value if axis == "classes" else 10), images)


def paste_work(kind: str, way: str) -> Work:
    """Return the pasting of 100 masks on a large photo, or all that `maskrcnn predict` does but for the picture."""
    if kind == "predict":
        return predict_work(way)
    generator = torch.Generator().manual_seed(0)
    photo = torch.tensor([PHOTO[1], PHOTO[0]])
    share = {"quarters": 0.5, "whole": 1.0}.get(kind)
    sides = 60 * 25 ** torch.rand(100, 2, generator=generator) if share is None else (photo * share).expand(100, 2)
    start = torch.rand(100, 2, generator=generator) * (photo - sides)
    boxes = torch.cat((start, start + sides), dim=1)
    noise = torch.nn.functional.interpolate(torch.randn(100, 1, 5, 5, generator=generator), (28, 28), mode="bicubic")
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 28)] * 2, indexing="ij")
    masks = (3 - 3.6 * (x**2 + y**2) + noise[:, 0]).sigmoid()  # uneven discs, as objects are
    paste: Callable[..., object] = paste_rles if way == "rle" else paste_masks
    return lambda: paste(masks, boxes, PHOTO)


def predict_work(way: str) -> Work:
    """Return the whole way from a large photo to 100 detections in COCO's results format."""
    model = network("small-fpn", box__detections_per_image=100, box__score_threshold=0.0)
    photo = np.random.default_rng(0).integers(0, 256, (*PHOTO, 3), np.uint8)

    def run() -> object:
        [found] = model.predict(photo, 0.0, masks=way)  # type: ignore[arg-type]
        assert len(found) == 100
        return coco_results(found, 0)

    return run


# Rounds of processes


def points(curves: Sequence[Curve], with_pastes: bool, rounds: int) -> Iterator[tuple[str, int]]:
    """Yield every point once a round, in another order each."""
    every = [(curve.name, value) for curve in curves for value in curve.values]
    if with_pastes:
        every += [(f"paste {kind} {way}", 0) for kind in PASTES for way in ("pixels", "rle")]
    for turn in range(rounds):
        shuffled = list(every)
        random.Random(turn).shuffle(shuffled)
        yield from shuffled


def in_a_process(point: tuple[str, int], preset: str) -> dict[str, float]:
    """Return what a fresh process measures at a point."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASKRCNN_SHAPE_CHECKS": "0"}
    command = [sys.executable, "-W", "ignore", str(HERE / "scaling.py"), "--point", json.dumps(point)]
    command += ["--preset", preset]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{point[0]} at {point[1]} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def collect(
    every: Sequence[tuple[str, int]], preset: str, progress: Progress
) -> dict[tuple[str, int], dict[str, float]]:
    """Return the medians of every point over all rounds."""
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    bar = progress.add_task("measuring", total=len(every))
    for point in every:
        progress.update(bar, description=f"{point[0]} {point[1] or ''}")
        runs.setdefault(point, []).append(in_a_process(point, preset))
        progress.advance(bar)
    return {
        point: {name: statistics.median(r[name] for r in found) for name in ("seconds", "megabytes")}
        for point, found in runs.items()
    }


# How a curve grows


def growth(x: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent by which the last points grow, fitted on logarithmic axes.

    Example:
        >>> round(growth([1, 10, 20, 40], [9, 100, 400, 1600]), 2)
        2.0
    """
    logs = np.log(np.array([x[-LAST:], costs[-LAST:]], float))
    return float(np.polyfit(logs[0], logs[1], 1)[0])


def results_of(
    curves: Sequence[Curve], found: Mapping[tuple[str, int], Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """Return every curve's costs and growth; an image's by its pixels, not by its side."""
    results: dict[str, dict[str, Any]] = {}
    for curve in curves:
        entry: dict[str, Any] = {"values": list(curve.values)}
        for cost in ("seconds", "megabytes"):
            entry[cost] = [found[curve.name, value][cost] for value in curve.values]
            x = [value**2 if curve.axis == "side" else value for value in curve.values]
            entry[f"{cost}_growth"] = growth(x, entry[cost])
        results[curve.name] = entry
    return results


# Tables and the plot


def curve_table(curves: Sequence[Curve], results: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Return a table of all curves."""
    table = Table(title=title, caption="growth: of the last three points; 1 is linear")
    for heading in ("curve", "from … to", "time, ms", "growth", "memory, MB", "growth", ""):
        table.add_column(heading, justify="left" if heading in ("curve", "") else "right")
    for curve in curves:
        found = results[curve.name]
        seconds, megabytes = found["seconds"], found["megabytes"]
        growths = [found[f"{cost}_growth"] for cost in ("seconds", "megabytes")]
        table.add_row(
            f"{AXES[curve.axis].split(',')[0]}, {KINDS[curve.kind]}",
            f"{curve.values[0]:,} … {curve.values[-1]:,}",
            f"{1e3 * seconds[0]:,.0f} … {1e3 * seconds[-1]:,.0f}",
            f"{growths[0]:.2f}",
            f"{megabytes[0]:,.0f} … {megabytes[-1]:,.0f}",
            f"{growths[1]:.2f}",
            "[red]worse than linear[/]" if max(growths) > WORSE else "",
        )
    return table


def paste_table(found: Mapping[tuple[str, int], Mapping[str, float]]) -> Table:
    """Return a table of pasting on a large photo."""
    table = Table(title=f"100 masks on a photo of {PHOTO[1]:,} × {PHOTO[0]:,} pixels")
    for heading in ("", "run lengths", "memory", "pixels", "memory"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind in PASTES:
        cells = []
        for way in ("rle", "pixels"):
            cost = found[f"paste {kind} {way}", 0]
            cells += [f"{1e3 * cost['seconds']:,.0f} ms", f"{cost['megabytes']:,.0f} MB"]
        table.add_row(PASTES[kind], *cells)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python benchmarks/scaling.py --only batch classes --plot growth.svg",
    )
    parser.add_argument("--only", nargs="+", choices=[*AXES, "paste"], default=[*AXES, "paste"], help="what to vary")
    parser.add_argument("--preset", default="small-fpn", help="the network (default small-fpn)")
    parser.add_argument("--rounds", type=int, default=3, help="processes per point (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the curves, as .svg or .png")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.point:
        torch.set_num_threads(1)
        ask_for_huge_pages()
        name, value = json.loads(options.point)
        words = name.split()
        work = paste_work(*words[1:]) if words[0] == "paste" else work_of(name, value, options.preset)
        print(json.dumps(measure(work)))
        return 0

    curves = [curve for curve in CURVES if curve.axis in options.only]
    every = list(points(curves, "paste" in options.only, options.rounds))
    console = Console()
    try:
        with Progress(console=console, transient=True) as progress:
            found = collect(every, options.preset, progress)
    except RuntimeError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    results = results_of(curves, found)
    machine = f"{platform.processor() or platform.machine()}, one thread, torch {torch.__version__}"
    if curves:
        console.print(curve_table(curves, results, f"{options.preset}, {SIDE} × {SIDE}, float32, {machine}"))
    pastes = {" ".join(k[0].split()[1:]): v for k, v in found.items() if k[0].startswith("paste")}
    if pastes:
        console.print(paste_table(found))
    if options.json:
        written = {"preset": options.preset, "machine": machine, "curves": results, "paste": pastes}
        options.json.write_text(json.dumps(written, indent=1) + "\n")
    if options.plot and curves:
        from scaling_plot import draw  # needs matplotlib

        draw(curves, results, AXES, KINDS, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
