"""Other classes for a trained network: what both know is kept, what is new starts anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.config import Config, check_names
from maskrcnn.heads.box import BOX_STD, CLASS_STD
from maskrcnn.heads.mask import MASK_STD
from maskrcnn.weights.importing import some

ROWS = {"box_head.class_logits": 1, "box_head.box_deltas": 4, "mask_head.predictor": 1}
"""Layers that depend on the classes, and how many rows each class has."""

STARTS = {"box_head.class_logits": CLASS_STD, "box_head.box_deltas": BOX_STD, "mask_head.predictor": MASK_STD}
"""Standard deviation of the weights that start anew, as in the heads."""


class Carried(NamedTuple):
    """A network's tensors for new classes."""

    config: Config
    tensors: dict[str, Tensor]
    kept: tuple[str, ...]
    """Classes whose rows were kept."""
    started: tuple[str, ...]
    """Classes that start anew."""
    dropped: tuple[str, ...] = ()
    """Classes of before that are no more."""
    renamed: bool = False
    """Whether the new names were taken for those of the file's own classes."""

    def said(self) -> str:
        """Return in words which classes were kept, which start anew and how many are dropped; "" if all stay."""
        if self.renamed:
            return f"classes: {some(self.kept, 10)}, as the names of the {len(self.kept)} that the file has"
        if not self.started and not self.dropped:
            return ""
        before = {name.casefold(): name for name in self.dropped}
        anew = [f"{n} (not {before[n.casefold()]})" if n.casefold() in before else n for n in self.started]
        parts = [f"kept {some(self.kept, 10)}" if self.kept else "no class was known before"]
        if anew:
            parts.append(f"{some(anew, 10)} start{'s' * (len(anew) == 1)} anew")
        if self.dropped:
            parts.append(f"dropped {some(self.dropped)}")
        return "classes: " + "; ".join(parts)


def carry_classes(config: Config, tensors: dict[str, Tensor], class_names: Sequence[str], names_known: bool) -> Carried:
    """Return the network for `class_names`; everything that does not depend on the classes stays.

    Of the layers that do, the rows of classes with the same name are kept, in their new order, and the others
    start anew. Where the file does not hold names (they were assumed), and there are as many new names
    and none in common, they are the names of the file's own classes.

    Args:
        config: of the network that the tensors are for.
        tensors: by our names.
        class_names: the new classes.
        names_known: whether `config.class_names` came with the file.
    """
    check_names(class_names)
    old, new = config.class_names, tuple(class_names)
    changed = config.replace({"class_names": new})
    numbered = all(name == f"class {i}" for i, name in enumerate(old))  # by an importer, for want of names
    kept = () if numbered else tuple(name for name in new if name in old)
    if new == old:
        return Carried(changed, tensors, new, ())
    if len(new) == len(old) and not kept and (numbered or not names_known):
        return Carried(changed, tensors, new, (), renamed=True)
    tensors = dict(tensors)
    source = torch.tensor([old.index(name) if name in kept else -1 for name in new])
    agnostic = {"box_head.box_deltas": config.box.class_agnostic, "mask_head.predictor": config.mask.class_agnostic}
    for layer, rows in ROWS.items():
        for suffix in ("weight", "bias"):
            key = f"{layer}.{suffix}"
            if key not in tensors or agnostic.get(layer):
                continue
            if tensors[key].dim() == 0 or len(tensors[key]) < rows * len(old):
                continue  # that it does not fit is told later
            per_class = tensors[key][: rows * len(old)].reshape(len(old), rows, *tensors[key].shape[1:])
            fresh = per_class.new_zeros(len(new), *per_class.shape[1:])
            if suffix == "weight":
                fresh.normal_(std=STARTS[layer])
            fresh[source >= 0] = per_class[source[source >= 0]]
            tensors[key] = torch.cat((fresh.flatten(0, 1), tensors[key][rows * len(old) :]))  # background stays last
    started = tuple(name for name in new if name not in kept)
    return Carried(changed, tensors, kept, started, () if numbered else tuple(name for name in old if name not in kept))
