"""Pictures of a run: right colours in the right places, for any photo and network."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.drawing import _luminance
from maskrcnn.errors import InputError
from maskrcnn.inspection import pictures
from maskrcnn.inspection.pictures import NothingToShowError, features, views
from maskrcnn.inspection.trace import Run, Trace
from tiny import tiny_data, tiny_model

PLAIN = {
    "fpn": None,
    "anchors__sizes": ((8, 16, 24),),
    "image__padding_place": "center",
    "image__padding": "square",
    "box_corners": "centers",
    "roi_align__method": "crop_and_resize",
}
"""One level, Matterport's corners, letterboxed."""


def traced(height: int = 64, width: int = 64, **overrides: Any) -> Trace:
    photo, _ = tiny_data()[0]
    photo = np.asarray(Image.fromarray(photo).resize((width, height)))
    return tiny_model(**overrides).trace(photo)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return traced()


def changed(trace: Trace, **tensors: torch.Tensor) -> Trace:
    return Trace({**trace, **tensors}, trace.run)


def colors_in(picture: Image.Image) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))


# Colours


def test_lightness_rises_evenly_with_the_value() -> None:
    colors = pictures.heat(np.linspace(0, 1, 20)[None])[0]
    light = [_luminance(tuple(c)) ** (1 / 3) for c in colors.tolist()]
    steps = [b - a for a, b in pairwise(light)]
    assert min(steps) > 0 and max(steps) < 3 * min(steps)


def test_values_outside_the_range_take_the_colour_of_its_end() -> None:
    inside, outside = pictures.heat(np.array([[0.0, 1.0], [-5.0, 9.0]]), 0.0, 1.0)
    assert np.array_equal(inside, outside)


def test_signed_colours_are_as_light_on_either_side_of_zero() -> None:
    low, zero, high = (_luminance(tuple(c)) for c in pictures.signed_heat(np.array([[-1.0, 0.0, 1.0]]))[0].tolist())
    assert zero > 0.9 and abs(low - high) < 0.05


def test_what_is_not_finite_is_grey() -> None:
    values = np.array([[0.0, np.nan, np.inf, 1.0]])
    for colored in (pictures.heat(values), pictures.signed_heat(values)):
        assert colored[0, 1].tolist() == colored[0, 2].tolist() == [128, 128, 128]


@pytest.mark.parametrize("values", [np.full((2, 3), 7.0), np.full((2, 3), np.nan), np.zeros((0, 0))])
def test_values_without_a_range_have_one_colour(values: np.ndarray) -> None:
    assert len(np.unique(pictures.heat(values).reshape(-1, 3), axis=0)) <= 1


def test_levels_have_colours_of_their_own_and_a_plain_network_that_of_its_stride() -> None:
    assert len(set(pictures.LEVEL_COLORS.values())) == 5
    assert pictures.level_color("c4") == pictures.level_color("p4")


def test_a_scale_with_long_texts_keeps_its_width() -> None:
    assert pictures.scale_bar(60, "-1.234", "5.678", "a long name of a module").width == 60


# The photo at a size to draw on


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 48), (512, 384)), ((1200, 3), (1000, 2)), ((700, 900), (700, 900)), ((1, 1), (500, 500))],
    ids=["tiny", "thin", "as it is", "one pixel"],
)
def test_the_photo_is_shown_at_a_size_to_draw_on(size: tuple[int, int], expected: tuple[int, int]) -> None:
    run = traced().run
    photo = np.zeros((size[1], size[0], 3), np.uint8)
    shown, scale = pictures.photo_view(Trace({}, Run(run.config, run.strides, photo, run.batch)))
    assert shown.size == expected and round(size[0] * scale) == expected[0]


def test_a_side_of_no_pixels_is_refused(trace: Trace) -> None:
    with pytest.raises(InputError, match="max_side must be at least 1; got 0"):
        pictures.photo_view(trace, 0)


def test_a_part_of_the_photo_tells_where_it_lies(trace: Trace) -> None:
    picture, part, scale = pictures.photo_part(trace, (10.0, 20.0, 30.0, 30.0), side=100, margin=0.0)
    assert part == (10, 20, 31, 31) and picture.size == (100, 52) and scale == pytest.approx(100 / 21)


@pytest.mark.parametrize("box", [(-50.0, -50.0, -20.0, -20.0), (float("nan"),) * 4, (500.0, 500.0, 1e30, 1e30)])
def test_a_part_outside_the_photo_shows_its_border(trace: Trace, box: tuple[float, float, float, float]) -> None:
    assert max(pictures.photo_part(trace, box, side=50)[0].size) == 50


def test_a_trace_of_tensors_alone_has_no_photo() -> None:
    with pytest.raises(InputError, match="model.trace"):
        pictures.photo_view(Trace({"p2": torch.zeros(1, 1, 2, 2)}))


# Feature maps


