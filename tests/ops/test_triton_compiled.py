"""A compiler takes Triton's kernels as single operators, and Triton compiles each of them for a GPU."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interpreted import DEVICE, few_rois, take_twins
from maskrcnn.ops.triton.masks import paste_masks
from maskrcnn.ops.triton.nms import nms
from test_compiled import assert_same, targets

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("default"),  # compilers warn of themselves
]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def image(size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.randn(1, 3, *size, device=DEVICE)


def recorded(graphs: list):
    """A compiler that keeps the graphs it is given, and runs them as they are."""

    def backend(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    return backend


@pytest.mark.parametrize(
    ("overrides", "crops"),
    [
        ({}, "mean_of_samples"),
        ({"roi_align__sampling_ratio": 0}, "mean_of_samples"),
        ({"roi_align__method": "pool"}, "max_of_cells"),
    ],
    ids=["fixed", "adaptive", "pool"],
)
def test_inference_is_one_graph_of_single_operators(
    overrides: dict, crops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, graphs = few_rois(**overrides).to(DEVICE), image(), []
    take_twins(monkeypatch)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend=recorded(graphs))(batch)
        assert_same(compiled, model(batch))
    [graph] = graphs
    assert {"maskrcnn_triton.nms", f"maskrcnn_triton.{crops}"} <= graph


def test_operators_compile_for_sizes_that_are_not_known() -> None:
    def kept_and_pasted(boxes: Tensor, photo: Tensor) -> tuple[Tensor, Tensor]:
        keep = nms(boxes[None], torch.ones_like(boxes[None, :, 0], dtype=torch.bool), 0.5)
        probabilities = torch.ones(boxes.shape[0], 4, 4, device=boxes.device)
        return keep, paste_masks(probabilities, boxes, (photo.shape[0], photo.shape[1]))

    compiled = torch.compile(kept_and_pasted, fullgraph=True, dynamic=True, backend="aot_eager")
    for count, size in ((5, (9, 12)), (3, (14, 7))):
        boxes, photo = torch.rand(count, 4, device=DEVICE) * 5, torch.empty(size, device=DEVICE)
        boxes[:, 2:] += boxes[:, :2]
        torch.testing.assert_close(compiled(boxes, photo), kept_and_pasted(boxes, photo))


def test_training_step_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = few_rois().train().to(DEVICE)
    compiled = copy.deepcopy(eager)
    batch, truth = image((96, 128)), targets(1).to(DEVICE)
    take_twins(monkeypatch)

    def step(model, images, targets):
        return model(images, targets).total

    torch.manual_seed(1)
    first = step(eager, batch, truth)
    first.backward()
    torch.manual_seed(1)
    second = torch.compile(step, fullgraph=True, backend="aot_eager")(compiled, batch, truth)
    second.backward()
    torch.testing.assert_close(first, second)
    for (name, a), b in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(
                a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


ROIS = "base *i64, extent *i64, start *fp32, bin_side *fp32, counts *i64, margin fp32, place fp32"
KERNELS = {
    "overlap bits": (
        "nms._overlap_bits",
        "boxes *fp32, segments *i64, overlaps *i64, threshold fp32, count i32, words i32",
        {"GROUPED": True, "WORD": 64},
    ),
    "down the list": (
        "nms._go_down_the_list",
        "overlaps *i64, valid *u8, keep *u8, count i32, words i32",
        {"PADDED": 32, "WORD": 64},
    ),
    "roi_align": (
        "roi_align._forward",
        f"table *bf16, means *bf16, {ROIS}",
        {"CHANNELS": 256, "SAMPLES": 2, "BINS": 7, "BLOCK": 256},
    ),
    "roi_align adaptive": (
        "roi_align._forward",
        f"table *fp32, means *fp32, {ROIS}",
        {"CHANNELS": 300, "SAMPLES": 0, "BINS": 14, "BLOCK": 256},
    ),
    "roi_align backward": (
        "roi_align._backward",
        f"summed *fp32, gradient *fp16, {ROIS}",
        {"CHANNELS": 256, "SAMPLES": 2, "BINS": 7, "BLOCK": 256},
    ),
    "roi_pool": (
        "roi_pool._forward",
        "table *fp32, maxima *fp32, rows *i32, base *i64, width *i64, begin *i64, end *i64",
        {"CHANNELS": 256, "BINS": 7, "BLOCK": 256},
    ),
    "roi_pool backward": (
        "roi_pool._backward",
        "summed *fp32, gradient *fp32, rows *i32",
        {"CHANNELS": 256, "BLOCK": 256},
    ),
    "paste": (
        "masks._paste",
        "probabilities *fp32, boxes *fp32, pasted *u8, threshold fp32, height i32, width i32",
        {"SIZE": 28, "WHOLE": True, "ROWS": 8, "COLUMNS": 128},
    ),
}
"""Kernels as they are launched: their names, what their arguments are, and their constants."""


PROGRAM = """
import importlib, json, re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from maskrcnn.ops.triton import LAUNCH

for name, (where, arguments, constants) in json.loads(sys.argv[1]).items():
    module, function = where.split(".")
    kernel = getattr(importlib.import_module(f"maskrcnn.ops.triton.{module}"), function)
    signature = dict(argument.split() for argument in arguments.split(", ")) | dict.fromkeys(constants, "constexpr")
    assert list(signature) == kernel.arg_names, name
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=LAUNCH)
    assert made.asm["cubin"], name
    fused = re.findall(r"fma[.][a-z0-9.]+", made.asm["ptx"])
    print(name, "fused:", len(fused))
"""


def test_kernels_compile_for_a_gpu_and_round_each_operation(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, json.dumps(KERNELS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} fused: 0" for name in KERNELS]
