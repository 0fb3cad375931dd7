"""The COCO annotation format (https://cocodataset.org/#format-data): read and checked.

What is wrong with the file as a whole raises `DatasetError`. What is wrong with one annotation becomes a
sentence in `CocoFile.problems`, and that annotation is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskrcnn.data.segmentation import (
    AnnotationError,
    check_segmentation,
    compact,
    numbers,
    to_rle,
)
from maskrcnn.errors import DatasetError, did_you_mean, os_reason
from maskrcnn.ops.rle import rle_area, rle_box

MAX_SIDE = 1_000_000
"""Longest side an image may claim, in pixels; pycocotools reserves memory by it."""


class CocoImage(NamedTuple):
    """One entry of "images"."""

    id: int | str
    file_name: str
    height: int
    width: int


class CocoObject(NamedTuple):
    """One usable entry of "annotations"; the box is (x, y, width, height) as in the file."""

    name: str
    label: int
    bbox: tuple[float, float, float, float]
    segmentation: Any
    crowd: bool
    area: float
    keypoints: tuple[float, ...] | None = None
    """x, y and visibility of each, one after the other."""


class CocoFile(NamedTuple):
    """A COCO file, checked: `objects[i]` are those of `images[i]`."""

    images: list[CocoImage]
    objects: list[list[CocoObject]]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    problems: list[str]
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of places in `keypoint_names`, from 0."""


def read_coco(path: Path, masks: bool = True, keypoints: bool = False) -> CocoFile:
    """Return the contents of a COCO annotation file.

    Args:
        path: the JSON file.
        masks: False needs no segmentations, and does not look at them.
        keypoints: whether to read keypoints; an object without any has none that is labelled.

    Raises:
        DatasetError: the file is missing, is not JSON or not COCO, has ids twice, or holds annotations
            of which not one is usable.
    """
    data = read_json(path)
    check_is_coco(path, data)
    class_names, category_ids = _categories(path, data["categories"])
    keypoint_names, skeleton = _keypoint_names(path, data["categories"]) if keypoints else ((), ())
    images = _images(path, data["images"])
    _check_unique(path, "annotations", data["annotations"])
    _check_box_format(path, data["annotations"], images)
    places = {image.id: i for i, image in enumerate(images)}
    labels = {category_id: k for k, category_id in enumerate(category_ids)}
    objects: list[list[CocoObject]] = [[] for _ in images]
    problems: list[str] = []
    for position, raw in enumerate(data["annotations"]):
        name = _name("annotations", position, raw)
        try:
            index = _known(raw, "image_id", places)
            name = f"{name} (image {images[index].id}, {images[index].file_name})"
            label = _known(raw, "category_id", labels)
            found = _object(name, raw, images[index], label, masks)
            if keypoints:
                found = found._replace(keypoints=_checked_keypoints(raw, len(keypoint_names)))
            objects[index].append(found)
        except AnnotationError as fault:
            problems.append(f"{name}: {fault}.")
    if problems and not any(objects):
        hint = (
            " For boxes without masks pass masks=False; on the command line, --set masks=false."
            if "has no segmentation" in problems[0]
            else ""
        )
        raise DatasetError(f"{path}: none of the {len(problems)} annotations is usable. {problems[0]}{hint}")
    return CocoFile(images, objects, class_names, category_ids, problems, keypoint_names, skeleton)


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file; raise `DatasetError` where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such annotation file (looked from {Path.cwd()}).") from None
    except IsADirectoryError:
        raise DatasetError(f"{path}: is a folder; pass the JSON file with the annotations.") from None
    except OSError as e:
        raise DatasetError(f"{os_reason(path, e)}.") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: is not JSON; it is not even text in UTF-8.") from None
    except json.JSONDecodeError as e:
        if not e.doc.strip():
            raise DatasetError(f"{path}: the file is empty.") from None
        raise DatasetError(
            f"{path}: is not JSON: {e.msg} at line {e.lineno}, column {e.colno}."
            f"{' The file looks cut off.' if e.pos >= len(e.doc.rstrip()) - 1 else ''}"
        ) from None
    except (RecursionError, ValueError):  # brackets nested, or a number long, beyond any use
        raise DatasetError(f"{path}: is not JSON that can be read; it is nested or long beyond reason.") from None


def check_is_coco(path: Path, data: Any) -> None:
    """Raise `DatasetError` unless `data` has COCO's three lists; says which other format it looks like."""
    parts = ("images", "annotations", "categories")
    missing = [p for p in parts if not isinstance(data, dict) or p not in data]
    if missing:
        keys = [str(k) for k in data] if isinstance(data, dict) else []
        guess = _other_format(data)
        hint = f" It looks like {guess}." if guess else did_you_mean(missing[0], keys)
        raise DatasetError(f"{path}: is not a COCO annotation file; it lacks {_and(missing)}.{hint}")
    for part in parts:
        if not isinstance(data[part], list):
            raise DatasetError(f"{path}: {part!r} must be a list; got {type(data[part]).__name__}.")
        for position, item in enumerate(data[part]):
            if not isinstance(item, dict):
                raise DatasetError(f"{path}: {part}[{position}] must be an object; got {item!r:.60}.")
    if data["annotations"] and "segments_info" in data["annotations"][0]:
        raise DatasetError(f"{path}: is a COCO panoptic file; pass one with instances.")


