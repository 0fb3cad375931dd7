"""The network as a whole: what comes in, what comes out, and that nothing depends on padding or batching."""

import math

import numpy as np
import pytest
import torch

import maskrcnn
from maskrcnn import Config, ImageBatch, MaskRCNN, TargetBatch
from maskrcnn.batching import batch_targets
from maskrcnn.config import ImageConfig
from maskrcnn.errors import InputError
from maskrcnn.images import prepare
from maskrcnn.stages import recording
from maskrcnn.structures import Target

NARROW = {
    "image.min_size": 96,
    "image.max_size": 160,
    "backbone.width": 8,
    "fpn.channels": 16,
    "rpn.channels": 16,
    "box.fc_channels": 32,
    "mask.channels": 16,
}
PLAIN = {k: v for k, v in NARROW.items() if k != "fpn.channels"}


def small(preset="small-fpn", overrides=None, names=("a", "b"), lively=True):
    """A narrow network; `lively` ones have predictors strong enough to find something at random."""
    torch.manual_seed(0)
    base = NARROW if "-fpn" in preset else PLAIN
    model = MaskRCNN(Config.preset(preset, class_names=names, overrides={**base, **(overrides or {})})).eval()
    if lively:
        with torch.no_grad():
            for layer in (model.rpn.deltas, model.rpn.objectness, model.box_head.class_logits):
                layer.weight.mul_(20)
    return model


def with_about(count, images):
    """A network whose score threshold lets `count` detections through on these images."""
    with torch.inference_mode():
        scores = small()(images).scores[0]
    return small(overrides={"box.score_threshold": float(scores[count])})


def truth(height=96, width=128):
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 10:50, 20:60] = True
    masks[1, 40:90, 50:120] = True
    boxes = torch.tensor([[20.0, 10, 60, 50], [50, 40, 120, 90]])
    return Target(boxes, torch.tensor([0, 1]), masks)


NOTHING = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 96, 128, dtype=torch.bool))


def batch_of(*targets, masks=True):
    return batch_targets(list(targets), (96, 128), masks)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_what_comes_back_depends_on_what_is_passed(mode):
    model = small().train(mode)
    images = torch.randn(2, 3, 96, 128)
    found = model(images)
    assert isinstance(found, maskrcnn.DetectionBatch)
    assert found.boxes.shape == (2, 100, 4) and found.mask_logits.shape == (2, 100, 28, 28)
    losses = model(images, batch_of(truth(), truth()))
    assert isinstance(losses, maskrcnn.Losses)
    torch.testing.assert_close(losses.total, sum(losses))


def test_default_preset_has_the_landmark_shapes():
    with torch.device("meta"), recording() as stages:  # shapes alone: nothing is computed
        model = MaskRCNN(Config.preset(class_names=list("abcdef")))
        images = ImageBatch.of(torch.zeros(1, 3, 1024, 1024), ImageConfig())
        model.rpn(model.fpn(model.backbone(images.tensor)), images)
    assert stages["p6"].shape == (1, 256, 16, 16)
    assert stages["rpn_deltas"].shape == (1, 261888, 4)


@pytest.mark.parametrize(
    "preset", ["small-fpn", "resnet18", "resnet34-fpn", "resnet50", "resnet50-fpn", "vgg16", "vgg16-fpn"]
)
def test_every_kind_of_network_trains_and_detects(preset):
    model = small(preset, {"backbone.norm": "group"})
    images = torch.randn(1, 3, 96, 128)
    losses = model(images, batch_of(truth()))
    losses.total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    with torch.inference_mode():
        found = model(images)
    assert found.boxes[found.valid].isfinite().all()
    stage5_halves = preset in ("resnet18", "resnet50")
    assert found.mask_logits.shape[-1] == (14 if stage5_halves else 28)


@pytest.mark.parametrize("targets", [(NOTHING,), (NOTHING, NOTHING), (truth(), NOTHING)], ids=["one", "two", "mixed"])
def test_images_without_objects_give_finite_losses_and_gradients(targets):
    model = small()
    losses = model(torch.randn(len(targets), 3, 96, 128), batch_of(*targets))
    losses.total.backward()
    assert all(math.isfinite(float(loss.detach())) for loss in losses)
    if len(targets[0]) == 0:
        assert float(losses.box.detach()) == float(losses.mask.detach()) == float(losses.rpn_box.detach()) == 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_batch_of_two_equals_two_batches_of_one():
    model = small()
    images = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        both = model(images)
        apart = [model(image[None]) for image in images]
    assert int(both.valid.sum()) > 0
    for field in both._fields:
        expected = torch.cat([getattr(one, field) for one in apart])
        torch.testing.assert_close(getattr(both, field), expected, rtol=1e-4, atol=1e-4)


