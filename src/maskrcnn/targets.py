"""The door for ground truth: checked, with readable errors.

`check_target` refuses what would train without an error but wrongly, such as masks of 0 and 255, boxes
given as (x, y, width, height) or labels that count the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from maskrcnn.errors import InputError, counted, did_you_mean
from maskrcnn.structures import ImageBatch, Target, TargetBatch

BORDER = 1.0
"""Pixels by which a box may reach over the border of its image; it is then clipped. Annotation tools
that count the last pixel or round differently exceed it by up to one."""


def check_batch(targets: object, images: ImageBatch, num_classes: int, masks: bool, num_keypoints: int = 0) -> None:
    """Raise `InputError` unless a batch of targets fits its images and the network.

    Values are looked at on an eager CPU alone: elsewhere the look would have to wait for the device.
    """
    count, _, height, width = images.tensor.shape
    if not isinstance(targets, TargetBatch):
        raise InputError(
            f"targets must be a TargetBatch; got {type(targets).__name__}. batching.batch_targets makes one from "
            "Targets in the input frame; training.train takes data sets of photos and their targets as they are."
        )
    if targets.boxes.ndim != 3 or not targets.boxes.shape[1]:
        raise InputError(f"targets.boxes must be [N, G, 4] with G at least 1; got {list(targets.boxes.shape)}.")
    if len(targets.boxes) != count:
        raise InputError(
            f"targets must hold one target for each image; got {counted(len(targets.boxes), 'target')} for "
            f"{counted(count, 'image')}. An image without objects needs a target with no boxes."
        )
    slots = targets.boxes.shape[1]
    shapes = {"boxes": (count, slots, 4), "labels": (count, slots), "valid": (count, slots)}
    if masks:
        shapes["masks"] = (count, slots, height, width)
    if num_keypoints:
        shapes["keypoints"] = (count, slots, num_keypoints, 3)
        if targets.keypoints is None:
            raise InputError("targets.keypoints is missing, and this network learns keypoints.")
    for name, shape in shapes.items():
        got = getattr(targets, name)
        if tuple(got.shape) != shape:
            where = ", the size of the padded images" if name == "masks" else ""
            raise InputError(f"targets.{name} must be {list(shape)}{where}; got {list(got.shape)}.")
    types = {"boxes": torch.float32, "labels": torch.int64, "valid": torch.bool, "masks": torch.bool}
    for name, wanted in types.items():
        if getattr(targets, name).dtype != wanted:
            raise InputError(f"targets.{name} must be {wanted}; got {getattr(targets, name).dtype}.")
    if torch.compiler.is_compiling() or targets.labels.device.type != "cpu":
        return
    x1, y1, x2, y2 = targets.boxes.unbind(-1)
    wrong = targets.valid & ~((x1 < x2) & (y1 < y2) & targets.boxes.isfinite().all(-1))
    if wrong.any():
        n, g = wrong.nonzero()[0].tolist()
        got = ", ".join(f"{v:.6g}" for v in targets.boxes[n, g].tolist())
        _refuse(f"targets.boxes[{n}, {g}]", "satisfy x1 < x2 and y1 < y2", f"got ({got})", _XYWH)
    wrong = targets.valid & ((targets.labels < 0) | (targets.labels >= num_classes))
    if wrong.any():
        n, g = wrong.nonzero()[0].tolist()
        _refuse_label(f"targets.labels[{n}, {g}]", int(targets.labels[n, g]), num_classes)


def check_target(
    target: object,
    image_size: tuple[int, int],
    num_classes: int,
    masks: bool,
    name: str = "targets[0]",
    num_keypoints: int = 0,
) -> Target:
    """Return the ground truth of one image as a `Target` of float32, int64 and bool tensors.

    No object at all is fine. Boxes that exceed the image by up to one pixel are clipped to it.

    Args:
        target: a `Target`, or a mapping with torchvision's keys: boxes, labels, masks, and optionally
            iscrowd (or crowd), area and keypoints, each a tensor, an array or a list. Other keys are ignored.
        image_size: (height, width) of the original photo.
        num_classes: K; labels are 0 to K − 1.
        masks: whether the network has a mask head; without one, masks are left out.
        name: what error messages call the target.
        num_keypoints: how many keypoints the network learns; with 0, keypoints are left out.

    Raises:
        InputError: something is missing, of the wrong shape or type, or out of range.
    """
    given = _given(target, name)
    photo = f"{name.replace('targets', 'images')}" if "targets" in name else "its image"
    boxes = _boxes(given, image_size, name, photo)
    checked = Target(boxes=boxes, labels=_labels(given, len(boxes), num_classes, name))
    if masks:
        checked.masks = _masks(given, len(boxes), image_size, name, photo)
    if num_keypoints:
        checked.keypoints = _keypoints(given, len(boxes), num_keypoints, image_size, name)
    if "crowd" in given:
        crowd = _tensor(given, "crowd", name)
        _one_per_box(crowd, len(boxes), f"{name}.crowd", "bool")
        checked.crowd = crowd.bool()
    if "area" in given:
        area = _tensor(given, "area", name)
        _one_per_box(area, len(boxes), f"{name}.area", "float32")
        if not area.isfinite().all():
            raise InputError(f"{name}.area must be finite; got {area.tolist()}.")
        checked.area = area.float()
    return checked


def _given(target: object, name: str) -> dict[str, Any]:
    """Return what is there of boxes, labels, masks, keypoints, crowd and area."""
    if isinstance(target, Target):
        values: Mapping[Any, Any] = {f.name: getattr(target, f.name) for f in fields(target)}
    elif isinstance(target, Mapping):
        values = target
    else:
        hint = ""
        if isinstance(target, (list, tuple)) and target and isinstance(target[0], Mapping):
            hint = " Put the boxes of all objects of an image in one tensor [G, 4]."
        raise InputError(
            f"{name} must be a Target or a mapping with boxes, labels and masks; got {type(target).__name__}.{hint}"
        )
    given = {
        key: values[key] for key in ("boxes", "labels", "masks", "keypoints", "area") if values.get(key) is not None
    }
    crowd = values.get("crowd") if values.get("crowd") is not None else values.get("iscrowd")
    if crowd is not None:
        given["crowd"] = crowd
    for key, what in {"boxes": "float32 [G, 4], (x1, y1, x2, y2) in pixels", "labels": "int64 [G]"}.items():
        if key not in given:
            there = [str(k) for k in values]
            near = [] if key in values else did_you_mean(key, there).split("'")
            hint = f" If {near[1]} holds them, rename it." if len(near) > 1 else ""
            found = ", ".join(there) or "nothing"
            raise InputError(f"{name}.{key} is missing; it must be {what}; there is: {found}.{hint}")
    return given


def _tensor(given: Mapping[str, Any], key: str, name: str) -> Shaped[Tensor, "..."]:
    value = given[key]
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Tensor) for v in value):
        same = len({v.shape for v in value}) == 1
        value = torch.stack(list(value)) if same else [v.tolist() for v in value]
    if isinstance(value, Tensor):
        return value.detach()
    rule = f"{name}.{key} must be a tensor or an array of numbers"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        raise InputError(f"{rule}; got {type(value).__name__} whose rows differ in length.") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{rule}; got {type(value).__name__} of {array.dtype.name}.")
    # torch takes neither foreign byte orders nor read-only arrays, and computes little on uint16 and up.
    wide = array.dtype.kind == "u" and array.itemsize > 1
    array = array.astype(np.int64 if wide else array.dtype.newbyteorder("="), order="C", copy=False)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _boxes(given: Mapping[str, Any], image_size: tuple[int, int], name: str, photo: str) -> Float[Tensor, "G 4"]:
    boxes = _tensor(given, "boxes", name)
    if boxes.numel() == 0 and boxes.shape in ((0,), (0, 4), (1, 0)):
        return torch.zeros(0, 4, device=boxes.device)
    rule = f"{name}.boxes must be float32 [G, 4], (x1, y1, x2, y2) in pixels"
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        hint = " For a single box pass boxes[None]." if tuple(boxes.shape) == (4,) else ""
        raise InputError(f"{rule}; got {_kind(boxes)}.{hint}")
    if boxes.dtype == torch.bool or boxes.is_complex():
        raise InputError(f"{rule}; got {_kind(boxes)}.")
    boxes = boxes.float()
    height, width = image_size
    _check_values(boxes, image_size, name, photo)
    limit = torch.tensor([width, height, width, height], dtype=torch.float32, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limit)


def _check_values(boxes: Float[Tensor, "G 4"], image_size: tuple[int, int], name: str, photo: str) -> None:
    height, width = image_size
    whole = torch.equal(boxes, boxes.round())
    if not whole and bool(((boxes >= 0) & (boxes <= 1)).all()) and max(image_size) > 1:
        raise InputError(
            f"{name}.boxes must be in pixels of {photo}; got values from {boxes.min():.4g} to "
            f"{boxes.max():.4g}. They look normalised; multiply x by {width} and y by {height}."
        )
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        where, got = f"{name}.boxes[{i}]", f"got ({', '.join(f'{v:.6g}' for v in (x1, y1, x2, y2))})"
        if not np.isfinite((x1, y1, x2, y2)).all():
            raise InputError(f"{where} must be four finite numbers; {got}. Drop the object or repair its box.")
        if x2 < x1 or y2 < y1:
            _refuse(where, "satisfy x1 < x2 and y1 < y2", got, _XYWH)
        if x1 == x2 or y1 == y2:
            _refuse(where, "satisfy x1 < x2 and y1 < y2", got, "Its area is zero; drop the object.")
        inside = x1 >= -BORDER and y1 >= -BORDER and x2 <= width + BORDER and y2 <= height + BORDER
        if not inside or min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
            rule = f"lie inside {photo}, {width} pixels wide and {height} high"
            swapped = x2 <= height and y2 <= width and min(x1, y1) >= 0
            fits = min(x1, y1) >= 0 and x1 < width and y1 < height
            cause = (
                "x and y look swapped." if swapped else "Clip it, or check that it belongs to this image and its size."
            )
            _refuse(where, rule, got, cause if swapped or not fits else f"{cause} {_XYWH}")


_XYWH = "If this is (x, y, width, height), convert with xywh_to_xyxy."


def _refuse(where: str, rule: str, got: str, hint: str) -> NoReturn:
    raise InputError(f"{where} must {rule}; {got}. {hint}")


def _labels(given: Mapping[str, Any], count: int, num_classes: int, name: str) -> Int64[Tensor, " G"]:
    labels = _tensor(given, "labels", name)
    if labels.numel() == 0 and count == 0:
        return torch.zeros(0, dtype=torch.int64, device=labels.device)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        hint = "Convert with labels.to(torch.int64)." if labels.is_floating_point() else "Pass class numbers."
        raise InputError(f"{name}.labels must be integers, int64 [{count}]; got {_kind(labels)}. {hint}")
    _one_per_box(labels, count, f"{name}.labels", "int64")
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        i = int(wrong[0])
        label = int(labels[i])
        hint = " If your labels count from 1, subtract 1." if label == num_classes and not (labels == 0).any() else ""
        _refuse_label(f"{name}.labels[{i}]", label, num_classes, hint)
    return labels.long()


def _refuse_label(where: str, label: int, num_classes: int, hint: str = "") -> NoReturn:
    allowed = "0" if num_classes == 1 else f"0 to {num_classes - 1}"
    if label < 0:
        hint = " Leave the object out if it has no class."
    raise InputError(
        f"{where} must be {allowed} for {counted(num_classes, 'class')}; got {label}. "
        f"Labels are 0-based and background is not a class.{hint}"
    )


def _masks(
    given: Mapping[str, Any], count: int, image_size: tuple[int, int], name: str, photo: str
) -> Bool[Tensor, "G H W"]:
    height, width = image_size
    if "masks" not in given:
        if count == 0:
            return torch.zeros(0, height, width, dtype=torch.bool)
        raise InputError(
            f"{name}.masks is missing, and this network learns masks; it must be bool "
            f"[{count}, {height}, {width}]. For boxes alone, configure the network with masks=False."
        )
    masks = _tensor(given, "masks", name)
    if count == 0 and masks.numel() == 0:
        return torch.zeros(0, height, width, dtype=torch.bool, device=masks.device)
    if tuple(masks.shape) != (count, height, width):
        raise InputError(
            f"{name}.masks must be bool [{count}, {height}, {width}], {_word(count)} like its boxes and "
            f"the size of {photo}; got {_kind(masks)}.{_shape_hint(tuple(masks.shape), count, image_size)}"
        )
    if masks.dtype != torch.bool:
        _check_binary(masks, f"{name}.masks")
    empty = (~masks.bool().flatten(1).any(1)).nonzero()
    if len(empty):
        raise InputError(f"{name}.masks[{int(empty[0])}] must have at least one pixel; got none. Drop the object.")
    return masks.bool()


def _keypoints(
    given: Mapping[str, Any], count: int, num_keypoints: int, image_size: tuple[int, int], name: str
) -> Float[Tensor, "G Kp 3"]:
    rule = f"{name}.keypoints must be float32 [{count}, {num_keypoints}, 3], (x, y, visibility) in pixels"
    if "keypoints" not in given:
        if count == 0:
            return torch.zeros(0, num_keypoints, 3)
        raise InputError(f"{name}.keypoints is missing, and this network learns {num_keypoints} of them. {rule}.")
    keypoints = _tensor(given, "keypoints", name)
    if count == 0 and keypoints.numel() == 0:
        return torch.zeros(0, num_keypoints, 3)
    if tuple(keypoints.shape) != (count, num_keypoints, 3):
        hint = ""
        if tuple(keypoints.shape) == (count, num_keypoints * 3):
            hint = f" Reshape it with keypoints.reshape(-1, {num_keypoints}, 3)."
        elif tuple(keypoints.shape) == (count, num_keypoints, 2):
            hint = " Add the visibility: 0 not labelled, 1 hidden, 2 visible."
        raise InputError(f"{rule}; got {_kind(keypoints)}.{hint}")
    keypoints = keypoints.float()
    if not keypoints.isfinite().all():
        raise InputError(f"{name}.keypoints must be finite; where one is not labelled, put (0, 0, 0).")
    seen = keypoints[..., 2]
    wrong = seen[(seen != 0) & (seen != 1) & (seen != 2)]
    if len(wrong):
        raise InputError(f"{rule}, visibility 0, 1 or 2; got {float(wrong[0]):.6g}.")
    points = keypoints[..., :2][seen > 0]
    height, width = image_size
    if not torch.equal(points, points.round()) and bool(((points >= 0) & (points <= 1)).all()):
        raise InputError(
            f"{rule}; all lie between 0 and 1. They look normalised; multiply x by {width} and y by {height}."
        )
    return keypoints


def _shape_hint(shape: tuple[int, ...], count: int, image_size: tuple[int, int]) -> str:
    height, width = image_size
    if shape == (count, 1, height, width):
        return " Drop the channel axis with masks.squeeze(1)."
    if shape == (count, width, height):
        return " Height and width look swapped."
    if shape == (height, width, count):
        return " It looks like [H, W, G]; pass masks.transpose(2, 0, 1), or permute(2, 0, 1) of a tensor."
    if shape == (height, width):
        return " For a single mask pass masks[None]; for numbered objects make one mask of each number."
    if len(shape) == 3 and shape[1:] == image_size:
        be = "is" if shape[0] == 1 else "are"
        return f" There {be} {counted(shape[0], 'mask')} for {counted(count, 'box')}."
    if len(shape) == 3 and shape[0] == count:
        return " Masks must be in the frame of the photo, as the boxes are; resize neither beforehand."
    return ""


def _check_binary(masks: Shaped[Tensor, "G H W"], where: str) -> None:
    if not masks.is_floating_point() and masks.min() >= 0 and masks.max() <= 1:
        return
    other = masks[(masks != 0) & (masks != 1)]
    if len(other) == 0:
        return
    high = other.max().item()
    if high == 255:
        hint = "It looks like a picture of 0 and 255; pass masks > 127."
    elif masks.is_floating_point():
        hint = "If these are probabilities, pass masks >= 0.5."
    else:
        hint = "If the values number the objects, make one mask of each: ids == number."
    raise InputError(
        f"{where} must be bool, or hold only 0 and 1; got {_kind(masks)} with the value {high:.6g}. {hint}"
    )


def _one_per_box(value: Shaped[Tensor, "..."], count: int, where: str, dtype: str) -> None:
    if tuple(value.shape) == (count,):
        return
    hint = ""
    if tuple(value.shape) == (count, 1):
        hint = f" Drop the last axis with {where.rsplit('.', 1)[-1]}.squeeze(1)."
    elif value.ndim == 1:
        hint = f" There {'is' if len(value) == 1 else 'are'} {len(value)} for {counted(count, 'box')}."
    raise InputError(f"{where} must be {dtype} [{count}], {_word(count)} like its boxes; got {_kind(value)}.{hint}")


def _kind(value: Shaped[Tensor, "..."]) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _word(count: int) -> str:
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count] if count < len(words) else str(count)
