"""Texts are measured as DejaVu Sans has them, so that what fits here fits in narrower fonts."""

from __future__ import annotations

import pytest

from drawn import NETWORKS, drawn
from maskrcnn.inspection.drawings import LEVELS
from maskrcnn.inspection.drawings.text import shortened, width
from maskrcnn.inspection.drawings.words import listed, millions, number


def measured(text: str, bold: bool) -> float:
    """Return the width of a text by matplotlib's own DejaVu Sans, at 100 units to the em."""
    from matplotlib import font_manager
    from matplotlib.textpath import TextToPath

    font = font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=100)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]


@pytest.mark.parametrize("bold", [False, True])
@pytest.mark.parametrize("text", ["conv 3×3 /2", "⌊4 + log2(√(w·h) / 224)⌋", "1024 → 256", "↻ for each of p2 … p6"])
def test_widths_are_those_of_the_font(text: str, bold: bool) -> None:
    assert width(text, 100.0, bold) == pytest.approx(measured(text, bold), rel=0.03)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["resnet101-fpn", "keypoints", "matterport"])
def test_every_character_that_is_drawn_is_known(name: str, level: str) -> None:
    assert NETWORKS[name]
    for sheet in drawn(name, level):
        for line in sheet.all_text():
            assert all(width(character, 10.0) != 11.0 for character in line.text), line.text


def test_unknown_characters_count_as_wide_as_any() -> None:
    assert width("物体", 10.0) == pytest.approx(22.0)


def test_long_texts_are_shortened() -> None:
    assert shortened("abc", 10.0, 100.0) == "abc"
    assert shortened("abcdefgh", 10.0, 30.0) == "abc…"


def test_numbers_are_short() -> None:
    assert [millions(n) for n in (0, 999, 1000, 62_900_000, 1_200_000_000)] == ["0", "999", "1 k", "62.9 M", "1.2 G"]
    assert [number(v) for v in (0.001, 0.5, 224.0, 123456.0)] == ["0.001", "0.5", "224", "123,456"]
    assert listed((1.0, 2.0, 3.0)) == "1, 2, 3" and listed([float(k) for k in range(9)]) == "0, 1 … 8"