def mosaic_of(trace: Trace, maps: torch.Tensor, **arguments: Any) -> np.ndarray:
    return np.asarray(pictures.feature_mosaic(changed(trace, p2=maps), "p2", **arguments))


def test_all_channels_of_p6_are_one_sheet_of_16_by_16() -> None:
    trace = traced(fpn__channels=256)
    sheet = pictures.feature_mosaic(trace, "p6", "all", side=512)
    assert abs(sheet.width - sheet.height) < 30 and 500 < sheet.width < 560


def test_the_strongest_channels_come_first_those_with_nan_last() -> None:
    maps = np.zeros((4, 2, 2), np.float32)
    maps[0], maps[1], maps[2], maps[3] = 1.0, np.nan, -3.0, 2.0
    assert features.strongest_channels(maps) == [2, 3, 0, 1]


def test_each_channel_has_a_range_of_its_own_or_all_share_one(trace: Trace) -> None:
    maps = torch.zeros(1, 2, 16, 16)
    maps[0, 0, :8], maps[0, 1, :8] = 1.0, 100.0
    yellow = np.array([253, 231, 37])
    shares = [
        (mosaic_of(trace, maps, channels="all", normalize=rule)[:500] == yellow).all(-1).mean()
        for rule in ("channel", "joint")
    ]
    assert shares[0] > 1.8 * shares[1]


def test_padding_is_left_out_unless_asked_for() -> None:
    trace = traced(64, 32)  # the input is 64 × 32 in a square of 64 for the divisor's sake
    assert trace["p2"].shape[-2:] == (16, 8)
    padded = traced(64, 40)
    whole, cropped = (pictures.feature_mosaic(padded, "p2", [0], padding=p) for p in (True, False))
    assert padded["p2"].shape[-1] == 16 and whole.width > cropped.width


def test_maps_larger_than_a_tile_are_averaged(trace: Trace) -> None:
    assert pictures.feature_mosaic(trace, "p2", [0], side=12).width < 100


