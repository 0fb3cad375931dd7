"""What a photo costs: time, memory and FLOPs of every stage and of every part.

The runs are normal ones. A recorder that keeps nothing notes the clock as each stage comes about, so a stage's time is
that from the stage before it. Memory and FLOPs are taken in runs of their own, which watching makes slow.
"""

from __future__ import annotations

import json
import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import UInt8
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn.errors import InputError
from maskrcnn.images import ImageLike, load_image, prepare
from maskrcnn.inspection.glossary import STAGES
from maskrcnn.inspection.parts import PARTS, PartName, part_of
from maskrcnn.inspection.table import part_heading, rendered
from maskrcnn.prediction import unbatch
from maskrcnn.progress import Reporter
from maskrcnn.stages import recording

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN

BEFORE, AFTER = "prepare", "result"
"""Rows that are no stages: the photo resized, normalised and padded; the result brought to the CPU."""


@dataclass(frozen=True)
class StageCost:
    """What it takes to get from the stage before to this one."""

    name: str
    part: PartName
    seconds: float
    """Median over the runs."""
    bytes: int
    """Most that tensors of the run took at once in the meantime; weights and the photo are not counted."""
    flops: int
    """Twice the multiply-adds of convolutions, linear layers and matrix products."""


@dataclass(frozen=True)
class PartCost:
    """What a part of the figure takes."""

    part: PartName
    seconds: float
    share: float
    """Of the seconds of all parts."""
    bytes: int
    """Most that tensors of the run took at once while the part ran."""
    flops: int
    parameters: int


@dataclass(frozen=True)
class Profile:
    """What `profile` measures; printing it gives tables."""

    stages: tuple[StageCost, ...]
    """In the order in which they come about; `prepare` first and `result` last."""
    runs: int
    device: str
    threads: int
    """Of the CPU."""
    seconds_unwatched: float
    """Median of whole runs without a clock inside: what `predict` takes."""
    parameters: dict[str, int]
    """By part."""

    @property
    def seconds(self) -> float:
        """The sum over all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def flops(self) -> int:
        """The sum over all stages."""
        return sum(stage.flops for stage in self.stages)

    @property
    def bytes(self) -> int:
        """The most that tensors of the run took at once."""
        return max(stage.bytes for stage in self.stages)

    @property
    def parts(self) -> tuple[PartCost, ...]:
        """The costs by part, in the order of the figure."""
        found = []
        for part in PARTS:
            own = [stage for stage in self.stages if stage.part == part]
            if own:
                seconds = sum(stage.seconds for stage in own)
                found.append(
                    PartCost(
                        part=cast(PartName, part),
                        seconds=seconds,
                        share=seconds / self.seconds if self.seconds else 0.0,
                        bytes=max(stage.bytes for stage in own),
                        flops=sum(stage.flops for stage in own),
                        parameters=self.parameters.get(part, 0),
                    )
                )
        return tuple(found)

    def table(self) -> Group:
        """Return the costs by part and by stage, with what they are."""
        note = (
            f"Median of {self.runs} runs on {self.device}"
            + (f" with {self.threads} threads" if self.device == "cpu" else "")
            + f"; without a clock inside, a run takes {_seconds(self.seconds_unwatched)}. A stage's time is that from "
            "the stage before it. Memory: the most that tensors of the run took at once meanwhile; weights are not "
            "counted"
            + (", nor what kernels use inside" if self.device == "cpu" else "")
            + ". FLOPs: twice the multiply-adds of convolutions, linear layers and matrix products."
        )
        return Group(_parts_table(self), Text(), _stages_table(self), Text(note, style="dim"))

    def to_json(self) -> str:
        """Return all of it as JSON: seconds, bytes, FLOPs and parameters."""
        totals = {"seconds": self.seconds, "bytes": self.bytes, "flops": self.flops}
        parts = [asdict(part) for part in self.parts]
        return json.dumps({**asdict(self), "parts": parts, "total": totals})

    def __str__(self) -> str:
        return rendered(self.table(), 100)

    __repr__ = __str__


def profile(model: MaskRCNN, image: ImageLike, runs: int = 5, reporter: Reporter | None = None) -> Profile:
    """Return time, memory and FLOPs of every stage of a run on one image, from the photo to pasted masks.

    Args:
        model: the network; it runs on its own device.
        image: as for `predict`.
        runs: how many times it is run; one more warms up, and two measure memory and FLOPs.
        reporter: shows progress; nothing is shown by default.

    Raises:
        InputError: the image is of a wrong shape or type, or there are no runs.
        ImageFileError: the file is missing, truncated or not an image.

    Example:
        >>> import numpy as np
        >>> from maskrcnn import Config, MaskRCNN
        >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"]))
        >>> costs = profile(model, np.zeros((120, 160, 3), np.uint8), runs=1)
        >>> [part.part for part in costs.parts]
        ['input', 'backbone', 'rpn', 'roi_align', 'heads', 'output']
    """
    if runs < 1:
        raise InputError(f"runs must be at least 1; got {runs}.")
    photo = load_image(image)
    report = reporter or Reporter(quiet=True)
    was_training = model.training
    model.eval()
    try:
        with report.bar("profiling", 2 * runs + 3) as bar:

            def run(into: _Marks | None) -> None:
                _run(model, photo, into)
                bar.advance()

            run(None)
            timed = _Clock(model.device)
            whole = []
            for _ in range(runs):  # in turns, so that what else the machine does falls on both
                whole.append(_seconds_of(lambda: run(None), model.device))
                timed.begin()
                run(timed)
            watched = _memory(model.device)
            with watched:
                run(watched)
            counted = _Flops()
            with counted.mode:
                run(counted)
    finally:
        model.train(was_training)
    stages = tuple(
        StageCost(name, _part(name), statistics.median(times), watched.peaks[name], counted.counts[name])
        for name, times in timed.seconds.items()
    )
    parameters: Counter[str] = Counter()
    for path, parameter in model.named_parameters():
        parameters[part_of(path)] += parameter.numel()
    device = str(model.device)
    return Profile(stages, runs, device, torch.get_num_threads(), statistics.median(whole), dict(parameters))


def _run(model: MaskRCNN, photo: UInt8[np.ndarray, "H W 3"], into: _Marks | None) -> None:
    """Find what is on the photo, as `predict` does, and mark each step."""
    with torch.inference_mode():
        batch = prepare([photo], model.config.image).to(model.device, model.dtype)
        if into is None:
            unbatch(model(batch), batch, model.config)
            return
        into.mark(BEFORE)
        with recording(into, all_slots=False):
            unbatch(model(batch), batch, model.config)
        into.mark(AFTER)


def _part(name: str) -> PartName:
    return {BEFORE: "input", AFTER: "output"}.get(name) or STAGES[name].part  # type: ignore[return-value]


class _Marks(MutableMapping[str, Tensor]):
    """A recorder that keeps no tensor, and notes something as each comes about."""

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self.mark(name)

    def mark(self, name: str) -> None:
        """Note what was since the mark before."""
        raise NotImplementedError

    def __getitem__(self, name: str) -> Tensor:
        raise KeyError(name)

    def __delitem__(self, name: str) -> None:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Clock(_Marks):
    """The seconds from mark to mark, of each run; the device has done what it was given by then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {}
        self.last = 0.0

    def begin(self) -> None:
        """Start a run."""
        _wait(self.device)
        self.last = time.perf_counter()

    def mark(self, name: str) -> None:
        _wait(self.device)
        now = time.perf_counter()
        self.seconds.setdefault(name, []).append(now - self.last)
        self.last = now


