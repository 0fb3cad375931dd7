"""Matterport's names and layouts, on a narrow checkpoint made here; tests/parity has a whole one."""

import re
import string

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import maskrcnn
from maskrcnn.errors import CheckpointError
from maskrcnn.weights.matterport import our_name

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
RNG = np.random.default_rng(0)


def convolution(name, height, inputs, outputs, transposed=False):
    last = (outputs, inputs) if transposed else (inputs, outputs)
    return {
        f"{name}/kernel:0": RNG.normal(size=(height, height, *last)).astype(np.float32) * 0.05,
        f"{name}/bias:0": RNG.normal(size=outputs).astype(np.float32),
    }


def norm(name, channels):
    parts = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{name}/{part}:0": RNG.uniform(0.5, 1.5, channels).astype(np.float32) for part in parts}


def dense(name, inputs, outputs):
    return {
        f"{name}/kernel:0": RNG.normal(size=(inputs, outputs)).astype(np.float32) * 0.05,
        f"{name}/bias:0": RNG.normal(size=outputs).astype(np.float32),
    }


def checkpoint(depth=50, classes=3, width=8, channels=16):
    """Datasets by path, as in a file; `classes` counts background."""
    layers = [convolution("conv1", 7, 3, width), norm("bn_conv1", width)]
    inputs = width
    for stage, blocks in enumerate(BLOCKS[depth], start=2):
        planes = width * 2 ** (stage - 2)
        for block in string.ascii_lowercase[:blocks]:
            for branch, height, a, b in (
                ("2a", 1, inputs, planes),
                ("2b", 3, planes, planes),
                ("2c", 1, planes, planes * 4),
            ):
                layers += [convolution(f"res{stage}{block}_branch{branch}", height, a, b)]
                layers += [norm(f"bn{stage}{block}_branch{branch}", b)]
            if block == "a":
                layers += [convolution(f"res{stage}a_branch1", 1, inputs, planes * 4)]
                layers += [norm(f"bn{stage}a_branch1", planes * 4)]
            inputs = planes * 4
        layers += [
            convolution(f"fpn_c{stage}p{stage}", 1, inputs, channels),
            convolution(f"fpn_p{stage}", 3, channels, channels),
        ]
    layers += [convolution("mrcnn_class_conv1", 7, channels, 32), norm("mrcnn_class_bn1", 32)]
    layers += [convolution("mrcnn_class_conv2", 1, 32, 32), norm("mrcnn_class_bn2", 32)]
    layers += [dense("mrcnn_class_logits", 32, classes), dense("mrcnn_bbox_fc", 32, classes * 4)]
    for k in range(1, 5):
        layers += [convolution(f"mrcnn_mask_conv{k}", 3, channels, channels), norm(f"mrcnn_mask_bn{k}", channels)]
    layers += [convolution("mrcnn_mask_deconv", 2, channels, channels, transposed=True)]
    layers += [convolution("mrcnn_mask", 1, channels, classes)]
    tensors = {f"{key.split('/')[0]}/{key}": array for layer in layers for key, array in layer.items()}
    for name, outputs, height, inner in (
        ("conv_shared", 24, 3, channels),
        ("class_raw", 6, 1, 24),
        ("bbox_pred", 12, 1, 24),
    ):
        tensors |= {f"rpn_model/{k}": v for k, v in convolution(f"rpn_{name}", height, inner, outputs).items()}
    return {key: torch.from_numpy(array) for key, array in tensors.items()}


