"""Other keypoints for a trained network: what both know is kept, what is new starts anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.heads.keypoint import KEYPOINT_STD


def carry_keypoints(
    config: Config, tensors: dict[str, Tensor], keypoint_names: Sequence[str]
) -> tuple[Config, dict[str, Tensor], tuple[str, ...]]:
    """Return configuration and tensors of the network for `keypoint_names`, and those of them that start anew.

    Heatmaps of keypoints with the same name are kept, in their new order. A network without a keypoint head still
    lacks its tensors afterwards; without names the head is left out. Names for keypoints that so far are
    only numbered, and as many, are names of the same keypoints. Limbs between keypoints that were kept stay.

    Args:
        config: of the network that the tensors are for.
        tensors: by our names.
        keypoint_names: the new keypoints.
    """
    old, new = config.keypoint_names, tuple(keypoint_names)
    if len(new) == len(old) and old == tuple(f"keypoint {k}" for k in range(len(old))):
        old = new
    places = {name: place for place, name in enumerate(new)}
    ends = [[places.get(old[k]) for k in limb] for limb in config.keypoint.skeleton] if old else []
    skeleton = tuple(limb for limb in ends if None not in limb)
    changed = config.replace({"keypoint_names": new, "keypoint.skeleton": skeleton})
    started = tuple(name for name in new if name not in old)
    if not new:
        return changed, {key: tensor for key, tensor in tensors.items() if not key.startswith("keypoint_head.")}, ()
    weight, bias = (tensors.get(f"keypoint_head.deconv.{suffix}") for suffix in ("weight", "bias"))
    if not old or new == old or weight is None or bias is None:
        return changed, tensors, started
    if weight.dim() != 4 or weight.shape[1] != len(old) or bias.shape != (len(old),):
        return changed, tensors, started  # that it does not fit is told later
    source = torch.tensor([old.index(name) if name in old else -1 for name in new])
    known = source >= 0
    fresh = {
        "keypoint_head.deconv.weight": weight.new_empty(len(weight), len(new), *weight.shape[2:]),
        "keypoint_head.deconv.bias": bias.new_zeros(len(new)),
    }
    fresh["keypoint_head.deconv.weight"].normal_(std=KEYPOINT_STD)[:, known] = weight[:, source[known]]
    fresh["keypoint_head.deconv.bias"][known] = bias[source[known]]
    return changed, tensors | fresh, started
