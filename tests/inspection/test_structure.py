"""The network as a graph: shapes and counts of every configuration, and edges that follow the tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maskrcnn import Config, MaskRCNN
from maskrcnn.config import ImageConfig
from maskrcnn.inspection.structure import Structure, input_size, read_structure
from maskrcnn.presets import PRESETS

ENTRIES = {"image", "box_features", "mask_features", "keypoint_features"}


def structure(preset: str, names: int = 6, **overrides: Any) -> Structure:
    config = Config.preset(preset, class_names=[f"class {i}" for i in range(names)], overrides=overrides)
    return read_structure(config)


def test_landmarks_of_matterports_default() -> None:
    found = structure("resnet101-fpn")
    assert found.input_size == (1024, 1024)
    assert found.shapes["p6"] == (1, 256, 16, 16)
    assert found.shapes["rpn_deltas"] == (1, 261888, 4)
    assert found.shapes["image_meta"] == (1, 19)
    assert found.level_anchors == {"p2": 196608, "p3": 49152, "p4": 12288, "p5": 3072, "p6": 768}
    assert found.shapes["mask_features"] == (100, 256, 14, 14)
    assert found.shapes["mask_logits"] == (100, 6, 28, 28)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_are_those_of_the_model(preset: str) -> None:
    found = structure(preset)
    with torch.device("meta"):
        model = MaskRCNN(found.config)
    wanted = sum(p.numel() for p in model.parameters())
    assert sum(layer.parameters for layer in found.layers.values()) == wanted
    assert sum(found.parameters.values()) == wanted


@pytest.mark.parametrize("preset", PRESETS)
def test_every_layer_follows_layers_that_exist(preset: str) -> None:
    layers = structure(preset).layers
    for layer in layers.values():
        assert layer.inputs and all(key in layers or key in ENTRIES for key in layer.inputs), layer


def test_residual_blocks_and_the_pyramid_add() -> None:
    layers = structure("resnet50-fpn").layers
    first = layers["backbone.layer2.0.add"]
    assert set(first.inputs) == {"backbone.layer2.0.conv3", "backbone.layer2.0.downsample.0"}
    assert layers["backbone.layer2.1.add"].inputs == ("backbone.layer2.1.conv3", "backbone.layer2.0.add")
    assert layers["backbone.layer2.1.add"].activation == "ReLU"
    assert layers["fpn.add"].inputs == ("fpn.lateral4.conv", "fpn.upsample")
    assert layers["fpn.subsample"].inputs == ("fpn.output5.conv",)
    assert layers["fpn.subsample"].tensors == ["p6"]


def test_a_convolution_has_its_numbers() -> None:
    stem = structure("resnet50-fpn").layers["backbone.conv1"]
    assert (stem.kernel, stem.stride, stem.in_shape, stem.out_shape) == (7, 2, (1, 3, 1024, 1024), (1, 64, 512, 512))
    assert (stem.norm, stem.activation, stem.parameters) == ("frozen BatchNorm", "ReLU", 64 * 3 * 49)
    assert stem.multiply_adds == 64 * 3 * 49 * 512 * 512
    assert stem.tensors == ["c1"]


def test_a_deconvolution_is_counted_by_what_goes_in() -> None:
    layer = structure("small-fpn").layers["mask_head.deconv"]
    assert layer.multiply_adds == 100 * 14 * 14 * 64 * 64 * 4


def test_flops_agree_with_torchs_own_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = Config.preset("small-fpn", class_names=["a"], overrides={"image.min_size": 64, "image.max_size": 64})
    model = MaskRCNN(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.fpn(model.backbone(torch.zeros(1, 3, 64, 64)))
    assert counter.get_total_flops() == 2 * read_structure(config).multiply_adds["backbone"]


def test_the_rpn_runs_on_every_level_with_one_set_of_weights() -> None:
    layers = structure("resnet18-fpn").layers
    calls = [layer for key, layer in layers.items() if key.startswith("rpn.convs.0")]
    assert [c.key for c in calls] == [f"rpn.convs.0@p{k}" for k in range(2, 7)]
    assert [c.parameters > 0 for c in calls] == [True, False, False, False, False]
    assert all(c.activation == "ReLU" for c in calls)


def test_stage_five_of_c4_runs_for_boxes_and_for_masks() -> None:
    layers = structure("resnet18").layers
    assert layers["stage5.0.conv1@boxes"].inputs == ("box_features",)
    assert layers["stage5.0.conv1@masks"].inputs == ("mask_features",)
    assert layers["box_head.mean"].inputs == ("stage5.1.add@boxes",)


def test_networks_without_masks_or_with_keypoints() -> None:
    assert "mask_logits" not in structure("small-fpn", masks=False).shapes
    found = structure("small-fpn", keypoint_names=("a", "b"))
    assert found.shapes["keypoint_logits"] == (100, 2, 56, 56)
    assert found.layers["keypoint_head.upsample"].kind == "upsample"


@pytest.mark.parametrize(
    ("config", "photo", "expected"),
    [
        (ImageConfig(), (600, 800), (800, 1088)),
        (ImageConfig(padding="square", max_size=1024), (600, 800), (1024, 1024)),
        (ImageConfig(), None, (800, 1344)),
    ],
)
def test_input_size(config: ImageConfig, photo: tuple[int, int] | None, expected: tuple[int, int]) -> None:
    assert input_size(config, photo) == expected


def test_shapes_are_those_of_a_run() -> None:
    config = Config.preset("small-fpn", class_names=["a", "b"], overrides={"image.min_size": 64, "image.max_size": 96})
    trace = MaskRCNN(config).trace(torch.zeros(3, 50, 70, dtype=torch.uint8))
    shapes = read_structure(config, (50, 70)).shapes
    same = [name for name in shapes if not name.startswith("detections_before_nms")]
    assert {name: tuple(trace[name].shape) for name in same} == {name: shapes[name] for name in same}
