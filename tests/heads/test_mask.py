"""The mask head: shapes, targets by hand, and which logits its loss reaches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from maskrcnn.config import MaskHeadConfig
from maskrcnn.heads import MaskHead, SampledRoIs
from maskrcnn.heads.box import of_class
from maskrcnn.ops import boxes as box_ops
from maskrcnn.stages import recording
from maskrcnn.structures import TargetBatch

CLASSES = 3
CONFIDENT = 20.0


def head(**fields: Any) -> MaskHead:
    return MaskHead(MaskHeadConfig(**{"channels": 8, "num_convs": 1, **fields}), 4, CLASSES)


def left_half() -> Tensor:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    return mask


def targets(masks: list[Tensor], labels: list[int]) -> TargetBatch:
    """Objects as large as the 8 × 8 image."""
    g = len(masks)
    boxes = torch.tensor([0.0, 0, 8, 8]).expand(1, g, 4)
    return TargetBatch(boxes, torch.tensor([labels]), torch.stack(masks)[None], torch.ones(1, g).bool())


def loss_of(network: MaskHead, answers: Tensor, drawn: SampledRoIs, truth: TargetBatch, aligned: bool) -> Tensor:
    """The loss of logits for all classes, [NF, Km, M, M]."""
    labels = box_ops.gather_rows(truth.labels, drawn.matched_gt).flatten()
    return network.loss(of_class(answers, labels), drawn, truth, aligned)


def rois(matched: list[int], positive: list[bool], box: tuple[float, ...] = (0, 0, 8, 8)) -> SampledRoIs:
    boxes = torch.tensor(box).float().expand(1, len(matched), 4)
    is_positive = torch.tensor([positive])
    return SampledRoIs(boxes, torch.tensor([matched]), is_positive, torch.ones_like(is_positive))


@pytest.mark.parametrize("num_convs", [0, 2])
@pytest.mark.parametrize(("class_agnostic", "channels"), [(False, CLASSES), (True, 1)])
@pytest.mark.parametrize("count", [0, 5])
def test_a_mask_per_class_twice_as_fine_as_the_crop(
    num_convs: int, class_agnostic: bool, channels: int, count: int
) -> None:
    network = head(num_convs=num_convs, class_agnostic=class_agnostic)
    assert network(torch.randn(count, 4, 7, 7)).shape == (count, channels, 14, 14)


@pytest.mark.parametrize("class_agnostic", [False, True], ids=["per class", "class-agnostic"])
@pytest.mark.parametrize("count", [0, 5])
def test_told_the_classes_it_gives_their_masks_alone(class_agnostic: bool, count: int) -> None:
    network, crops = head(class_agnostic=class_agnostic), torch.randn(count, 4, 7, 7)
    torch.nn.init.normal_(network.predictor.weight)
    torch.nn.init.normal_(network.predictor.bias)
    labels = torch.tensor([2, 0, 0, 1, 2])[:count]
    own, every = network(crops, labels), of_class(network(crops), labels)
    torch.testing.assert_close(own, every)
    weights = list(network.parameters())
    gradients = (torch.autograd.grad(masks.square().sum(), weights) for masks in (own, every))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_recording_keeps_the_masks_of_all_classes_and_changes_no_number() -> None:
    network, crops, labels = head(), torch.randn(3, 4, 7, 7), torch.tensor([2, 0, 1])
    with recording() as tensors:
        recorded = network(crops, labels)
    assert tensors["mask_logits"].shape == (3, CLASSES, 14, 14) and not tensors["mask_logits"].requires_grad
    torch.testing.assert_close(of_class(tensors["mask_logits"], labels), recorded)
    assert torch.equal(recorded, network(crops, labels))


@pytest.mark.parametrize(
    ("binary", "box", "expected"),
    [
        pytest.param(True, (0, 0, 8, 8), [1, 0], id="whole"),
        # Bins of 3 pixels from 1 to 4 and 4 to 7 see all and none, from 2 to 5 and 5 to 8 two thirds and none.
        pytest.param(False, (1, 0, 7, 8), [1, 0], id="bins end at the edge"),
        pytest.param(False, (2, 0, 8, 8), [2 / 3, 0], id="share"),
        pytest.param(True, (2, 0, 8, 8), [1, 0], id="share of 2/3 is rounded up"),
        pytest.param(False, (3, 0, 5, 8), [1, 0], id="cells"),
        pytest.param(False, (2, 0, 6, 8), [1, 0], id="middle"),
        pytest.param(False, (3, 0, 7, 8), [0.5, 0], id="half"),
        pytest.param(True, (3, 0, 7, 8), [1, 0], id="a half is rounded up"),
    ],
)
def test_targets_by_hand(binary: bool, box: tuple[float, ...], expected: list[float]) -> None:
    network = head(binary_targets=binary)
    with recording() as tensors:
        loss_of(
            network, torch.zeros(1, CLASSES, 2, 2), rois([0], [True], box), targets([left_half()], [0]), aligned=True
        )
    torch.testing.assert_close(
        tensors["mask_targets"][0], torch.tensor([expected, expected]).float(), rtol=0, atol=1e-6
    )


def test_undecided_masks_cost_log_2() -> None:
    loss = loss_of(head(), torch.zeros(1, CLASSES, 4, 4), rois([0], [True]), targets([left_half()], [1]), aligned=True)
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


@pytest.mark.parametrize("class_agnostic", [False, True], ids=["per class", "class-agnostic"])
def test_only_the_mask_of_the_own_class_is_compared(class_agnostic: bool) -> None:
    answers = torch.full((1, 1 if class_agnostic else CLASSES, 4, 4), CONFIDENT)
    answers[0, -1] = torch.tensor([CONFIDENT, CONFIDENT, -CONFIDENT, -CONFIDENT])
    loss = loss_of(
        head(class_agnostic=class_agnostic),
        answers,
        rois([0], [True]),
        targets([left_half()], [CLASSES - 1]),
        aligned=True,
    )
    torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0, atol=1e-6)
    if not class_agnostic:
        other = loss_of(head(), answers, rois([0], [True]), targets([left_half()], [0]), aligned=True)
        torch.testing.assert_close(other, torch.tensor(CONFIDENT / 2))


def test_each_roi_learns_from_its_matched_object() -> None:
    answers = torch.full((2, CLASSES, 4, 4), -CONFIDENT)
    answers[0, 2, :, 2:] = CONFIDENT
    answers[1, 1, :, :2] = CONFIDENT
    loss = loss_of(
        head(), answers, rois([1, 0], [True, True]), targets([left_half(), ~left_half()], [1, 2]), aligned=True
    )
    torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0, atol=1e-6)


def test_loss_is_the_mean_over_positive_rois() -> None:
    answers = torch.zeros(3, CLASSES, 4, 4)
    answers[1:] = CONFIDENT  # wrong on half of the pixels; the last RoI is no positive
    loss = loss_of(head(), answers, rois([0, 0, 0], [True, True, False]), targets([left_half()], [0]), aligned=True)
    torch.testing.assert_close(loss, torch.tensor((math.log(2) + CONFIDENT / 2) / 2))


def test_gradient_reaches_the_own_class_of_positives_alone() -> None:
    answers = torch.randn(2, CLASSES, 4, 4, requires_grad=True)
    loss_of(head(), answers, rois([0, 0], [True, False]), targets([left_half()], [1]), aligned=True).backward()
    reached = answers.grad.flatten(2).abs().sum(2) > 0
    assert reached.tolist() == [[False, True, False], [False, False, False]]


def test_no_positives_cost_nothing_and_have_finite_gradients() -> None:
    answers = torch.randn(2, CLASSES, 4, 4, requires_grad=True)
    gt = TargetBatch(
        torch.zeros(1, 1, 4), torch.zeros(1, 1).long(), torch.zeros(1, 1, 8, 8).bool(), torch.zeros(1, 1).bool()
    )
    loss = loss_of(head(), answers, rois([0, 0], [False, False], (0, 0, 0, 0)), gt, aligned=True)
    torch.testing.assert_close(loss, torch.tensor(0.0))
    loss.backward()
    torch.testing.assert_close(answers.grad, torch.zeros_like(answers))


def test_not_aligned_targets_lie_half_a_pixel_off() -> None:
    # Samples of the bin from 2 to 6 at 2.5 … 5.5 in cells whose centres are at k: the mask ends at 3.5.
    def target(aligned: bool) -> float:
        with recording() as tensors:
            loss_of(
                head(binary_targets=False),
                torch.zeros(1, CLASSES, 1, 1),
                rois([0], [True], (2, 0, 6, 8)),
                targets([left_half()], [0]),
                aligned,
            )
        return tensors["mask_targets"].item()

    assert target(aligned=True) == pytest.approx(0.5)
    assert target(aligned=False) == pytest.approx((1 + 0.5 + 0 + 0) / 4)
