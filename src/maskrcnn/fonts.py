"""Letters in pictures: Pillow's own font, and the system's for characters that it lacks."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from PIL import ImageFont

from maskrcnn.errors import InputError

_SYSTEM_FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf"),  # Linux
    *("Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc"),  # macOS
    *("arial.ttf", "msyh.ttc", "msgothic.ttc", "malgun.ttf"),  # Windows
)


def font_for(size: int, text: str) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, or the one of the system's that lacks the fewest of the characters.

    Args:
        size: in pixels.
        text: what is to be written.

    Raises:
        InputError: this Pillow cannot draw letters of any size.
    """
    return _font_with(size, "".join(sorted({c for c in text if not c.isascii() and not c.isspace()})))


@lru_cache(maxsize=256)
def _font_with(size: int, characters: str) -> ImageFont.FreeTypeFont:
    own = ImageFont.load_default(size=size)
    if not isinstance(own, ImageFont.FreeTypeFont):
        raise InputError("Labels need Pillow with FreeType; install the pillow wheel from PyPI.")
    best, fewest = own, _missing(own, characters)
    for name in _SYSTEM_FONTS:
        if fewest == 0:
            break
        with suppress(OSError):
            font = ImageFont.truetype(name, size)
            if _missing(font, characters) < fewest:
                best, fewest = font, _missing(font, characters)
    return best


def _missing(font: ImageFont.FreeTypeFont, characters: str) -> int:
    """Return how many characters become the font's box for unknown ones."""
    unknown = bytes(font.getmask("\U0010fffd"))
    return sum(bytes(font.getmask(c)) == unknown for c in characters)


def shortened(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """Return the text, or its beginning and three dots, so that it is at most `room` pixels wide."""
    if font.getlength(text) <= room:
        return text
    while len(text) > 1 and font.getlength(text + "...") > room:
        text = text[:-1]
    return text + "..."  # Pillow's own font is ASCII only and has no ellipsis.
