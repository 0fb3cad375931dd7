"""The model for a GPU finds what the network finds; on a CPU, with a stand-in for recorded runs."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch

from maskrcnn.errors import DeviceMemoryError, InputError
from maskrcnn.images import prepare
from maskrcnn.optimized import build, cuda
from maskrcnn.optimized.captured import Pool
from maskrcnn.optimized.cuda import CudaModel, exact_float32
from recorded import RunAgain
from tiny import tiny_model

SIZES = {"image__min_size": 64, "image__max_size": 96}


def strong(**overrides):
    """The tiny network with predictors strong enough to find something."""
    model = tiny_model(**{**SIZES, **overrides}).eval()
    with torch.no_grad():
        for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits):
            layer.weight.mul_(20)
    return model


def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((60, 80), (90, 50), (64, 64), (60, 80), (60, 80))]


def recorded_model(model, dtype=torch.float32, **changes):
    recorded = []

    def record(run, inputs, pool):
        recorded.append(tuple(inputs[0].shape))
        return RunAgain(run, inputs)

    settings = {"compile": False, "capture": record, "new_pool": lambda device: Pool(None, None), **changes}
    return CudaModel(model, dtype, **settings), recorded


def assert_same(ours, theirs):
    assert sum(map(len, theirs)) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-4)
        if b.masks is not None:
            assert (a.masks != b.masks).float().mean() < 1e-3
        assert (a.rles is None) == (b.rles is None)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("form", ["pixels", "rle"])
def test_float32_finds_what_the_network_finds(batch_size, form):
    model = strong()
    fast, recorded = recorded_model(model)
    assert_same(fast.predict(photos(), 0.0, batch_size, form), model.predict(photos(), 0.0, batch_size, form))
    assert len(recorded) < len(photos())


DIALECTS = {
    "norms": {"backbone__norm": "frozen_batch"},
    "centred": {"image__padding": "square", "image__padding_place": "center", "image__padding_fill": "black"},
    "boxes only": {"masks": False},
    "keypoints": {"keypoint_names": ("a", "b"), "keypoint__channels": 16},
}


@pytest.mark.parametrize("overrides", DIALECTS.values(), ids=DIALECTS)
def test_dialects_find_the_same(overrides):
    model = strong(**overrides)
    fast, _ = recorded_model(model)
    ours, theirs = fast.predict(photos(), 0.0, 2), model.predict(photos(), 0.0, 2)
    assert_same(ours, theirs)
    if model.config.keypoint_names:
        torch.testing.assert_close(ours[0].keypoints, theirs[0].keypoints, rtol=1e-3, atol=0.1)


def test_bfloat16_pads_to_coarse_buckets_and_finds_nearly_the_same():
    model = strong(image__max_size=120)
    fast, recorded = recorded_model(model, torch.bfloat16)
    [ours], [theirs] = fast.predict(photos()[:1], 0.0), model.predict(photos()[:1], 0.0)
    assert recorded == [(1, 3, 64, 128)]
    assert ours.scores.dtype == torch.float32
    torch.testing.assert_close(ours.scores[:3], theirs.scores[:3], rtol=0, atol=0.15)


def test_batches_that_others_prepared_are_taken():
    model = strong()
    fast, recorded = recorded_model(model)
    batch = prepare(photos()[:2], model.config.image)
    with torch.inference_mode():
        ours, theirs = fast.detect(batch), model(batch)
    assert recorded == [(2, 3, 96, 96)]
    assert torch.equal(ours.valid, theirs.valid)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-4)


def test_the_last_batch_needs_no_graph_of_its_own():
    model, one = strong(image__padding="square"), photos()[:1] * 5
    fast, recorded = recorded_model(model)
    assert len(fast.predict(one, 0.0, 3)) == 5
    assert [shape[0] for shape in recorded] == [3]


def test_training_the_network_does_not_change_it():
    model = strong()
    fast, _ = recorded_model(model)
    before = fast.predict(photos()[:1], 0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_same(fast.predict(photos()[:1], 0.0), before)


def test_what_cannot_be_recorded_runs_without_a_graph(caplog):
    def refuse(run, inputs, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    model = strong()
    fast, _ = recorded_model(model, capture=refuse)
    with caplog.at_level(logging.WARNING):
        ours = fast.predict(photos()[:2], 0.0)
    assert_same(ours, model.predict(photos()[:2], 0.0))
    assert fast.graphs is None
    told = [r.message for r in caplog.records]
    assert told == [
        "No CUDA graph can be recorded, so the GPU waits for the host more: "
        "operation not permitted when stream is capturing"
    ]


def test_what_cannot_be_compiled_runs_eagerly_with_one_warning(caplog, monkeypatch):
    def broken(network, **settings):
        def fail(*inputs):
            raise ValueError("no kernel\nmore")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    model = strong()
    fast, _ = recorded_model(model, compile=True)
    assert fast.compiled
    with caplog.at_level(logging.WARNING):
        ours = fast.predict(photos()[:2], 0.0)
    assert_same(ours, model.predict(photos()[:2], 0.0))
    assert not fast.compiled
    assert [r.message for r in caplog.records] == ["The network is not compiled and runs eagerly, slower: no kernel"]


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_short_memory_drops_other_graphs_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    fast, recorded = recorded_model(strong())
    fast.predict(photos()[:1], 0.0)
    before, calls = fast.graphs._capture, []

    def once(run, inputs, pool):
        calls.append(len(fast.graphs))
        return before(run, inputs, pool) if len(calls) > 1 else out_of_memory()

    fast.graphs._capture = once
    assert len(fast.predict(photos()[1:2], 0.0)) == 1
    assert calls == [1, 0]
    assert len(recorded) == 2


def test_out_of_memory_names_what_would_fit(monkeypatch):
    model = strong()
    fast, _ = recorded_model(model, graphs=False)
    monkeypatch.setattr(fast, "_detect", out_of_memory)
    told = []

    def explain(error, device, batch, size, probe):
        told.append((batch, size))
        probe(96)
        return DeviceMemoryError("a batch of 1 would fit")

    monkeypatch.setattr(cuda, "explain_out_of_memory", explain)
    with pytest.raises(DeviceMemoryError, match="would fit"):
        fast.predict(photos()[:2], batch_size=2)
    assert told == [(2, (96, 96))]


def test_tf32_is_off_inside_and_as_before_outside():
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [b.fp32_precision for b in backends]
    inside = []
    with exact_float32():
        inside += [b.fp32_precision for b in backends]
    assert inside == ["ieee"] * 3
    assert [b.fp32_precision for b in backends] == before


@pytest.mark.parametrize(("batch_size", "form"), [(0, "pixels"), (1, "points")])
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_told(batch_size, form):
    fast, _ = recorded_model(strong())
    with pytest.raises(InputError, match="must be"):
        fast.predict(photos(), 0.5, batch_size, form)


def test_networks_on_a_gpu_are_optimized_for_it(monkeypatch):
    model = copy.deepcopy(strong())
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device("cuda")))
    fast, asked = CudaModel.__new__(CudaModel), []

    def made(*arguments):
        asked.append(arguments)
        return fast

    monkeypatch.setattr(build, "optimize_for_cuda", made)
    assert model.optimize("bfloat16", compile=False) is fast
    assert asked == [(model, "bfloat16", False)]
