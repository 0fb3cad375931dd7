"""Pictures of detections: masks, boxes and labels laid over the photo.

The colours differ for colour-blind readers as well, and text and lines grow with the picture, so that a
thumbnail and a 20-megapixel photo are equally legible.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from maskrcnn.errors import InputError
from maskrcnn.fonts import font_for, shortened
from maskrcnn.keypoints import Side, side_of
from maskrcnn.ops.rle import rle_crop
from maskrcnn.structures import Detections, Target

RGB = tuple[int, int, int]
Rect = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture; right and bottom excluded."""
_Crop = tuple[int, int, Bool[np.ndarray, "h w"]]
"""The first row and column of a mask, and its pixels from there on."""

PALETTE: tuple[RGB, ...] = (
    *((0xF7, 0x70, 0x36), (0x42, 0x5A, 0xEC), (0x2E, 0xF4, 0xAC), (0xC5, 0x06, 0x77)),  # orange … magenta
    *((0x1B, 0xB9, 0xFA), (0xF7, 0xCC, 0x4B), (0x23, 0xAC, 0x6A), (0x91, 0x46, 0xB8)),  # sky … purple
    *((0xFC, 0x8D, 0xC8), (0xDF, 0x24, 0x14), (0x84, 0x7F, 0xFC), (0xCD, 0x63, 0xC6)),  # pink … orchid
)
"""Any two differ by at least 0.13 in OKLab, and by 0.07 with protanopia, deuteranopia or tritanopia
(simulated after Machado et al. 2009); the first ones differ most."""

SURE = {"softmax": 0.05, "logit": 0.0}
"""Keypoints are drawn whose score exceeds this, by what scores mean (`KeypointHeadConfig.scores`)."""

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
_PAPER, _INK = (255, 255, 255), (33, 37, 41)


def color(index: int) -> RGB:
    """Return the colour of the index-th instance or class: twelve chosen ones, then spread hues."""
    if index < len(PALETTE):
        return PALETTE[index]
    # Beyond twelve no palette keeps all apart; neighbours in number still differ in hue and lightness.
    i = index - len(PALETTE)
    return _oklch((0.62, 0.80, 0.71)[i % 3], 0.17, 0.4 + i * _GOLDEN_ANGLE)


