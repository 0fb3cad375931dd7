"""Every drawing is tidy: nothing overlaps, no text leaves its box, arrows end on boxes and run around others."""

from __future__ import annotations

import pytest

from drawn import NETWORKS, drawn, flaws
from maskrcnn.inspection.drawings import LEVELS, Arrow, Box, Sheet, compare

A4 = ((785.0, 538.0), (538.0, 785.0))
"""Points of a page with 10 mm left free, lying and standing."""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_drawn_tidily(name: str, level: str) -> None:
    for sheet in drawn(name, level):
        assert list(flaws(sheet)) == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("one", "other"), [("resnet101-fpn", "vgg"), ("keypoints", "c4"), ("no masks", "one class")])
def test_comparisons_are_tidy(one: str, other: str, level: str) -> None:
    for sheet in compare(NETWORKS[one], NETWORKS[other], level, names=(one, "a long name " * 20)).sheets:
        assert list(flaws(sheet)) == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["resnet101-fpn", "thousand classes", "resnet18-fpn", "c4", "dc5", "vgg", "no masks"])
def test_drawings_are_legible_on_a4(name: str, level: str) -> None:
    for sheet in drawn(name, level):
        smallest = min(line.size for line in sheet.all_text())
        points = smallest * max(min(w / sheet.width, h / sheet.height) for w, h in A4)
        assert points > 5.8, (sheet.key, points)


def test_parts_have_the_proportions_of_a_slide() -> None:
    [sheet] = drawn("c4 keypoints", "parts")
    assert sheet.width / sheet.height == pytest.approx(16 / 9)


def untidy(**change: object) -> Sheet:
    """Return a sheet with two boxes and an arrow around a third, one of them changed."""
    a, b, c = (Box(key, "rpn", key, x=100.0 * k + 20, y=50.0, w=60.0, h=40.0) for k, key in enumerate("abc"))
    around = [(50.0, 50.0), (50.0, 20.0), (250.0, 20.0), (250.0, 50.0)]
    sheet = Sheet("s", "", "", 400.0, 200.0, [a, b, c], [Arrow("a", "c", around)])
    for key, value in change.items():
        box, _, name = key.partition("_")
        setattr(sheet.arrows[0] if box == "arrow" else sheet[box], name, value)
    return sheet


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        ({}, None),
        ({"b_x": 60.0}, "a overlaps b"),
        ({"c_x": 390.0}, "c leaves the sheet"),
        ({"b_title": "far too long a title"}, "'far too long a title' leaves b"),
        ({"arrow_points": [(80.0, 60.0), (220.0, 60.0)]}, "a to c runs through b"),
        ({"arrow_points": [(50.0, 40.0), (50.0, 20.0), (250.0, 20.0), (250.0, 50.0)]}, "a to c does not end on a"),
        ({"arrow_points": [(50.0, 50.0), (70.0, 20.0), (250.0, 20.0), (250.0, 50.0)]}, "a to c is aslant"),
    ],
)
def test_the_check_finds_what_is_wrong(change: dict[str, object], flaw: str | None) -> None:
    found = list(flaws(untidy(**change)))
    assert flaw in found if flaw else not found
