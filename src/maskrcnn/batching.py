"""Ground truth on its way to the network: resized with its image, and batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from maskrcnn.config import Resize
from maskrcnn.errors import InputError
from maskrcnn.structures import Target, TargetBatch

G_MULTIPLE = 4
"""Objects per image are padded to a multiple of this, so that compiled programs meet few shapes."""


def resize_target(
    target: Target,
    original: tuple[int, int],
    size: tuple[int, int],
    resize: Resize = "float",
) -> Target:
    """Return the target in the frame of its resized image.

    Boxes are scaled by each axis' own ratio; masks take the nearest pixel. Areas stay those of the photo.

    Args:
        target: in the frame of the photo.
        original: (height, width) of the photo.
        size: (height, width) of the resized image.
        resize: `ImageConfig.resize`. `float` takes the pixel at floor(i · old / new), as torch's nearest
            does (torchvision); the others take the one at floor((i + ½) · old / new), as Pillow's does (Detectron2).
    """
    (old_h, old_w), (new_h, new_w) = original, size
    x, y = new_w / old_w, new_h / old_h
    boxes = target.boxes * target.boxes.new_tensor([x, y, x, y])
    masks = target.masks
    if masks is not None and original != size:
        rows = _nearest(old_h, new_h, resize).to(masks.device)
        columns = _nearest(old_w, new_w, resize).to(masks.device)
        masks = masks.index_select(1, rows).index_select(2, columns)
    keypoints = target.keypoints
    if keypoints is not None:
        keypoints = keypoints * keypoints.new_tensor([x, y, 1.0])
    return replace(target, boxes=boxes, masks=masks, keypoints=keypoints)


def _nearest(old: int, new: int, resize: Resize) -> Int64[Tensor, " new"]:
    """Return which of `old` pixels each of `new` pixels takes, to the last bit as the two libraries do."""
    if resize != "float":
        step = old / new
        index = np.floor(np.cumsum(np.array([step * 0.5] + [step] * (new - 1))))  # Pillow adds up, too.
    else:
        index = np.floor(np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new)))
    return torch.from_numpy(np.minimum(index.astype(np.int64), old - 1))


def batch_targets(
    targets: Sequence[Target],
    padded_size: tuple[int, int],
    masks: bool,
    offsets: Int64[Tensor, "N 2"] | None = None,
) -> TargetBatch:
    """Return targets in the input frame, without crowds, padded to one number of objects.

    Args:
        targets: what `resize_target` returned.
        padded_size: (height, width) of the images' tensor.
        masks: whether masks are wanted; without, they have height and width 0.
        offsets: `ImageBatch.offsets`, (y, x) of each image's first pixel.

    Raises:
        InputError: there is no target, or one has objects and no masks although masks are wanted.
    """
    if not targets:
        raise InputError("targets must hold at least one target; got none.")
    targets = [t.without_crowds() for t in targets]
    most = max(1, *(len(t) for t in targets))
    N, G = len(targets), -(-most // G_MULTIPLE) * G_MULTIPLE
    height, width = padded_size if masks else (0, 0)
    first = targets[0].boxes
    counts = [t.keypoints.shape[1] for t in targets if t.keypoints is not None]
    batch = TargetBatch(
        boxes=first.new_zeros(N, G, 4),
        labels=first.new_zeros(N, G, dtype=torch.int64),
        masks=first.new_zeros(N, G, height, width, dtype=torch.bool),
        valid=first.new_zeros(N, G, dtype=torch.bool),
        keypoints=None if not counts else first.new_zeros(N, G, counts[0], 3),
    )
    starts = [(0, 0)] * N if offsets is None else offsets.tolist()
    for n, (target, (y, x)) in enumerate(zip(targets, starts, strict=True)):
        g = len(target)
        if (
            masks
            and target.masks is not None
            and any(a > b for a, b in zip(target.masks.shape[1:], padded_size, strict=True))
        ):
            got = f"{target.masks.shape[1]} × {target.masks.shape[2]}"
            raise InputError(f"targets[{n}].masks must fit in the padded {height} × {width} pixels; got {got}.")
        batch.boxes[n, :g] = target.boxes + target.boxes.new_tensor([x, y, x, y])
        batch.labels[n, :g], batch.valid[n, :g] = target.labels, True
        if batch.keypoints is not None and g:
            if target.keypoints is None or target.keypoints.shape[1] != counts[0]:
                raise InputError(f"targets[{n}].keypoints must hold {counts[0]} for each object, as other targets do.")
            batch.keypoints[n, :g] = target.keypoints + target.keypoints.new_tensor([x, y, 0.0])
        if masks and g:
            if target.masks is None:
                raise InputError(f"targets[{n}].masks is missing; a network with masks learns from them.")
            h, w = target.masks.shape[1:]
            batch.masks[n, :g, y : y + h, x : x + w] = target.masks
    return batch
