"""The same weights and the same photo give Detectron2's numbers, stage by stage, with FPN and without."""

import json

import filling
import numpy as np
import pytest
import torch
from cases import HERE, Case, assert_areas, assert_masks, assert_matched, distance_to_nearest

import maskrcnn
from maskrcnn.batching import batch_targets, resize_target
from maskrcnn.images import load_image, prepare
from maskrcnn.prediction import unbatch
from maskrcnn.stages import recording
from maskrcnn.structures import Target
from maskrcnn.weights.detectron2 import our_name

CASES = {"FPN": "detectron2-mask_rcnn_R_50_FPN_3x", "C4": "detectron2-mask_rcnn_R_50_C4_3x"}
STAGES = {"res2": "c2", "res3": "c3", "res4": "c4", "res5": "c5", **{f"p{k}": f"p{k}" for k in range(2, 7)}}


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def case(request):
    return Case(request.param)


@pytest.fixture(scope="module")
def run(case):
    """One inference run: the model, the prepared photo, its stages, what comes out, and that in the photo's frame."""
    model = maskrcnn.load(filling.weights(case.folder / "manifest.json"))
    batch = prepare([load_image(HERE / case.manifest["image"]["file"].removeprefix("images/"))], model.config.image)
    kept = {}
    hooks = [
        model.backbone.maxpool.register_forward_hook(lambda module, inputs, output: kept.update(stem=output.clone())),
        model.box_head.class_logits.register_forward_pre_hook(lambda module, inputs: kept.update(features=inputs[0])),
    ]
    with torch.inference_mode(), recording() as stages:
        out = model(batch)
    for hook in hooks:
        hook.remove()
    return model, batch, {**stages, **kept}, out, unbatch(out, batch, model.config)[0]


def test_photo_is_resized_and_normalised_to_the_last_bit(case, run):
    _, batch, *_ = run
    assert batch.sizes[0].tolist() == case["input_size"].tolist()
    assert list(batch.tensor.shape[-2:]) == case["padded_size"].tolist()
    assert torch.equal(case.sliced(batch.tensor, "model_input"), case["model_input"])


def test_stem_and_feature_maps(case, run):
    stages = run[2]
    case.assert_near(case.sliced(stages["stem"], "stem"), "stem", 2e-4)
    found = [name for name in STAGES if name in case.arrays]
    assert len(found) in (3, 9)
    for name in found:
        case.assert_near(case.sliced(stages[STAGES[name]], name), name, 2e-4 if name.startswith("res") else 3e-4)


def test_rpn_outputs_and_anchors(case, run):
    stages = run[2]
    levels = [name.removeprefix("rpn_deltas_") for name in case.arrays if name.startswith("rpn_deltas_")]
    per_cell = case["cell_anchors"].shape[1]
    shapes = [stages[STAGES[level]].shape[-2:] for level in levels]
    sizes = [per_cell * h * w for h, w in shapes]
    for k, (level, (h, w)) in enumerate(zip(levels, shapes, strict=True)):
        objectness = stages["rpn_objectness"].split(sizes, 1)[k].reshape(1, h, w, per_cell).permute(0, 3, 1, 2)
        deltas = stages["rpn_deltas"].split(sizes, 1)[k].reshape(1, h, w, 4 * per_cell).permute(0, 3, 1, 2)
        name = f"rpn_objectness_{level}"
        case.assert_near(case.sliced(objectness, name), name, 1e-3)
        case.assert_near(case.sliced(deltas, f"rpn_deltas_{level}"), f"rpn_deltas_{level}", 2e-4)
        torch.testing.assert_close(stages["anchors"].split(sizes)[k][:per_cell], case["cell_anchors"][k])


def test_proposals_and_the_levels_that_serve_them(case, run):
    ours, theirs = run[2]["proposals"][0], case["proposals"]
    count = int((run[2]["proposal_scores"][0] > 0).sum())
    assert count == len(theirs)
    distance, partner = distance_to_nearest(theirs, ours[:count])
    assert float(distance.max()) < 0.02
    scores = case["proposal_logits"].sigmoid()
    torch.testing.assert_close(run[2]["proposal_scores"][0][partner], scores, rtol=1e-3, atol=1e-5)
    if "proposal_levels" in case.arrays:
        assert torch.equal(run[2]["roi_levels"][0][partner] + 2, case["proposal_levels"])


