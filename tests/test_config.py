"""The configuration: what it refuses and in which words, replacement, and the way through JSON."""

from __future__ import annotations

import math
from typing import Any

import pytest

from maskrcnn import Config
from maskrcnn.config import AnchorConfig, ImageConfig, MatchingConfig, ResNetConfig, VGGConfig
from maskrcnn.errors import ConfigError


def config(**overrides: Any) -> Config:
    return Config.preset(class_names=["cat", "dog"], overrides=overrides)


# Presets and replacement


def test_default_is_resnet101_fpn() -> None:
    default = Config.preset(class_names=["cat"])
    assert isinstance(default.backbone, ResNetConfig) and default.backbone.depth == 101
    assert default.fpn is not None and default.masks
    assert default == Config.preset("resnet101-fpn", class_names=("cat",))


def test_background_is_not_counted() -> None:
    assert config().num_classes == 2


def test_replace_changes_the_named_fields_alone() -> None:
    before = config()
    after = before.replace({"rpn.nms_threshold": 0.6, "box.matching.positive_iou": 0.75})
    assert after.rpn.nms_threshold == 0.6 and after.box.matching.positive_iou == 0.75
    assert before == config()
    assert after.replace({"rpn.nms_threshold": 0.7, "box.matching.positive_iou": 0.5}) == before


def test_replace_nothing() -> None:
    assert config().replace({}) == config()


def test_replace_whole_sections() -> None:
    changed = config().replace({"fpn": None, "anchors": {"sizes": [[64, 128]]}, "backbone": {"kind": "vgg"}})
    assert changed.fpn is None
    assert changed.anchors == AnchorConfig(sizes=((64, 128),))
    assert changed.backbone == VGGConfig()


def test_a_section_given_as_its_type() -> None:
    assert config(backbone=VGGConfig(width=8)).backbone == VGGConfig(width=8)


def test_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().masks = False


def test_equal_configurations_have_the_same_hash() -> None:
    assert hash(config()) == hash(config())
    assert len({config(), config(), config(masks=False)}) == 2


# What is refused


