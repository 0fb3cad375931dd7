"""The same weights and the same photo give torchvision's numbers, stage by stage, and its losses and gradients."""

import json
from pathlib import Path

import filling
import numpy as np
import pytest
import torch

import maskrcnn
from maskrcnn.images import load_image, prepare
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.masks import paste_probabilities
from maskrcnn.prediction import unbatch
from maskrcnn.stages import recording
from maskrcnn.structures import Target
from maskrcnn.targets import batch_targets, resize_target

HERE = Path(__file__).parent
CASE = HERE / "maskrcnn_resnet50_fpn"
EXPECTED = dict(np.load(CASE / "expected.npz"))
TOLERANCE = json.loads((CASE / "expected.json").read_text())["suggested_tolerance"]
LEVEL_SIZES = [3 * h * w for h, w in ((200, 216), (100, 108), (50, 54), (25, 27), (13, 14))]
RELATIVE = 1e-3


@pytest.fixture(scope="module")
def checkpoint():
    return filling.weights(CASE / "manifest.json")


@pytest.fixture(scope="module")
def run(checkpoint):
    """One inference run: the model, the prepared photo, its stages, what comes out, and that in the photo's frame."""
    model = maskrcnn.load(checkpoint)
    batch = prepare([load_image(HERE / "FudanPed00001.png")], model.config.image)
    with torch.inference_mode(), recording() as stages:
        out = model(batch)
    return model, batch, stages, out, unbatch(out, batch, model.config)[0]


def expected(name):
    return torch.from_numpy(EXPECTED[name])


def assert_near(ours, name, tolerance):
    """Within the reference's own tolerance, and within 1e-3 of the largest value."""
    theirs = expected(name)
    assert ours.shape == theirs.shape
    difference = float((ours - theirs).abs().max())
    assert difference <= min(tolerance, RELATIVE * float(theirs.abs().max()))


def test_released_weights_run_with_eps_0_and_torchvisions_dialect(run):
    config = run[0].config
    assert config.backbone.norm_eps == 0.0
    assert (config.anchors.stride, config.roi_align.aligned, config.mask.paste) == ("measured", False, "integer_box")
    assert (config.class_names[0], config.class_names[-1]) == ("person", "toothbrush")


def test_photo_is_resized_and_normalised_alike(run):
    _, batch, *_ = run
    assert list(batch.tensor.shape) == EXPECTED["input.padded_shape"].tolist()
    assert batch.sizes.tolist() == EXPECTED["input.size"].tolist()
    assert_near(batch.tensor[:, :, ::16, ::16], "input.slice", 1e-5)


