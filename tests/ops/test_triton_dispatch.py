"""When Triton's kernels are taken, and that the whole network gives the same with them."""

from __future__ import annotations

import copy
import importlib.util
import runpy
import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode

from interpreted import DEVICE, few_rois, take_twins
from maskrcnn import TargetBatch
from maskrcnn.ops import triton as twins
from tiny import SIDE


def targets() -> TargetBatch:
    boxes = torch.tensor([[[5.0, 5, 40, 50], [20, 10, 60, 60], [0, 0, 0, 0]]])
    masks = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.bool)
    masks[:, :2, 10:40, 20:40] = True
    return TargetBatch(boxes, torch.tensor([[0, 1, 0]]), masks, torch.tensor([[True, True, False]]))


@pytest.mark.parametrize("overrides", [{}, {"roi_align__method": "pool"}, {"box_corners": "centers"}], ids=str)
def test_detections_of_the_network(overrides: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = few_rois(**overrides), torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = model(image)
        take_twins(monkeypatch)
        found = model.to(DEVICE)(image.to(DEVICE))
    assert expected.valid.any()
    for name, ours, theirs in zip(found._fields, found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_losses_and_gradients_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, image = few_rois().train(), torch.randn(1, 3, SIDE, SIDE)
    fast = copy.deepcopy(plain).to(DEVICE)
    monkeypatch.setattr(
        torch, "rand", lambda shape, device: torch.linspace(0, 1, shape[1], device=device).expand(shape)
    )
    expected = plain(image, targets())
    expected.total.backward()
    take_twins(monkeypatch)
    losses = fast(image.to(DEVICE), targets().to(DEVICE))
    losses.total.backward()
    torch.testing.assert_close([v.cpu() for v in losses], list(expected), rtol=1e-4, atol=1e-5)
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if theirs.requires_grad:
            torch.testing.assert_close(
                ours.grad.cpu(), theirs.grad, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
            )


@pytest.mark.parametrize(
    ("device", "values", "boxes", "taken"),
    [
        ("cuda", torch.float32, torch.float32, True),
        ("cuda", torch.bfloat16, torch.float32, True),
        ("cuda", torch.float16, torch.float32, True),
        ("cuda", torch.float64, torch.float32, False),
        ("cuda", torch.float32, torch.float64, False),
        ("cpu", torch.float32, torch.float32, False),
    ],
)
def test_tensors_that_are_taken(
    device: str, values: torch.dtype, boxes: torch.dtype, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "_found", [True])
    with FakeTensorMode():  # knows CUDA without a GPU
        tensors = torch.empty(3, dtype=values, device=device), torch.empty(1, 4, dtype=boxes, device=device)
        assert twins.usable(*tensors) == taken


def test_export_takes_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    take_twins(monkeypatch)
    boxes = torch.zeros(1, 4)
    assert twins.usable(boxes, boxes)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert not twins.usable(boxes, boxes)


def test_where_kernels_cannot_be_started_a_warning_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nMore.")

    monkeypatch.setattr(twins, "_found", [])
    monkeypatch.setattr(twins, "_driver", fails)
    with FakeTensorMode():
        values, boxes = torch.empty(3, device="cuda"), torch.empty(1, 4, device="cuda")
        assert not twins.usable(values, boxes) and not twins.usable(values, boxes)
    [record] = caplog.records
    assert "the GPU runs slower: Failed to find C compiler. Please specify via CC environment variable. They need" in (
        record.getMessage()
    )


@pytest.mark.parametrize("switch", ["0", "1"])
@pytest.mark.parametrize("installed", [True, False])
def test_on_where_triton_is_installed_and_not_turned_off(
    switch: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKRCNN_TRITON", switch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "found" if installed else None)
    assert runpy.run_path(twins.__file__)["ENABLED"] == (installed and switch == "1")


def test_package_is_imported_without_triton() -> None:
    program = "import maskrcnn, sys; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