def test_losses_of_a_batch_are_those_of_its_images_when_everything_is_sampled():
    everything = {"rpn.matching.samples_per_image": 100_000, "box.matching.samples_per_image": 100_000}
    model = small(overrides=everything)
    images = torch.randn(1, 3, 96, 128)
    one = model(images, batch_of(truth()))
    two = model(images.expand(2, -1, -1, -1), batch_of(truth(), truth()))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_padding_of_targets_changes_nothing():
    everything = {"rpn.matching.samples_per_image": 100_000, "box.matching.samples_per_image": 100_000}
    model = small(overrides=everything)
    images = torch.randn(1, 3, 96, 128)
    padded = batch_of(truth())
    assert padded.valid.shape[1] == 4
    exact = TargetBatch(*(None if t is None else t[:, :2] for t in padded))
    for a, b in zip(model(images, exact), model(images, padded), strict=True):
        torch.testing.assert_close(a, b)


def test_the_mask_branch_gives_the_same_on_a_bucket_as_on_all_slots(monkeypatch):
    images = torch.randn(1, 3, 96, 128)
    model = with_about(12, images)
    with torch.inference_mode():
        in_bucket = model(images)
        monkeypatch.setattr("maskrcnn.model.BUCKETS", ())
        on_all = model(images)
    assert 0 < int(in_bucket.valid.sum()) <= 16
    torch.testing.assert_close(in_bucket.mask_logits, on_all.mask_logits, rtol=1e-4, atol=1e-5)


def test_slots_without_a_detection_are_zero_and_come_last():
    images = torch.randn(1, 3, 96, 128)
    model = with_about(12, images)
    with torch.inference_mode():
        found = model(images)
    count = int(found.valid.sum())
    assert 0 < count < 100
    assert found.valid[0, :count].all()
    assert (found.scores[0, :count].diff() <= 0).all()
    for padded in (found.boxes, found.labels, found.scores, found.mask_logits):
        assert not padded[0, count:].any()


def test_without_masks_it_is_faster_rcnn():
    model = small(overrides={"masks": False})
    assert not any("mask" in name for name, _ in model.named_modules())
    losses = model(torch.randn(1, 3, 96, 128), batch_of(truth(), masks=False))
    assert float(losses.mask) == 0
    [found] = model.predict(np.zeros((50, 60, 3), np.uint8), score_threshold=0.0)
    assert found.masks is None and found.image_size == (50, 60)


def test_class_agnostic_boxes_and_masks():
    model = small(overrides={"box.class_agnostic": True, "mask.class_agnostic": True})
    losses = model(torch.randn(1, 3, 96, 128), batch_of(truth()))
    assert losses.total.isfinite()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 96, 128)).mask_logits.shape == (1, 100, 28, 28)


PHOTOS = [
    np.random.default_rng(0).integers(0, 256, shape, np.uint8) for shape in ((60, 90, 3), (90, 60, 3), (40, 40, 3))
]


def test_predict_takes_mixed_sizes():
    found = small().predict(PHOTOS, score_threshold=0.0)
    assert [d.image_size for d in found] == [(60, 90), (90, 60), (40, 40)]
    for each, photo in zip(found, PHOTOS, strict=True):
        height, width = photo.shape[:2]
        assert len(each) and each.masks.shape == (len(each), height, width)
        assert (each.boxes >= 0).all() and (each.boxes <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_predict_finds_the_same_in_any_batch_of_one_padded_size(batch_size):
    model = small(overrides={"image.padding": "square"})  # padded to the batch's largest, a map's edge would differ
    one_by_one = model.predict(PHOTOS, score_threshold=0.0)
    together = model.predict(PHOTOS, score_threshold=0.0, batch_size=batch_size)
    for one, other in zip(one_by_one, together, strict=True):
        torch.testing.assert_close(other.boxes, one.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(other.scores, one.scores, rtol=1e-4, atol=1e-4)
        assert torch.equal(other.labels, one.labels)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1; got -1"),
        ({"score_threshold": 50.0}, "score_threshold must be 0 to 1; got 50"),
        ({"score_threshold": float("nan")}, "score_threshold must be 0 to 1; got nan"),
    ],
)
def test_predict_refuses_numbers_out_of_range(given, said):
    with pytest.raises(InputError, match=said):
        small().predict(PHOTOS, **given)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_predict_gives_masks_as_run_lengths(batch_size):
    model = small()
    pixels = model.predict(PHOTOS, 0.0, batch_size)
    encoded = model.predict(PHOTOS, 0.0, batch_size, masks="rle")
    for one, other in zip(pixels, encoded, strict=True):
        assert one.rles is None and other.masks is None and len(other.rles) == len(one) > 0
        assert torch.equal(other.with_masks().masks, one.masks)


def test_predict_gives_no_run_lengths_without_a_mask_head():
    for found in small(overrides={"masks": False}).predict(PHOTOS, 0.0, masks="rle"):
        assert found.rles is None and found.with_masks().masks is None


