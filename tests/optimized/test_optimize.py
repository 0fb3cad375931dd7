"""Optimized networks find what the network finds, and fall back where they cannot be compiled."""

import logging
import os

import numpy as np
import pytest
import torch

from maskrcnn.errors import InputError, WriteError
from maskrcnn.optimized import optimize as package_optimize
from maskrcnn.optimized import precision, programs
from maskrcnn.optimized.build import optimize
from maskrcnn.optimized.halves import FirstHalf, SecondHalf
from tiny import tiny_model


def strong(seed=0, **overrides):
    """The tiny network with predictors strong enough to find something."""
    model = tiny_model(seed, **{"image__min_size": 128, "image__max_size": 192, **overrides}).eval()
    with torch.no_grad():
        for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits):
            layer.weight.mul_(20)
    return model


def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (60, 80, 3), np.uint8), rng.integers(0, 256, (90, 50, 3), np.uint8)]


def assert_same(ours, theirs):
    assert sum(map(len, theirs)) > 0
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-4)
        assert torch.equal(a.labels, b.labels)
        assert (a.masks != b.masks).float().mean() < 1e-3


@pytest.mark.parametrize("batch_size", [1, 2])
def test_eager_float32_finds_the_same(batch_size):
    model = strong()
    fast = model.optimize("float32", compile=False)
    assert_same(fast.predict(photos(), 0.0, batch_size), model.predict(photos(), 0.0, batch_size))


def test_eager_bfloat16_finds_nearly_the_same():
    model = strong()
    fast = model.optimize("bfloat16", compile=False)
    [ours], [theirs] = fast.predict(photos()[:1], 0.0), model.predict(photos()[:1], 0.0)
    assert fast.dtype == torch.bfloat16
    assert ours.scores.dtype == torch.float32
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "overrides",
    [
        {"masks": False},
        {"keypoint_names": ("a", "b"), "keypoint__channels": 16},
        {"image__padding": "square", "image__padding_place": "center"},
        {"image__min_size": 64, "image__max_size": 64},
        {"box__detections_per_image": 1},
    ],
)
def test_every_kind_of_network_is_optimized(overrides):
    model = strong(**overrides)
    [ours], [theirs] = (
        model.optimize("float32", compile=False).predict(photos()[0], 0.0),
        model.predict(photos()[0], 0.0),
    )
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-3)
    assert (ours.masks is None) == (theirs.masks is None)
    if theirs.keypoints is not None:
        torch.testing.assert_close(ours.keypoints, theirs.keypoints, rtol=1e-3, atol=1e-2)


def test_nothing_found_gives_empty_detections():
    model = strong(box__score_threshold=1.0)
    [found] = model.optimize("float32", compile=False).predict(photos()[0])
    assert len(found) == 0 and found.masks.shape == (0, 60, 80)


def test_training_the_network_leaves_its_copy_alone():
    model = strong()
    fast = model.optimize("float32", compile=False)
    before = fast.predict(photos()[0], 0.0)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert_same(fast.predict(photos()[0], 0.0), before)


def test_without_a_compiler_one_warning_and_eager(monkeypatch, caplog):
    monkeypatch.setattr("maskrcnn.optimized.build.compiler_missing", lambda: "There is no C++ compiler.")
    fast = package_optimize(strong(), "float32")
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and not hasattr(r, "note")]
    assert warnings == ["The network is not compiled and runs eagerly, slower: There is no C++ compiler."]
    assert not fast.compiled
    assert len(fast.predict(photos()[0], 0.0)) == 1


def test_a_compiler_that_fails_is_told_of_in_one_line(monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("cc1plus: out of memory\nmuch more")

    monkeypatch.setattr("maskrcnn.optimized.build.compiler_missing", lambda: None)
    monkeypatch.setattr("maskrcnn.optimized.programs.load_program", fail)
    assert not optimize(strong(), "float32").compiled
    assert "cc1plus: out of memory" in caplog.text and "much more" not in caplog.text


def test_wrong_dtype_is_refused():
    with pytest.raises(InputError, match="dtype must be auto, float32 or bfloat16; got 'float16'"):
        strong().optimize("float16")


@pytest.mark.parametrize(
    ("found", "wanted"), [({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)]
)
def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch, found, wanted):
    monkeypatch.setattr(precision, "processor", lambda: found)
    assert precision.choose_dtype("auto", torch.device("cpu")) == wanted


def test_programs_are_told_apart_by_form_not_by_names_or_weights():
    def name(half, **overrides):
        return programs.key(half(tiny_model(**overrides)), "any size")

    first = name(FirstHalf)
    assert first == name(FirstHalf, seed=1)
    assert first == programs.key(FirstHalf(renamed()), "any size")
    assert len({first, name(SecondHalf), name(FirstHalf, box__nms_threshold=0.4)}) == 3
    assert first != programs.key(FirstHalf(tiny_model()), "one size")
    assert first != programs.key(FirstHalf(tiny_model().bfloat16()), "any size")


def renamed():
    model = tiny_model()
    model.config = model.config.replace({"class_names": [f"other {k}" for k in range(model.config.num_classes)]})
    return model


def test_cache_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = programs.programs_folder()
    assert folder == tmp_path / "maskrcnn" / "programs"
    folder.chmod(0o777)
    with pytest.raises(WriteError, match="can be written by another user.*chmod 700"):
        programs.programs_folder()


def test_cache_forgets_what_was_not_used_for_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 2)
    for age, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / programs.PROGRAM).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    programs._forget_oldest(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_cache_that_cannot_be_made_leaves_the_network_eager(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("maskrcnn.optimized.build.compiler_missing", lambda: None)
    (tmp_path / "maskrcnn").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not strong().optimize("float32").compiled
    assert "where compiled programs are kept" in caplog.text
