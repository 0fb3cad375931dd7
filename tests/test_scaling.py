"""How work grows with what a network is given: counted, not timed. benchmarks/scaling.py measures seconds and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maskrcnn.model import MaskRCNN
from maskrcnn.ops.masks import BAND, paste_masks
from maskrcnn.structures import TargetBatch
from tiny import tiny_model

SIDE = 128
"""Pixels along a side: twice the tiny network's usual 64, so that anchors outnumber ground truths."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny networks are quicker so, above all where other processes run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Counted(TorchDispatchMode):
    """Counts the elements of all that operators write, views left aside, and keeps the largest."""

    def __init__(self, kinds: Callable[[Tensor], bool] = lambda tensor: True) -> None:
        super().__init__()
        self.kinds = kinds
        self.work = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [returned.alias_info for returned in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and self.kinds(tensor):
                    self.work += tensor.numel()
                    self.largest = max(self.largest, tensor.numel())
        return result


def costs(run: Callable[[], object]) -> tuple[int, int]:
    """Return the elements written, and those of the largest tensor."""
    torch.manual_seed(1)
    with Counted() as counted:
        run()
    return counted.work, counted.largest


def at_most_linear(found: Sequence[tuple[int, int]], slack: float = 1.05) -> bool:
    """Return whether what is added grows at most twofold from one doubling to the next, whatever it starts from."""
    (work, large), (work2, large2), (work4, large4) = found
    return work4 - work2 <= slack * 2 * (work2 - work) and large4 <= slack * 2 * max(large2, large)


def images(count: int = 1) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def targets(count: int, truths: int) -> TargetBatch:
    """Objects of 16 × 16 pixels in rows, each with its whole box for a mask."""
    places = torch.arange(truths) % 49
    start = torch.stack((places % 7 * 16, places // 7 * 16), dim=1).float()
    boxes = torch.cat((start, start + 16), dim=1).expand(count, truths, 4)
    masks = torch.ones(1, 1, 1, 1, dtype=torch.bool).expand(count, truths, SIDE, SIDE)
    valid = torch.ones(count, truths, dtype=torch.bool)
    return TargetBatch(boxes, torch.zeros(count, truths, dtype=torch.int64), masks, valid)


def lively(**overrides: Any) -> MaskRCNN:
    """A network that finds all it may."""
    fields = {"box__score_threshold": 0.0, "box__nms_threshold": 0.99, "rpn__nms_threshold": 0.99, **overrides}
    model = tiny_model(**fields).eval()
    with torch.no_grad():
        model.rpn.deltas.weight.mul_(10)
    return model


def inference(model: MaskRCNN, batch: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return model(batch)

    return run


def training(model: MaskRCNN, batch: Tensor, truth: TargetBatch) -> Callable[[], object]:
    def step() -> None:
        model.train()(batch, truth).total.backward()

    return step


def test_what_is_quadratic_is_told_apart() -> None:
    values = [torch.rand(n) for n in (100, 200, 400)]
    assert at_most_linear([costs(lambda v=v: v.exp() + 1) for v in values])
    assert not at_most_linear([costs(lambda v=v: v[:, None] * v) for v in values])


def test_a_training_step_is_linear_in_ground_truths() -> None:
    model = tiny_model()
    assert at_most_linear([costs(training(model, images(), targets(1, g))) for g in (25, 50, 100)])


def test_a_training_step_is_linear_in_images() -> None:
    model = tiny_model()
    assert at_most_linear([costs(training(model, images(n), targets(n, 3))) for n in (1, 2, 4)])


def test_inference_is_linear_in_images() -> None:
    model = lively()
    assert at_most_linear([costs(inference(model, images(n))) for n in (1, 2, 4)])


def test_inference_is_linear_in_proposals() -> None:
    found = []
    for count in (50, 100, 200):
        fields = {"rpn__pre_nms_top_n": count, "rpn__post_nms_top_n": count, "box__score_threshold": 0.3}
        found.append(costs(inference(lively(**fields), images())))
    assert at_most_linear(found)


@pytest.mark.parametrize("form", ["pixels", "rle"])
def test_predict_is_linear_in_detections(form: Any) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = []
    for count in (50, 100, 200):
        fields = {"rpn__pre_nms_top_n": 200, "rpn__post_nms_top_n": 200}
        model = lively(**fields, box__detections_per_image=count)
        [detections] = model.predict(photo, 0.0, masks=form)
        assert len(detections) == count
        found.append(costs(lambda model=model: model.predict(photo, 0.0, masks=form)))
    assert at_most_linear(found)


@pytest.mark.parametrize("is_training", [False, True], ids=["inference", "training"])
def test_masks_cost_the_same_for_three_classes_and_for_a_thousand(is_training: bool) -> None:
    def step(classes: int) -> tuple[int, int]:
        head = tiny_model().mask_head
        head.predictor = type(head.predictor)(head.predictor.in_channels, classes)
        crops, labels = torch.randn(20, 16, 14, 14), torch.zeros(20, dtype=torch.int64)
        with torch.set_grad_enabled(is_training):
            return costs(lambda: head(crops, labels).sum().backward() if is_training else head(crops, labels))

    few, many = step(3), step(1000)
    weights = 2 * 1000 * (16 + 1)  # whose gradient must be written
    assert many[0] <= few[0] + (2 * weights if is_training else 0)
    assert many[1] <= max(few[1], weights)


def test_pasting_holds_no_more_numbers_than_a_band_of_a_mask() -> None:
    boxes = torch.tensor([[0.0, 0, 900, 700], [100, 50, 800, 650]])
    with Counted(lambda tensor: tensor.is_floating_point()) as counted:
        paste_masks(torch.rand(2, 28, 28), boxes, (700, 900))
    assert counted.largest <= BAND
