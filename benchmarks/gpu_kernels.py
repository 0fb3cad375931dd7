"""Each Triton kernel beside the PyTorch version of the same function: whether they agree, and how fast both are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpu_measure import medians
from maskrcnn.config import RoIAlignConfig
from maskrcnn.ops import masks as mask_ops
from maskrcnn.ops import triton as twins
from maskrcnn.ops.nms import nms
from maskrcnn.roi_align import FlatPyramid, assign_levels, crop_and_resize, roi_align, roi_pool

STRIDES = (4, 8, 16, 32)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ALLOWED = {torch.float32: (1e-5, 1e-4), torch.float16: (1e-3, 1e-3), torch.bfloat16: (8e-3, 8e-3)}
"""Greatest difference, forward and of gradients, as a share of the greatest value. The reference is PyTorch's version
in float32 on the same numbers; in half precision what is allowed is the rounding of the result."""


class Sizes(NamedTuple):
    """How large the inputs are."""

    batch: int = 2
    rois: int = 1000
    channels: int = 256
    height: int = 800
    width: int = 1344
    detections: int = 100


class KernelRow(NamedTuple):
    """One line of the second table."""

    name: str
    way: str
    dtype: str
    difference: float | None = None
    allowed: float | None = None
    pytorch_ms: float | None = None
    triton_ms: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool:
        return not self.note and self.difference is not None and self.difference <= (self.allowed or 0.0)


@contextmanager
def triton_taken(on: bool) -> Iterator[None]:
    """Let the package take its Triton kernels inside the block, or not."""
    before, twins.ENABLED = twins.ENABLED, on and twins.ENABLED
    try:
        yield
    finally:
        twins.ENABLED = before


def boxes(sizes: Sizes, count: int, device: torch.device) -> Tensor:
    """Return boxes of log-uniform sides from 8 pixels on, [batch, count, 4], some over the border."""
    generator = torch.Generator().manual_seed(0)
    extent = torch.tensor([sizes.width, sizes.height])
    middle = torch.rand(sizes.batch, count, 2, generator=generator) * extent
    sides = 8 * (0.75 * sizes.height / 8) ** torch.rand(sizes.batch, count, 2, generator=generator)
    return torch.cat((middle - sides / 2, middle + sides / 2), dim=2).to(device)


def pooling_cases(sizes: Sizes, device: torch.device) -> dict[str, Callable[[list[Tensor]], Tensor]]:
    """Return functions from feature maps to crops."""
    rois = boxes(sizes, sizes.rois, device)
    levels = assign_levels(rois, STRIDES, RoIAlignConfig())

    def flat(maps: list[Tensor]) -> FlatPyramid:
        return FlatPyramid.of(maps, STRIDES)

    return {
        "roi_align": lambda maps: roi_align(flat(maps), rois, levels, 7, 2, aligned=True),
        "roi_align, adaptive": lambda maps: roi_align(flat(maps), rois, levels, 7, 0, aligned=False),
        "roi_pool": lambda maps: roi_pool(flat(maps), rois, levels, 7),
        "crop_and_resize": lambda maps: crop_and_resize(flat(maps), rois, levels, 7),
    }


def kernel_rows(sizes: Sizes, device: torch.device, rounds: int = 5) -> Iterator[KernelRow]:
    """Yield a row for each kernel, way and type of numbers."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(sizes.batch, sizes.channels, sizes.height // s, sizes.width // s) for s in STRIDES]
    maps = [torch.randn(shape, generator=generator).to(memory_format=torch.channels_last) for shape in shapes]
    for dtype in DTYPES:
        inputs = [m.to(device, dtype) for m in maps]
        for name, crops in pooling_cases(sizes, device).items():
            yield _row(name, "forward", dtype, partial(_values, crops), inputs, rounds)
            yield _row(name, "backward", dtype, _Gradients(crops), inputs, rounds)
    yield from _exact_rows(sizes, device, rounds)


def _values(crops: Callable[[list[Tensor]], Tensor], maps: list[Tensor]) -> list[Tensor]:
    return [crops(maps)]


