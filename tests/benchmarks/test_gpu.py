"""The benchmark for a GPU: all but the launch itself, on a CPU."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import gpu_kernels
import gpu_measure
import gpu_runs
from gpu_measure import Row, Tolerance, greatest_difference, header, line, medians, same_share

CPU = torch.device("cpu")


def found(boxes, labels, scores):
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


A = found([[0.0, 0, 10, 10], [20, 20, 40, 40]], [0, 1], [0.9, 0.8])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (A, 1.0),
        (found([[0.0, 0, 10, 10]], [0], [0.9]), 2 / 3),
        (found([[0.0, 0, 10, 10], [20, 20, 40, 40]], [0, 0], [0.9, 0.8]), 0.5),
        (found([[0.0, 0, 10, 10], [20, 20, 40, 40]], [0, 1], [0.9, 0.7]), 0.5),
        (found([[0.0, 0, 10, 10], [21, 20, 40, 40]], [0, 1], [0.9, 0.8]), 0.5),
    ],
    ids=["same", "one missing", "another class", "another score", "another box"],
)
def test_share_of_detections_that_both_have(other, expected):
    assert same_share([A], [other], Tolerance(0.99, 1e-3, 1.0)) == pytest.approx(expected)


def test_two_networks_that_find_nothing_are_not_the_same():
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert same_share([nothing], [nothing], Tolerance(0.99, 1e-3, 1.0)) == 0.0


@pytest.mark.parametrize(
    ("ours", "expected"),
    [({"a": 1.0, "b": 2.0}, 0.0), ({"a": 2.0, "b": 2.0}, 0.5), ({"a": math.nan, "b": 2.0}, math.inf), ({}, math.inf)],
    ids=str,
)
def test_difference_of_losses(ours, expected):
    assert greatest_difference(ours, {"a": 1.0, "b": 2.0}) == expected


def test_runs_take_turns(monkeypatch):
    monkeypatch.setattr(gpu_measure, "LEAST_SECONDS", 0.0)
    log = []
    taken = medians({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, CPU, 3)
    assert log == ["a", "a", "b", "b", *["a", "b"] * 3]  # each warmed up and counted first
    assert set(taken) == {"a", "b"} and all(value >= 0 for value in taken.values())


def test_lines_show_what_was_measured_and_dashes_for_the_rest():
    row = Row("inference", "resnet50-fpn", 8, "bf16", "compiled", 20.0, 3.456, 0.25, 4.2, 0.981)
    assert line(row).split()[-6:] == ["400.0", "20.00", "3.46", "25.0%", "4.20", "98.10%"]
    failed = Row("training", "small-fpn", 8, "bf16", "all", note="out of memory.")
    assert line(failed).split() == ["training", "small-fpn", "8", "bf16", "all", *"––––––", "out", "of", "memory."]
    assert line(row._replace(holds=False)).endswith("98.10% !")
    assert header().split()[:5] == ["part", "network", "batch", "precision", "run"]


def test_without_a_gpu_one_sentence_and_status_2(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "no CUDA GPU" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "800x1333"], "multiples of 32"),
        (["--batches", "0"], "from 1 on"),
        (["--parts", "all"], "invalid choice"),
    ],
    ids=str,
)
def test_bad_arguments_are_told(arguments, told, capsys):
    with pytest.raises(SystemExit) as error:
        gpu.main(arguments)
    assert error.value.code == 2
    assert told in capsys.readouterr().err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--help"])
    assert "python benchmarks/gpu.py --quick --json gpu.json" in capsys.readouterr().out


def test_unknown_network_is_told(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "_rates", lambda options, record: {"fp32": 1.0, "bf16": 1.0})
    assert gpu.main(["--device", "cpu", "--models", "resnet5", "--parts", "inference"]) == 2
    assert "resnet5" in capsys.readouterr().err


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(gpu_measure, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(gpu, "_rates", lambda options, record: {"fp32": 1e12, "bf16": 1e12})


SMALL = ["--device", "cpu", "--size", "64x96", "--models", "small-fpn", "--batches", "1", "--rounds", "1"]


@pytest.mark.usefixtures("fast")
def test_the_whole_of_it_on_a_cpu(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    assert gpu.main([*SMALL, "--precisions", "fp32", "--no-compile", "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    rows = record["rows"]
    assert [(r["part"], r["run"]) for r in rows] == [("inference", "eager"), ("training", "eager")]
    assert all(r["milliseconds"] > 0 and r["of_limit"] > 0 and r["holds"] for r in rows)
    assert rows[0]["same"] == 1.0 and rows[0]["beside"] is None
    out = capsys.readouterr().out
    assert "figures are no measurement of a GPU" in out
    assert "kernels run on a CUDA GPU alone" in out


@pytest.mark.usefixtures("fast")
def test_out_of_memory_is_a_line_and_the_rest_goes_on(monkeypatch, capsys):
    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(gpu, "inference_runs", refuse)
    assert gpu.main([*SMALL, "--no-compile", "--precisions", "fp32", "--parts", "inference", "training"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(text.startswith("inference") and text.endswith("out of memory.") for text in lines)
    assert any(text.startswith("training") and "eager" in text for text in lines)


@pytest.mark.usefixtures("fast")
def test_runs_that_differ_are_marked_and_fail(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "same_share", lambda *_: 0.3)
    assert gpu.main([*SMALL, "--no-compile", "--precisions", "fp32", "--parts", "inference"]) == 1
    assert "30.00% !" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("precision", "first", "expected"), [("fp32", 0.5, 0.99), ("bf16", 1.0, 0.9), ("bf16", 0.5, 0.4)]
)
def test_bfloat16_may_differ_as_the_first_run_in_it_does(precision, first, expected):
    assert gpu.least_share(precision, first) == pytest.approx(expected)


def test_both_networks_are_given_the_same_weights():
    subject = gpu_runs.Subject("resnet50-fpn", CPU)
    ours = subject.ours()
    assert torch.equal(ours.backbone.conv1.weight, subject.weights["backbone.body.conv1.weight"])
    assert (ours.config.num_classes, ours.config.backbone.norm_eps) == (90, 1e-5)


def test_targets_lie_in_the_images():
    targets = gpu_runs.made_targets(2, 64, 96, CPU, 5)
    assert targets.masks.shape == (2, gpu_runs.OBJECTS, 64, 96)
    assert targets.masks.flatten(2).any(2).all()
    assert (targets.boxes[..., 2:] > targets.boxes[..., :2]).all() and int(targets.labels.max()) < 5


TINY = gpu_kernels.Sizes(batch=1, rois=1, channels=2, height=64, width=64, detections=2)


def test_every_kernel_agrees_with_pytorch_in_every_type(monkeypatch):
    pytest.importorskip("interpreted").take_twins(monkeypatch)
    rows = list(gpu_kernels.kernel_rows(TINY, CPU, rounds=0))
    assert len(rows) == 3 * 4 * 2 + 4
    assert [r for r in rows if not r.holds] == []


def test_a_kernel_that_differs_or_fails_is_told(monkeypatch):
    monkeypatch.setattr(gpu_kernels, "pooling_cases", lambda sizes, device: {})
    monkeypatch.setattr(gpu_kernels, "nms", lambda boxes, *_: torch.ones(boxes.shape[:2]) > gpu_kernels.twins.ENABLED)

    def broken(*_):
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(gpu_kernels.mask_ops, "paste_masks", broken)
    monkeypatch.setattr(gpu_kernels.twins, "ENABLED", True)
    rows = list(gpu_kernels.kernel_rows(TINY, CPU, rounds=0))
    assert [r.holds for r in rows] == [False] * 4
    assert gpu_kernels.kernel_line(rows[0]).endswith("differs !")
    assert gpu_kernels.kernel_line(rows[3]).endswith("failed: no such kernel")
    assert gpu_kernels.twins.ENABLED
