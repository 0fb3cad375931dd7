"""Time a network as it is, as a program of torch.export, and compiled: one prepared photo through each, in turn.

    maskrcnn export best.safetensors -o model.pt2 --size 800x864 --dynamic none
    python benchmarks/pt2.py best.safetensors model.pt2 photo.jpg

Prints the median of each and the median of its ratio to the network as it is, round by round.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import maskrcnn
from maskrcnn.export.agreement import agreement
from maskrcnn.export.pt2 import compiled_path
from maskrcnn.export.pt2_model import load_pt2
from maskrcnn.structures import DetectionBatch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("program", type=Path)
    parser.add_argument("photo")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    model = maskrcnn.load(given.weights).eval()
    exported = {"program": load_pt2(given.program)}
    if compiled_path(given.program).exists():
        exported["compiled"] = load_pt2(compiled_path(given.program), trust=True)
    batch = exported["program"].prepare([given.photo])

    def eager() -> DetectionBatch:
        with torch.inference_mode():
            return model(batch)

    runs: dict[str, Callable[[], DetectionBatch]] = {"as it is": eager}
    runs.update({name: partial(network.detect, batch) for name, network in exported.items()})
    first = eager()
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {list(batch.tensor.shape)}")
    for name, run in runs.items():
        print(f"{name}: {agreement(first, run(), model.config.box.score_threshold)}")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["as it is"], seconds, strict=True))
        print(f"{name}: {1000 * statistics.median(seconds):.0f} ms, {ratio:.2f} times as fast as the network as it is")


if __name__ == "__main__":
    main()