def _other_format(data: Any) -> str | None:
    if isinstance(data, list):
        first = data[0] if data and isinstance(data[0], dict) else {}
        if "score" in first and "image_id" in first:
            return "a list of COCO results, that is of detections; pass the ground truth they belong to"
        return "a list of annotations without their images" if "category_id" in first else None
    if not isinstance(data, dict):
        return None
    if "shapes" in data and "imagePath" in data:
        return "a LabelMe file, which annotates one image"
    regions = any(isinstance(v, dict) and "regions" in v for v in data.values())
    if "_via_img_metadata" in data or regions:
        return "a file of the VGG Image Annotator (VIA)"
    return None


def _categories(path: Path, raw: list[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return class names and category ids in order of id."""
    if not raw:
        raise DatasetError(f"{path}: 'categories' is empty; it must name at least one class.")
    for position, category in enumerate(raw):
        category_id, name = category.get("id"), category.get("name")
        if not isinstance(category_id, int) or isinstance(category_id, bool):
            raise DatasetError(f"{path}: categories[{position}].id must be a whole number; got {category_id!r:.60}.")
        if not isinstance(name, str) or not name:
            raise DatasetError(f"{path}: categories[{position}].name must be text; got {name!r:.60}.")
    _check_unique(path, "categories", raw)
    _check_unique(path, "categories", raw, "name")
    ordered = sorted(raw, key=lambda category: category["id"])
    return tuple(c["name"] for c in ordered), tuple(c["id"] for c in ordered)


def _keypoint_names(
    path: Path, categories: list[dict[str, Any]]
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Return names and limbs; categories that name keypoints must name the same."""
    named = [c for c in categories if c.get("keypoints")]
    if not named:
        raise DatasetError(
            f"{path}: no category names keypoints; each needs a list 'keypoints' of their names. Without them, "
            "train with --no-keypoints, or set keypoint_names=[]."
        )
    names, first = named[0]["keypoints"], named[0]["name"]
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise DatasetError(
            f"{path}: 'keypoints' of category {first} must be a list of different names; got {names!r:.60}."
        )
    other = next((c["name"] for c in named if c["keypoints"] != names), None)
    if other is not None:
        raise DatasetError(
            f"{path}: the categories {first} and {other} name different keypoints; a network learns one set for all."
        )
    limbs = named[0].get("skeleton") or []
    good = isinstance(limbs, list) and all(
        isinstance(limb, list) and len(limb) == 2 and all(_is_whole(k) and 1 <= k <= len(names) for k in limb)
        for limb in limbs
    )
    if not good:
        raise DatasetError(
            f"{path}: 'skeleton' of category {first} must be pairs of numbers 1 … {len(names)}; got {limbs!r:.60}."
        )
    return tuple(names), tuple((int(a) - 1, int(b) - 1) for a, b in limbs)


def _checked_keypoints(raw: dict[str, Any], count: int) -> tuple[float, ...]:
    """Return x, y and visibility of each keypoint; all not labelled where the annotation has none."""
    given = raw.get("keypoints")
    if not given:
        return (0.0,) * (3 * count)
    values = numbers(given)
    if values is None or len(values) != 3 * count:
        raise AnnotationError(
            f"keypoints must be {3 * count} numbers, (x, y, visibility) of {count}; got {given!r:.60}"
        )
    if not np.isfinite(values).all() or not np.isin(values[2::3], (0, 1, 2)).all():
        raise AnnotationError("keypoints must be finite, and their visibility 0, 1 or 2")
    return tuple(values.tolist())


def _images(path: Path, raw: list[dict[str, Any]]) -> list[CocoImage]:
    if not raw:
        raise DatasetError(f"{path}: 'images' is empty.")
    rules: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "id": ("a number or text", lambda v: isinstance(v, (int, float, str))),
        "file_name": ("text", lambda v: isinstance(v, str) and bool(v) and "\0" not in v),
        "height": (f"a whole number from 1 to {MAX_SIDE}", lambda v: _is_whole(v) and 1 <= v <= MAX_SIDE),
        "width": (f"a whole number from 1 to {MAX_SIDE}", lambda v: _is_whole(v) and 1 <= v <= MAX_SIDE),
    }
    for position, image in enumerate(raw):
        for key, (rule, holds) in rules.items():
            if not holds(image.get(key)):
                got = f"got {image[key]!r:.60}" if key in image else "it is missing"
                raise DatasetError(f"{path}: {key!r} of {_name('images', position, image)} must be {rule}; {got}.")
    _check_unique(path, "images", raw)
    return [CocoImage(i["id"], i["file_name"], int(i["height"]), int(i["width"])) for i in raw]


def _is_whole(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, int) or value.is_integer()


def _check_unique(path: Path, part: str, items: Iterable[dict[str, Any]], key: str = "id") -> None:
    seen: dict[Any, int] = {}
    for position, item in enumerate(items):
        value = item.get(key)
        if not isinstance(value, (int, float, str)):
            continue  # annotations need no id here
        if value in seen:
            raise DatasetError(
                f"{path}: {part}[{seen[value]}] and {part}[{position}] have the same {key} {value!r:.60}; "
                f"it must be unique. Were files put together without renumbering?"
            )
        seen[value] = position


def _check_box_format(path: Path, annotations: list[dict[str, Any]], images: list[CocoImage]) -> None:
    """Raise `DatasetError` where most boxes make sense only as corners, or as fractions of the image."""
    sizes: dict[Any, tuple[int, int]] = {image.id: (image.width, image.height) for image in images}
    rows = []
    for raw in annotations:
        box, image_id = numbers(raw.get("bbox")), raw.get("image_id")
        if box is not None and len(box) == 4 and isinstance(image_id, (int, float, str)) and image_id in sizes:
            rows.append([*box, *sizes[image_id]])
    if len(rows) < 3:
        return  # too few to tell a habit from a slip
    x, y, w, h, width, height = np.array(rows).T
    corners = (w > x) & (h > y) & (w <= width) & (h <= height) & ((x + w > width + 1) | (y + h > height + 1))
    rule = "bbox must be (x, y, width, height) in pixels"
    if corners.mean() > 0.5:
        raise DatasetError(f"{path}: {rule}; most of them reach outside their image, and look like (x1, y1, x2, y2).")
    if ((x + w <= 1) & (y + h <= 1) & ((w < 1) | (h < 1))).all():
        raise DatasetError(f"{path}: {rule}; all of them lie within 0 … 1, and look like fractions of the image.")


def _known(raw: dict[str, Any], key: str, places: dict[Any, int]) -> int:
    value = raw.get(key)
    if key not in raw:
        raise AnnotationError(f"it has no {key}")
    if not isinstance(value, (int, float, str)) or value not in places:
        part = "images" if key == "image_id" else "categories"
        raise AnnotationError(f"its {key} {value!r:.60} is not among the file's {part}")
    return places[value]


def _object(name: str, raw: dict[str, Any], image: CocoImage, label: int, masks: bool) -> CocoObject:
    """Return a checked annotation; a missing box or area is taken from its mask."""
    crowd = raw.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise AnnotationError(f"iscrowd must be 0 or 1; got {crowd!r:.60}")
    segmentation = (raw.get("segmentation") or None) if masks else None
    if masks and segmentation is None:
        raise AnnotationError("it has no segmentation")
    if masks:
        check_segmentation(segmentation, image.height, image.width)
    bbox, area = raw.get("bbox"), raw.get("area")
    if not bbox:
        if segmentation is None:
            raise AnnotationError("it has no bbox")
        bbox = rle_box(to_rle(segmentation, image.height, image.width))
    box = _checked_box(bbox, image)
    if isinstance(area, bool) or not isinstance(area, (int, float)) or not 0 < area < 1e18:
        area = box[2] * box[3] if segmentation is None else rle_area(to_rle(segmentation, image.height, image.width))
    kept = None if segmentation is None else compact(segmentation)
    return CocoObject(name, label, box, kept, bool(crowd), float(area))


def _checked_box(bbox: object, image: CocoImage) -> tuple[float, float, float, float]:
    values = numbers(bbox)
    if values is None or len(values) != 4:
        raise AnnotationError(f"bbox must be four numbers, (x, y, width, height); got {bbox!r:.60}")
    if not np.isfinite(values).all():
        raise AnnotationError(f"bbox {bbox} has a NaN or infinite number")
    x, y, w, h = values.tolist()
    if w < 0 or h < 0:
        raise AnnotationError(f"bbox {bbox} has a negative width or height")
    if w == 0 or h == 0:
        raise AnnotationError(f"bbox {bbox} has no area")
    x1, y1, x2, y2 = clipped_box((x, y, w, h), image)
    if not (x1 < x2 and y1 < y2):
        outside = x >= image.width or y >= image.height or x + w <= 0 or y + h <= 0
        where = f"lies outside the image of {image.width} × {image.height} pixels" if outside else "has no area"
        raise AnnotationError(f"bbox {bbox} {where}")
    return x, y, w, h


def clipped_box(bbox: tuple[float, float, float, float], image: CocoImage) -> list[float]:
    """Return (x1, y1, x2, y2) inside the image, at the precision that a target keeps."""
    x, y, w, h = bbox
    x1, y1, x2, y2 = np.array([x, y, x + w, y + h], np.float32).tolist()
    return [max(x1, 0.0), max(y1, 0.0), min(x2, float(image.width)), min(y2, float(image.height))]


def _name(part: str, position: int, raw: dict[str, Any]) -> str:
    """Return how to call an item: by its id where it has one, else by its place in the file."""
    item_id = raw.get("id")
    one = part.removesuffix("s")
    return f"{one} {item_id}" if isinstance(item_id, (int, float, str)) else f"{part}[{position}]"


def _and(words: list[str]) -> str:
    quoted = [repr(w) for w in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
