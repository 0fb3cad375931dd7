"""RoIAlign's geometry: what the picture shows is what the network's own operation reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.errors import InputError
from maskrcnn.inspection import pictures
from maskrcnn.inspection.pictures import NothingToShowError, RoIGeometry
from maskrcnn.inspection.trace import Trace
from tiny import tiny_data, tiny_model

RULES = {
    "aligned": {},
    "not aligned": {"roi_align.aligned": False},
    "as many samples as cells": {"roi_align.sampling_ratio": 0},
    "not aligned, as many samples as cells": {"roi_align.aligned": False, "roi_align.sampling_ratio": 0},
    "inclusive": {"box_corners": "inclusive", "roi_align.aligned": False},
    "crop_and_resize": {"roi_align.method": "crop_and_resize", "box_corners": "centers"},
    "crop_and_resize of edges": {"roi_align.method": "crop_and_resize"},
    "pool": {"roi_align.method": "pool"},
    "plain": {"fpn": None, "anchors.sizes": ((8, 16, 24),)},
}


def traced(**overrides: Any) -> Trace:
    photo, _ = tiny_data()[0]
    return tiny_model(**{key.replace(".", "__"): value for key, value in overrides.items()}).trace(photo)


def sampled(maps: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return the map's channels at a place in cells, between whose centres it is linear; slowly."""
    column, row = (min(max(v - 0.5, 0), n - 1) for v, n in ((x, maps.shape[2]), (y, maps.shape[1])))
    left, top = int(column), int(row)
    right, bottom = min(left + 1, maps.shape[2] - 1), min(top + 1, maps.shape[1] - 1)
    across, down = column - left, row - top
    upper = maps[:, top, left] * (1 - across) + maps[:, top, right] * across
    lower = maps[:, bottom, left] * (1 - across) + maps[:, bottom, right] * across
    return upper * (1 - down) + lower * down


def read_at_points(maps: np.ndarray, geometry: RoIGeometry) -> np.ndarray:
    nx, ny = geometry.samples
    crop = np.zeros((len(maps), geometry.size, geometry.size))
    for j, y in enumerate(geometry.points_y):
        for i, x in enumerate(geometry.points_x):
            crop[:, j // ny, i // nx] += sampled(maps, x, y) / (nx * ny)
    return crop


@pytest.mark.parametrize("rule", [r for r in RULES if r != "pool"])
@pytest.mark.parametrize("roi", [0, 3, 11])
def test_the_mean_at_the_points_is_the_crop(rule: str, roi: int) -> None:
    trace = traced(**RULES[rule])
    geometry = pictures.roi_geometry(trace, roi)
    maps = trace[geometry.level][0].double().numpy()
    np.testing.assert_allclose(read_at_points(maps, geometry), geometry.crop.double(), atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_the_largest_in_the_bins_is_the_crop_of_roi_pool(rule: str) -> None:
    trace = traced(**RULES[rule])
    geometry = pictures.roi_geometry(trace, 2)
    maps = trace[geometry.level][0]
    for j, (top, bottom) in enumerate(geometry.pool_y):
        for i, (left, right) in enumerate(geometry.pool_x):
            part = maps[:, top:bottom, left:right].flatten(1)
            wanted = part.amax(1) if part.shape[1] else torch.zeros(len(maps))
            torch.testing.assert_close(geometry.pool_crop[:, j, i], wanted)


@pytest.mark.parametrize("rule", RULES)
def test_the_crop_is_the_one_that_the_network_had(rule: str) -> None:
    trace = traced(**RULES[rule])
    geometry = pictures.roi_geometry(trace, 1)
    own = geometry.pool_crop if geometry.method == "pool" else geometry.crop
    torch.testing.assert_close(own, trace["box_features"][1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", ["aligned", "crop_and_resize"])
def test_the_crop_of_a_detection_is_that_of_the_mask_head(rule: str) -> None:
    trace = traced(**RULES[rule])
    geometry = pictures.roi_geometry(trace, 1, "detections")
    assert geometry.size == 14
    torch.testing.assert_close(geometry.crop, trace["mask_features"][1], atol=1e-5, rtol=1e-5)


def test_the_geometry_of_a_known_box() -> None:
    trace = traced()
    boxes = trace["proposals"].clone()
    boxes[0, 0] = torch.tensor([8.0, 16.0, 36.0, 44.0])  # on p3, stride 8: cells 1 to 4.5 and 2 to 5.5
    levels = trace["roi_levels"].clone()
    levels[0, 0] = 1
    geometry = pictures.roi_geometry(Trace({**trace, "proposals": boxes, "roi_levels": levels}, trace.run))
    assert (geometry.level, geometry.stride, geometry.samples) == ("p3", 8, (2, 2))
    assert geometry.box == (1.0, 2.0, 4.5, 5.5) and geometry.box_in_photo == (8.0, 16.0, 36.0, 44.0)
    np.testing.assert_allclose(geometry.edges_x, 1 + 0.5 * np.arange(8))
    np.testing.assert_allclose(geometry.points_y, 2.125 + 0.25 * np.arange(14))
    assert geometry.pool_box == (1.0, 2.0, 6.0, 7.0)  # 4.5 becomes the cell from 5 to 6


def test_a_detection_without_masks_is_cut_out_for_the_keypoint_head() -> None:
    trace = traced(masks=False, keypoint_names=("nose",), **{"keypoint.num_convs": 1, "keypoint.channels": 8})
    torch.testing.assert_close(pictures.roi_geometry(trace, 0, "detections").crop, trace["keypoint_features"][0])


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_its_picture(rule: str) -> None:
    picture = pictures.roi_align(traced(**RULES[rule]))
    assert picture.mode == "RGB" and min(picture.size) > 400


def test_a_channel_can_be_chosen() -> None:
    trace = traced()
    assert pictures.roi_align(trace, channel=3).tobytes() != pictures.roi_align(trace, channel=4).tobytes()


def test_a_run_of_training_shows_the_rois_that_were_drawn() -> None:
    photo, target = tiny_data()[0]
    trace = tiny_model().trace(photo, targets=target)
    torch.testing.assert_close(pictures.roi_geometry(trace, 2).crop, trace["box_features"][2])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roi": 30}, "There is no RoI 30; there are 30, counted from 0"),
        ({"roi": -1}, "There is no RoI -1"),
        ({"roi": 10, "of": "detections"}, "There is no detection 10; there are 10"),
        ({"of": "boxes"}, "of must be 'proposals' or 'detections'; got 'boxes'"),
        ({"channel": 16}, "There is no channel 16; there are 16"),
    ],
)
def test_what_is_not_there_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pictures.roi_align(traced(), **arguments)


def test_without_a_head_for_detections_there_is_nothing_to_cut_out() -> None:
    with pytest.raises(NothingToShowError, match="no mask or keypoint head"):
        pictures.roi_align(traced(masks=False), of="detections")


def test_nothing_found_is_told() -> None:
    with pytest.raises(NothingToShowError, match="Nothing was found"):
        pictures.roi_align(traced(**{"box.score_threshold": 0.99}), of="detections")
