"""Pictures of detections: right pixels, legible labels, distinguishable colours."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn import drawing
from maskrcnn.drawing import PALETTE, color, contact_sheet, overlay, side_by_side, target_as_detections
from maskrcnn.errors import InputError
from maskrcnn.fonts import font_for, shortened
from maskrcnn.ops.rle import encode_masks
from maskrcnn.structures import Detections, Target

GREY = np.full((120, 160, 3), 100, np.uint8)


def found(boxes: list[list[int]], labels: list[int] | None = None, masks: bool = True) -> Detections:
    """Detections whose masks fill their boxes."""
    filled = torch.zeros(len(boxes), 120, 160, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(filled, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
        scores=torch.linspace(0.99, 0.5, len(boxes)),
        masks=filled if masks else None,
        image_size=(120, 160),
        class_names=("cat", "dog"),
    )


def pixel(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = picture.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def test_labels_can_be_left_out() -> None:
    one = found([[40, 60, 80, 100]])
    with_label, without = (np.array(overlay(GREY, one, labels=labels)) for labels in (True, False))
    assert (with_label[:59] != 100).any() and (without[:59] == 100).all()


def test_no_detections_leave_the_photo_as_it_is() -> None:
    picture = overlay(GREY, Detections.empty((120, 160)))
    np.testing.assert_array_equal(np.asarray(picture), GREY)


def test_mask_is_blended_and_outlined() -> None:
    picture = overlay(GREY, found([[40, 30, 100, 110]]), alpha=0.5)
    assert pixel(picture, 90, 100) == tuple(round(100 * 0.5 + v * 0.5) for v in PALETTE[0])
    assert pixel(picture, 99, 70) == PALETTE[0] and pixel(picture, 100, 70) == (100, 100, 100)


@pytest.mark.parametrize("scale", [1, 2])
def test_run_lengths_are_drawn_like_the_masks(scale: int) -> None:
    pixels = found([[40, 30, 100, 110], [60, 0, 90, 120], [20, 20, 140, 70], [5, 5, 5, 5]])
    pixels.masks[2, ::2, ::3] = False
    encoded = replace(pixels, masks=None, rles=tuple(encode_masks(pixels.masks)))
    np.testing.assert_array_equal(overlay(GREY, encoded, scale=scale), overlay(GREY, pixels, scale=scale))


def test_the_better_detections_outline_is_on_top() -> None:
    picture = overlay(
        GREY, found([[20, 20, 60, 100], [60, 20, 100, 100]], labels=[0, 1]), color_by="class", labels=False
    )
    assert pixel(picture, 59, 60) == PALETTE[0] and pixel(picture, 60, 60) == PALETTE[1]
    crossing = found([[20, 20, 60, 100], [40, 40, 100, 60]], labels=[0, 1])
    assert pixel(overlay(GREY, crossing, color_by="class", labels=False), 59, 40) == PALETTE[0]


def test_photo_is_not_changed() -> None:
    image = GREY.copy()
    overlay(image, found([[40, 30, 100, 110]]))
    np.testing.assert_array_equal(image, GREY)


def test_better_detection_owns_the_pixel() -> None:
    picture = overlay(GREY, found([[60, 30, 150, 110], [10, 30, 100, 110]]), alpha=1.0)
    assert pixel(picture, 80, 100) == PALETTE[1] and pixel(picture, 50, 100) == PALETTE[0]


def test_instances_are_coloured_from_left_to_right() -> None:
    picture = overlay(GREY, found([[110, 40, 150, 110], [60, 40, 100, 110], [10, 40, 50, 110]]), alpha=1.0)
    assert [pixel(picture, x, 100) for x in (30, 80, 130)] == list(PALETTE[:3])


def test_classes_have_one_colour_each() -> None:
    detections = found([[110, 40, 150, 110], [60, 40, 100, 110], [10, 40, 50, 110]], labels=[1, 0, 1])
    picture = overlay(GREY, detections, color_by="class", alpha=1.0)
    assert [pixel(picture, x, 100) for x in (30, 80, 130)] == [PALETTE[1], PALETTE[0], PALETTE[1]]


def test_scale_enlarges_masks_by_whole_pixels() -> None:
    picture = overlay(GREY, found([[40, 30, 100, 110]]), alpha=1.0, scale=3)
    assert picture.size == (480, 360)
    assert pixel(picture, 299, 240) == PALETTE[0] and pixel(picture, 300, 240) == (100, 100, 100)


@pytest.mark.parametrize(
    "boxes",
    [[[0, 0, 160, 120]], [[0, 0, 1, 1]], [[159, 119, 160, 120]], [[50, 50, 50, 50]], [[-9, -9, 300, 300]]],
    ids=["whole", "first pixel", "last pixel", "no area", "outside"],
)
@pytest.mark.parametrize("masks", [True, False])
def test_boxes_anywhere_can_be_drawn(boxes: list[list[int]], masks: bool) -> None:
    assert overlay(GREY, found(boxes, masks=masks)).size == (160, 120)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_tiny_pictures_can_be_drawn(size: tuple[int, int]) -> None:
    detections = Detections(
        torch.tensor([[0.0, 0.0, size[1], size[0]]]),
        torch.tensor([0]),
        torch.tensor([0.5]),
        torch.ones(1, *size, dtype=torch.bool),
        size,
        ("a class with a long name",),
    )
    assert overlay(np.zeros((*size, 3), np.uint8), detections).size == size[::-1]


def test_label_without_a_known_name_is_its_number() -> None:
    detections = Detections(torch.zeros(1, 4), torch.tensor([7]), torch.tensor([0.5]), None, (120, 160))
    assert drawing._texts(detections, scores=True) == ["class 7 0.50"]
    assert drawing._texts(detections, scores=False) == ["class 7"]


def test_chips_stay_inside_and_apart() -> None:
    rng = np.random.default_rng(0)
    placed: list[tuple[int, int, int, int]] = []
    for x, y in rng.integers(0, 900, (12, 2)).tolist():
        chip = drawing._free_place((x, y, x + 100, y + 100), (90, 20), (1000, 1000), placed)
        assert chip[0] >= 0 and chip[1] >= 0 and chip[2] <= 1000 and chip[3] <= 1000
        assert all(drawing._overlap(chip, other) <= 0.03 * 90 * 20 for other in placed)
        placed.append(chip)


def test_chips_of_one_box_given_ten_times_do_not_cover_each_other() -> None:
    placed: list[tuple[int, int, int, int]] = []
    for _ in range(10):
        placed.append(drawing._free_place((100, 100, 300, 400), (120, 20), (1000, 1000), placed))
    assert all(drawing._overlap(a, b) <= 0.03 * 120 * 20 for a, b in combinations(placed, 2))


def test_text_is_shortened_to_its_room() -> None:
    font = font_for(20, "")
    short = shortened("a rather long class name 0.97", font, 100)
    assert short.endswith("...") and font.getlength(short) <= 100


def test_contrast_of_text_on_every_colour_is_readable() -> None:
    for index in range(40):
        light = sorted(drawing._luminance(c) for c in (color(index), drawing.readable_on(color(index))))
        assert (light[1] + 0.05) / (light[0] + 0.05) >= 4.5  # WCAG 2, level AA


MACHADO = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def oklab(rgb: tuple[int, int, int], vision: str) -> np.ndarray:
    c = np.array(rgb) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(MACHADO[vision]) @ linear, 0, 1)
    to_lms = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(to_lab) @ np.cbrt(np.array(to_lms) @ linear)


@pytest.mark.parametrize(("vision", "least"), [(v, 0.13 if v == "normal" else 0.07) for v in MACHADO])
def test_palette_can_be_told_apart(vision: str, least: float) -> None:
    labs = [oklab(c, vision) for c in PALETTE]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(labs, 2)) >= least


def test_colours_beyond_the_palette_differ() -> None:
    assert len({color(i) for i in range(100)}) == 100
    for i in range(12, 60):
        assert np.linalg.norm(oklab(color(i), "normal") - oklab(color(i + 1), "normal")) > 0.1


def test_side_by_side_has_both_pictures_under_titles() -> None:
    left, right = Image.new("RGB", (60, 40), "red"), Image.new("L", (30, 20), 7)
    sheet = side_by_side(left, right, ("ground truth", "prediction"))
    assert pixel(sheet, 10, sheet.height - 5) == (255, 0, 0)
    assert pixel(sheet, sheet.width - 5, sheet.height - 5) == (7, 7, 7)
    assert sheet.width > 60 + 60 and sheet.height > 40 and pixel(sheet, 0, 0) == (255, 255, 255)


def test_contact_sheet_places_pictures_in_rows() -> None:
    pictures = [Image.new("RGB", (20, 10), c) for c in ("red", "lime", "blue")]
    sheet = contact_sheet(pictures, columns=2, gap=4)
    assert sheet.size == (4 + 20 + 4 + 20 + 4, 4 + 10 + 4 + 10 + 4)
    corners = [pixel(sheet, x, y) for x, y in ((4, 4), (28, 4), (4, 18), (28, 18))]
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_contact_sheet_fits_pictures_of_different_size() -> None:
    assert contact_sheet([Image.new("RGB", s) for s in ((10, 10), (30, 20))], columns=5, gap=0).size == (
        40,
        20,
    )


def test_ground_truth_becomes_detections_of_score_one() -> None:
    target = Target(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([1]))
    detections = target_as_detections(target, (120, 160), ["cat", "dog"])
    assert detections.names == ["dog"] and detections.scores.tolist() == [1.0] and detections.masks is None


def test_wrong_arguments_are_refused_with_a_sentence() -> None:
    with pytest.raises(InputError, match="the image they are drawn on, 160 × 120 pixels; got 20 × 10"):
        overlay(GREY, Detections.empty((10, 20)))
    with pytest.raises(InputError, match=r"scale must be at least 1 and alpha 0 to 1; got 0 and 0\.45"):
        overlay(GREY, Detections.empty((120, 160)), scale=0)
    with pytest.raises(InputError, match="at least one picture"):
        contact_sheet([], columns=2)


def test_skeletons_join_the_keypoints_that_are_sure() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    points = torch.tensor([[[50.0, 50, 0.9], [150, 50, 0.9], [250, 50, 0.01]]])
    limbs = ((0, 1), (1, 2))
    box, label = torch.tensor([[20.0, 20, 280, 180]]), torch.zeros(1, dtype=torch.int64)
    found = Detections(box, label, torch.ones(1), None, (200, 300), ("a",), points, ("x", "y", "z"), limbs)
    picture = np.asarray(overlay(image, found))
    ink = picture[50, 100].tolist()
    assert ink == list(color(0)) and picture[50, 50].tolist() == ink
    assert not picture[50, 200].any() and not picture[50, 250].any()  # towards the keypoint of low score


@pytest.mark.parametrize(
    ("kind", "unsure"), [("logit", -2.0), ("logit", 0.0), ("softmax", 0.04)], ids=["negative", "zero", "small share"]
)
@pytest.mark.parametrize("sure", [0.06, 1.1, 6.0])
def test_what_scores_mean_decides_which_keypoints_are_sure(kind, unsure, sure) -> None:
    points = torch.tensor([[[50.0, 50, sure], [150, 50, unsure]]])
    box, label = torch.tensor([[20.0, 20, 280, 180]]), torch.zeros(1, dtype=torch.int64)
    values = (box, label, torch.ones(1), None, (200, 300), ("a",), points, ("x", "y"), ((0, 1),))
    picture = np.asarray(overlay(np.zeros((200, 300, 3), np.uint8), Detections(*values, keypoint_scores=kind)))
    assert picture[50, 50].any() and not picture[50, 100].any() and not picture[50, 150].any()


def test_left_is_lighter_and_right_darker_than_the_middle() -> None:
    points = torch.tensor([[[50.0, 50, 0.9], [150, 50, 0.9], [50, 150, 0.9], [150, 150, 0.9]]])
    names = ("left_hip", "left_knee", "right_hip", "right_knee")
    box, label = torch.tensor([[20.0, 20, 280, 180]]), torch.zeros(1, dtype=torch.int64)
    limbs = ((0, 1), (2, 3), (0, 2))
    found = Detections(box, label, torch.ones(1), None, (200, 300), ("a",), points, names, limbs)
    picture = np.asarray(overlay(np.zeros((200, 300, 3), np.uint8), found)).astype(int)
    left, right, middle = picture[50, 100], picture[150, 100], picture[100, 50]
    assert middle.tolist() == list(color(0))
    assert left.sum() > middle.sum() > right.sum()


def test_strokes_are_thinner_on_small_objects() -> None:
    points = torch.tensor([[[10.0, 430, 0.9], [40, 430, 0.9]], [[100, 200, 0.9], [700, 200, 0.9]]])
    boxes, labels = torch.tensor([[5.0, 400, 60, 455], [90, 90, 750, 750]]), torch.zeros(2, dtype=torch.int64)
    found = Detections(boxes, labels, torch.ones(2), None, (800, 800), ("a",), points, ("x", "y"), ((0, 1),))
    picture = np.asarray(overlay(np.zeros((800, 800, 3), np.uint8), found))
    small, large = picture[410:450, 25].any(-1).sum(), picture[150:250, 400].any(-1).sum()
    assert 0 < small < large


def test_colours_and_texts_can_be_given() -> None:
    picture = overlay(GREY, found([[20, 40, 80, 100]]), colors=[(200, 0, 0)], texts=["missed"], alpha=1.0)
    assert pixel(picture, 50, 70) == (200, 0, 0)
    assert picture.tobytes() != overlay(GREY, found([[20, 40, 80, 100]]), colors=[(200, 0, 0)], alpha=1.0).tobytes()


@pytest.mark.parametrize("given", [{"colors": []}, {"texts": ["a", "b"]}], ids=["colors", "texts"])
def test_colours_and_texts_must_be_one_for_each(given: dict[str, list]) -> None:
    with pytest.raises(InputError, match="must be one for each of 1 detections"):
        overlay(GREY, found([[20, 40, 80, 100]]), **given)