@pytest.mark.parametrize(
    ("key", "message"),
    [
        pytest.param(
            "rpn.nms_treshold",
            "Unknown configuration key 'rpn.nms_treshold'. Did you mean 'nms_threshold'?",
            id="field",
        ),
        pytest.param("rnp.nms_threshold", "Unknown configuration key 'rnp'. Did you mean 'rpn'?", id="section"),
        pytest.param(
            "rpn.matching.positve_iou",
            "Unknown configuration key 'rpn.matching.positve_iou'. Did you mean 'positive_iou'?",
            id="nested field",
        ),
        pytest.param(
            "rpn.maching.positive_iou",
            "Unknown configuration key 'rpn.maching'. Did you mean 'matching'?",
            id="nested section",
        ),
        pytest.param(
            "fpn.xyz", "Unknown configuration key 'fpn.xyz'. Known are: channels, norm, norm_eps.", id="no guess"
        ),
        pytest.param("rpn.nms_threshold.x", "Unknown configuration key 'rpn.nms_threshold.x'.", id="below a number"),
    ],
)
def test_unknown_keys(key: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config().replace({key: 0.5})
    assert str(error.value) == message


def test_unknown_key_inside_a_section() -> None:
    with pytest.raises(ConfigError, match=r"key 'backbone.norm_esp'. Did you mean 'norm_eps'\?"):
        config(backbone={"kind": "resnet", "norm_esp": 1e-3})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rpn.nms_threshold", 1.5, "rpn.nms_threshold should be less than or equal to 1; got 1.5."),
        ("rpn.nms_threshold", -0.1, "rpn.nms_threshold should be greater than or equal to 0; got -0.1."),
        ("rpn.nms_threshold", math.nan, "rpn.nms_threshold should be a finite number; got nan."),
        ("image.min_size", 0, "image.min_size should be greater than or equal to 1; got 0."),
        ("image.std", (1, 1, 0), "image.std.2 should be greater than 0; got 0."),
        ("backbone.depth", 42, "backbone.depth should be 18, 34, 50, 101 or 152; got 42."),
        (
            "backbone.norm",
            "layer",
            "backbone.norm should be 'none', 'batch', 'frozen_batch' or 'group'; got 'layer'.",
        ),
        ("backbone.frozen_stages", 6, "backbone.frozen_stages should be less than or equal to 5; got 6."),
        ("roi_align.sampling_ratio", -1, "roi_align.sampling_ratio should be greater than or equal to 0; got -1."),
        ("box.detections_per_image", 0, "box.detections_per_image should be greater than or equal to 1; got 0."),
        ("class_names", "cat", "class_names should be a list; got 'cat'."),
        ("image.min_size", 2000, "image: min_size must not exceed max_size; got 2000 and 1024."),
        (
            "rpn.matching.negative_iou",
            0.9,
            "rpn.matching: negative_iou 0.9 must not exceed positive_iou 0.7.",
        ),
        (
            "backbone",
            {"kind": "resnet", "depth": 18, "groups": 2},
            "backbone: groups and width_per_group need a network with bottlenecks: depth 50, 101 or 152.",
        ),
        (
            "image.size_divisor",
            48,
            "image.size_divisor must be a multiple of 32 with FPN, whose p5 has stride 32.",
        ),
        ("class_names", (), "class_names must name at least one class; background is not a class."),
        (
            "class_names",
            ("b", "a", "b"),
            "class_names must differ from each other; b stands more than once.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_values_out_of_range(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config().replace({key: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        pytest.param({"anchors.sizes": ((32,),)}, r"must hold 5 tuples, one per level \(p2 … p6\); got 1", id="fpn"),
        pytest.param({"backbone.dilate_c5": True}, "is for a network without FPN: set fpn to None", id="dilated fpn"),
        pytest.param({"fpn": None}, r"must hold 1 tuple, one per level \(the single one\); got 5", id="single scale"),
        pytest.param(
            {"anchors.sizes": ((32,), (64,), (128,), (256,), (512, 1024))},
            "the same number .* of sizes for every level",
            id="unequal",
        ),
        pytest.param({"anchors.ratios": ()}, "ratios one or more", id="no ratios"),
    ],
)
def test_anchors_must_fit_the_levels(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        config(**fields)


def test_anchors_per_cell() -> None:
    assert AnchorConfig().per_cell == 3
    assert AnchorConfig(sizes=((1, 2), (3, 4)), ratios=(1, 2, 3, 4)).per_cell == 8


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        config().replace({"rpn.nms_threshold": 2, "image.min_size": 0})
    assert len(str(error.value).splitlines()) == 2


def test_a_field_without_default_that_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"The configuration lacks 'class_names'\."):
        Config.build({})


def test_one_name_is_not_taken_for_its_letters() -> None:
    with pytest.raises(ConfigError, match=r"class_names must be a list of names, as \['cat'\]; got 'cat'"):
        Config.preset(class_names="cat")


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"Unknown preset 'resnet50-fnp'. Did you mean 'resnet50-fpn'\? There are"):
        Config.preset("resnet50-fnp", class_names=["cat"])


@pytest.mark.parametrize("divisor", [16, 48])
def test_size_divisor_is_free_without_fpn(divisor: int) -> None:
    assert Config.preset("resnet50", class_names=["cat"], overrides={"image.size_divisor": divisor})


def test_errors_are_value_errors() -> None:
    assert issubclass(ConfigError, ValueError)
    with pytest.raises(ValueError, match="negative_iou"):
        MatchingConfig(
            positive_iou=0.3,
            negative_iou=0.5,
            low_quality_matches=False,
            samples_per_image=1,
            positive_fraction=0,
        )
    with pytest.raises(ValueError, match="min_size"):
        ImageConfig(min_size=3, max_size=2)


# JSON


@pytest.mark.parametrize("preset", ["resnet101-fpn", "resnet50", "vgg16", "small-fpn"])
def test_json_gives_the_configuration_back(preset: str) -> None:
    names = ["cat", 'd"og', "été"]
    before = Config.preset(preset, class_names=names, overrides={"rpn.max_log_scale": 1 / 3, "masks": False})
    assert Config.from_json(before.to_json()) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "The configuration is not valid JSON: ", id="not json"),
        pytest.param("", "The configuration is not valid JSON: ", id="empty"),
        pytest.param("[1]", "The configuration should be a valid dictionary", id="a list"),
        pytest.param("{}", "The configuration lacks 'class_names'", id="nothing in it"),
        pytest.param('{"class_names": ["a"], "mask_size": 3}', "Unknown configuration key 'mask_size'", id="unknown"),
    ],
)
def test_json_that_is_no_configuration(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config.from_json(text)
    assert str(error.value).startswith(message)
