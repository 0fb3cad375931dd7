"""Between the image and the detections, and in a training step, nothing waits for a GPU and nothing is copied to it.

The meta device stands for one: it is not a CPU, and it has no values that anybody could ask for.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from interpreted import take_twins
from maskrcnn import Config, MaskRCNN
from test_compiled import NETWORKS, SMALL, images, targets

ASKS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero", "equal")
META = torch.device("meta")


class Watch(TorchFunctionMode):
    """Notes each call that copies between the CPU and the device, or asks for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = {t.device.type for t in tree_leaves(result) if isinstance(t, Tensor)}
        name = (resolve_name(function) or str(function)).rsplit(".", 1)[-1]
        if name in ASKS or given | made == {"cpu", "meta"} or (name in ("tensor", "new_tensor") and "meta" in made):
            self.seen.append(name)
        return result


def network(name: str) -> MaskRCNN:
    preset, overrides = NETWORKS[name]
    overrides = {**overrides, **SMALL}
    return MaskRCNN(Config.preset(preset, class_names=["a", "b"], overrides=overrides)).to(META)


@pytest.mark.parametrize("name", NETWORKS)
def test_inference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_twins(monkeypatch)
    model, batch = network(name).eval(), images(2).to(META)
    with torch.no_grad():
        model(batch)  # the first run brings constants there
        with Watch() as watch:
            found = model(batch)
    assert found.boxes.device == META
    assert watch.seen == []


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "keypoints"])
def test_training_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_twins(monkeypatch)
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())  # it does not know this device
    model, batch, truth = network(name).train(), images(2).to(META), targets(2).to(META)
    model(batch, truth)
    with Watch() as watch:
        model(batch, truth).total.backward()
    assert any(p.grad is not None for p in model.parameters())
    assert watch.seen == []


def test_first_run_is_seen_to_copy() -> None:
    from maskrcnn.ops import boxes as box_ops

    box_ops._kept_vector.cache_clear()
    boxes = torch.zeros(1, 4, device=META)
    with Watch() as watch:
        box_ops.move_ends(boxes, 1.0)
    assert watch.seen == ["tensor"]


def test_plain_nms_asks_for_values() -> None:
    from maskrcnn.ops.nms import nms

    boxes = torch.zeros(1, 3, 4, device=META)
    with pytest.raises(RuntimeError, match="meta"):
        nms(boxes, torch.ones(1, 3, dtype=torch.bool, device=META), 0.5)
