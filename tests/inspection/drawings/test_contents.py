"""What drawings say is what the network has."""

from __future__ import annotations

import pytest

from drawn import NETWORKS, drawn, network, structure
from maskrcnn.errors import InputError
from maskrcnn.inspection.drawings import LEVELS, Sheet, draw

BLOCKS = {
    *("input", "c1", "c2", "c3", "c4", "c5", "lateral2", "lateral3", "lateral4", "lateral5", "add2", "add3", "add4"),
    *("p2", "p3", "p4", "p5", "p6", "rpn_head", "anchors", "top_k", "refine", "nms", "proposals"),
    *("roi_levels", "box_roi_align", "box_head", "select", "detections"),
    *("mask_roi_levels", "mask_roi_align", "mask_head", "paste", "masks"),
}


def sheet(name: str, level: str, place: int = 0) -> Sheet:
    return drawn(name, level)[place]


def test_parts_show_the_figure() -> None:
    found = sheet("resnet101-fpn", "parts")
    assert [box.key for box in found.boxes] == ["input", "backbone", "rpn", "roi_align", "heads", "output"]
    assert found["input"].lines == ("3×1024×1024",)
    assert found["rpn"].lines[0] == "261,888 anchors"
    assert found["backbone"].lines[0] == "ResNet-101 + FPN"
    assert found.title == "Mask R-CNN on ResNet-101-FPN with 6 classes"
    assert "6 classes and background" in found.subtitle and "M parameters" in found.subtitle


def test_blocks_have_the_names_that_other_levels_and_the_report_know() -> None:
    assert {box.key for box in sheet("resnet101-fpn", "blocks").boxes} == BLOCKS


def test_blocks_show_landmarks() -> None:
    found = sheet("resnet101-fpn", "blocks")
    assert found["p6"].lines[0] == "256×16×16" and found["p6"].stages == ("p6",)
    assert "23 bottlenecks" in found["c4"].lines
    assert "3 per cell: 261,888" in found["anchors"].lines
    assert "fc → 7 class logits" in found["box_head"].lines
    assert "100×6×28×28" in found["mask_head"].lines


def test_the_pyramid_is_drawn_as_one() -> None:
    found = sheet("resnet101-fpn", "blocks")
    heights = [found[f"{letter}{level}"].middle[1] for letter in "cp" for level in (5, 4, 3, 2)]
    assert heights[:4] == heights[4:] == sorted(heights[:4])
    widths = [found[f"p{level}"].w for level in (6, 5, 4, 3, 2)]
    assert widths == sorted(widths)
    joined = {(arrow.source, arrow.target) for arrow in found.arrows}
    assert {("c4", "lateral4"), ("lateral4", "add4"), ("lateral5", "add4"), ("add4", "add3"), ("add4", "p4")} <= joined
    assert {(f"p{level}", "rpn_head") for level in (2, 3, 4, 5, 6)} <= joined
    assert ("p6", "box_roi_align") not in joined and ("p5", "box_roi_align") in joined


@pytest.mark.parametrize(
    ("name", "there", "absent"),
    [
        ("vgg", {"c4", "rpn_head", "masks"}, {"c5", "p2", "roi_levels", "stage5"}),
        ("c4", {"stage5", "stage5_masks"}, {"c5", "p2", "roi_levels"}),
        ("dc5", {"c5", "box_roi_align"}, {"p2", "stage5"}),
        ("no masks", {"detections", "p6"}, {"mask_head", "masks", "mask_roi_align"}),
        ("keypoints", {"keypoint_head", "keypoints", "masks"}, set()),
        ("keypoints alone", {"keypoint_head", "keypoints"}, {"masks", "mask_head"}),
    ],
)
def test_what_a_network_lacks_is_not_drawn(name: str, there: set[str], absent: set[str]) -> None:
    keys = {box.key for box in sheet(name, "blocks").boxes}
    assert there <= keys and not absent & keys


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_in_one_box(name: str) -> None:
    wanted = sorted(structure(name).layers)
    for level in LEVELS:
        assert sorted(key for one in drawn(name, level) for box in one.boxes for key in box.layers) == wanted


