"""One side of the benchmark: a process that runs one case, once for each line "run" that it reads.

Needs the standard library and torch alone, since the peer's Python may have nothing else.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAST_SECONDS = 0.2
"""A case that is quicker runs several times in a turn, so that waking the machine's threads does not count."""


class Case(NamedTuple):
    """What is timed, and figures of its result by which the two sides are compared."""

    run: Callable[[], Any]
    figures: Callable[[Any], dict[str, float]]


Build = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Case]
"""Makes a case from the inputs and the weights."""


def serve(cases: Mapping[str, Build], versions: dict[str, str]) -> None:
    """Answer lines on stdin with lines of JSON on stdout: the arguments are case, inputs file and threads."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not mix with the answers
    name, path, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    file = torch.load(path, weights_only=True)
    case = cases[name](file["inputs"], file["weights"])
    settle_allocator()
    before = resident()
    figures = case.figures(case.run())  # also warms up
    gc.collect()
    reset_peak()  # what the figures took does not count
    _say(answers, {"figures": figures, "versions": versions})
    count = 1
    for line in sys.stdin:
        if line.strip() != "run":
            break
        start = time.perf_counter()
        for _ in range(count):
            result = case.run()
            del result
        seconds = (time.perf_counter() - start) / count
        _say(answers, {"seconds": seconds})
        count = max(round(LEAST_SECONDS / seconds), 1)
    _say(answers, {"megabytes": (peak() - before) / 1e6, "process_megabytes": peak() / 1e6})


def detection_figures(boxes: Tensor, labels: Tensor, scores: Tensor, masks: Tensor) -> dict[str, float]:
    """Return figures of the detections of all images together."""
    x1, y1, x2, y2 = (boxes.reshape(-1, 4).sum(0) / max(len(boxes), 1)).tolist()
    means = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "labels": float(labels.float().mean())}
    return {
        "detections": float(len(boxes)),
        **means,
        "scores": float(scores.mean()),
        "masks": float(masks.double().mean()),
    }


def checksum(values: Tensor) -> float:
    """Return a mean whose weights depend on the place."""
    flat = values.detach().double().flatten()
    return float((flat * torch.linspace(0.5, 1.5, len(flat), dtype=flat.dtype)).mean())


def _say(answers: Any, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=answers, flush=True)


def settle_allocator() -> None:
    """Bring the C allocator into the state that a network leaves it in.

    glibc gives large blocks back to the system, and pays page faults for the next ones, until one has been freed;
    then it keeps blocks up to that size (M_MMAP_THRESHOLD is dynamic, up to 32 MB).
    """
    block = torch.ones(31 << 18)  # 31 MB of float32
    del block


# Memory is the process's peak resident size less its size once weights and inputs are loaded. Linux can reset
# the peak, so that loading does not count; elsewhere what loading took beyond its result hides part of it.
def reset_peak() -> None:
    """Make the peak the present size, where the system can."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def peak() -> float:
    """Return the largest resident size in bytes."""
    found = _status("VmHWM:")
    unit = 1 if sys.platform == "darwin" else 1024
    return found if found is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident() -> float:
    """Return the resident size in bytes."""
    found = _status("VmRSS:")
    return found if found is not None else peak()


def _status(name: str) -> float | None:
    if not os.path.exists("/proc/self/status"):
        return None
    with open("/proc/self/status") as f:
        return next((float(line.split()[1]) * 1024 for line in f if line.startswith(name)), None)
