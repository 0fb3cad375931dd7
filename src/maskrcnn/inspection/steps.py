"""What a step of training did, for TensorBoard: activations, dead layers, gradients, deltas, and pictures.

All of it is read off the step's own forward and backward pass; see `training.loop`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.errors import InputError
from maskrcnn.images import denormalised
from maskrcnn.inspection.glossary import STAGES
from maskrcnn.inspection.parts import part_of
from maskrcnn.inspection.step_pictures import step_pictures
from maskrcnn.inspection.trace import Run, Trace
from maskrcnn.structures import ImageBatch, TargetBatch

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN

WATCHED = (
    *("c1", "c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6", "rpn_objectness", "rpn_deltas"),
    *("box_features", "class_logits", "box_deltas", "mask_features", "mask_logits"),
    *("keypoint_features", "keypoint_logits"),
)
"""Stages whose values are shown, as far as the network has them."""

MOST_VALUES = 100_000
"""Of larger stages a histogram takes that many, evenly spread."""


def write_activations(board: Any, step: int, model: MaskRCNN, tensors: Mapping[str, Tensor]) -> None:
    """Write what the stages of a step hold.

    `activations/STAGE` is a histogram. Scalars are: `zeros/STAGE`, the share of zeros; `dead_channels/STAGE`, the
    share of a map's channels that are zero everywhere in the batch; `not_finite/STAGE`, the share of NaN and
    infinite values; `deltas/…`, how far the RPN and the box head want to move boxes, on average and at most: `shift`
    of the centre as a multiple of the box's side, `scale` as the logarithm of the factor.

    Args:
        board: a `SummaryWriter`.
        step: the step's number.
        model: the network.
        tensors: the stages of the step, of all images of the batch.
    """
    for name in WATCHED:
        if name not in tensors:
            continue
        values = _filled(name, tensors)
        if not values.numel():
            continue
        finite = values.isfinite()
        board.add_scalar(f"zeros/{name}", float((values == 0).float().mean()), step)
        board.add_scalar(f"not_finite/{name}", 1 - float(finite.float().mean()), step)
        if STAGES[name].axes == "N C H W":
            dead = (values == 0).all(0).flatten(1).all(1)
            board.add_scalar(f"dead_channels/{name}", float(dead.float().mean()), step)
        sample = values.flatten()[:: values.numel() // MOST_VALUES | 1]  # an odd step, so as to meet every column
        sample = sample[sample.isfinite()]
        if len(sample):
            board.add_histogram(f"activations/{name}", sample.cpu().numpy(), step)
    for head, stage, weights in (
        ("rpn", "rpn_deltas", model.config.rpn.delta_weights),
        ("box", "box_deltas", model.config.box.delta_weights),
    ):
        deltas = _filled(stage, tensors).reshape(-1, 4) / torch.tensor(weights, device=tensors[stage].device)
        for what, part in (("shift", deltas[:, :2].abs()), ("scale", deltas[:, 2:].abs())):
            if part.numel():
                board.add_scalar(f"deltas/{head}_{what}_mean", float(part.mean()), step)
                board.add_scalar(f"deltas/{head}_{what}_max", float(part.max()), step)


def _filled(name: str, tensors: Mapping[str, Tensor]) -> Float[Tensor, "..."]:
    """Return a stage's values; of one that has a row for every RoI, those of slots that hold one."""
    values = tensors[name].detach().float()
    if not STAGES[name].axes.startswith("NR"):
        return values
    which = "sampled_rois_valid" if name in ("box_features", "class_logits", "box_deltas") else "sampled_rois_positive"
    slots = tensors[which]
    return values[slots[:, : len(values) // len(slots)].flatten()]


def write_gradients(board: Any, step: int, model: MaskRCNN, norm: float) -> None:
    """Write the norms of the gradients, by part (`gradients_by_part/rpn`) and by block (`gradients/backbone.layer3`).

    Args:
        board: a `SummaryWriter`.
        step: the step's number.
        model: the network after the backward pass.
        norm: of all gradients together before they were limited. What is written adds up to it.
    """
    blocks: dict[str, list[Tensor]] = defaultdict(list)
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            own = parameter.new_zeros(()) if gradient is None else torch.linalg.vector_norm(gradient)
            blocks[".".join(path.split(".")[: 2 if path.startswith("backbone.") else 1])].append(own.float())
            parts[part_of(path)].append(own.float())
    norms = {f"gradients/{name}": _norm(own) for name, own in blocks.items()}
    norms |= {f"gradients_by_part/{name}": _norm(own) for name, own in parts.items()}
    limited = _norm([own for several in parts.values() for own in several])
    factor = norm / limited if limited > 0 and np.isfinite(norm) and np.isfinite(limited) else 1.0
    for name, value in norms.items():
        board.add_scalar(name, value * factor, step)


def _norm(norms: list[Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def write_pictures(board: Any, step: int, trace: Trace) -> None:
    """Write the pictures of a step on one image, as `step/sampled_rois`.

    Args:
        board: a `SummaryWriter`.
        step: the step's number.
        trace: see `step_trace`.
    """
    for name, picture in step_pictures(trace):
        board.add_image(f"step/{name}", np.asarray(picture.convert("RGB")), step, dataformats="HWC")


def step_trace(
    model: MaskRCNN, tensors: Mapping[str, Tensor], images: ImageBatch, targets: TargetBatch, index: int = 0
) -> Trace:
    """Return the trace of one image of a batch that a step was done on.

    The photo is the image as the network saw it, mirrored where it was, at the input's size; its frame is that of the
    photo resized.

    Args:
        model: the network.
        tensors: the stages of the step, of all images.
        images: the batch.
        targets: its ground truth, in the input frame.
        index: which image.

    Raises:
        InputError: the batch has no such image.
    """
    count = len(images.tensor)
    if not 0 <= index < count:
        raise InputError(f"index must be one of the {count} images of the batch; got {index}.")
    one = slice(index, index + 1)
    own = {}
    for name, tensor in tensors.items():
        axes = STAGES[name].axes if name in STAGES else ""
        if axes.startswith("NR"):
            rows = len(tensor) // count
            own[name] = tensor.detach()[index * rows : (index + 1) * rows]
        else:
            own[name] = tensor.detach()[one] if axes.startswith("N ") else tensor.detach()
    sizes, starts = images.sizes[one], images.starts[one]
    batch = ImageBatch(images.tensor[one], sizes, sizes, starts)
    (height, width), (top, left) = sizes[0].tolist(), starts[0].tolist()
    photo = denormalised(images.tensor[index, :, top : top + height, left : left + width], model.config.image)
    truth = TargetBatch(*(None if t is None else t[one] for t in targets))  # type: ignore[arg-type]
    return Trace(own, Run(model.config, model.fpn.strides, photo, batch, truth))
