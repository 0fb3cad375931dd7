"""A GPU without enough memory: one sentence that names the batch and the size that would fit."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import DeviceMemoryError, counted
from maskrcnn.structures import TargetBatch

PROBES = (256, 512)
"""Sides of the images, in pixels, by which it is measured what a run takes."""
SPARE = 0.9
"""Share of the free memory that is counted on: the allocator's blocks never fill it."""

Probe = Callable[[int], object]
"""Does the same with a single square image, whose side in pixels is given."""


class Need(NamedTuple):
    """What a run takes for each image, in bytes: so much, and so much for each of its pixels."""

    fixed: float
    per_pixel: float

    @classmethod
    def of(cls, small: tuple[int, float], large: tuple[int, float]) -> Need:
        """Return what two runs of one image tell; of each are given pixels and bytes.

        Example:
            >>> Need.of((100, 1200.0), (400, 1800.0))
            Need(fixed=1000.0, per_pixel=2.0)
        """
        (few, less), (many, more) = small, large
        per_pixel = max(more - less, 0.0) / (many - few)
        return cls(max(less - per_pixel * few, 0.0), per_pixel)

    def bytes(self, batch: int, height: int, width: int) -> float:
        """Return what a batch of images of a size takes."""
        return batch * (self.fixed + self.per_pixel * height * width)


def largest_batch(need: Need, available: float, batch: int, height: int, width: int) -> int:
    """Return how many images of a size fit, less than the batch that did not; 0 for none.

    Example:
        >>> largest_batch(Need(1000.0, 2.0), 100_000.0, 16, 100, 100)
        4
    """
    one = need.bytes(1, height, width)
    return max(min(int(available / one), batch - 1), 0) if one > 0 else batch - 1


def largest_size(need: Need, available: float, height: int, width: int, multiple: int = 32) -> tuple[int, int] | None:
    """Return the largest size of about the same shape of which a single image fits, sides rounded down.

    None if there is none, or it could only be guessed: nothing grew with the size.

    Example:
        >>> largest_size(Need(1000.0, 2.0), 100_000.0, 800, 1344)
        (160, 288)
    """
    room = available - need.fixed
    if room <= 0 or need.per_pixel <= 0:
        return None
    shrink = min((room / need.per_pixel / (height * width)) ** 0.5, 1.0)
    sides = int(height * shrink) // multiple * multiple, int(width * shrink) // multiple * multiple
    return sides if min(sides) > 0 and sides != (height, width) else None


def explain_out_of_memory(
    error: BaseException,
    device: torch.device,
    batch: int,
    size: tuple[int, int],
    probe: Probe | None = None,
    cuda: Any = torch.cuda,
) -> DeviceMemoryError:
    """Return what to tell of a GPU out of memory.

    Args:
        error: what torch raised. What its frames hold is let go.
        device: the GPU.
        batch: images that were run together.
        size: their (height, width) in pixels, padded.
        probe: runs one small image in the same way, so that it can be measured what fits; None to measure nothing.
        cuda: `torch.cuda`.
    """
    traceback.clear_frames(error.__traceback__)
    cuda.empty_cache()
    free, total = cuda.mem_get_info(device)
    available = SPARE * (free + max(cuda.memory_reserved(device) - cuda.memory_allocated(device), 0))
    need = None if probe is None else _measured(probe, device, cuda)
    height, width = size
    told = (
        f"The GPU {cuda.get_device_name(device)} ({total / 2**30:.0f} GB, {free / 2**30:.1f} GB of it free) has not "
        f"enough memory for {counted(batch, 'image')} of {height} × {width} pixels. "
    )
    return DeviceMemoryError(told + _advice(need, available, batch, height, width))


def _advice(need: Need | None, available: float, batch: int, height: int, width: int) -> str:
    if need is None:
        return f"Take {'a smaller batch or ' if batch > 1 else ''}smaller images (image.min_size)."
    fits = largest_batch(need, available, batch, height, width)
    if fits:
        return f"By what small images took, a batch of {fits} of this size would fit."
    size = largest_size(need, available, height, width)
    if size is None:
        return f"Not even one image of {PROBES[0]} × {PROBES[0]} fits; free memory on it, or take a smaller network."
    return (
        f"By what small images took, one image of {size[0]} × {size[1]} would fit: "
        f"image.min_size={min(size)}, image.max_size={max(size)}, batch 1."
    )


def _measured(probe: Probe, device: torch.device, cuda: Any) -> Need:
    """Return what images take; where the smallest does not fit, more than there is."""
    points: list[tuple[int, float]] = []
    for side in PROBES:
        cuda.synchronize(device)
        before = cuda.memory_allocated(device)
        cuda.reset_peak_memory_stats(device)
        try:
            probe(side)
        except torch.OutOfMemoryError as e:
            traceback.clear_frames(e.__traceback__)
            if points:  # at least what there was
                _, total = cuda.mem_get_info(device)
                points.append((side * side, float(total)))
                break
            return Need(float("inf"), 0.0)
        points.append((side * side, float(cuda.max_memory_allocated(device) - before)))
    return Need.of(points[0], points[1])


def made_batch(config: Config, side: int, device: torch.device) -> tuple[Float[Tensor, "1 3 H W"], TargetBatch]:
    """Return a square image with one object, to measure a training step with; `side` is rounded up to what is taken.

    Example:
        >>> images, _ = made_batch(Config.preset("small-fpn", class_names=["cat"]), 100, torch.device("cpu"))
        >>> images.shape
        torch.Size([1, 3, 128, 128])
    """
    side = -(-side // config.image.size_divisor) * config.image.size_divisor
    boxes = torch.tensor([[[0.0, 0.0, side / 2, side / 2]]], device=device)
    labels = torch.zeros(1, 1, dtype=torch.int64, device=device)
    masks = torch.ones(1, 1, *((side, side) if config.masks else (0, 0)), dtype=torch.bool, device=device)
    points = torch.ones(1, 1, len(config.keypoint_names), 3, device=device) if config.keypoint_names else None
    valid = torch.ones(1, 1, dtype=torch.bool, device=device)
    return torch.zeros(1, 3, side, side, device=device), TargetBatch(boxes, labels, masks, valid, points)


@contextmanager
def memory_explained(
    device: torch.device, batch: int, size: tuple[int, int], probe: Probe | None = None, cuda: Any = torch.cuda
) -> Iterator[None]:
    """Raise `DeviceMemoryError` for a GPU out of memory in the block; the arguments are `explain_out_of_memory`'s."""
    try:
        yield
    except torch.OutOfMemoryError as e:
        told = explain_out_of_memory(e, device, batch, size, probe, cuda)
    else:
        return
    raise told
