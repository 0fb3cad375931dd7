"""Speed and memory on a CUDA GPU, beside torchvision where it is installed; then each Triton kernel beside PyTorch.

Both networks get the same weights, images and precision. Before anything is timed it is checked that they find the
same. Float32 is float32: TF32 is off for both. Times are medians of rounds in which the runs take turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gpu_kernels import KernelRow, Sizes, kernel_line, kernel_rows
from gpu_measure import (
    Row,
    Tolerance,
    Work,
    flops_of,
    greatest_difference,
    header,
    line,
    matrix_rate,
    medians,
    same_share,
    with_peak,
)
from gpu_runs import DTYPES, Subject, has_torchvision, inference_runs, made_images, training_runs
from maskrcnn.errors import DeviceMemoryError, MaskRCNNError
from maskrcnn.optimized.cuda import exact_float32

PARTS = ("inference", "training", "kernels")
TOLERANCES = {"fp32": Tolerance(0.99, 1e-3, 0.99), "bf16": Tolerance(0.9, 0.1, 0.9)}
"""When detections are the same as those of the first run in float32."""
ROUNDING = 0.1
"""The weights are random, and a deep network of such weights amplifies rounding. In bfloat16 a run may have this much
less in common with float32 than the first run in bfloat16 has. So the check finds mistakes there, not lost AP."""
LOSS_TOLERANCE = 0.25
"""Relative difference of a loss that is let pass: both draw their own samples."""
OUT_OF_MEMORY = (torch.OutOfMemoryError, DeviceMemoryError)
EXAMPLE = """examples:
  python benchmarks/gpu.py
  python benchmarks/gpu.py --quick --json gpu.json
  python benchmarks/gpu.py --models resnet50-fpn --parts training --batches 16 32
"""


class Options(NamedTuple):
    """What to measure."""

    device: torch.device
    size: tuple[int, int]
    compile: bool
    rounds: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, 1 where something differs or failed, or 2 where there is no GPU or it was asked wrongly."""
    given = parse(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA GPU that PyTorch can use here; --device cpu runs all of it small.", file=sys.stderr)
        return 2
    options = Options(device, given.size, not given.no_compile, given.rounds)
    record: dict[str, Any] = {"machine": machine(device), "size": list(given.size), "rows": [], "kernels": []}
    print("\n".join(f"{name:<12} {value}" for name, value in record["machine"].items()))
    fine = True
    try:
        if {"inference", "training"} & set(given.parts):
            fine &= _networks(given, options, record)
        if "kernels" in given.parts:
            fine &= _kernels(options, record, given.quick)
    except MaskRCNNError as e:
        print(f"Error: {e}", file=sys.stderr)
        return 2
    finally:  # also of a run that is stopped
        if given.json is not None:
            given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if fine else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exits with status 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=None, help="presets (default: resnet50-fpn resnet101-fpn)")
    parser.add_argument("--batches", nargs="+", type=positive, default=None, help="default: 1 8 32; training 8 16 32")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["fp32", "bf16"], help="of inference")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--size", type=size, default=(800, 1344), help="HEIGHTxWIDTH, multiples of 32")
    parser.add_argument("--rounds", type=positive, default=5, help="medians are of so many")
    parser.add_argument("--quick", action="store_true", help="resnet50-fpn in batches of 8, bf16")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled runs out")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu to try it out")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write everything there")
    given = parser.parse_args(arguments)
    if given.quick:
        given.models, given.batches = given.models or ["resnet50-fpn"], given.batches or [8]
        given.precisions = ["bf16"]
    given.models = given.models or ["resnet50-fpn", "resnet101-fpn"]
    return given


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on; got {text!r}")
    return int(text)


def size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(s.isdecimal() and int(s) and int(s) % 32 == 0 for s in sides):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH, multiples of 32, as 800x1344; got {text!r}")
    return int(sides[0]), int(sides[1])


