"""Runs recorded as CUDA graphs: for each size of input one, started by a single call in place of a thousand."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.structures import ImageBatch

BUCKET = 64
"""Padded sides are rounded up to a multiple of this many pixels where padding changes nothing but rounding."""
MOST_GRAPHS = 32
"""Graphs that are kept. They share one pool of memory, so each costs little more than its inputs and outputs."""
WARM_UPS = 3
"""Runs before one is recorded, in which libraries choose kernels and allocate what they keep."""

Run = Callable[..., tuple[Tensor, ...]]


def bucket_side(config: Config, dtype: torch.dtype) -> int:
    """Return what the sides of padded images are rounded up to, in pixels.

    Coarse buckets let photos of many sizes share few graphs. But padding is not neutral everywhere: where anchors or
    the border that boxes are clipped to depend on the padded size, and in float32, which is promised to give what the
    network finds as it is, sides are rounded to `image.size_divisor`, as without optimizing.

    Example:
        >>> bucket_side(Config.preset("resnet50", class_names=["cat"]), torch.bfloat16)
        64
    """
    image = config.image
    exact = dtype == torch.float32 or config.anchors.stride == "measured" or config.rpn.clip == "input"
    if exact or image.padding == "square" or image.padding_place == "center":
        return image.size_divisor
    return math.lcm(BUCKET, image.size_divisor)


def bucket(height: int, width: int, side: int, usual: Sequence[int] = ()) -> tuple[int, int]:
    """Return the size of the graph that serves a padded height and width: multiples of `side`, or usual sides.

    Example:
        >>> bucket(800, 1333, 64), bucket(800, 1333, 64, usual=[800])
        ((832, 1344), (800, 1344))
    """

    def up(length: int) -> int:
        return min(-(-length // side) * side, *(u for u in usual if u >= length), 1 << 62)

    return up(height), up(width)


def usual_sides(config: Config) -> tuple[int, ...]:
    """Return the padded sides that most photos have: those of `image.min_size` and `image.max_size`."""
    divisor = config.image.size_divisor
    return tuple(-(-side // divisor) * divisor for side in (config.image.min_size, config.image.max_size))


class Buffers(NamedTuple):
    """Inputs of one size, whose memory a graph reads again and again."""

    images: Float[Tensor, "N 3 H W"]
    sizes: Int64[Tensor, "N 2"]
    offsets: Int64[Tensor, "N 2"] | None

    @classmethod
    def of(cls, batch: int, size: tuple[int, int], centred: bool, dtype: torch.dtype, device: torch.device) -> Buffers:
        """Return buffers that hold zeros."""
        images = torch.zeros(batch, 3, *size, dtype=dtype, device=device).to(memory_format=torch.channels_last)
        pairs = [torch.zeros(batch, 2, dtype=torch.int64, device=device) for _ in range(1 + centred)]
        return cls(images, pairs[0], pairs[1] if centred else None)

    def fill(self, batch: ImageBatch, padding: Float[Tensor, "3 1 1"]) -> None:
        """Copy a batch in, padded with the colour `padding`; its last image stands for those that it lacks."""
        count, _, height, width = batch.tensor.shape
        if (height, width) != tuple(self.images.shape[2:]):
            self.images.copy_(padding.expand_as(self.images))
        self.images[:count, :, :height, :width].copy_(batch.tensor, non_blocking=True)
        self.sizes[:count].copy_(batch.sizes, non_blocking=True)
        if self.offsets is not None:
            self.offsets[:count].copy_(batch.starts, non_blocking=True)
        if count < len(self.images):
            for each in (self.images, self.sizes, *([] if self.offsets is None else [self.offsets])):
                each[count:] = each[count - 1]

    @property
    def key(self) -> tuple[int, int, int]:
        """Batch, height and width."""
        return self.images.shape[0], self.images.shape[2], self.images.shape[3]

    def given(self) -> tuple[Tensor, ...]:
        """Return the arguments of the network."""
        return (self.images, self.sizes) if self.offsets is None else (self.images, self.sizes, self.offsets)


class Replay(Protocol):
    """A recorded run."""

    outputs: tuple[Tensor, ...]
    """Where its results lie until it, or another graph of the same pool, runs again."""

    def replay(self) -> None:
        """Run it on what its inputs hold now."""


class Captured:
    """A run recorded by CUDA."""

    def __init__(self, graph: Any, outputs: tuple[Tensor, ...]) -> None:
        self._graph = graph
        self.outputs = outputs

    def replay(self) -> None:
        """Run it on what its inputs hold now; nothing waits."""
        self._graph.replay()


class Pool(NamedTuple):
    """Memory for graphs that never run at the same time, and the stream that all of them are recorded on."""

    handle: Any
    stream: Any

    @classmethod
    def of(cls, device: torch.device, cuda: Any = torch.cuda) -> Pool:
        """Return a new pool on a GPU."""
        return cls(cuda.graph_pool_handle(), cuda.Stream(device))


Capture = Callable[[Run, tuple[Tensor, ...], Pool], Replay]


def capture(run: Run, inputs: tuple[Tensor, ...], pool: Pool, cuda: Any = torch.cuda) -> Captured:
    """Record a run as a CUDA graph.

    Args:
        run: waits for nothing and asks for no values.
        inputs: whose memory the graph will read.
        pool: where its memory is, with that of others.
        cuda: `torch.cuda`.

    Raises:
        torch.OutOfMemoryError: there is not enough memory.
        RuntimeError: it does something that cannot be recorded.
    """
    device = inputs[0].device
    with cuda.device(device):
        pool.stream.wait_stream(cuda.current_stream())
        with cuda.stream(pool.stream):
            for _ in range(WARM_UPS):
                run(*inputs)
        cuda.current_stream().wait_stream(pool.stream)
        graph, stream = cuda.CUDAGraph(), cuda.current_stream()
        try:
            with cuda.graph(graph, pool=pool.handle, stream=pool.stream):
                outputs = run(*inputs)
        finally:
            cuda.set_stream(stream)  # a recording that fails leaves its own in place
    return Captured(graph, outputs)


class Graphs:
    """The graphs of one network by size of input; those not used for longest are dropped."""

    def __init__(
        self,
        run: Run,
        most: int = MOST_GRAPHS,
        capture: Capture = capture,
        new_pool: Callable[[torch.device], Pool] = Pool.of,
    ) -> None:
        self._run, self._most, self._capture, self._new_pool = run, most, capture, new_pool
        self._pool: Pool | None = None
        self._kept: OrderedDict[tuple[int, int, int], tuple[Buffers, Replay]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._kept)

    def batch_for(self, count: int, size: tuple[int, int]) -> int:
        """Return the batch that so many images run in: that of a graph there is, if it is not twice too large.

        So the last batch of a folder, which is smaller, needs no graph of its own.
        """
        there = [batch for batch, *sides in self._kept if tuple(sides) == size and count <= batch <= 2 * count]
        return min(there, default=count)

    def buffers(self, key: tuple[int, int, int], make: Callable[[], Buffers]) -> Buffers:
        """Return the inputs of the graph for a batch, height and width; new ones where there is no graph yet."""
        return self._kept[key][0] if key in self._kept else make()

    def run(self, buffers: Buffers) -> tuple[Tensor, ...]:
        """Return copies of what the graph for these buffers gives, recorded now if there is none."""
        key = buffers.key
        if key not in self._kept:
            if self._pool is None:
                self._pool = self._new_pool(buffers.images.device)
            self._kept[key] = (buffers, self._capture(self._run, buffers.given(), self._pool))
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        _, recorded = self._kept[key]
        recorded.replay()
        # Another graph of the pool may write over them.
        return tuple(output.clone() for output in recorded.outputs)

    def clear(self) -> None:
        """Drop all graphs and their memory."""
        self._kept.clear()
        self._pool = None