def test_predict_refuses_another_form_of_masks(unchecked):
    with pytest.raises(InputError, match="masks must be 'pixels' or 'rle'; got 'polygons'"):
        small().predict(PHOTOS, masks="polygons")


def test_predict_runs_in_the_type_of_the_weights():
    [found] = small().to(torch.bfloat16).predict(PHOTOS[0], score_threshold=0.0)
    assert len(found) and found.boxes.dtype == torch.float32


def test_slots_without_a_detection_stay_zero_when_masks_are_not_numbers():
    model = small(overrides={"box.score_threshold": 1.0})
    with torch.no_grad():
        model.mask_head.predictor.bias.fill_(float("nan"))
        assert (model(torch.randn(1, 3, 96, 128)).mask_logits == 0).all()


def test_predict_takes_one_image_and_none():
    model = small()
    assert len(model.predict(np.zeros((30, 40, 3), np.uint8))) == 1
    assert model.predict([]) == []


def test_predict_leaves_the_mode_as_it_was():
    model = small().train()
    model.predict(np.zeros((30, 40, 3), np.uint8))
    assert model.training and model.box_head.training


def test_what_lies_in_the_padding_is_never_found():
    model = small()
    batch = prepare([np.full((40, 200, 3), 255, np.uint8), np.zeros((200, 40, 3), np.uint8)], model.config.image)
    with torch.inference_mode():
        found = model(batch)
    for boxes, valid, (height, width) in zip(found.boxes, found.valid, batch.sizes.tolist(), strict=True):
        assert valid.any()
        assert (boxes[valid][:, 2] <= width).all() and (boxes[valid][:, 3] <= height).all()


def test_frozen_stages_have_no_gradient_and_keep_their_statistics():
    model = small(overrides={"backbone.frozen_stages": 3, "backbone.norm": "batch"}).train()
    before = model.backbone.layer2[0].bn1.running_mean.clone()
    model(torch.randn(2, 3, 96, 128), batch_of(truth(), truth())).total.backward()
    assert all(p.grad is None for p in model.backbone.layer2.parameters())
    assert all(p.grad is not None for p in model.backbone.layer3.parameters())
    torch.testing.assert_close(model.backbone.layer2[0].bn1.running_mean, before)
    assert model.backbone.layer3[0].bn1.running_mean.abs().sum() > 0


def test_the_fifth_stage_of_the_plain_network_can_be_frozen_too():
    model = small("resnet18", {"backbone.frozen_stages": 5}).train()
    assert not any(p.requires_grad for m in (model.backbone, model.stage5) for p in m.parameters())
    assert not model.stage5.training and model.box_head.training


@pytest.mark.parametrize(
    ("preset", "field", "part"),
    [
        ("small-fpn", "mask.norm", "mask_head"),
        ("small-fpn", "box.norm", "box_head"),
        ("resnet18", "backbone.norm", "stage5"),
    ],
    ids=["mask head", "box head", "fifth stage"],
)
def test_batch_norm_behind_roi_align_keeps_its_statistics(preset, field, part):
    overrides = {field: "batch", "box.num_convs": 1, "backbone.frozen_stages": 0}
    model = small(preset, overrides).train()
    norms = [m for m in getattr(model, part).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    losses = model(torch.randn(1, 3, 96, 128), batch_of(truth()))
    losses.total.backward()
    assert norms
    assert all((n.running_mean == 0).all() and n.weight.grad is not None for n in norms)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 96, 128), r"must be a prepared tensor \[N, 3, H, W\].*got \[3, 96, 128\].*model.predict"),
        (torch.zeros(1, 1, 96, 128), r"got \[1, 1, 96, 128\]"),
        (torch.zeros(1, 96, 128, 3), r"got \[1, 96, 128, 3\]"),
        (torch.zeros(1, 3, 96, 128, dtype=torch.uint8), "normalised floating point; got torch.uint8"),
        (torch.zeros(1, 3, 100, 128), "multiples of 32.*got 100 × 128"),
        (torch.zeros(0, 3, 96, 128), "at least one image; got none"),
        (
            torch.rand(1, 3, 96, 128) * 255,
            r"normalised, to about -2.1 … 2.6; got values from 0.*to 25\d.*0 to 255",
        ),
        (torch.full((1, 3, 96, 128), float("nan")), "got values from nan to nan"),
    ],
    ids=["no batch", "one channel", "channels last", "uint8", "not a multiple", "none", "0 to 255", "NaN"],
)
def test_unprepared_images_are_refused(images, message):
    with pytest.raises(InputError, match=message):
        small()(images)


def test_two_targets_for_one_image_are_refused():
    with pytest.raises(InputError, match="got 2 targets for 1 image"):
        small()(torch.zeros(1, 3, 96, 128), batch_of(truth(), truth()))
