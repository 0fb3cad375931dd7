"""The report as a file: whole, self-contained and right for every kind of network."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import ImageFileError, InputError
from maskrcnn.inspection.report import report
from maskrcnn.inspection.report.overlays import outline
from maskrcnn.inspection.structure import read_structure
from tiny import TINY, tiny_data, tiny_model

PLAIN = {
    "backbone.width": 8,
    "rpn.channels": 8,
    "box.fc_channels": 16,
    "mask.channels": 8,
    "image.min_size": 64,
    "image.max_size": 64,
    "rpn.pre_nms_top_n": 40,
    "rpn.post_nms_top_n": 20,
    "box.detections_per_image": 6,
    "box.score_threshold": 0.0,
}


def photo() -> np.ndarray:
    return tiny_data()[0][0]


@pytest.fixture(scope="module")
def whole() -> str:
    return report(tiny_model(box__score_threshold=0.0), photo(), name="shapes <b>.png", random=True)


def data(text: str) -> dict[str, Any]:
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def articles(text: str) -> set[str]:
    return set(re.findall(r'<article class="detail" id="d-([^"]+)"', text))


def test_one_file_that_asks_for_nothing_else(whole: str) -> None:
    assert not re.search(r'(src|href)="(?!data:|#)', whole)
    assert "http://www.w3.org/2000/svg" in whole and not re.search(r"https?://(?!www\.w3\.org)", whole)
    assert "@import" not in whole and "url(" not in whole


def test_every_single_layer_and_every_object_has_its_place(whole: str) -> None:
    layers = set(read_structure(tiny_model().config, (64, 64)).layers)
    there = articles(whole)
    assert layers <= there
    assert {"overview", "object-0", "p4", "c4", "anchors", "nms", "box_roi_align", "mask_head"} <= there


def test_every_picture_asked_for_is_there(whole: str) -> None:
    wanted = set(re.findall(r'data-image="([^"]+)"', whole))
    assert wanted and wanted <= set(data(whole)["images"])


def test_every_button_leads_somewhere(whole: str) -> None:
    assert set(re.findall(r'data-go="([^"]+)"', whole)) <= articles(whole)


def test_the_map_leads_from_the_parts_to_single_layers(whole: str) -> None:
    inside = data(whole)["inside"]
    assert "c4" in inside["parts"]["backbone"]["keys"] and inside["parts"]["backbone"]["view"] == "blocks"
    assert inside["blocks"]["c4"]["view"].startswith("layers")
    where = data(whole)["where"]
    assert all(key in where for key in read_structure(tiny_model().config, (64, 64)).layers)


def test_every_box_of_the_map_can_be_opened(whole: str) -> None:
    keys = set(re.findall(r'class="box" data-key="([^"]+)"', whole))
    assert keys and keys <= articles(whole)


def test_about_twelve_steps(whole: str) -> None:
    steps = data(whole)["walk"]
    assert 11 <= len(steps) <= 15 and len(re.findall(r'class="detail step"', whole)) == len(steps)
    drawn = whole.split("<svg data-view=")
    keys = {part[1:].split('"')[0]: set(re.findall(r'class="box" data-key="([^"]+)"', part)) for part in drawn[1:]}
    assert all(step["keys"] and set(step["keys"]) <= keys[step["view"]] for step in steps)


def test_foreign_texts_are_texts(whole: str) -> None:
    assert "shapes &lt;b&gt;.png" in whole and "shapes <b>" not in whole
    config = Config.preset(
        "small-fpn", class_names=["</script><b>", 'a"b'], overrides={**TINY, "box.score_threshold": 0.0}
    )
    text = report(MaskRCNN(config), photo())
    assert "</script><b>" not in text and "&lt;/script&gt;&lt;b&gt;" in text


def test_pictures_have_words_for_those_who_do_not_see_them(whole: str) -> None:
    assert not [tag for tag in re.findall(r"<img[^>]*>", whole) if "alt=" not in tag]
    assert not [tag for tag in re.findall(r'<svg class="photo"[^>]*>', whole) if "aria-label=" not in tag]


def test_the_anchors_are_counted_level_by_level() -> None:
    config = Config.preset("small-fpn", class_names=["a"], overrides=TINY)
    structure = read_structure(config, (64, 64))
    text = report(MaskRCNN(config), photo())
    total = sum(structure.level_anchors.values())
    assert f"16 × 16 + 8 × 8 + 4 × 4 + 2 × 2 + 1 × 1) cells × 3 = {total:,}" in text


def test_nothing_found_is_said_and_the_rest_is_there() -> None:
    text = report(tiny_model(box__score_threshold=1.0), photo())
    assert "Nothing was found in this image" in text
    assert {"p4", "proposals", "mask_head"} <= articles(text) and "object-0" not in articles(text)


def test_what_is_below_the_threshold_is_followed_and_said_to_be(whole: str) -> None:
    assert "No detection reaches 0.5; these are the best 5" in whole
    assert sum(key.startswith("object-") for key in articles(whole)) == 5


@pytest.mark.parametrize(
    ("preset", "names", "changes"),
    [
        pytest.param("small-fpn", 1, TINY, id="one class"),
        pytest.param("small-fpn", 1000, TINY, id="a thousand classes"),
        pytest.param("small-fpn", 2, {**TINY, "masks": False}, id="no mask head"),
        pytest.param("small-fpn", 2, {**TINY, "keypoint_names": ("a", "b"), "keypoint.channels": 8}, id="keypoints"),
        pytest.param("small-fpn", 2, {**TINY, "roi_align.method": "pool"}, id="RoIPool"),
        pytest.param("small-fpn", 2, {**TINY, "image.padding_place": "center", "box_corners": "centers"}, id="centred"),
        pytest.param("resnet18", 2, PLAIN, id="C4"),
        pytest.param("vgg16", 2, PLAIN, id="VGG"),
        pytest.param("vgg16-fpn", 2, {**PLAIN, "fpn.channels": 8}, id="VGG with FPN"),
    ],
)
def test_every_kind_of_network(preset: str, names: int, changes: dict[str, Any]) -> None:
    config = Config.preset(
        preset,
        class_names=[f"class {i}" for i in range(names)],
        overrides={**changes, "box.score_threshold": 0.0},
    )
    text = report(MaskRCNN(config), photo()[:48], random=True)
    assert set(re.findall(r'class="box" data-key="([^"]+)"', text)) <= articles(text)
    assert set(re.findall(r'data-image="([^"]+)"', text)) <= set(data(text)["images"])
    assert set(re.findall(r'data-go="([^"]+)"', text)) <= articles(text)
    assert "object-0" in articles(text)


@pytest.mark.parametrize(
    ("preset", "changes", "said", "unsaid"),
    [
        pytest.param("vgg16", PLAIN, "Simonyan and Zisserman 2014; Ren et al. 2015", "He et al. 2015", id="VGG"),
        pytest.param("resnet18", PLAIN, "Each proposal is cut from c4", "The weights are the same on", id="one level"),
        pytest.param("resnet18", PLAIN, "The head keeps it a map", "The crop is finer than", id="crops of one size"),
        pytest.param(
            "small-fpn", {**TINY, "masks": False}, "the best 10 of the image are kept.", "Only these", id="no masks"
        ),
        pytest.param(
            "small-fpn",
            {**TINY, "box.class_agnostic": True, "mask.class_agnostic": True, "box.classes_per_roi": "best"},
            "of each RoI its likeliest class alone, each with the box that the head gives the RoI",
            "for the class in question",
            id="one box and mask for all classes",
        ),
        pytest.param("small-fpn", {**TINY, "rpn.num_convs": 2}, "2 convolutions of 3 × 3", "A 3 × 3 conv", id="RPN"),
        pytest.param(
            "small-fpn", {**TINY, "rpn.clip": "input"}, "border of the padded input", "border of the image", id="clip"
        ),
    ],
)
def test_sentences_are_those_of_the_network(preset: str, changes: dict[str, Any], said: str, unsaid: str) -> None:
    text = report(MaskRCNN(Config.preset(preset, class_names=["a", "b"], overrides=changes)), photo())
    assert said in text and unsaid not in text


def test_the_smallest_photo_has_a_report() -> None:
    text = report(tiny_model(box__score_threshold=0.0), np.zeros((1, 1, 3), np.uint8))
    assert "thumb-0" in data(text)["images"]


def test_nan_is_counted_where_nothing_else_is_left() -> None:
    model = tiny_model(box__score_threshold=0.0)
    with torch.no_grad():
        model.mask_head.deconv.bias.fill_(float("nan"))
    text = report(model, photo())
    head = text.split('id="d-mask_head"')[1].split("</article>")[0]
    assert "<td>mask_logits</td><td>float32</td>" in head and " NaN, 0 Inf" in head


def test_keypoints_have_their_step_and_their_dots() -> None:
    overrides = {"keypoint_names": ("nose", "tail"), "keypoint__channels": 8, "keypoint__scores": "logit"}
    model = tiny_model(box__score_threshold=0.0, **overrides)
    text = report(model, photo(), random=True)
    assert "Where are its keypoints?" in text and 'data-image="keypoints"' in text
    found = model.predict(photo(), score_threshold=0.0)[0][:5]
    assert text.count('class="m dot"') % int((found.keypoints[..., 2] > 0).sum()) == 0 < text.count('class="m dot"')


def test_bad_input() -> None:
    with pytest.raises(InputError, match="threshold must be 0 to 1; got 2"):
        report(tiny_model(), photo(), threshold=2.0)
    with pytest.raises(ImageFileError, match=r"missing\.jpg: no such file"):
        report(tiny_model(), "missing.jpg")


def test_the_network_is_left_as_it_was() -> None:
    model = tiny_model().train()
    report(model, photo())
    assert model.training and not any(m._forward_hooks for m in model.modules())


def test_outline_of_a_ring_has_two_loops() -> None:
    ring = np.zeros((7, 7), bool)
    ring[1:6, 1:6] = True
    ring[3, 3] = False
    path = outline(ring)
    assert path.count("M") == 2 and path.startswith("M1 1H6V6H1Z")


def test_outline_of_nothing_and_of_everything() -> None:
    assert outline(np.zeros((3, 3), bool)) == ""
    assert outline(np.ones((2, 3), bool)) == "M0 0H3V2H0Z"


def test_outline_of_a_large_mask_is_traced_coarsely() -> None:
    large = np.zeros((1000, 1000), bool)
    large[100:900, 100:900] = True
    assert outline(large) == "M100 100H900V900H100Z"
