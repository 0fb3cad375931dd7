"""A Keras file's weights and the same photo give Matterport's numbers, stage by stage.

The network is compared from the image as the reference resized it: a pixel that differs by 1, as other arithmetic
rounds a few, moves boxes. Where proposals of nearly equal scores change places, rows are compared by the nearest box.
"""

import filling
import numpy as np
import pytest
import torch
from cases import HERE, Case, assert_areas, assert_masks, assert_matched, distance_to_nearest
from PIL import Image

import maskrcnn
from maskrcnn.images import load_image, prepare
from maskrcnn.prediction import unbatch
from maskrcnn.stages import recording

CASE = Case("matterport-resnet101-7classes")
h5py = pytest.importorskip("h5py", reason="reads Keras files")
MAPS = {"res2c_out": "c2", "res3d_out": "c3", "res4w_out": "c4", "res5c_out": "c5"}
MAPS |= {f"fpn_p{k}": f"p{k}" for k in range(2, 7)}


def write_h5(path, tensors):
    """A file as Keras writes it: a group for every layer, its names as attributes, datasets below."""
    with h5py.File(path, "w") as file:
        layers = dict.fromkeys(key.split("/")[0] for key in tensors)
        names = ["input_image", "zero_padding2d_1", *layers, "ROI"]
        file.attrs["layer_names"] = np.array([n.encode() for n in names])
        file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", "2.0.8"
        for name in names:
            group = file.create_group(name)
            inside = [key.split("/", 1)[1] for key in tensors if key.split("/")[0] == name]
            group.attrs["weight_names"] = np.array([i.encode() for i in inside])
            for weight in inside:
                group.create_dataset(weight, data=tensors[f"{name}/{weight}"])


@pytest.fixture(scope="module")
def checkpoint():
    return filling.weights(CASE.folder / "manifest.json")


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("matterport") / "mask_rcnn_parity_0001.h5"
    write_h5(path, checkpoint)
    model = maskrcnn.load(path)
    path.unlink()
    batch = prepare([load_image(HERE / "FudanPed00001.png")], model.config.image)
    molded = np.asarray(Image.open(CASE.folder / "molded.png").convert("RGB")).astype(np.float32)
    pixels = torch.from_numpy(molded).permute(2, 0, 1)[None] - torch.tensor(model.config.image.mean)[:, None, None]
    kept = {}
    hooks = [
        model.backbone.conv1.register_forward_hook(lambda module, inputs, output: kept.update(conv1=output.clone())),
        model.backbone.maxpool.register_forward_hook(lambda module, inputs, output: kept.update(pool=output.clone())),
    ]
    with torch.inference_mode(), recording() as stages:
        out = model(batch._replace(tensor=pixels))
    for hook in hooks:
        hook.remove()
    return model, batch, pixels, {**stages, **kept}, out, unbatch(out, batch, model.config)[0]


def corners(boxes):
    """Their (y1, x1, y2, x2), shares of the input less one pixel, as (x1, y1, x2, y2) between pixel centres."""
    return boxes[:, [1, 0, 3, 2]] * 1023


def test_photo_is_resized_and_padded(run):
    model, batch, pixels, *_ = run
    differing = batch.tensor != pixels
    assert float(differing.double().mean()) <= 1e-3
    assert float((batch.tensor - pixels).abs().max()) <= 1.001
    assert batch.windows()[0, [1, 0, 3, 2]].tolist() == CASE["window"].tolist()
    assert torch.equal(batch.meta(model.config.num_classes)[0], CASE["input_image_meta"].flatten().float())


@pytest.mark.parametrize("part", ["", "__last_row", "__last_column"])
def test_stem_and_feature_maps(run, checkpoint, part):
    stages = run[3]
    bias = torch.from_numpy(checkpoint["conv1/conv1/bias:0"])  # ours is part of the norm's mean
    maps = {"conv1": stages["conv1"] + bias[:, None, None], "max_pooling2d_1": stages["pool"]}
    maps |= {name: stages[ours] for name, ours in MAPS.items()}
    found = [name for name in maps if name + part in CASE.arrays]
    assert len(found) >= 10
    for name in found:
        tolerance = 2e-3 if name == "conv1" else 4e-4 if name.startswith("fpn") else 2e-4
        CASE.assert_near(CASE.sliced(maps[name].permute(0, 2, 3, 1), name + part), name + part, tolerance)


