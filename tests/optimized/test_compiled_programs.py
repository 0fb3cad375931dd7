"""Compiled halves of networks: exact, of any size and batch, and kept on disk for other weights."""

import logging

import numpy as np
import pytest
import torch

from maskrcnn import Config, MaskRCNN
from maskrcnn.devices import compiler_missing
from maskrcnn.optimized import programs
from maskrcnn.optimized.build import optimize
from tiny import tiny_model

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(compiler_missing() is not None, reason=f"nothing can be compiled here: {compiler_missing()}"),
]
PHOTO_SIZES = ((60, 80), (90, 50), (64, 64), (300, 40))
"""The last is resized to fewer pixels than programs take; it runs eagerly."""
SIZES = {"image__min_size": 128, "image__max_size": 192}


def strong(model):
    with torch.no_grad():
        for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits):
            layer.weight.mul_(20)
    return model.eval()


def c4_with_keypoints():
    overrides = {
        **{"backbone.width": 8, "backbone.norm": "group", "rpn.channels": 16, "mask.channels": 16},
        **{"image.min_size": 96, "image.max_size": 160, "keypoint_names": ("a", "b"), "keypoint.channels": 16},
        **{"rpn.pre_nms_top_n": 50, "rpn.post_nms_top_n": 30, "anchors.sizes": ((16, 32),)},
    }
    return MaskRCNN(Config.preset("resnet50", class_names=["a", "b"], overrides=overrides))


def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in PHOTO_SIZES]


def assert_finds_the_same(fast, model):
    assert fast.compiled
    for batch_size in (1, 2, 3):
        found, wanted = fast.predict(photos(), 0.0, batch_size), model.predict(photos(), 0.0, batch_size)
        assert sum(map(len, wanted)) > 0
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-4, atol=1e-2)
            assert torch.equal(a.labels, b.labels)
            assert (a.masks != b.masks).float().mean() < 1e-3
            if b.keypoints is not None:
                torch.testing.assert_close(a.keypoints, b.keypoints, rtol=1e-3, atol=0.5)


def test_one_program_serves_all_sizes_batches_and_weights(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    model = strong(tiny_model(**SIZES))
    assert_finds_the_same(optimize(model, "float32"), model)
    assert caplog.text.count("Compiling") == 2  # one for each half
    caplog.clear()
    other = strong(tiny_model(seed=1, **SIZES))
    assert_finds_the_same(optimize(other, "float32"), other)
    assert "Compiling" not in caplog.text

    for path in (tmp_path / "maskrcnn" / "programs").glob(f"*/{programs.PROGRAM}"):
        path.write_bytes(path.read_bytes()[:1000])
    made = []
    monkeypatch.setattr(programs, "_make", lambda half, sample, place: made.append(type(half).__name__))
    assert not optimize(model, "float32").compiled  # what stands in for the compiler mends nothing
    assert made == ["FirstHalf"]
    assert [r for r in caplog.records if r.levelno == logging.WARNING and "runs eagerly" in r.getMessage()]


def test_networks_of_one_level_and_keypoints(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    model = strong(c4_with_keypoints())
    assert_finds_the_same(optimize(model, "float32"), model)
