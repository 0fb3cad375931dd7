"""The same weights and the same photo give torchvision's numbers, stage by stage, and its losses and gradients."""

import filling
import pytest
import torch
from cases import HERE, Case, assert_areas, assert_matched, distance_to_nearest

import maskrcnn
from maskrcnn.batching import batch_targets, resize_target
from maskrcnn.images import load_image, prepare
from maskrcnn.ops.masks import paste_probabilities
from maskrcnn.prediction import unbatch
from maskrcnn.roi_align import FlatPyramid
from maskrcnn.stages import recording
from maskrcnn.structures import Target
from maskrcnn.weights.torchvision import our_name

MASKS = {"V1": "maskrcnn_resnet50_fpn", "V2": "maskrcnn_resnet50_fpn_v2"}
CASES = {**MASKS, "keypoints": "keypointrcnn_resnet50_fpn"}


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def case(request):
    return Case(request.param)


@pytest.fixture(scope="module")
def run(case):
    """One inference run: the model, the prepared photo, its stages, what comes out, and that in the photo's frame."""
    model = maskrcnn.load(filling.weights(case.folder / "manifest.json"))
    [image] = case.manifest["images"]
    batch = prepare([load_image(HERE / image.removeprefix("images/"))], model.config.image)
    with torch.inference_mode(), recording() as stages:
        out = model(batch)
    return model, batch, stages, out, unbatch(out, batch, model.config)[0]


@pytest.fixture(scope="module")
def tolerance(case):
    return case.told["suggested_tolerance"]


def test_norms_and_dialect(case, run):
    config = run[0].config
    released_v1 = ("frozen_batch", 0.0, "none", "none")
    v2 = ("batch", 1e-5, "batch", "batch")
    found = (config.backbone.norm, config.backbone.norm_eps, config.fpn.norm, config.mask.norm)
    assert found == (v2 if case.folder.name.endswith("v2") else released_v1)
    assert (config.anchors.stride, config.roi_align.aligned, config.mask.paste) == ("measured", False, "integer_box")
    assert config.class_names[0] == "person" and len(config.class_names) == len(case["img0.class_logits"][0]) - 1


def test_photo_is_resized_and_normalised_alike(case, run):
    _, batch, *_ = run
    assert list(batch.tensor.shape) == case["input.padded_shape"].tolist()
    assert batch.sizes.tolist() == case["input.size"].tolist()
    case.assert_near(batch.tensor[:, :, ::16, ::16], "input.slice", 1e-5)


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
def test_feature_maps(case, run, tolerance, name, stage, channels, cells):
    case.assert_near(run[2][stage][:, ::channels, ::cells, ::cells], name, tolerance["fpn"])


@pytest.mark.parametrize(("level", "index"), [("3", 3), ("pool", 4)], ids=["p5", "p6"])
def test_rpn_outputs_and_anchors(case, run, tolerance, level, index):
    stages = run[2]
    sizes = [3 * stages[f"p{k}"].shape[2] * stages[f"p{k}"].shape[3] for k in range(2, 7)]
    n, _, h, w = case[f"rpn.deltas.{level}"].shape
    objectness = stages["rpn_objectness"].split(sizes, 1)[index].reshape(n, h, w, 3).permute(0, 3, 1, 2)
    case.assert_near(objectness, f"rpn.objectness.{level}", tolerance["rpn_objectness"])
    deltas = stages["rpn_deltas"].split(sizes, 1)[index].reshape(n, h, w, 12).permute(0, 3, 1, 2)
    case.assert_near(deltas, f"rpn.deltas.{level}", tolerance["rpn_deltas"])
    assert torch.equal(stages["anchors"].split(sizes)[index], case[f"rpn.anchors.{level}"])


def test_proposals_their_scores_and_levels(case, run, tolerance):
    ours, theirs = run[2]["proposals"][0], case["img0.proposals"]
    distance, partner = distance_to_nearest(theirs, ours)
    assert float(distance.max()) < tolerance["proposals_px"]
    assert float(distance_to_nearest(ours, theirs)[0].max()) < tolerance["proposals_px"]
    case.assert_near(run[2]["proposal_scores"][0], "img0.proposal_scores", tolerance["proposal_scores"])
    assert torch.equal(run[2]["roi_levels"][0][partner], case["img0.roi_level"])


def test_crops_at_the_reference_s_proposals(case, run, tolerance):
    """RoIAlign apart from what rounding has moved the proposals by."""
    model, _, stages, *_ = run
    pyramid = FlatPyramid.of([stages[f"p{k}"] for k in range(2, 6)], (4, 8, 16, 32))
    rois, levels = case["img0.proposals"][None, :4], case["img0.roi_level"][None, :4]
    case.assert_near(model.box_roi_align(pyramid, rois, levels), "img0.box_roi", tolerance["fpn"])


