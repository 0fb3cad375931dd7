"""Speed and memory on the CPU, beside torchvision where a Python that has it is given.

Both sides get the same weights and inputs and as many threads; torchvision runs eagerly in float32. Each case runs in
a fresh process per side, and the two take turns: while one runs the other waits, so that what else the machine does
falls on both.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import inputs
from ours import CASES

HERE = Path(__file__).parent
TOLERANCE = {"train": 0.25, "fast-bf16": 0.1}
"""Relative differences of figures that are let pass, by how a case's name begins; training draws its own samples, and
bfloat16 rounds scores."""
USUAL_TOLERANCE = 0.01

PAUSE = 0.2
"""Seconds before each run, in which the threads of the side that ran before stop spinning in wait for more work."""

DESCRIPTIONS = {
    "network-1": "network, 800 × 1088, batch 1",
    "network-2": "network, batch 2",
    "predict-1": "photo of 2 megapixels to masks",
    "predict-2": "two photos to masks",
    "fast-1": "photo to masks, optimize('float32')",
    "fast-2": "two photos, optimize('float32')",
    "fast-bf16-1": "photo to masks, optimize('bfloat16')",
    "fast-bf16-2": "two photos, optimize('bfloat16')",
    "onnx-1": "photo to masks, ONNX Runtime",
    "train-1": "training step, batch 1",
    "train-2": "training step, batch 2",
    "train-bf16-1": "training step, bfloat16, batch 1",
    "train-bf16-2": "training step, bfloat16, batch 2",
    "roi-align": "RoIAlign, 1000 RoIs, 4 levels",
    "roi-align-backward": "RoIAlign, forward and backward",
    "nms": "NMS, 5 × 1000 boxes",
    "paste": "pasting 100 masks, 800 × 1088",
}


class MismatchError(RuntimeError):
    """The two sides did not compute the same."""


class Side:
    """A worker process with one case; see worker.py."""

    def __init__(self, python: str, script: str, case: str, file: str, threads: int) -> None:
        self.name = script
        self.times: list[float] = []
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MASKRCNN_SHAPE_CHECKS": "0"}
        self.process = subprocess.Popen(
            [python, "-W", "ignore", str(HERE / script), case, file, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def answer(self, request: str = "") -> dict[str, Any]:
        """Send a line, if any, and return the next answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if request:
            print(request, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self.process.wait()}; its own words are above.")
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()


def measure(case: str, sides: list[tuple[str, str]], file: str, repeats: int, threads: int) -> dict[str, Any]:
    """Return the median time and the peak memory of each side for one case."""
    running: list[Side] = []
    started = []
    try:
        for python, script in sides:  # one after the other, so that neither warms up beside the other
            running.append(Side(python, script, case, file, threads))
            started.append(running[-1].answer())
        if len(running) == 2:
            compare(case, *(s["figures"] for s in started))
        for turn in range(repeats + 1):
            for side in running:
                time.sleep(PAUSE)
                seconds = side.answer("run")["seconds"]
                if turn:  # in the first turn the sides learn how often to run
                    side.times.append(seconds)
        results = [
            {
                "seconds": statistics.median(side.times),
                "runs": side.times,
                **side.answer("end"),
                **first,
            }
            for side, first in zip(running, started, strict=True)
        ]
    finally:
        for side in running:
            side.close()
    return dict(zip(("ours", "peer"), results, strict=False))


def compare(case: str, ours: dict[str, float], peer: dict[str, float]) -> None:
    """Raise MismatchError unless both sides' figures are alike."""
    if case.startswith("train-bf16"):  # rounding moves proposals, and of few positive RoIs others are drawn
        ours, peer = ({"sum of the losses": sum(side.values())} for side in (ours, peer))
    tolerance = next((value for name, value in TOLERANCE.items() if case.startswith(name)), USUAL_TOLERANCE)
    for name, wanted in peer.items():
        if not abs(ours[name] - wanted) <= tolerance * max(abs(wanted), 1e-6):
            raise MismatchError(f"{case}: {name} is {ours[name]:.6g} here and {wanted:.6g} there; not the same work.")


def row(case: str, result: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    ours, peer = result["ours"], result.get("peer")
    found = ours["figures"].get("detections")
    cells = [DESCRIPTIONS[case], _seconds(ours["seconds"])]
    cells += ["–", "–"] if peer is None else [_seconds(peer["seconds"]), f"{ours['seconds'] / peer['seconds']:.2f}"]
    cells += [f"{ours['megabytes']:.0f} MB", "–" if peer is None else f"{peer['megabytes']:.0f} MB"]
    return [
        *cells,
        "" if found is None else f"{found:.0f}" + ("" if peer is None else f", {peer['figures']['detections']:.0f}"),
    ]


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python benchmarks/run.py --peer ~/tv/bin/python --cases 'network-*' nms\n"
        f"cases: {', '.join(CASES)}",
    )
    parser.add_argument(
        "--peer", metavar="PYTHON", help="a Python with torchvision, which may be of another environment"
    )
    parser.add_argument("--cases", nargs="+", default=["*"], metavar="NAME", help="names or patterns; all by default")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each case and side (default 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch (default: its own)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures, with every run's time")
    options = parser.parse_args()
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    cases = [c for c in CASES if any(fnmatch.fnmatch(c, pattern) for pattern in options.cases)]
    if not cases:
        parser.error(f"no case is called {' or '.join(options.cases)}; there are {', '.join(CASES)}")
    sides = [(sys.executable, "ours.py")] + ([(options.peer, "peer.py")] if options.peer else [])

    console = Console()
    before, results = _load(), {}
    with tempfile.TemporaryDirectory() as folder, Progress(console=console, transient=True) as progress:
        bar = progress.add_task("inputs", total=len(cases))
        file = str(Path(folder, "inputs.pt"))
        torch.save({"inputs": inputs.make(), "weights": inputs.weights()}, file)
        for case in cases:
            progress.update(bar, description=case)
            try:
                results[case] = measure(case, sides, file, options.repeats, options.threads)
            except (MismatchError, RuntimeError, OSError) as e:
                print(f"error: {e}", file=sys.stderr)
                return 1
            progress.advance(bar)

    versions = [" ".join(f"{k} {v}" for k, v in side["versions"].items()) for side in results[cases[0]].values()]
    table = Table(
        title=f"resnet50-fpn, {options.threads} threads; median of {options.repeats}",
        caption=f"{' · '.join(versions)}\n"
        f"{platform.processor() or platform.machine()}, load {before} before, {_load()} after\n"
        "ratio: ours to theirs, below 1 is faster; memory: peak above weights and inputs",
    )
    for heading in ("case", "ours", "torchvision", "ratio", "memory", "torchvision", "detections"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for case, result in results.items():
        table.add_row(*row(case, result))
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps({"threads": options.threads, "cases": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