@pytest.mark.parametrize(
    ("name", "stage", "channels", "cells"),
    [
        ("body.0", "c2", 16, 8),
        ("body.1", "c3", 32, 4),
        ("body.2", "c4", 64, 2),
        ("body.3", "c5", 128, 1),
        ("fpn.0", "p2", 8, 8),
        ("fpn.1", "p3", 8, 4),
        ("fpn.2", "p4", 8, 2),
        ("fpn.3", "p5", 8, 1),
        ("fpn.pool", "p6", 8, 1),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_feature_maps(run, name, stage, channels, cells):
    assert_near(run[2][stage][:, ::channels, ::cells, ::cells], name, TOLERANCE["fpn"])


@pytest.mark.parametrize(("level", "index"), [("3", 3), ("pool", 4)], ids=["p5", "p6"])
def test_rpn_outputs_and_anchors(run, level, index):
    stages = run[2]
    n, _, h, w = EXPECTED[f"rpn.deltas.{level}"].shape
    objectness = stages["rpn_objectness"].split(LEVEL_SIZES, 1)[index].reshape(n, h, w, 3).permute(0, 3, 1, 2)
    assert_near(objectness, f"rpn.objectness.{level}", TOLERANCE["rpn_objectness"])
    deltas = stages["rpn_deltas"].split(LEVEL_SIZES, 1)[index].reshape(n, h, w, 12).permute(0, 3, 1, 2)
    assert_near(deltas, f"rpn.deltas.{level}", TOLERANCE["rpn_deltas"])
    assert torch.equal(stages["anchors"].split(LEVEL_SIZES)[index], expected(f"rpn.anchors.{level}"))


def test_proposals_their_scores_and_levels(run):
    ours, theirs = run[2]["proposals"][0], expected("img0.proposals")
    distances = torch.cdist(theirs, ours, p=float("inf"))
    distance, partner = distances.min(dim=1)
    assert float(distance.max()) < TOLERANCE["proposals_px"]
    assert float(distances.amin(dim=0).max()) < TOLERANCE["proposals_px"]
    assert_near(run[2]["proposal_scores"][0], "img0.proposal_scores", TOLERANCE["proposal_scores"])
    assert torch.equal(run[2]["roi_levels"][0][partner], expected("img0.roi_level"))


def test_crops_and_box_head(run):
    stages = run[2]
    assert_near(stages["box_features"][:4], "img0.box_roi", TOLERANCE["class_logits"])
    logits = stages["class_logits"][:50].roll(1, dims=1)  # torchvision's first class is background
    assert_near(logits, "img0.class_logits", TOLERANCE["class_logits"])
    theirs = expected("img0.box_deltas")[:, 4:]
    ours = stages["box_deltas"][:50].flatten(1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE["box_deltas"])


def test_every_detection_matches(run):
    found = run[4]
    theirs, labels, scores = expected("img0.boxes"), expected("img0.labels") - 1, expected("img0.scores")
    assert len(found) == len(theirs) == 69
    overlap = box_ops.iou(theirs, found.boxes).masked_fill(labels[:, None] != found.labels, 0)
    best, partner = overlap.max(dim=1)
    matched = (best > 0.99) & ((found.scores[partner] - scores).abs() < 1e-3)
    assert matched.double().mean() >= 0.99
    assert_near(found.boxes, "img0.boxes", TOLERANCE["boxes_px"])
    assert_near(found.scores, "img0.scores", TOLERANCE["scores"])


def test_masks_small_and_pasted(run):
    model, _, _, out, found = run
    assert_near(out.mask_logits[0, :10].sigmoid(), "img0.mask_probs", TOLERANCE["mask_probs"])
    areas, theirs = found.masks.sum((1, 2)), expected("img0.mask_area")
    assert int((areas - theirs).abs().max()) <= TOLERANCE["mask_area_pixels"]
    torch.testing.assert_close(areas.double(), theirs.double(), rtol=0.01, atol=0)
    for mask, extent in zip(found.masks, expected("img0.mask_extent").tolist(), strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert max(abs(a - b) for a, b in zip(box, extent, strict=True)) <= 1
    soft = paste_probabilities(
        out.mask_logits[0, : len(found)].sigmoid(), found.boxes, found.image_size, model.config.mask.paste
    )
    torch.testing.assert_close(soft.sum((1, 2)), expected("img0.mask_sum"), rtol=1e-3, atol=0)


def test_training_losses_and_gradient_norms(checkpoint):
    every = {"rpn.matching.samples_per_image": 1_000_000, "box.matching.samples_per_image": 1_000_000}
    model = maskrcnn.load(checkpoint, overrides=every).train()
    photo = load_image(HERE / "FudanPed00001.png")
    batch = prepare([photo], model.config.image)
    truth = Target(expected("train.img0.boxes"), expected("train.img0.labels") - 1, expected("train.img0.masks").bool())
    size = tuple(batch.sizes[0].tolist())
    target = resize_target(truth, photo.shape[:2], size, model.config.image.resize)
    torch.testing.assert_close(target.boxes, expected("train.img0.boxes_input"))
    assert target.masks.sum((1, 2)).tolist() == EXPECTED["train.img0.masks_input_area"].tolist()

    losses = model(batch, batch_targets([target], tuple(batch.tensor.shape[-2:]), masks=True))
    names = ("objectness", "rpn_box_reg", "classifier", "box_reg", "mask")
    for ours, theirs in zip(losses, names, strict=True):
        torch.testing.assert_close(ours.detach(), expected(f"train.loss_{theirs}"), rtol=1e-4, atol=0)

    losses.total.backward()
    parameters = dict(model.named_parameters())
    norms = {key.removeprefix("train.grad_norm."): value for key, value in EXPECTED.items() if ".grad_norm." in key}
    assert len(norms) == 19
    for theirs, norm in norms.items():
        gradient = parameters[maskrcnn.weights.torchvision.our_name(theirs)].grad
        assert abs(float(gradient.double().norm()) / float(norm) - 1) < 1e-3, theirs
    frozen = json.loads((CASE / "expected.json").read_text())["training"]["parameters_without_gradient"]
    without = {name for name, p in parameters.items() if p.grad is None}
    assert without == {maskrcnn.weights.torchvision.our_name(name) for name in frozen}
