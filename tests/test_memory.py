"""A GPU out of memory: the sentence names a batch and a size that fit what was measured."""

from __future__ import annotations

import pytest
import torch

from maskrcnn import prediction
from maskrcnn.errors import DeviceMemoryError, MaskRCNNError
from maskrcnn.memory import (
    PROBES,
    Need,
    explain_out_of_memory,
    largest_batch,
    largest_size,
    made_batch,
    memory_explained,
)
from maskrcnn.training import TrainOptions, train
from tiny import tiny_data, tiny_model

GPU = torch.device("cuda")
GB = 2**30


class FakeCuda:
    """A GPU on which an image takes so many bytes, and so many for each pixel."""

    def __init__(self, fixed: float, per_pixel: float, total: float = 10 * GB, used: float = 2 * GB) -> None:
        self.fixed, self.per_pixel, self.total, self.used = fixed, per_pixel, total, used
        self.peak, self.calls = used, []

    def probe(self, side: int) -> None:
        self.calls.append(side)
        self.peak = self.used + self.fixed + self.per_pixel * side * side
        if self.peak > self.total:
            out_of_memory()

    def empty_cache(self) -> None:
        pass

    def synchronize(self, device) -> None:
        pass

    def reset_peak_memory_stats(self, device) -> None:
        self.peak = self.used

    def max_memory_allocated(self, device) -> float:
        return self.peak

    def memory_allocated(self, device) -> float:
        return self.used

    memory_reserved = memory_allocated

    def mem_get_info(self, device) -> tuple[float, float]:
        return self.total - self.used, self.total

    def get_device_name(self, device) -> str:
        return "Made 100"


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def explained(cuda: FakeCuda, batch: int, size: tuple[int, int], probe=True) -> str:
    error = explain_out_of_memory(torch.OutOfMemoryError(), GPU, batch, size, cuda.probe if probe else None, cuda)
    assert isinstance(error, MemoryError) and isinstance(error, MaskRCNNError)
    return str(error)


def test_need_is_a_line_through_two_runs():
    need = Need.of((256**2, 3e8), (512**2, 9e8))
    assert need.bytes(1, 256, 256) == pytest.approx(3e8)
    assert need.bytes(2, 512, 512) == pytest.approx(18e8)


def test_need_does_not_fall_with_the_size():
    assert Need.of((256**2, 3e8), (512**2, 2e8)) == Need(3e8, 0.0)


@pytest.mark.parametrize(("batch", "expected"), [(16, 4), (4, 3), (2, 1), (1, 0)])
def test_largest_batch_is_smaller_than_the_one_that_failed(batch, expected):
    assert largest_batch(Need(1000.0, 2.0), 100_000.0, batch, 100, 100) == expected


def test_largest_size_fits_and_the_next_does_not():
    need, available = Need(1e8, 2000.0), 1.5e9
    height, width = largest_size(need, available, 800, 1344)
    assert (height % 32, width % 32) == (0, 0)
    assert need.bytes(1, height, width) <= available < need.bytes(1, height + 64, width + 64)
    assert height / width == pytest.approx(800 / 1344, rel=0.1)


@pytest.mark.parametrize("need", [Need(2e9, 1.0), Need(1.0, 0.0), Need(float("inf"), 0.0)], ids=str)
def test_no_size_is_named_where_none_fits_or_is_known(need):
    assert largest_size(need, 1e9, 800, 1344) is None


def test_batch_that_fits_is_named():
    cuda = FakeCuda(fixed=0.2 * GB, per_pixel=1000.0)
    text = explained(cuda, 32, (800, 1344))
    assert cuda.calls == list(PROBES)
    assert text.startswith(
        "The GPU Made 100 (10 GB, 8.0 GB of it free) has not enough memory for 32 images of 800 × 1344 pixels. "
    )
    assert text.endswith("a batch of 5 of this size would fit.")  # 0.9 · 8 GB / 1.2 GB


def test_size_that_fits_is_named_where_no_batch_does():
    text = explained(FakeCuda(fixed=0.2 * GB, per_pixel=10_000.0), 1, (800, 1344))
    assert "for 1 image of 800 × 1344" in text
    assert text.endswith("one image of 640 × 1120 would fit: image.min_size=640, image.max_size=1120, batch 1.")


@pytest.mark.parametrize("fixed", [7.9, 9.0])
def test_nothing_fits(fixed):
    text = explained(FakeCuda(fixed=fixed * GB, per_pixel=1000.0), 2, (800, 800))
    assert text.endswith("Not even one image of 256 × 256 fits; free memory on it, or take a smaller network.")


def test_without_a_probe_nothing_is_guessed():
    assert explained(FakeCuda(1, 1), 2, (64, 64), probe=False).endswith(
        "Take a smaller batch or smaller images (image.min_size)."
    )


def test_only_memory_errors_are_explained():
    with memory_explained(GPU, 1, (64, 64)):
        pass
    with pytest.raises(RuntimeError, match="other"), memory_explained(GPU, 1, (64, 64)):
        raise RuntimeError("other")


def test_what_frames_held_is_let_go():
    held = []

    def run():
        tensor = torch.zeros(3)
        held.append(torch._C._WeakTensorRef(tensor))
        out_of_memory()

    with pytest.raises(DeviceMemoryError), memory_explained(GPU, 1, (64, 64), None, FakeCuda(1, 1)):
        run()
    assert held[0].expired()


@pytest.mark.parametrize("overrides", [{}, {"masks": False}, {"keypoint_names": ("a",)}], ids=str)
def test_probes_are_batches_that_the_network_trains_on(overrides):
    model = tiny_model(**overrides)
    images, targets = made_batch(model.config, 64, torch.device("cpu"))
    assert model(images, targets).total.isfinite()


def test_predict_explains(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(model, "forward", out_of_memory)
    monkeypatch.setattr(prediction, "memory_explained", fake_explained([]))
    with pytest.raises(DeviceMemoryError, match="2 images of 64 × 64"):
        model.predict([torch.zeros(3, 40, 40)] * 2, batch_size=2)


def test_training_explains(monkeypatch, tmp_path):
    from maskrcnn.training import loop

    model, probed = tiny_model(), []
    monkeypatch.setattr(loop, "memory_explained", fake_explained(probed))
    monkeypatch.setattr(loop._Run, "_step", out_of_memory)
    with pytest.raises(DeviceMemoryError, match="2 images of 64 × 64"):
        train(model, tiny_data(2), tmp_path, TrainOptions(epochs=1, batch_size=2), device="cpu")
    assert probed == [64]
    assert all(p.grad is None for p in model.parameters())


def fake_explained(probed: list[int]):
    def explained(device, batch, size, probe):
        def run(side: int) -> None:
            probe(64)
            probed.append(64)

        cuda = FakeCuda(0.2 * GB, 1000.0)
        cuda.probe = run if probed is not None else cuda.probe
        return memory_explained(device, batch, size, lambda side: run(side) if not probed else None, cuda)

    return explained