class _Gradients:
    """The gradients of crops with respect to maps; the way forward is gone once for each version, and kept."""

    def __init__(self, crops: Callable[[list[Tensor]], Tensor]) -> None:
        self._crops = crops
        self._kept: dict[bool, tuple[Tensor, list[Tensor], Tensor]] = {}

    def __call__(self, maps: list[Tensor]) -> list[Tensor]:
        if twins.ENABLED not in self._kept:
            leaves = [m.detach().requires_grad_() for m in maps]
            out = self._crops(leaves)
            weights = torch.linspace(-1, 1, out.numel(), device=out.device).reshape(out.shape).to(out.dtype)
            self._kept[twins.ENABLED] = out, leaves, weights
        out, leaves, weights = self._kept[twins.ENABLED]
        return list(torch.autograd.grad(out, leaves, weights, retain_graph=True))


def _exact_rows(sizes: Sizes, device: torch.device, rounds: int) -> Iterator[KernelRow]:
    """Yield rows of kernels whose answers are yes or no: none may differ."""
    crowded = boxes(sizes, sizes.rois, device)
    valid = torch.ones(crowded.shape[:2], dtype=torch.bool, device=device)
    groups = torch.arange(sizes.rois, device=device).remainder(3).expand(valid.shape)
    f32 = torch.float32
    yield _row("nms", "forward", f32, lambda b: [nms(b[0], valid, 0.5)], [crowded], rounds)
    yield _row("nms, per class", "forward", f32, lambda b: [nms(b[0], valid, 0.5, groups)], [crowded], rounds)
    laid = boxes(sizes, sizes.detections, device)[0]
    small = torch.rand(sizes.detections, 28, 28, generator=torch.Generator().manual_seed(0)).to(device)
    photo = (sizes.height, sizes.width)
    for rule in ("continuous", "integer_box"):
        paste = lambda given, rule=rule: [mask_ops.paste_masks(given[0], laid, photo, rule)]  # noqa: E731
        yield _row(f"paste, {rule}", "forward", f32, paste, [small], rounds)


def _row(
    name: str,
    way: str,
    dtype: torch.dtype,
    work: Callable[[list[Tensor]], list[Tensor]],
    inputs: list[Tensor],
    rounds: int,
) -> KernelRow:
    """Compare both versions, then time them in turns; what a kernel fails with becomes the row's note."""
    short = str(dtype).removeprefix("torch.")
    device = inputs[0].device

    def version(on: bool) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            with triton_taken(on):
                return work(inputs)

        return run

    try:
        with triton_taken(False):
            expected = work([t.float() for t in inputs])
        difference = _difference(version(True)(), expected)
        exact = expected[0].dtype == torch.bool
        allowed = 0.0 if exact else ALLOWED[dtype][way == "backward"]
        row = KernelRow(name, way, short, difference, allowed)
        if not rounds:
            return row
        taken = medians({"pytorch": version(False), "triton": version(True)}, device, rounds)
    except Exception as e:  # noqa: BLE001  # the other kernels are to be seen, too
        return KernelRow(name, way, short, note=f"failed: {(str(e).splitlines() or [type(e).__name__])[0]}")
    return row._replace(pytorch_ms=1000 * taken["pytorch"], triton_ms=1000 * taken["triton"])


def _difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the greatest difference as a share of the greatest value; for yes and no the share that differs."""
    if theirs[0].dtype == torch.bool:
        return max(float((a != b).float().mean()) for a, b in zip(ours, theirs, strict=True))
    largest = max(float(b.abs().max()) for b in theirs)
    worst = max(float((a.float() - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    return worst / max(largest, 1e-30)


def kernel_line(row: KernelRow | None) -> str:
    """Return a row as text, or the table's header."""

    def shown(value: Any, form: str) -> str:
        return "–" if value is None else format(value, form)

    if row is None:
        cells = ("kernel", "way", "numbers", "difference", "allowed", "PyTorch ms", "Triton ms", "×")
    else:
        faster = None if not row.pytorch_ms or not row.triton_ms else row.pytorch_ms / row.triton_ms
        cells = (
            *(row.name, row.way, row.dtype, shown(row.difference, ".1e"), shown(row.allowed, ".0e")),
            *(shown(row.pytorch_ms, ".3f"), shown(row.triton_ms, ".3f"), shown(faster, ".1f")),
        )
    widths = (20, 10, 10, 12, 9, 12, 11, 7)
    text = "".join(f"{c:<{w}}" if i < 3 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
    return text.rstrip() if row is None else f"{text}  {row.note or ('' if row.holds else 'differs !')}".rstrip()