def machine(device: torch.device) -> dict[str, str]:
    """Return what the figures depend on, by name."""
    found = {"python": sys.version.split()[0], "torch": torch.__version__}
    for name in ("triton", "torchvision"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if device.type != "cuda":
        return {"device": "CPU; figures are no measurement of a GPU", **found}
    properties = torch.cuda.get_device_properties(device)
    memory = f"{properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} multiprocessors"
    told = {"device": f"{properties.name}, {memory}", "CUDA": str(torch.version.cuda)}
    told["cuDNN"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return {**told, **_driver(device), **found}


def _driver(device: torch.device) -> dict[str, str]:
    """Return driver and clocks, as far as NVML tells them."""
    try:
        import pynvml  # type: ignore[import-untyped, import-not-found, unused-ignore]

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(device.index or torch.cuda.current_device())
        clocks = [
            pynvml.nvmlDeviceGetMaxClockInfo(handle, kind) for kind in (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM)
        ]
        now = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
        return {
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "clocks": f"at most {clocks[0]} MHz, memory {clocks[1]} MHz; {now} MHz now",
        }
    except Exception as e:  # noqa: BLE001  # figures are worth having without it
        return {"driver": f"unknown ({type(e).__name__})"}


def _networks(given: argparse.Namespace, options: Options, record: dict[str, Any]) -> bool:
    """Measure inference and training; return whether all agree and ran."""
    rates = _rates(options, record)
    print(f"\nRuns from prepared images of {options.size[0]} × {options.size[1]} pixels on the device to detections.")
    print("GB is what a run takes above weights and inputs. equal is, in inference, the share of detections that the")
    print("first run in fp32 has, too; in training the greatest relative difference of a loss from the first run's.")
    for name in given.precisions:
        print(f"  {name}: {TOLERANCES[name]}")
    print(f"  In bf16 also where no more than {ROUNDING:.0%} fewer are the same than of the first run in bf16.")
    print(f"  losses: within {LOSS_TOLERANCE:.0%}")
    if not has_torchvision():
        print("torchvision is not installed: there is nothing beside it.")
    print(f"\n{header()}", flush=True)
    fine = True
    for row in _rows(given, options, rates):
        print(line(row), flush=True)
        record["rows"].append({**row._asdict(), "images_per_second": row.images_per_second})
        fine &= row.holds
    return fine


def _rates(options: Options, record: dict[str, Any]) -> dict[str, float]:
    side = 8192 if options.device.type == "cuda" else 512
    with exact_float32():
        rates = {name: matrix_rate(options.device, dtype, side) for name, dtype in DTYPES.items()}
    record["matrix_rates"] = rates
    told = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in rates.items())
    print(f"{'limit':<12} {told}: products of {side} × {side} matrices")
    return rates


def _rows(given: argparse.Namespace, options: Options, rates: Mapping[str, float]) -> Iterator[Row]:
    for model in given.models:
        subject = Subject(model, options.device)
        if "inference" in given.parts:
            for batch in given.batches or (1, 8, 32):
                for precision in given.precisions:
                    yield from guarded(_inference, subject, batch, precision, options, rates[precision])
        if "training" in given.parts:
            for batch in given.batches or (8, 16, 32):
                yield from guarded(_training, subject, batch, "bf16", options, rates["bf16"])


def guarded(measure: Callable[..., list[Row]], subject: Subject, batch: int, precision: str, *rest: Any) -> list[Row]:
    """Return rows; where memory is too small, one that says so."""
    try:
        return measure(subject, batch, precision, *rest)
    except OUT_OF_MEMORY as e:
        note = str(e) if isinstance(e, DeviceMemoryError) else ""
    finally:
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    part = "training" if measure is _training else "inference"
    return [Row(part, subject.name, batch, precision, "all", note=f"out of memory. {note}".strip())]


def _inference(subject: Subject, batch: int, precision: str, options: Options, rate: float) -> list[Row]:
    images = made_images(batch, *options.size, options.device)
    runs = inference_runs(subject, images, DTYPES[precision], options.compile)
    first = next(iter(runs))
    if precision == "fp32":
        reference = runs[first][1](runs[first][0]())
    else:
        whole = inference_runs(subject, images, torch.float32, compile=False)
        reference = whole[first][1](whole[first][0]())
        del whole
    flops = flops_of(runs["eager"][0])
    rows, kept = [], {}
    least: float | None = None
    for name, (run, found) in runs.items():
        row = Row("inference", subject.name, batch, precision, name)
        try:
            if name != "CUDA graph":  # recording is when a graph's memory is taken
                run()
            result, peak = with_peak(run, options.device)
        except OUT_OF_MEMORY:
            rows.append(row._replace(note="out of memory"))
            continue
        share = same_share(found(result), reference, TOLERANCES[precision])
        least = least if least is not None else least_share(precision, share)
        rows.append(row._replace(gigabytes=peak, same=share, holds=share >= least))
        kept[name] = run
    return _timed(rows, kept, flops / rate, options)


def least_share(precision: str, first: float) -> float:
    """Return the share of detections that runs must have in common with float32, if the first one has `first`."""
    wanted = TOLERANCES[precision].share
    return wanted if precision == "fp32" else min(wanted, first - ROUNDING)


def _training(subject: Subject, batch: int, precision: str, options: Options, rate: float) -> list[Row]:
    images = made_images(batch, *options.size, options.device)
    runs = training_runs(subject, images, DTYPES[precision], options.compile)
    flops, rows, kept = flops_of(runs["eager"]), [], {}
    reference: dict[str, float] | None = None
    for name, run in runs.items():
        row = Row("training", subject.name, batch, precision, name)
        try:
            run()
            result, peak = with_peak(run, options.device)
        except OUT_OF_MEMORY:
            rows.append(row._replace(note="out of memory"))
            continue
        losses = {key: float(value) for key, value in result.items()}
        reference = reference or losses
        difference = greatest_difference(losses, reference)
        rows.append(row._replace(gigabytes=peak, same=difference, holds=difference <= LOSS_TOLERANCE))
        kept[name] = run
    return _timed(rows, kept, flops / rate, options)


def _timed(rows: list[Row], runs: Mapping[str, Work], least_seconds: float, options: Options) -> list[Row]:
    """Return the rows with times; `least_seconds` is what the arithmetic takes at the matrix rate."""
    taken = medians(runs, options.device, options.rounds)
    theirs = taken.get("torchvision")
    return [
        row._replace(
            milliseconds=1000 * taken[row.run],
            of_limit=least_seconds / taken[row.run],
            beside=None if theirs is None else theirs / taken[row.run],
        )
        if row.run in taken
        else row
        for row in rows
    ]


def _kernels(options: Options, record: dict[str, Any], quick: bool) -> bool:
    """Compare kernels; return whether all agree. Without a GPU there are none to compare."""
    if options.device.type != "cuda":
        print("\nTriton's kernels run on a CUDA GPU alone.")
        return True
    print("\nTriton's kernels beside the PyTorch versions. The difference is a share of the greatest value, from")
    print(f"PyTorch's result in float32; for yes and no, the share that differs.\n\n{kernel_line(None)}", flush=True)
    sizes = Sizes(batch=1 if quick else 2, height=options.size[0], width=options.size[1])
    fine = True
    with exact_float32():
        for row in kernel_rows(sizes, options.device, options.rounds):
            show(row, record)
            fine &= row.holds
    return fine


def show(row: KernelRow, record: dict[str, Any]) -> None:
    print(kernel_line(row), flush=True)
    record["kernels"].append({**row._asdict(), "holds": row.holds})


if __name__ == "__main__":
    logging.getLogger("maskrcnn").addFilter(lambda record: not getattr(record, "note", False))
    sys.exit(main())