@pytest.mark.parametrize("level", ["blocks", "layers"])
@pytest.mark.parametrize("name", ["resnet101-fpn", "keypoints", "c4"])
def test_every_stage_of_the_structure_has_a_box(name: str, level: str) -> None:
    shown = {stage for one in drawn(name, level) for box in one.boxes for stage in box.stages}
    assert set(structure(name).shapes) <= shown


def test_layers_have_their_numbers() -> None:
    box = sheet("resnet101-fpn", "layers")["backbone.layer3.0.conv2"]
    assert (box.title, box.lines) == ("conv 3×3 /2", ("256 → 256", "frozen BN, ReLU", "256×64×64", "589,824"))
    side = sheet("resnet101-fpn", "layers")["backbone.layer3.0.downsample.0"]
    assert (side.title, side.lines) == ("conv 1×1 /2, 512 → 1024", ("frozen BN · 1024×64×64 · 524,288",))


def test_repeated_blocks_are_folded() -> None:
    found = sheet("resnet101-fpn", "layers")
    notes = {group.title: group.note for group in found.groups}
    assert notes["layer3.1 … 22"] == "× 22" and notes["layer3.0"] == ""
    assert len(found["backbone.layer3.1.conv1"].layers) == 22
    mask = next(
        group for group in sheet("resnet101-fpn", "layers", 1).groups if group.key == "block:mask_head.convs.0.conv"
    )
    assert mask.note == "× 4"


def test_dilation_and_groups_are_told() -> None:
    assert "dilation 2" in sheet("dc5", "layers")["backbone.layer4.0.conv2"].lines
    assert "32 groups" in sheet("resnext", "layers")["backbone.layer1.0.conv2"].lines


def test_the_shared_rpn_is_a_loop() -> None:
    group = next(group for group in sheet("resnet101-fpn", "layers", 1).groups if group.key == "rpn_loop")
    assert group.title == "↻ for each of p2 … p6: same weights"
    assert len(sheet("resnet101-fpn", "layers", 1)["rpn.convs.0@p2"].layers) == 5
    assert all(group.key != "rpn_loop" for group in sheet("vgg", "layers", 1).groups)


def test_steps_have_the_numbers_of_the_configuration() -> None:
    config = network(
        "resnet50-fpn",
        rpn__nms_threshold=0.65,
        rpn__pre_nms_top_n=333,
        box__score_threshold=0.1,
        box__nms_threshold=0.45,
    )
    found = draw(config, "layers").sheets[1]
    assert "IoU > 0.65" in found["nms"].lines and "best 333" in found["top_k"].lines
    assert "softmax, score > 0.1" in found["candidates"].lines and "IoU > 0.45 per class" in found["class_nms"].lines
    assert found["roi_levels"].lines[0] == "⌊4 + log2(√(w·h) / 224)⌋"
    assert {"x + w · dx / 10", "w · exp(dw / 5)"} <= set(found["box_decode"].lines)


@pytest.mark.parametrize(
    ("name", "title", "lines"),
    [
        ("resnet101-fpn", "RoIAlign 7×7", {"2×2 samples per bin"}),
        ("roi pool", "RoIPool 7×7", {"whole cells"}),
        ("matterport", "Crop and resize 7×7", {"1 sample per bin,"}),
    ],
)
def test_the_way_crops_are_cut_is_told(name: str, title: str, lines: set[str]) -> None:
    box = sheet(name, "blocks")["box_roi_align"]
    assert box.title == title and lines <= set(box.lines)


def test_shapes_are_those_of_the_photo() -> None:
    config = NETWORKS["vgg"]
    assert draw(config, "parts", (480, 640)).sheets[0]["input"].lines == ("3×608×800",)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"level must be one of parts, blocks, layers; got 'layer'. Did you mean 'layers'"
    ):
        draw(NETWORKS["vgg"], "layer")  # type: ignore[arg-type]