def test_box_head(case, run, tolerance):
    """Row by row of the nearest proposal: rounding can swap two of nearly equal scores."""
    stages = run[2]
    _, partner = distance_to_nearest(case["img0.proposals"][:50], stages["proposals"][0])
    logits = stages["class_logits"][partner].roll(1, dims=1)  # torchvision's first class is background
    case.assert_near(logits, "img0.class_logits", tolerance["class_logits"])
    theirs = case["img0.box_deltas"][:, 4:]
    ours = stages["box_deltas"][partner].flatten(1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance["box_deltas"])


def test_every_detection_matches(case, run, tolerance):
    found = run[4]
    assert_matched(found, case["img0.boxes"], case["img0.labels"] - 1, case["img0.scores"])
    case.assert_near(found.boxes, "img0.boxes", tolerance["boxes_px"])
    case.assert_near(found.scores, "img0.scores", tolerance["scores"])


@pytest.mark.parametrize("case", MASKS.values(), ids=list(MASKS), indirect=True)
def test_masks_small_and_pasted(case, run, tolerance):
    model, _, _, out, found = run
    case.assert_near(out.mask_logits[0, :10].sigmoid(), "img0.mask_probs", tolerance["mask_probs"])
    areas, theirs = found.masks.sum((1, 2)), case["img0.mask_area"]
    assert int((areas - theirs).abs().max()) <= tolerance["mask_area_pixels"]
    assert_areas(found, theirs)
    for mask, extent in zip(found.masks, case["img0.mask_extent"].tolist(), strict=True):
        if not any(extent):
            assert not mask.any()
            continue
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert max(abs(a - b) for a, b in zip(box, extent, strict=True)) <= 1
    soft = paste_probabilities(
        out.mask_logits[0, : len(found)].sigmoid(), found.boxes, found.image_size, model.config.mask.paste
    )
    torch.testing.assert_close(soft.sum((1, 2)), case["img0.mask_sum"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("case", [CASES["keypoints"]], indirect=True)
def test_keypoints(case, run, tolerance):
    model, _, _, out, found = run
    assert model.config.keypoint_names[0] == "nose" and not model.config.masks
    assert found.keypoint_scores == "logit"
    case.assert_near(out.boxes[0, : len(found)], "img0.boxes_input", tolerance["boxes_px"])
    case.assert_near(out.keypoint_logits[0, :4, :, ::2, ::2], "img0.keypoint_logits", tolerance["keypoint_scores"])
    theirs = case["img0.keypoints"][:, :, :2]
    assert float((found.keypoints[:, :, :2] - theirs).abs().max()) <= tolerance["keypoints_px"]
    case.assert_near(found.keypoints[:, :, 2], "img0.keypoint_scores", tolerance["keypoint_scores"])


def test_training_losses_and_gradient_norms():
    case = Case(CASES["V1"])
    every = {"rpn.matching.samples_per_image": 1_000_000, "box.matching.samples_per_image": 1_000_000}
    model = maskrcnn.load(filling.weights(case.folder / "manifest.json"), overrides=every).train()
    photo = load_image(HERE / "FudanPed00001.png")
    batch = prepare([photo], model.config.image)
    truth = Target(case["train.img0.boxes"], case["train.img0.labels"] - 1, case["train.img0.masks"].bool())
    size = tuple(batch.sizes[0].tolist())
    target = resize_target(truth, photo.shape[:2], size, model.config.image.resize)
    torch.testing.assert_close(target.boxes, case["train.img0.boxes_input"])
    assert target.masks.sum((1, 2)).tolist() == case["train.img0.masks_input_area"].tolist()

    losses = model(batch, batch_targets([target], tuple(batch.tensor.shape[-2:]), masks=True))
    names = ("objectness", "rpn_box_reg", "classifier", "box_reg", "mask")
    for ours, theirs in zip(losses[:5], names, strict=True):
        torch.testing.assert_close(ours.detach(), case[f"train.loss_{theirs}"], rtol=1e-4, atol=0)

    losses.total.backward()
    parameters = dict(model.named_parameters())
    norms = {key.removeprefix("train.grad_norm."): value for key, value in case.arrays.items() if ".grad_norm." in key}
    assert len(norms) == 19
    for theirs, norm in norms.items():
        gradient = parameters[our_name(theirs)].grad
        assert abs(float(gradient.double().norm()) / float(norm) - 1) < 1e-3, theirs
    frozen = case.told["training"]["parameters_without_gradient"]
    without = {name for name, p in parameters.items() if p.grad is None}
    assert without == {our_name(name) for name in frozen}