def test_rpn_outputs_and_anchors(run):
    stages = run[3]
    logits = CASE["rpn_class_logits"]
    difference = logits[:, 1] - logits[:, 0]
    ours = stages["rpn_objectness"][0, ::61]
    assert float((ours - difference).abs().max()) <= min(8e-4, 1e-3 * float(difference.abs().max()))
    CASE.assert_near(torch.stack((1 - ours.sigmoid(), ours.sigmoid()), 1), "rpn_class", 1e-4)
    CASE.assert_near(stages["rpn_deltas"][0, ::61][:, [1, 0, 3, 2]], "rpn_bbox", 2e-4)
    assert stages["anchors"].shape == (261888, 4)
    ours = stages["anchors"][::61]
    CASE.assert_near((ours + torch.tensor([0.0, 0, 1, 1]))[:, [1, 0, 3, 2]], "anchors_pixels", 1e-3)
    CASE.assert_near(ours[:, [1, 0, 3, 2]] / 1023, "anchors", 1e-6)


def test_proposals_and_the_levels_that_serve_them(run):
    stages = run[3]
    theirs, ours = corners(CASE["ROI"]), stages["proposals"][0]
    distance, partner = distance_to_nearest(theirs, ours)
    assert float(distance.max()) < 0.02
    assert float(distance_to_nearest(ours, theirs)[0].max()) < 0.02
    torch.testing.assert_close(stages["proposal_scores"][0][partner], CASE["ROI_score"], rtol=0, atol=1e-4)
    assert torch.equal(stages["roi_levels"][0][partner] + 2, CASE["ROI_level"])


def test_crops_and_box_head(run):
    stages = run[3]
    partner = distance_to_nearest(corners(CASE["ROI"]), stages["proposals"][0])[1]
    rows = CASE["roi_align_classifier_rows"]
    CASE.assert_near(stages["box_features"][partner[rows]].permute(0, 2, 3, 1), "roi_align_classifier", 2e-3)
    inside = CASE["ROI_at_far_edge"][:50] == 0  # elsewhere the last sample falls outside by one rounding, or not
    logits = stages["class_logits"][partner[:50]].roll(1, dims=1)  # their first class is background
    theirs = CASE["mrcnn_class_logits"]
    assert float((logits - theirs)[inside].abs().max()) <= min(1.5e-3, 1e-3 * float(theirs.abs().max()))
    assert float((logits.softmax(1) - CASE["mrcnn_class"])[inside].abs().max()) <= 2e-4
    deltas = stages["box_deltas"][partner[:50]][:, :, [1, 0, 3, 2]]
    theirs = CASE["mrcnn_bbox"][:, 1:]
    assert float((deltas - theirs)[inside].abs().max()) <= min(5e-4, 1e-3 * float(theirs.abs().max()))


def test_detections_in_the_network(run):
    stages = run[3]
    theirs = CASE["mrcnn_detection"]
    count = int((theirs[:, 5] > 0).sum())
    assert count == 68
    ours = stages["detections"][0]
    assert int((ours[:, 5] > 0).sum()) == count
    torch.testing.assert_close(ours[:count, :4], corners(theirs[:count]), rtol=0, atol=0.05)
    assert torch.equal(ours[:count, 4] + 1, theirs[:count, 4])
    torch.testing.assert_close(ours[:count, 5], theirs[:count, 5], rtol=0, atol=2e-4)


def test_every_detection_matches(run):
    found = run[5]
    boxes = CASE["detect_rois"][:, [1, 0, 3, 2]].float()
    assert_matched(found, boxes, CASE["detect_class_ids"] - 1, CASE["detect_scores"])
    assert torch.equal(found.boxes, boxes)
    CASE.assert_near(found.scores, "detect_scores", 2e-4)


def test_masks_small_and_pasted(run):
    _, _, _, stages, out, found = run
    CASE.assert_near(stages["mask_features"][:2].permute(0, 2, 3, 1), "roi_align_mask", 2e-3)
    own = out.mask_logits[0, : len(found)].sigmoid()
    CASE.assert_near(own[:10], "mrcnn_mask", 1e-3)
    torch.testing.assert_close(own.mean((1, 2)), CASE["mrcnn_mask_own_mean"], rtol=1e-3, atol=0)
    assert_areas(found, CASE["detect_mask_areas"])
    assert_masks(found, CASE["detect_masks_packed"], 20)