def _seconds_of(run: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class _Flops(_Marks):
    """The FLOPs from mark to mark."""

    def __init__(self) -> None:
        self.mode = FlopCounterMode(display=False)
        self.counts: Counter[str] = Counter()
        self.before = 0

    def mark(self, name: str) -> None:
        total = self.mode.get_total_flops()
        self.counts[name] += total - self.before
        self.before = total


class _Memory(_Marks):
    """The most bytes at once from mark to mark; something to run in."""

    def __init__(self) -> None:
        self.peaks: Counter[str] = Counter()

    def mark(self, name: str) -> None:
        self.peaks[name] = max(self.peaks[name], self.peak())

    def peak(self) -> int:
        """Return the most bytes at once since this was last asked."""
        raise NotImplementedError

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class _CudaMemory(_Memory):
    """What CUDA's allocator tells: all that is allocated, what kernels ask for too."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __enter__(self) -> None:
        torch.cuda.synchronize(self.device)
        self.before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        most = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return most - self.before


class _TensorMemory(_Memory):
    """What the tensors hold that come about in the run: every operation's results, until the last of them is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0
        self.mode = _Seen(self)

    def __enter__(self) -> None:
        self.mode.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        self.mode.__exit__(*error)  # type: ignore[no-untyped-call]

    def peak(self) -> int:
        most, self.most = self.most, self.now
        return most

    def take(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is gone."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key)


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, memory: _TensorMemory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = memory

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.memory.take(tensor)
        return out


def _memory(device: torch.device) -> _Memory:
    return _CudaMemory(device) if device.type == "cuda" else _TensorMemory()


def _parts_table(costs: Profile) -> Table:
    table = _table("Part", "Time", "Share", "Memory", "GFLOPs", "Parameters")
    for part in costs.parts:
        table.add_row(
            part_heading(part.part), _seconds(part.seconds), f"{100 * part.share:.0f}%", _megabytes(part.bytes),
            _giga(part.flops), f"{part.parameters:,}" if part.parameters else "–",
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "All", _seconds(costs.seconds), "100%", _megabytes(costs.bytes), _giga(costs.flops),
        f"{sum(costs.parameters.values()):,}",
    )  # fmt: skip
    return table


def _stages_table(costs: Profile) -> Table:
    table = _table("Stage", "Time", "Share", "Memory", "GFLOPs")
    last = None
    for stage in costs.stages:
        if stage.part != last:
            table.add_row(part_heading(stage.part))
            last = stage.part
        share = stage.seconds / costs.seconds if costs.seconds else 0.0
        bar = "█" * round(20 * share)
        table.add_row(
            stage.name, _seconds(stage.seconds), f"{bar} {100 * share:3.0f}%", _megabytes(stage.bytes),
            _giga(stage.flops),
        )  # fmt: skip
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 2, 0, 0), show_edge=False)
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} µs"


def _megabytes(value: int) -> str:
    return f"{value / 1e6:.1f} MB"


def _giga(flops: int) -> str:
    return f"{flops / 1e9:.2f}" if flops else "–"
