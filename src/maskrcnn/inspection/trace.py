"""The tensors of one run, by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from maskrcnn.errors import InputError, did_you_mean
from maskrcnn.images import ImageLike, prepare
from maskrcnn.prediction import unbatch
from maskrcnn.stages import recording

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN

ALIASES = {
    "input_image": "image",
    "input_image_meta": "image_meta",
    **{f"fpn_p{k}": f"p{k}" for k in range(2, 7)},
    "rpn_class_logits": "rpn_objectness",
    "rpn_bbox": "rpn_deltas",
    "ROI": "proposals",
    "roi_align_classifier": "box_features",
    "mrcnn_class_logits": "class_logits",
    "mrcnn_bbox": "box_deltas",
    "mrcnn_detection": "detections",
    "roi_align_mask": "mask_features",
    "mrcnn_mask": "mask_logits",
}
"""Matterport's layer names for our stages."""


class Trace(Mapping[str, Tensor]):
    """Named tensors of a run, in the order in which they came about; printing it gives a table."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        found = self._tensors.get(name, self._tensors.get(ALIASES.get(name, name)))
        if found is None:
            hint = did_you_mean(name, [*self._tensors, *ALIASES]) or " Ask for it with trace(image, stages=[…])."
            raise KeyError(f"{name} is not in this trace.{hint}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def table(self) -> Table:
        """Return name, shape, type and range of every tensor."""
        table = Table(header_style="bold")
        for title in ("Stage", "Shape", "Type"):
            table.add_column(title)
        for title in ("Min", "Max", "Mean"):
            table.add_column(title, justify="right")
        for name, tensor in self._tensors.items():
            shape = " × ".join(map(str, tensor.shape)) or "scalar"
            table.add_row(name, shape, str(tensor.dtype).removeprefix("torch."), *_range(tensor))
        return table

    def __str__(self) -> str:
        console = Console(width=110, color_system=None)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get()

    __repr__ = __str__


def trace(model: MaskRCNN, image: ImageLike, stages: Sequence[str] | None = None) -> Trace:
    """Return named tensors of a run on one image; see `MaskRCNN.trace`.

    Raises:
        InputError: a name is neither a stage of this network nor a module of it.
    """
    names = ["*"] if stages is None else [stages] if isinstance(stages, str) else list(stages)
    modules = {path: module for path, module in model.named_modules() if path}
    batch = prepare([image], model.config.image).to(model.device, model.dtype)
    was_training = model.training
    model.eval()
    try:
        with ExitStack() as stack, torch.inference_mode():
            tensors = stack.enter_context(recording())
            for name in names if stages is not None else ():
                for path in fnmatch.filter(modules, name):
                    stack.callback(modules[path].register_forward_hook(_keep(tensors, path)).remove)
            unbatch(model(batch), batch, model.config)
    finally:
        model.train(was_training)
    chosen: set[str] = set()
    for name in names:
        matching = _matching(name, tensors)
        if not matching:
            raise InputError(_unknown(name, [*tensors, *ALIASES], modules))
        chosen |= matching
    return Trace({name: tensor for name, tensor in tensors.items() if name in chosen})


def _matching(name: str, found: Mapping[str, Tensor]) -> set[str]:
    """Return which of what was found a name or glob stands for; Matterport's names too."""
    matching = {other for other in found if fnmatch.fnmatchcase(other, name)}
    matching |= {other for other in found if other.startswith(f"{name}.")}  # of a module with several outputs
    return matching | {ours for theirs, ours in ALIASES.items() if fnmatch.fnmatchcase(theirs, name) and ours in found}


def _unknown(name: str, stages: list[str], modules: Mapping[str, nn.Module]) -> str:
    if name in modules:
        return f"The module {name!r} is a part without an output of its own; ask for '{name}.*'."
    return f"This network has no stage or module {name!r}.{did_you_mean(name, [*stages, *modules])}"


def _keep(tensors: dict[str, Tensor], name: str) -> Any:
    """Return a hook that keeps a module's output; several by their own names, as `backbone.c2`."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        parts = {name: output}
        if not isinstance(output, Tensor):
            several = output if isinstance(output, Mapping) else getattr(output, "_asdict", dict)()
            parts = {f"{name}.{part}": value for part, value in several.items()}
        for path, value in parts.items():
            if isinstance(value, Tensor):
                tensors[path] = value.clone()  # the ReLU that follows may work in place

    return hook


def _range(tensor: Tensor) -> list[str]:
    if not tensor.numel():
        return ["–", "–", "–"]
    values = tensor.float()
    return [f"{float(v):.4g}" for v in (values.min(), values.max(), values.mean())]
