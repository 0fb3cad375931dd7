"""The sheet that shows the way of one detection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn import MaskRCNN
from maskrcnn.inspection.follow import follow
from maskrcnn.inspection.pictures.trail import FOUND, PROPOSAL, SIDE, trail_picture
from tiny import tiny_data, tiny_model


def sheet(model: MaskRCNN, number: int = 0) -> Image.Image:
    trace = model.eval().trace(tiny_data()[0][0])
    return trail_picture(trace, follow(trace, number))


def has(picture: Image.Image, ink: tuple[int, int, int]) -> bool:
    return bool((np.asarray(picture) == np.array(ink, np.uint8)).all(-1).any())


def test_one_sheet_of_nine_panels() -> None:
    picture = sheet(tiny_model())
    assert picture.mode == "RGB"
    assert 3 * SIDE < picture.width < 3 * SIDE + 100
    assert has(picture, FOUND) and has(picture, PROPOSAL)


def test_each_detection_has_its_own() -> None:
    model = tiny_model()
    assert sheet(model, 0).tobytes() == sheet(model, 0).tobytes() != sheet(model, 1).tobytes()


def test_what_a_network_lacks_is_left_out() -> None:
    bare, masks, both = (
        sheet(tiny_model(**overrides)).height for overrides in ({"masks": False}, {}, {"keypoint_names": ("nose",)})
    )
    assert bare + SIDE < masks < both


@pytest.mark.parametrize("value", [1e4, float("nan")], ids=["wild", "NaN"])
def test_wild_weights_are_drawn_too(value: float) -> None:
    model = tiny_model(rpn__max_log_scale=None, rpn__clip="input")
    with torch.no_grad():
        model.mask_head.predictor.weight.fill_(value)
        model.rpn.deltas.weight.mul_(1e4)
    assert sheet(model).width > 3 * SIDE


def test_a_long_class_name_does_not_widen_the_sheet() -> None:
    model = tiny_model()
    model.config = model.config.replace({"class_names": ("x" * 300, "square", "triangle")})
    assert sheet(model).width < 3 * SIDE + 100