def plain_norm(x, tensors, name):
    gamma, beta, mean, variance = (
        tensors[f"{name}/{name}/{part}:0"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    shape = (-1, *[1] * (x.dim() - 2))
    scale = gamma / (variance + 1e-3).sqrt()
    return (x - mean.reshape(shape)) * scale.reshape(shape) + beta.reshape(shape)


def plain_conv(x, tensors, name, **options):
    kernel = tensors[f"{name}/{name}/kernel:0"].permute(3, 2, 0, 1)
    return F.conv2d(x, kernel, tensors[f"{name}/{name}/bias:0"], **options)


@pytest.mark.parametrize("depth", [50, 101])
def test_depth_classes_and_widths_are_recognised(depth):
    model = maskrcnn.load(checkpoint(depth, classes=4))
    config = model.config
    assert (config.backbone.depth, config.backbone.width, config.num_classes) == (depth, 8, 3)
    assert (config.fpn.channels, config.rpn.channels, config.box.fc_channels) == (16, 24, 32)
    assert (config.backbone.norm, config.backbone.norm_eps, config.mask.norm_eps) == ("frozen_batch", 1e-3, 1e-3)


def test_stem_and_first_block_are_computed_as_by_hand():
    theirs = checkpoint()
    model = maskrcnn.load(theirs)
    x = torch.randn(1, 3, 64, 64)
    y = F.relu(plain_norm(plain_conv(x, theirs, "conv1", stride=2, padding=3), theirs, "bn_conv1"))
    y = F.max_pool2d(F.pad(y, (0, 1, 0, 1)), 3, stride=2)
    out = y
    for branch, padding in (("2a", 0), ("2b", 1), ("2c", 0)):
        out = plain_norm(
            plain_conv(out, theirs, f"res2a_branch{branch}", padding=padding), theirs, f"bn2a_branch{branch}"
        )
        out = F.relu(out) if branch != "2c" else out
    expected = F.relu(out + plain_norm(plain_conv(y, theirs, "res2a_branch1"), theirs, "bn2a_branch1"))
    with torch.inference_mode():
        backbone = model.backbone
        ours = backbone.layer1[0](backbone.maxpool(F.relu(backbone.bn1(backbone.conv1(x)))))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_box_head_is_computed_as_by_hand():
    theirs = checkpoint()
    model = maskrcnn.load(theirs)
    crops = torch.randn(5, 16, 7, 7)
    x = F.relu(plain_norm(plain_conv(crops, theirs, "mrcnn_class_conv1"), theirs, "mrcnn_class_bn1"))
    x = F.relu(plain_norm(plain_conv(x, theirs, "mrcnn_class_conv2"), theirs, "mrcnn_class_bn2")).flatten(1)
    logits, deltas = (
        x @ theirs[f"{name}/{name}/kernel:0"] + theirs[f"{name}/{name}/bias:0"]
        for name in ("mrcnn_class_logits", "mrcnn_bbox_fc")
    )
    with torch.inference_mode():
        ours, our_deltas = model.box_head(crops)
    torch.testing.assert_close(ours, logits[:, [1, 2, 0]], rtol=1e-4, atol=1e-4)  # background comes last
    y_x_h_w = our_deltas[:, :, [1, 0, 3, 2]]
    torch.testing.assert_close(y_x_h_w, deltas.reshape(5, 3, 4)[:, 1:], rtol=1e-4, atol=1e-4)


def test_mask_head_is_computed_as_by_hand():
    theirs = checkpoint()
    model = maskrcnn.load(theirs)
    x = crops = torch.randn(2, 16, 14, 14)
    for k in range(1, 5):
        x = F.relu(plain_norm(plain_conv(x, theirs, f"mrcnn_mask_conv{k}", padding=1), theirs, f"mrcnn_mask_bn{k}"))
    kernel, bias = (theirs[f"mrcnn_mask_deconv/mrcnn_mask_deconv/{part}:0"] for part in ("kernel", "bias"))
    enlarged = torch.zeros(2, 16, 28, 28)
    for i in range(2):
        for j in range(2):  # out[2y + i, 2x + j, o] = Σ in[y, x, c] · kernel[i, j, o, c]
            enlarged[:, :, i::2, j::2] = torch.einsum("ncyx,oc->noyx", x, kernel[i, j])
    x = F.relu(enlarged + bias[:, None, None])
    expected = plain_conv(x, theirs, "mrcnn_mask")[:, 1:]
    with torch.inference_mode():
        torch.testing.assert_close(model.mask_head(crops), expected, rtol=1e-4, atol=1e-4)


def test_rpn_logit_is_foreground_less_background():
    theirs = checkpoint()
    model = maskrcnn.load(theirs)
    x = torch.randn(1, 24, 4, 4)
    both = F.conv2d(
        x, theirs["rpn_model/rpn_class_raw/kernel:0"].permute(3, 2, 0, 1), theirs["rpn_model/rpn_class_raw/bias:0"]
    )
    foreground = both.reshape(1, 3, 2, 4, 4).softmax(2)[:, :, 1]
    with torch.inference_mode():
        torch.testing.assert_close(model.rpn.objectness(x).sigmoid(), foreground, rtol=1e-4, atol=1e-5)


def test_other_names_are_none():
    assert our_name("input_image") is None and our_name("res2a_branch2d/res2a_branch2d/kernel:0") is None
    assert our_name("optimizer_weights/iterations:0") is None


def test_a_missing_layer_is_named():
    theirs = checkpoint()
    del theirs["res4c_branch2b/res4c_branch2b/bias:0"]
    with pytest.raises(CheckpointError, match=re.escape("the mapping lacks: backbone.layer3.2.conv2.bias.")):
        maskrcnn.load(theirs)


def test_classes_are_carried_over():
    theirs = checkpoint(classes=81)
    model = maskrcnn.load(theirs, class_names=["person", "robot"])
    bias = theirs["mrcnn_class_logits/mrcnn_class_logits/bias:0"]
    assert torch.equal(model.box_head.class_logits.bias[[0, 2]], bias[[1, 0]])


def test_detections_are_in_whole_pixels_of_the_photo():
    model = maskrcnn.load(
        checkpoint(), overrides={"box.score_threshold": 0.0, "image.min_size": 64, "image.max_size": 64}
    )
    [found] = model.predict(torch.randint(0, 255, (3, 50, 70), dtype=torch.uint8), score_threshold=0.0)
    assert len(found) > 0
    assert torch.equal(found.boxes, found.boxes.round())
    assert (found.boxes[:, 2:] <= torch.tensor([70, 50])).all() and (found.boxes >= 0).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bn_conv1/moving_mean:0", np.ones(9, np.float32), r"running_mean is \[9\] and .*bias \[8\]"),
        ("mrcnn_class_bn1/gamma:0", np.ones(3, np.float32), "does not fit together"),
        ("mrcnn_class_conv1/kernel:0", np.float32(1), "does not fit together"),
        ("mrcnn_class_conv1/kernel:0", np.ones((7, 7, 16, 1024), np.int32), "does not fit together"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_told(key, value, message):
    theirs = checkpoint()
    [place] = [name for name in theirs if name.endswith(f"{key.split('/')[0]}/{key.split('/')[1]}")]
    with pytest.raises(CheckpointError, match=message):
        maskrcnn.load({**theirs, place: value})
