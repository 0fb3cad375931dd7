"""Pictures of a step of training on one image: what it was taught, what it proposed, and what it drew to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from maskrcnn.drawing import overlay, target_as_detections
from maskrcnn.inspection import pictures
from maskrcnn.inspection.trace import Trace
from maskrcnn.ops import boxes as box_ops
from maskrcnn.structures import Target


def step_pictures(trace: Trace) -> Iterator[tuple[str, Image.Image]]:
    """Yield what a step can show of one image, each picture with its name.

    Args:
        trace: of a step of training, from `model.trace(photo, targets=…)` or `steps.step_trace`.
    """
    makers: dict[str, Callable[[Trace], Image.Image]] = {
        "ground_truth": ground_truth,
        "matched_anchors": pictures.matched_anchors,
        "proposals": pictures.proposals,
        "sampled_rois": pictures.sampled_rois,
        "mask_targets": pictures.mask_targets,
    }
    for name, make in makers.items():
        try:
            yield name, make(trace)
        except pictures.NothingToShowError:  # no object, no mask head
            continue


def ground_truth(trace: Trace, max_side: int = 1000) -> Image.Image:
    """Return the image with the boxes, classes and masks that the network is to learn: a wrong one is seen here.

    Args:
        trace: of a run of training.
        max_side: as in `pictures.photo_view`.

    Raises:
        NothingToShowError: this is no run of training.
    """
    run = trace.run
    if run.targets is None:
        raise pictures.NothingToShowError("This is no run of training; model.trace(photo, targets=…) makes one.")
    there = run.targets.valid[0].cpu()
    size = (run.photo.shape[0], run.photo.shape[1])
    masks = None
    if run.config.masks:
        (top, left), (height, width) = run.batch.starts[0].tolist(), run.batch.sizes[0].tolist()
        masks = _resized(run.targets.masks[0].cpu()[there, top : top + height, left : left + width], size)
    # Ground truth has edges, what `to_photo` takes the network's own corners.
    ends = -1.0 if run.config.box_corners == "centers" else 0.0
    boxes = run.to_photo(box_ops.move_ends(run.targets.boxes[0].cpu()[there], ends))
    target = Target(boxes=boxes, labels=run.targets.labels[0].cpu()[there], masks=masks)
    shown = target_as_detections(target, size, run.config.class_names)
    view, scale = pictures.photo_view(trace, max_side)
    picture = overlay(run.photo, shown, scores=False, scale=max(round(scale), 1))
    return picture.resize(view.size, Image.Resampling.BOX) if scale < 1 else picture


def _resized(masks: Bool[Tensor, "G h w"], size: tuple[int, int]) -> Bool[Tensor, "G H W"]:
    if not len(masks):
        return masks.new_zeros(0, *size)
    return F.interpolate(masks[:, None].float(), size=size)[:, 0] > 0