def test_a_module_that_was_asked_for_has_a_mosaic() -> None:
    photo, _ = tiny_data()[0]
    trace = tiny_model().trace(photo, ["backbone.layer1.0.conv1"])
    assert pictures.feature_mosaic(trace, "backbone.layer1.0.conv1", 4).width > 500


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (0, "channels must be 1 or more; got 0"),
        ([16], "There is no channel 16; there are 16, counted from 0"),
        ([], "channels must be 'strongest', 'all', a number or a list"),
        ("most", "got 'most'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_channels_that_are_not_there_are_refused(trace: Trace, channels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pictures.feature_mosaic(trace, "p2", channels)


def test_what_is_no_feature_map_has_no_mosaic(trace: Trace) -> None:
    with pytest.raises(NothingToShowError, match=r"proposals is \[1, 30, 4\]; a mosaic needs a feature map"):
        pictures.feature_mosaic(trace, "proposals")


def test_a_stage_that_was_not_recorded_is_told(trace: Trace) -> None:
    with pytest.raises(NothingToShowError, match="needs the stage c9, which this trace lacks"):
        pictures.feature_energy(trace, "c9")


def test_a_map_of_nan_is_still_drawn(trace: Trace) -> None:
    broken = changed(trace, p2=torch.full((1, 4, 16, 16), float("nan")))
    assert pictures.feature_mosaic(broken, "p2", "all").size and pictures.feature_energy(broken, "p2").size


def test_energy_lies_where_the_map_holds_much(trace: Trace) -> None:
    maps = torch.zeros(1, 2, 16, 16)
    maps[0, :, 4:8, 12:16] = 3.0  # stride 4: rows 16 to 32, columns 48 to 64 of 64
    picture = np.asarray(pictures.feature_energy(changed(trace, p2=maps), "p2").convert("RGB")).astype(int)
    assert picture.shape[1] == 512
    yellow = picture[..., 0] - picture[..., 2]
    assert yellow[128:256, 384:].mean() > 100 > yellow[256:512, :384].mean()


# Objectness


def with_objectness(trace: Trace, level: str, row: int, column: int) -> Trace:
    logits = torch.full_like(trace["rpn_objectness"], -20.0)
    where = views.level_of(trace, level)
    logits[0, where.first + (row * where.columns + column) * 3 + 1] = 20.0
    return changed(trace, rpn_objectness=logits)


def test_objectness_of_a_cell_is_that_of_its_best_anchor(trace: Trace) -> None:
    values = pictures.objectness_values(with_objectness(trace, "p3", 2, 5), "p3")
    assert values.shape == (8, 8) and np.argwhere(values > 0.5).tolist() == [[2, 5]]


def test_the_map_lies_around_the_centres_of_the_anchors(trace: Trace) -> None:
    picture = np.asarray(pictures.objectness_map(with_objectness(trace, "p3", 2, 5), "p3")).astype(int)[:512]
    rows, columns = np.nonzero(picture[..., 0] - picture[..., 2] > 60)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (96, 160, 288, 352)  # of 64 times 8


def test_padding_moves_the_map() -> None:
    trace = traced(32, 64, **PLAIN)  # 16 rows of padding above: one cell of stride 16
    logits = torch.full_like(trace["rpn_objectness"], -20.0)
    logits[0, 4 * 9 : 8 * 9] = 20.0  # anchors around y = 16 in the input, the photo's upper border
    layer = np.asarray(pictures.objectness_layer(changed(trace, rpn_objectness=logits), "c4", (64, 32)))
    assert (layer[:7, :, 3] > 200).all() and (layer[9:, :, 3] < 40).all()


def test_a_layer_has_the_size_that_is_asked_for(trace: Trace) -> None:
    layer = pictures.objectness_layer(trace, "p6", (77, 31))
    assert layer.size == (77, 31) and layer.mode == "RGBA"


def test_all_levels_come_on_one_sheet(trace: Trace) -> None:
    assert pictures.objectness_maps(trace).width > 1000


def test_a_level_that_is_not_there_is_told(trace: Trace) -> None:
    with pytest.raises(InputError, match="no level 'p7'; there are: p2, p3, p4, p5, p6"):
        pictures.objectness_map(trace, "p7")


# Proposals


def test_proposals_lie_where_their_boxes_do(trace: Trace) -> None:
    box = torch.tensor([16.0, 8.0, 48.0, 56.0])
    places, kept = trace["proposal_places"], trace["top_kept"]
    boxes = trace["proposals_before_nms"].clone()
    boxes[0, places[0, 0]] = box
    shown = np.asarray(pictures.proposals(changed(trace, proposals_before_nms=boxes), top=1)).astype(int)[:512]
    photo = np.asarray(pictures.photo_view(trace)[0]).astype(int)
    rows, columns = np.nonzero(np.abs(shown - photo).sum(-1) > 60)
    assert kept[0, places[0, 0]]
    for got, wanted in zip((columns.min(), rows.min(), columns.max(), rows.max()), 8 * box, strict=True):
        assert abs(got - float(wanted)) <= 3


@pytest.mark.parametrize("which", ["before_refinement", "before_nms", "after"])
def test_proposals_at_every_step_are_drawn(trace: Trace, which: Any) -> None:
    shown = np.asarray(pictures.proposals(trace, which))[:512]
    assert (shown != np.asarray(pictures.photo_view(trace)[0])).any()


def test_proposals_have_the_colour_of_their_level(trace: Trace) -> None:
    levels = torch.full_like(trace["roi_levels"], 2)
    inks = colors_in(pictures.proposals_by_level(changed(trace, roi_levels=levels), top=5).crop((0, 0, 512, 512)))
    assert pictures.level_color("p4") in inks and pictures.level_color("p2") not in inks


def test_boxes_of_a_network_gone_wrong_do_not_stop_the_picture(trace: Trace) -> None:
    wild = trace["proposals_before_nms"].clone()
    wild[:, ::2] = 1e30
    wild[:, 1::4] = float("nan")
    assert pictures.refinement(changed(trace, proposals_before_nms=wild)).size == (512, 512)
    assert pictures.proposals(changed(trace, proposals_before_nms=wild), "before_nms").width == 512


def test_no_proposals_are_told(trace: Trace) -> None:
    nothing = changed(trace, top_kept=torch.zeros_like(trace["top_kept"]))
    for draw in (pictures.proposals, pictures.refinement):
        with pytest.raises(NothingToShowError, match="proposes nothing"):
            draw(nothing)


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_refused(trace: Trace) -> None:
    with pytest.raises(InputError, match="top must be at least 1; got 0"):
        pictures.proposals(trace, top=0)
    with pytest.raises(InputError, match="which must be 'before_refinement', 'before_nms' or 'after'; got 'nms'"):
        pictures.proposals(trace, "nms")


@pytest.mark.parametrize(
    ("size", "overrides"),
    [((20, 500), {}), ((300, 60), {}), ((64, 48), PLAIN), ((64, 64), {"class_names": ["one"]})],
    ids=["wide", "tall", "plain and letterboxed", "one class"],
)
def test_any_photo_and_network_has_its_pictures(size: tuple[int, int], overrides: dict[str, Any]) -> None:
    trace = traced(*size, **overrides)
    level = next(iter(trace.run.strides))
    for picture in (
        pictures.feature_mosaic(trace, level),
        pictures.feature_energy(trace, level),
        pictures.objectness_maps(trace),
        pictures.proposals(trace),
        pictures.refinement(trace),
        pictures.proposals_by_level(trace),
    ):
        assert picture.mode == "RGB" and min(picture.size) > 10


def test_half_precision_is_drawn_too() -> None:
    photo, _ = tiny_data()[0]
    trace = tiny_model().bfloat16().trace(photo)
    assert trace["p2"].dtype == torch.bfloat16
    assert pictures.feature_mosaic(trace, "p2").size and pictures.objectness_maps(trace).size