def _oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """Return the sRGB colour of OKLCH (Ottosson 2020), with less chroma where the screen cannot show it."""
    while True:
        a, b = chroma * math.cos(hue), chroma * math.sin(hue)
        lms = (
            (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3,
            (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3,
            (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3,
        )
        linear = (
            4.0767416621 * lms[0] - 3.3077115913 * lms[1] + 0.2309699292 * lms[2],
            -1.2684380046 * lms[0] + 2.6097574011 * lms[1] - 0.3413193965 * lms[2],
            -0.0041960863 * lms[0] - 0.7034186147 * lms[1] + 1.7076147010 * lms[2],
        )
        if all(0 <= v <= 1 for v in linear) or chroma < 0.01:
            break
        chroma *= 0.95
    gamma = [12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in linear]
    red, green, blue = (round(255 * min(max(v, 0.0), 1.0)) for v in gamma)
    return red, green, blue


def overlay(
    image: UInt8[np.ndarray, "H W 3"],
    detections: Detections,
    *,
    color_by: Literal["instance", "class"] = "instance",
    alpha: float = 0.45,
    labels: bool = True,
    scores: bool = True,
    scale: int = 1,
    colors: Sequence[RGB] | None = None,
    texts: Sequence[str] | None = None,
) -> Image.Image:
    """Return the photo with the detections drawn on it, the best on top.

    Args:
        image: the photo, RGB.
        detections: in the frame of the photo.
        color_by: `instance` gives neighbours from left to right different colours, and so mostly the same
            object the same colour in two pictures of one photo; `class` gives each class its own.
        alpha: opacity of the masks, 0 to 1.
        labels: whether each object has a label, which many small objects can vanish behind.
        scores: whether the labels tell the score.
        scale: whole factor by which small images are enlarged first; lines and text stay sharp.
        colors: one for each object, in place of `color_by`.
        texts: a label for each object, in place of class and score.

    Raises:
        InputError: the detections belong to an image of another size, or an argument is out of range.
    """
    height, width = image.shape[:2]
    if detections.image_size != (height, width):
        h, w = detections.image_size
        raise InputError(
            f"detections must be of the image they are drawn on, {width} × {height} pixels; got {w} × {h}."
        )
    if scale < 1 or not 0 <= alpha <= 1:
        raise InputError(f"scale must be at least 1 and alpha 0 to 1; got {scale} and {alpha}.")
    for name, given in (("colors", colors), ("texts", texts)):
        if given is not None and len(given) != len(detections):
            raise InputError(f"{name} must be one for each of {len(detections)} detections; got {len(given)}.")
    colors = _colors(detections, color_by) if colors is None else list(colors)
    size = (width * scale, height * scale)
    line = math.ceil(min(size) / 400)
    canvas = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    _paint_masks(canvas, _crops(detections), colors, alpha, line, scale)
    picture = Image.fromarray(canvas)
    _paint_skeletons(picture, detections, colors, line, scale)
    rects = [_rect(box, scale, size) for box in detections.boxes.tolist()]
    draw = ImageDraw.Draw(picture)
    for rect, ink in reversed(list(zip(rects, colors, strict=True))):
        _draw_box(draw, rect, ink, line)
    if labels:
        _draw_chips(picture, rects, _texts(detections, scores) if texts is None else list(texts), colors)
    return picture


def _colors(detections: Detections, color_by: Literal["instance", "class"]) -> list[RGB]:
    if color_by == "class":
        return [color(label) for label in detections.labels.tolist()]
    centres = (detections.boxes[:, 0] + detections.boxes[:, 2]).tolist()
    order = sorted(range(len(centres)), key=lambda i: (centres[i], i))
    rank = {i: place for place, i in enumerate(order)}
    return [color(rank[i]) for i in range(len(centres))]


def _texts(detections: Detections, scores: bool) -> list[str]:
    named = zip(detections.names, detections.scores.tolist(), strict=True)
    return [f"{name} {score:.2f}" if scores else name for name, score in named]


def _crops(detections: Detections) -> Iterator[_Crop | None]:
    """Yield what each mask covers, one at a time, since all masks of a large photo may not fit in memory.

    Yields None for an empty mask, and nothing where there are no masks.
    """
    if detections.rles is not None:
        yield from map(rle_crop, detections.rles)
    elif detections.masks is not None:
        yield from map(_crop, detections.masks.cpu().numpy())


def _paint_masks(
    canvas: UInt8[np.ndarray, "h w 3"],
    crops: Iterable[_Crop | None],
    colors: list[RGB],
    alpha: float,
    line: int,
    scale: int,
) -> None:
    """Lay the masks and their outlines on the canvas, in place.

    Where masks overlap the better detection owns the pixel, so colours never mix to a third one.
    """
    taken = np.zeros([side // scale for side in canvas.shape[:2]], bool)
    outlined = np.zeros(canvas.shape[:2], np.uint16)  # by which object, counted from 1
    for number, (crop, ink) in enumerate(zip(crops, colors, strict=False), start=1):
        if crop is None:
            continue
        top, left, mask = crop
        height, width = mask.shape
        before = taken[top : top + height, left : left + width]
        own = mask & ~before
        before |= mask
        window = slice(top * scale, (top + height) * scale), slice(left * scale, (left + width) * scale)
        area, fill = canvas[window], _enlarged(own, scale)
        mixed = np.rint(np.arange(256)[:, None] * (1 - alpha) + np.array(ink) * alpha).astype(np.uint8)
        area[fill] = mixed[area[fill], np.arange(3)]
        edge = _outline(_enlarged(mask, scale), line) & (outlined[window] == 0)
        outlined[window][edge] = number
    drawn = outlined > 0
    canvas[drawn] = np.array([(0, 0, 0), *colors], np.uint8)[outlined[drawn]]


def _paint_skeletons(picture: Image.Image, detections: Detections, colors: list[RGB], line: int, scale: int) -> None:
    """Draw limbs and keypoints in the colour of their object, ringed in white, the best objects on top.

    What is left is lighter and what is right darker, so that crossed legs can be told apart. Strokes are thinner on
    small objects. Shown are keypoints of which the network is sure, and of ground truth those that are labelled.
    """
    if detections.keypoints is None or not len(detections):
        return
    points = detections.keypoints.cpu()
    shown = points[..., 2] > SURE[detections.keypoint_scores]
    sides = [side_of(name) for name in detections.keypoint_names] or [None] * points.shape[1]
    extents = ((detections.boxes[:, 2:] - detections.boxes[:, :2]).amax(1) * scale).tolist()
    draw = ImageDraw.Draw(picture)
    people = list(zip(points.tolist(), shown.tolist(), colors, extents, strict=True))
    for person, visible, ink, extent in reversed(people):
        width = round(min(max(2 * line, 2), max(extent / 50, 1)))
        ring = max(1, round(width / 4))
        inks = {None: ink, "left": _mixed(ink, _PAPER, 0.4), "right": _mixed(ink, _INK, 0.45)}
        places = [(x * scale, y * scale) for x, y, _ in person]
        limbs = [(a, b) for a, b in detections.skeleton if visible[a] and visible[b]]
        for a, b in limbs:
            draw.line((places[a], places[b]), fill=_PAPER, width=width + 2 * ring)
        for a, b in limbs:
            draw.line((places[a], places[b]), fill=inks[_side_of_limb(sides[a], sides[b])], width=width)
        r = width + ring if width > 1 else 1
        for (x, y), seen, side in zip(places, visible, sides, strict=True):
            if seen:
                draw.ellipse((x - r, y - r, x + r, y + r), fill=inks[side], outline=_PAPER, width=ring)


def _side_of_limb(one: Side, other: Side) -> Side:
    """Return the side of a limb: that of its ends, None for one that crosses the middle, as between the shoulders."""
    return one or other if None in (one, other) or one == other else None


def _mixed(ink: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(ink, other, strict=True))
    return red, green, blue


def _crop(mask: Bool[np.ndarray, "H W"]) -> _Crop | None:
    """Return the part of the image that the mask occupies, or None for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return top, left, mask[top:bottom, left:right]


def _enlarged(mask: Bool[np.ndarray, "H W"], scale: int) -> Bool[np.ndarray, "h w"]:
    return mask if scale == 1 else mask.repeat(scale, axis=0).repeat(scale, axis=1)


def _outline(mask: Bool[np.ndarray, "H W"], line: int) -> Bool[np.ndarray, "H W"]:
    """Return the mask's own pixels within `line` of its border."""
    inner = np.pad(mask, line)
    for _ in range(line):
        core = inner.copy()
        core[1:] &= inner[:-1]
        core[:-1] &= inner[1:]
        core[:, 1:] &= inner[:, :-1]
        core[:, :-1] &= inner[:, 1:]
        inner = core
    return mask & ~inner[line:-line, line:-line]


def _rect(box: Sequence[float], scale: int, size: tuple[int, int]) -> Rect:
    """Return the box in whole pixels of the picture, at least one wide and inside it."""
    width, height = size
    x1, y1, x2, y2 = (round(v * scale) for v in box)
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return x1, y1, min(max(x2, x1 + 1), width), min(max(y2, y1 + 1), height)


def _draw_box(draw: ImageDraw.ImageDraw, rect: Rect, ink: RGB, line: int) -> None:
    x1, y1, x2, y2 = rect
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=ink, width=line)


def _draw_chips(picture: Image.Image, rects: list[Rect], texts: list[str], colors: list[RGB]) -> None:
    """Write the labels on chips in the boxes' colours, each where no other is; the best choose first."""
    size = max(11, round(min(picture.size) / 36))
    pad = max(2, round(size / 4))
    fonts = [font_for(size, text) for text in texts]
    draw = ImageDraw.Draw(picture)
    placed: list[Rect] = []
    for i, (rect, font) in enumerate(zip(rects, fonts, strict=True)):
        texts[i] = shortened(texts[i], font, picture.width - 2 * pad)
        width = min(math.ceil(font.getlength(texts[i])) + 2 * pad, picture.width)
        placed.append(_free_place(rect, (width, sum(font.getmetrics()) + pad), picture.size, placed))
    for (x1, y1, x2, y2), text, font, ink in reversed(list(zip(placed, texts, fonts, colors, strict=True))):
        draw.rounded_rectangle((x1, y1, x2 - 1, y2 - 1), radius=pad // 2, fill=ink)
        draw.text((x1 + pad, y1 + pad / 2), text, font=font, fill=readable_on(ink))


def _free_place(rect: Rect, chip: tuple[int, int], size: tuple[int, int], placed: list[Rect]) -> Rect:
    """Return where a chip of (width, height) touches its box and hides the least of other chips."""
    x1, y1, x2, y2 = rect
    w, h = chip
    corners = [(x1, y1 - h), (x2 - w, y1 - h), (x1, y1), (x1, y2), (x2 - w, y2), (x1, y2 - h), (x2 - w, y1)]
    down = [(x1, y1 + k * h) for k in range(1, max(1, (y2 - y1) // max(h, 1)))]
    best, least = None, math.inf
    for order, (x, y) in enumerate(corners + down):
        inside_x, inside_y = min(max(x, 0), max(size[0] - w, 0)), min(max(y, 0), max(size[1] - h, 0))
        place = (inside_x, inside_y, inside_x + w, inside_y + h)
        hidden = sum(_overlap(place, other) for other in placed)
        # A few shared pixels do not hurt, and a place pushed back into the picture covers the object.
        cost = max(0.0, hidden - 0.03 * w * h) + 1e-3 * order + 0.5 * ((x, y) != (inside_x, inside_y))
        if cost < least:
            best, least = place, cost
    assert best is not None
    return best


def _overlap(a: Rect, b: Rect) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _luminance(rgb: RGB) -> float:
    """Return the relative luminance of WCAG 2."""
    linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def readable_on(background: RGB) -> RGB:
    """Return black or white, whichever has more contrast."""
    return (0, 0, 0) if _luminance(background) > 0.179 else (255, 255, 255)


def side_by_side(left: Image.Image, right: Image.Image, titles: tuple[str, str]) -> Image.Image:
    """Return two pictures next to each other, each under its title.

    Pictures of different height are enlarged to the taller one.
    """
    height = max(left.height, right.height)
    pair = [_to_height(p, height) for p in (left, right)]
    size = max(12, round(min(height, *(p.width for p in pair)) / 24))
    gap, bar = size // 2, size * 2
    sheet = Image.new("RGB", (pair[0].width + gap + pair[1].width, height + bar), _PAPER)
    draw = ImageDraw.Draw(sheet)
    x = 0
    for picture, title in zip(pair, titles, strict=True):
        sheet.paste(picture, (x, bar))
        font = font_for(size, title)
        title = shortened(title, font, picture.width)
        draw.text((x + picture.width / 2, bar / 2), title, font=font, fill=_INK, anchor="mm")
        x += picture.width + gap
    return sheet


def _to_height(picture: Image.Image, height: int) -> Image.Image:
    picture = picture.convert("RGB")
    if picture.height == height:
        return picture
    return picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.BICUBIC)


def contact_sheet(pictures: Sequence[Image.Image], columns: int, gap: int = 8) -> Image.Image:
    """Return the pictures in rows and columns, each centred in its cell.

    Raises:
        InputError: there is no picture, or `columns` or `gap` is out of range.
    """
    if not pictures or columns < 1 or gap < 0:
        raise InputError(
            f"contact_sheet needs at least one picture, columns of 1 or more and gap of 0 or more; "
            f"got {len(pictures)} pictures, columns {columns} and gap {gap}."
        )
    columns = min(columns, len(pictures))
    widths = [max(p.width for p in pictures[c::columns]) for c in range(columns)]
    heights = [max(p.height for p in pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
    size = (sum(widths) + gap * (len(widths) + 1), sum(heights) + gap * (len(heights) + 1))
    sheet = Image.new("RGB", size, _PAPER)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        x = sum(widths[:column]) + gap * (column + 1) + (widths[column] - picture.width) // 2
        y = sum(heights[:row]) + gap * (row + 1) + (heights[row] - picture.height) // 2
        sheet.paste(picture.convert("RGB"), (x, y))
    return sheet


def target_as_detections(
    target: Target,
    image_size: tuple[int, int],
    class_names: Sequence[str],
    skeleton: tuple[tuple[int, int], ...] = (),
) -> Detections:
    """Return the ground truth as detections of score 1, to be drawn like them."""
    values: dict[str, Any] = {"boxes": target.boxes, "labels": target.labels, "masks": target.masks}
    return Detections(
        **values,
        scores=torch.ones(len(target), device=target.boxes.device),
        image_size=image_size,
        class_names=tuple(class_names),
        keypoints=target.keypoints,
        skeleton=skeleton,
    )
