"""Recorded runs: when one is recorded, in what order CUDA is asked, which are dropped; with a stand-in for CUDA."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from maskrcnn import Config
from maskrcnn.optimized.captured import WARM_UPS, Buffers, Graphs, Pool, bucket, bucket_side, capture, usual_sides
from maskrcnn.structures import ImageBatch
from recorded import RunAgain

CPU = torch.device("cpu")
BLACK = torch.zeros(3, 1, 1)


def recorder(recorded: list):
    def record(run, inputs, pool) -> RunAgain:
        recorded.append((tuple(inputs[0].shape), pool))
        return RunAgain(run, inputs)

    return record


def graphs(run=lambda images, sizes: (images.sum((1, 2, 3)), sizes.sum(1)), most: int = 4):
    recorded: list = []
    numbers = iter(range(100))
    made = Graphs(run, most, recorder(recorded), lambda device: Pool(next(numbers), None))
    return made, recorded


def buffers(batch: int, height: int, width: int) -> Buffers:
    return Buffers.of(batch, (height, width), False, torch.float32, CPU)


def batch(count: int, height: int, width: int, value: float = 1.0) -> ImageBatch:
    sizes = torch.tensor([[height, width]]).expand(count, 2)
    return ImageBatch(torch.full((count, 3, height, width), value), sizes, sizes)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((800, 1333), 64, (832, 1344)), ((832, 1344), 64, (832, 1344)), ((1, 65), 64, (64, 128)), ((5, 5), 32, (32, 32))],
)
def test_bucket_of_a_size(size, side, expected):
    assert bucket(*size, side) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [((800, 1333), (800, 1344)), ((801, 600), (832, 640)), ((1345, 780), (1408, 800))]
)
def test_sides_that_most_photos_have_are_buckets_of_their_own(size, expected):
    config = Config.preset("small-fpn", class_names=["a"], overrides={"image.min_size": 800, "image.max_size": 1333})
    assert bucket(*size, 64, usual_sides(config)) == expected


@pytest.mark.parametrize(
    ("overrides", "dtype", "expected"),
    [
        ({}, torch.bfloat16, 64),
        ({}, torch.float32, 32),
        ({"anchors.stride": "measured"}, torch.bfloat16, 32),
        ({"rpn.clip": "input"}, torch.bfloat16, 32),
        ({"image.padding": "square"}, torch.bfloat16, 32),
        ({"image.size_divisor": 96}, torch.bfloat16, 192),
    ],
    ids=str,
)
def test_coarse_buckets_only_where_padding_is_neutral(overrides, dtype, expected):
    config = Config.preset("small-fpn", class_names=["a"], overrides={"image.padding": "batch", **overrides})
    assert bucket_side(config, dtype) == expected


def test_a_size_is_recorded_once():
    made, recorded = graphs()
    for value in (1.0, 2.0):
        inputs = made.buffers((2, 4, 5), lambda: buffers(2, 4, 5))
        inputs.fill(batch(2, 4, 5, value), BLACK)
        sums, sizes = made.run(inputs)
        torch.testing.assert_close(sums, torch.full((2,), 60 * value))
        assert sizes.tolist() == [9, 9]
    assert recorded == [((2, 3, 4, 5), Pool(0, None))]


def test_results_are_copies():
    made, _ = graphs()
    inputs = buffers(1, 4, 4)
    inputs.fill(batch(1, 4, 4, 1.0), BLACK)
    first, _ = made.run(inputs)
    inputs.fill(batch(1, 4, 4, 2.0), BLACK)
    made.run(inputs)
    assert first.tolist() == [48.0]


def test_graphs_share_a_pool_and_the_one_not_used_for_longest_is_dropped():
    made, recorded = graphs(most=2)
    for width in (4, 8, 4, 16, 4, 8):
        made.run(made.buffers((1, 4, width), lambda width=width: buffers(1, 4, width)))
        assert len(made) <= 2
    assert [shape[3] for shape, _ in recorded] == [4, 8, 16, 8]
    assert {pool.handle for _, pool in recorded} == {0}


def test_after_clearing_there_is_a_new_pool():
    made, recorded = graphs()
    made.run(buffers(1, 4, 4))
    made.clear()
    assert len(made) == 0
    made.run(buffers(1, 4, 4))
    assert [pool.handle for _, pool in recorded] == [0, 1]


@pytest.mark.parametrize(("count", "expected"), [(8, 8), (5, 8), (4, 8), (3, 3), (9, 9)])
def test_a_smaller_batch_runs_in_the_graph_of_a_larger_one(count, expected):
    made, _ = graphs()
    made.run(buffers(8, 4, 4))
    assert made.batch_for(count, (4, 4)) == expected
    assert made.batch_for(count, (4, 8)) == count


def test_missing_images_are_the_last_one_and_padding_is_filled():
    inputs = Buffers.of(3, (4, 6), True, torch.float32, CPU)
    inputs.images.fill_(9.0)
    sizes, offsets = torch.tensor([[2, 3], [3, 2]]), torch.tensor([[0, 1], [1, 0]])
    pixels = torch.stack((torch.full((3, 3, 3), 1.0), torch.full((3, 3, 3), 2.0)))
    inputs.fill(ImageBatch(pixels, sizes, sizes, offsets), torch.tensor([-1.0, -2.0, -3.0])[:, None, None])
    assert inputs.sizes.tolist() == [[2, 3], [3, 2], [3, 2]]
    assert inputs.offsets.tolist() == [[0, 1], [1, 0], [1, 0]]
    assert inputs.images[:, 0, 0, 0].tolist() == [1.0, 2.0, 2.0]
    assert inputs.images[1, :, 3, 5].tolist() == [-1.0, -2.0, -3.0]


class FakeCuda:
    """What `capture` asks of `torch.cuda`, noted in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    class Stream:
        def __init__(self, log: list[str], name: str) -> None:
            self.log, self.name = log, name

        def wait_stream(self, other: FakeCuda.Stream) -> None:
            self.log.append(f"{self.name} waits for {other.name}")

    def current_stream(self) -> FakeCuda.Stream:
        return self.Stream(self.log, "main")

    def CUDAGraph(self) -> FakeCuda:  # noqa: N802
        return self

    def replay(self) -> None:
        self.log.append("replay")

    @contextmanager
    def _noted(self, what: str):
        self.log.append(f"begin {what}")
        yield
        self.log.append(f"end {what}")

    def set_stream(self, stream) -> None:
        self.log.append(f"back on {stream.name}")

    def device(self, device):
        return self._noted("device")

    def stream(self, stream):
        return self._noted(f"on {stream.name}")

    def graph(self, graph, pool, stream):
        return self._noted(f"recording on {stream.name} into {pool}")


def test_a_run_is_warmed_up_on_a_side_stream_and_then_recorded():
    cuda = FakeCuda()

    def run(x: Tensor) -> tuple[Tensor]:
        cuda.log.append("run")
        return (x + 1,)

    made = capture(run, (torch.ones(2),), Pool("pool", cuda.Stream(cuda.log, "side")), cuda)
    made.replay()
    assert made.outputs[0].tolist() == [2.0, 2.0]
    assert cuda.log == [
        *("begin device", "side waits for main", "begin on side", *["run"] * WARM_UPS, "end on side"),
        *("main waits for side", "begin recording on side into pool", "run", "end recording on side into pool"),
        *("back on main", "end device", "replay"),
    ]


def test_a_recording_that_fails_leaves_the_stream_as_it_was():
    cuda, runs = FakeCuda(), iter(range(9))

    def run(x: Tensor) -> tuple[Tensor]:
        if next(runs) == WARM_UPS:
            raise RuntimeError("operation not permitted when stream is capturing")
        return (x,)

    with pytest.raises(RuntimeError, match="not permitted"):
        capture(run, (torch.ones(2),), Pool("pool", cuda.Stream(cuda.log, "side")), cuda)
    assert cuda.log[-1] == "back on main"
