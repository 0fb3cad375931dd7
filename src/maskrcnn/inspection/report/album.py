"""The pictures of a report, each kept once as a data URI under a name."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

QUALITY = 80
"""Of WebP, for what is no picture of single cells."""


class Album:
    """Pictures by name; what is added twice under a name is kept once."""

    def __init__(self) -> None:
        self.pictures: dict[str, str] = {}
        self.sizes: dict[str, tuple[int, int]] = {}

    def add(self, name: str, picture: Image.Image | UInt8[np.ndarray, "h w 3"], cells: bool = False) -> str:
        """Keep a picture and return its name.

        Args:
            name: under which it is asked for.
            picture: the picture.
            cells: whether its pixels are single values: then none is changed.
        """
        if name not in self.pictures:
            image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
            self.pictures[name] = data_uri(image, lossless=cells)
            self.sizes[name] = image.size
        return name


def data_uri(picture: Image.Image, lossless: bool = False) -> str:
    """Return a picture as WebP in a data URI.

    Example:
        >>> data_uri(Image.new("RGB", (2, 2)))[:28]
        'data:image/webp;base64,UklGR'
    """
    buffer = io.BytesIO()
    if lossless:
        picture.save(buffer, "WEBP", lossless=True, quality=60, method=2)
    else:
        picture.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
