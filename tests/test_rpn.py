"""The Region Proposal Network: its layout, proposals from hand-made answers, and its losses by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.anchors import make_anchors
from maskrcnn.config import AnchorConfig, BoxLossConfig, RPNConfig
from maskrcnn.rpn import RPN, RPNOutput
from maskrcnn.structures import ImageBatch, TargetBatch

STRIDES = {"p2": 4, "p3": 8}
ANCHORS = AnchorConfig(sizes=((8,), (16,)), ratios=(0.5, 1.0, 2.0))


def rpn(anchors: AnchorConfig = ANCHORS, channels: int = 6, **fields: Any) -> RPN:
    return RPN(RPNConfig(channels=8, **fields), anchors, channels, STRIDES)


def image_batch(*sizes: tuple[int, int], side: tuple[int, int] = (32, 48)) -> ImageBatch:
    """Images of (height, width) in a tensor of the same padded side."""
    return ImageBatch(torch.zeros(len(sizes), 3, *side), torch.tensor(sizes), torch.tensor(sizes))


def features(images: int = 2) -> dict[str, Tensor]:
    return {"p2": torch.randn(images, 6, 8, 12), "p3": torch.randn(images, 6, 4, 6)}


def boxes_as_anchors(*levels: list[tuple[list[float], float]], images: int = 1) -> RPNOutput:
    """An answer of which each anchor is a given box with a given logit, and all deltas are 0."""
    anchors = torch.tensor([box for level in levels for box, _ in level]).float().reshape(-1, 4)
    logits = torch.tensor([logit for level in levels for _, logit in level]).float()
    return RPNOutput(
        anchors,
        logits.expand(images, -1).clone(),
        torch.zeros(images, len(anchors), 4),
        tuple(len(level) for level in levels),
    )


def targets(boxes: Tensor, valid: Tensor | None = None) -> TargetBatch:
    n, g = boxes.shape[:2]
    valid = torch.ones(n, g, dtype=torch.bool) if valid is None else valid
    return TargetBatch(boxes, torch.zeros(n, g).long(), torch.zeros(n, g, 0, 0).bool(), valid)


# The network


def test_answers_are_ordered_as_anchors_are() -> None:
    network, maps = rpn(), features()
    output = network(maps, image_batch((32, 48), (32, 48)))
    first = 0
    for x in maps.values():
        hidden = F.relu(network.convs[0](x))
        logits, deltas = network.objectness(hidden), network.deltas(hidden)
        _, _, rows, columns = x.shape
        for y, col, a in [(0, 0, 0), (1, 2, 1), (rows - 1, columns - 1, 2)]:
            at = first + (y * columns + col) * 3 + a
            torch.testing.assert_close(output.objectness[:, at], logits[:, a, y, col])
            torch.testing.assert_close(output.deltas[:, at], deltas[:, 4 * a : 4 * a + 4, y, col])
        first += rows * columns * 3
    assert output.level_sizes == (8 * 12 * 3, 4 * 6 * 3)
    assert output.objectness.shape == (2, first) and output.deltas.shape == (2, first, 4)


def test_anchors_are_those_of_all_levels() -> None:
    output = rpn()(features(), image_batch((32, 48), (32, 48)))
    levels = make_anchors(ANCHORS, [(8, 12), (4, 6)], [4, 8], (32, 48), torch.device("cpu"))
    torch.testing.assert_close(output.anchors, torch.cat(levels))


@pytest.mark.parametrize("num_convs", [1, 2])
def test_number_of_convolutions(num_convs: int) -> None:
    network = rpn(num_convs=num_convs)
    assert [conv.in_channels for conv in network.convs] == [6, 8][:num_convs]
    assert network(features(), image_batch((32, 48), (32, 48))).objectness.shape == (2, 360)


def test_half_precision_features_give_float32_answers() -> None:
    maps = {name: x.bfloat16() for name, x in features().items()}
    output = rpn().bfloat16()(maps, image_batch((32, 48), (32, 48)))
    assert output.objectness.dtype == output.deltas.dtype == torch.float32


# Proposals


def test_best_come_first_and_near_duplicates_go() -> None:
    a, b, c = [0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]  # IoU of a and b is 0.9
    output = boxes_as_anchors([(b, 1.0), (c, 2.0), (a, 3.0)])
    proposals = rpn().propose(output, image_batch((32, 48)), training=False)
    assert proposals.valid.tolist() == [[True, True, False]]
    torch.testing.assert_close(proposals.boxes[0, :2], torch.tensor([a, c]).float())
    torch.testing.assert_close(proposals.scores[0, :2], torch.tensor([3.0, 2.0]).sigmoid())
    torch.testing.assert_close(proposals.boxes[0, 2], torch.zeros(4))


def test_levels_do_not_suppress_each_other() -> None:
    box = [0, 0, 10, 10]
    output = boxes_as_anchors([(box, 1.0), (box, 0.5)], [(box, 2.0)])
    proposals = rpn().propose(output, image_batch((32, 48)), training=False)
    assert proposals.valid.sum() == 2
    torch.testing.assert_close(proposals.scores[0, :2], torch.tensor([2.0, 1.0]).sigmoid())


def test_levels_in_one_list_suppress_each_other_and_share_the_limit() -> None:
    box = [0, 0, 10, 10]
    output = boxes_as_anchors([(box, 1.0), ([20, 0, 30, 10], 0.5)], [(box, 2.0), ([20, 20, 30, 30], -1.0)])
    proposals = rpn(per_level=False, pre_nms_top_n=3).propose(output, image_batch((32, 48)), training=False)
    assert proposals.valid.tolist() == [[True, True, False]]
    torch.testing.assert_close(proposals.scores[0, :2], torch.tensor([2.0, 0.5]).sigmoid())


def test_boxes_may_be_cut_to_the_padded_input() -> None:
    output = boxes_as_anchors([([-5, -5, 100, 100], 0.0)], images=2)
    network = RPN(RPNConfig(channels=8, clip="input"), ANCHORS, 6, STRIDES, "centers")
    proposals = network.propose(output, image_batch((20, 48), (32, 30)), training=False)
    assert proposals.boxes[:, 0].tolist() == [[0, 0, 47, 31]] * 2


def test_boxes_are_cut_to_an_image_in_the_middle() -> None:
    output = boxes_as_anchors([([-5, -5, 100, 100], 0.0)])
    images = image_batch((20, 40))._replace(offsets=torch.tensor([[6, 4]]))
    assert rpn().propose(output, images, training=False).boxes[0].tolist() == [[4, 6, 44, 26]]


def test_boxes_without_area_stay_where_no_least_size_is_set() -> None:
    output = boxes_as_anchors([([60, 0, 70, 10], 9.0), ([5, 5, 9, 8], 8.0)])
    proposals = rpn(min_size=None).propose(output, image_batch((32, 48)), training=False)
    assert proposals.valid.all() and proposals.boxes[0, 0].tolist() == [48, 0, 48, 10]


def test_deltas_may_be_unlimited() -> None:
    output = boxes_as_anchors([([10, 10, 11, 11], 0.0)])
    output.deltas[0, 0, 2] = math.log(30)
    for limit, width in ((math.log(10), 10), (None, 30)):
        network = rpn(max_log_scale=limit)
        box = network.propose(output, image_batch((48, 48), side=(48, 48)), training=False).boxes[0, 0]
        expected = min(10.5 + width / 2, 48) - max(10.5 - width / 2, 0)
        assert float(box[2] - box[0]) == pytest.approx(expected, rel=1e-5)


def test_deltas_move_the_anchors() -> None:
    output = boxes_as_anchors([([10, 10, 20, 30], 0.0)])
    output.deltas[0, 0] = torch.tensor([0.5, -0.25, math.log(2), 0.0])
    proposals = rpn().propose(output, image_batch((48, 48), side=(48, 48)), training=False)
    torch.testing.assert_close(proposals.boxes, torch.tensor([[[10.0, 5, 30, 25]]]))


def test_boxes_are_cut_to_each_image_without_its_padding() -> None:
    output = boxes_as_anchors([([-5, -5, 100, 100], 0.0)], images=2)
    proposals = rpn().propose(output, image_batch((20, 48), (32, 30)), training=False)
    torch.testing.assert_close(proposals.boxes[:, 0], torch.tensor([[0.0, 0, 48, 20], [0, 0, 30, 32]]))


def test_boxes_outside_the_image_or_too_small_are_dropped() -> None:
    output = boxes_as_anchors([([60, 0, 70, 10], 9.0), ([5, 5, 9, 8], 8.0), ([0, 0, 4, 4], 7.0)])
    proposals = rpn(min_size=4.0).propose(output, image_batch((32, 48)), training=False)
    assert proposals.valid.tolist() == [[True, False, False]]
    torch.testing.assert_close(proposals.boxes[0, 0], torch.tensor([0.0, 0, 4, 4]))


@pytest.mark.parametrize(("training", "count"), [(False, 3), (True, 5)])
def test_at_most_post_nms_over_all_levels(training: bool, count: int) -> None:
    levels = [[([8 * i, 8 * k, 8 * i + 6, 8 * k + 6], i + k / 2) for i in range(4)] for k in range(2)]
    network = rpn(post_nms_top_n=3, post_nms_top_n_training=5)
    proposals = network.propose(boxes_as_anchors(*levels), image_batch((32, 48)), training=training)
    assert proposals.valid.shape == (1, count) and proposals.valid.all()
    best = sorted((logit for level in levels for _, logit in level), reverse=True)[:count]
    torch.testing.assert_close(proposals.scores[0], torch.tensor(best).float().sigmoid())


@pytest.mark.parametrize(("training", "per_level"), [(False, 2), (True, 3)])
def test_pre_nms_is_counted_on_each_level(training: bool, per_level: int) -> None:
    levels = [[([8 * i, 8 * k, 8 * i + 6, 8 * k + 6], i) for i in range(5)] for k in range(2)]
    network = rpn(pre_nms_top_n=2, pre_nms_top_n_training=3)
    proposals = network.propose(boxes_as_anchors(*levels), image_batch((32, 48)), training=training)
    assert proposals.valid.sum() == 2 * per_level
    assert proposals.boxes[0, proposals.valid[0], 0].min() == 8 * (5 - per_level)


def test_level_with_fewer_anchors_than_pre_nms() -> None:
    many = [([8 * i, 0, 8 * i + 6, 6], i) for i in range(5)]
    output = boxes_as_anchors(many, [([0, 16, 6, 22], -50.0)])
    proposals = rpn(pre_nms_top_n=4).propose(output, image_batch((32, 48)), training=False)
    assert proposals.valid.sum() == 4 + 1
    torch.testing.assert_close(proposals.boxes[0, 4], torch.tensor([0.0, 16, 6, 22]))


def test_nothing_to_propose() -> None:
    output = boxes_as_anchors([([60, 0, 70, 10], 9.0)] * 3)
    proposals = rpn().propose(output, image_batch((32, 48)), training=False)
    assert not proposals.valid.any()
    torch.testing.assert_close(proposals.boxes, torch.zeros(1, 3, 4))
    torch.testing.assert_close(proposals.scores, torch.zeros(1, 3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["objectness", "deltas"])
def test_answers_that_are_not_finite_give_finite_proposals(which: str, value: float) -> None:
    output = boxes_as_anchors([([0, 0, 10, 10], 1.0), ([20, 0, 30, 10], 2.0)])
    getattr(output, which)[0, 1] = value
    proposals = rpn().propose(output, image_batch((32, 48)), training=False)
    assert proposals.boxes.isfinite().all()
    torch.testing.assert_close(proposals.boxes[0, 0], torch.tensor([0.0, 0, 10, 10]))


def test_proposals_of_a_random_network_are_sound() -> None:
    network, images = rpn(post_nms_top_n=50), image_batch((32, 48), (20, 30))
    for layer in (network.objectness, network.deltas):
        torch.nn.init.normal_(layer.weight, std=0.5)
    proposals = network.propose(network(features(), images), images, training=False)
    assert proposals.valid.sum() > 20
    assert (proposals.scores.diff(dim=1) <= 0).all()
    assert (proposals.boxes >= 0).all()
    assert (proposals.boxes <= images.sizes.flip(1).repeat(1, 2)[:, None]).all()
    kept = proposals.boxes[proposals.valid]
    assert (kept[:, 2:] - kept[:, :2] > 0).all()
    assert not proposals.boxes.requires_grad


def test_batch_of_two_is_two_batches_of_one() -> None:
    network, maps, sizes = rpn(), features(), [(32, 48), (20, 30)]
    images = image_batch(*sizes)
    together = network.propose(network(maps, images), images, training=False)
    for n, size in enumerate(sizes):
        image = image_batch(size)
        output = network({name: x[n, None] for name, x in maps.items()}, image)
        alone = network.propose(output, image, training=False)
        torch.testing.assert_close(tuple(t[n, None] for t in together), tuple(alone))


# Losses


@pytest.mark.parametrize(
    ("loss", "count", "box"),
    [
        # dx = 0.5: with β = 1/9 the loss is |0.5| − β/2, with β = 0 just 0.5, with β = 1 it is 0.5² / 2.
        pytest.param(BoxLossConfig(), 3, 0.5 - 1 / 18, id="smooth"),
        pytest.param(BoxLossConfig(beta=0), 3, 0.5, id="l1"),
        pytest.param(BoxLossConfig(beta=1), 3, 0.125, id="quadratic"),
        pytest.param(BoxLossConfig(beta=0, normalizer="configured"), 256, 0.5, id="configured"),
    ],
)
def test_losses_by_hand(loss: BoxLossConfig, count: int, box: float) -> None:
    # One anchor on the object, one left out (IoU 0.5), two beside it; logits 0, 5, 1, −1.
    output = boxes_as_anchors(
        [([0, 0, 10, 10], 0.0), ([0, 0, 10, 5], 5.0), ([20, 0, 30, 10], 1.0), ([30, 0, 40, 10], -1.0)]
    )
    output.deltas[0, 0, 0] = 0.5
    output.deltas[0, 1:] = 99.0
    objectness, box_loss = rpn(loss=loss).losses(output, targets(torch.tensor([[[0.0, 0, 10, 10]]])))
    cross_entropy = math.log(2) + math.log(1 + math.e) + math.log(1 + 1 / math.e)
    torch.testing.assert_close(objectness, torch.tensor(cross_entropy / count))
    torch.testing.assert_close(box_loss, torch.tensor(box / count))


def test_configured_normalizer_counts_the_images() -> None:
    output = boxes_as_anchors([([0, 0, 10, 10], 0.0)], images=4)
    objectness, _ = rpn(loss=BoxLossConfig(normalizer="configured")).losses(
        output, targets(torch.tensor([[[0.0, 0, 10, 10]]]).expand(4, 1, 4))
    )
    torch.testing.assert_close(objectness, torch.tensor(4 * math.log(2) / (256 * 4)))


def test_delta_weights_scale_the_targets() -> None:
    output = boxes_as_anchors([([0, 0, 10, 10], 0.0)])
    gt = targets(torch.tensor([[[1.0, 0, 11, 10]]]))  # dx = 0.1
    for weight, expected in ((1.0, 0.1), (10.0, 1.0)):
        network = rpn(delta_weights=(weight,) * 4, loss=BoxLossConfig(beta=0))
        torch.testing.assert_close(network.losses(output, gt)[1], torch.tensor(expected))


def test_perfect_answers_cost_nothing() -> None:
    output = boxes_as_anchors([([0, 0, 10, 10], 50.0), ([20, 0, 30, 10], -50.0)])
    losses = rpn().losses(output, targets(torch.tensor([[[0.0, 0, 10, 10]]])))
    torch.testing.assert_close(losses, (torch.tensor(0.0), torch.tensor(0.0)))


def test_padded_ground_truth_is_not_learned() -> None:
    output = boxes_as_anchors([([0, 0, 10, 10], 3.0), ([20, 0, 30, 10], -2.0)])
    output.deltas[0, 1] = 7.0
    alone = targets(torch.tensor([[[0.0, 0, 10, 10]]]))
    padded = targets(torch.tensor([[[0.0, 0, 10, 10], [20, 0, 30, 10]]]), torch.tensor([[True, False]]))
    torch.testing.assert_close(rpn().losses(output, padded), rpn().losses(output, alone))


def test_image_without_objects_has_finite_losses_and_gradients() -> None:
    network, images = rpn(), image_batch((32, 48), (32, 48))
    nothing = targets(torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.bool))
    objectness, box_loss = network.losses(network(features(), images), nothing)
    assert objectness.isfinite() and objectness > 0
    torch.testing.assert_close(box_loss, torch.tensor(0.0))
    (objectness + box_loss).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_losses_reach_every_parameter() -> None:
    network, images = rpn(), image_batch((32, 48), (32, 48))
    gt = targets(torch.tensor([[[4.0, 4, 14, 12]], [[20, 8, 40, 30]]]))
    sum(network.losses(network(features(), images), gt)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("per_level", [1, 3])
def test_training_learns_from_few_anchors_what_it_would_from_all(per_level: int) -> None:
    """The answers at the drawn anchors, and every gradient, are those of the convolutions over whole maps."""
    anchors = AnchorConfig(sizes=((8,), (16,)), ratios=(0.5, 1.0, 2.0)[:per_level])
    network, images = rpn(anchors), image_batch((32, 48), (32, 48))
    gt = targets(torch.tensor([[[0.0, 0, 9, 11], [20, 10, 47, 31]], [[4.0, 4, 30, 30], [40, 0, 48, 8]]]))
    results = []
    for training in (True, False):
        torch.manual_seed(3)
        maps = {name: x.requires_grad_() for name, x in features().items()}
        output = network(maps, images, training=training)
        assert output.objectness.requires_grad != training
        torch.manual_seed(4)
        losses = network.losses(output, gt)
        wanted = [*network.parameters(), *maps.values()]
        results.append((*losses, *torch.autograd.grad(sum(losses), wanted)))
    for few, all_of_them in zip(*results, strict=True):
        assert all_of_them.abs().max() > 0
        torch.testing.assert_close(few, all_of_them, rtol=1e-4, atol=1e-6)


def test_training_in_bfloat16_reaches_every_parameter() -> None:
    network, images = rpn(), image_batch((32, 48), (32, 48))
    gt = targets(torch.tensor([[[0.0, 0, 9, 11]], [[4.0, 4, 30, 30]]]))
    with torch.autocast("cpu", torch.bfloat16):
        sum(network.losses(network(features(), images, training=True), gt)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_training_with_several_convolutions_takes_whole_maps() -> None:
    network, images = rpn(num_convs=2), image_batch((32, 48), (32, 48))
    gt = targets(torch.tensor([[[0.0, 0, 9, 11]], [[4.0, 4, 30, 30]]]))
    sum(network.losses(network(features(), images, training=True), gt)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