def test_crops_and_box_head(case, run):
    stages = run[2]
    kept = stages["box_features"][:4] if "p2" in stages else stages["box_features"][:4, ::4]
    case.assert_near(kept, "box_roi_features", 2e-3)
    case.assert_near(stages["features"][:8], "box_head_features", 2e-3)
    case.assert_near(stages["class_logits"][:50], "class_logits", 2e-3)
    case.assert_near(stages["box_deltas"][:50].flatten(1), "box_deltas", 2e-3)


def test_every_detection_matches(case, run):
    found = run[4]
    assert_matched(found, case["boxes"], case["classes"], case["scores"])
    case.assert_near(found.boxes, "boxes", 0.05)
    case.assert_near(found.scores, "scores", 2e-4)
    count = len(found)
    case.assert_near(run[2]["detections"][0, :count, :4], "det_boxes_input", 0.05)


def test_masks_small_and_pasted(case, run):
    _, _, stages, out, found = run
    case.assert_near(out.mask_logits[0, :10].sigmoid(), "mask_probs", 2e-3)
    case.assert_near(stages["mask_logits"][:2, ::8], "mask_logits", 1e-2)
    if "mask_roi_features" in case.arrays:
        case.assert_near(stages["mask_features"][:2, ::4], "mask_roi_features", 2e-3)
    assert_areas(found, case["mask_areas"])
    assert_masks(found, case["masks_packed"], 20)


def unpacked(packed, height, width):
    return torch.from_numpy(np.unpackbits(packed, axis=1)[:, : height * width].reshape(-1, height, width).astype(bool))


def test_training_losses_and_gradients():
    """Nothing is drawn: the sample takes every labelled anchor and proposal."""
    case = Case(CASES["FPN"])
    told = json.loads((case.folder / "expected_train.json").read_text())
    arrays = dict(np.load(case.folder / "expected_train.npz"))
    every = {"rpn.matching.samples_per_image": 200_000, "box.matching.samples_per_image": 4096}
    every |= {"rpn.matching.positive_fraction": 0.5, "box.matching.positive_fraction": 0.25}
    model = maskrcnn.load(filling.weights(case.folder / "manifest.json"), overrides=every).train()
    photo = load_image(HERE / "FudanPed00001.png")
    batch = prepare([photo], model.config.image)
    height, width = photo.shape[:2]
    boxes, labels = torch.from_numpy(arrays["gt_boxes_original"]), torch.from_numpy(arrays["gt_classes"])
    truth = Target(boxes, labels, unpacked(arrays["gt_masks_original_packed"], height, width))
    size = tuple(batch.sizes[0].tolist())
    target = resize_target(truth, (height, width), size, model.config.image.resize)
    torch.testing.assert_close(target.boxes, torch.from_numpy(arrays["gt_boxes"]))
    assert torch.equal(target.masks, unpacked(arrays["gt_masks_packed"], *size))

    losses = model(batch, batch_targets([target], tuple(batch.tensor.shape[-2:]), masks=True))
    names = {"rpn_objectness": "rpn_cls", "rpn_box": "rpn_loc", "class": "cls", "box": "box_reg", "mask": "mask"}
    for ours, theirs in names.items():
        expected = torch.tensor(told["losses"][f"loss_{theirs}"])
        torch.testing.assert_close(losses.named()[ours].detach(), expected, rtol=1e-4, atol=0)

    losses.total.backward()
    parameters = dict(model.named_parameters())
    assert len(told["grad_norms"]) == 20
    for theirs, norm in told["grad_norms"].items():
        gradient = parameters[our_name(theirs)].grad
        assert abs(float(gradient.double().norm()) / norm - 1) < 1e-3, theirs
        if f"grad/{theirs}" in arrays:
            expected = torch.from_numpy(arrays[f"grad/{theirs}"])
            difference = (gradient.flatten()[: len(expected)] - expected).abs().max()
            assert difference <= 5e-3 * expected.abs().max(), theirs
    total = torch.stack([p.grad.double().norm() for p in parameters.values() if p.grad is not None]).norm()
    assert abs(float(total) / told["total_grad_norm"] - 1) < 1e-3
    without = {name for name, p in parameters.items() if p.grad is None}
    assert without == {our_name(name) for name in told["frozen_parameters"]}
