"""The tensors of one run, by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from maskrcnn.errors import InputError, did_you_mean
from maskrcnn.images import ImageLike, prepare
from maskrcnn.prediction import unbatch
from maskrcnn.stages import recording
from maskrcnn.structures import ImageBatch

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
        return self._tensors[name if name in self._tensors else ALIASES.get(name, name)]

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
    wanted = [ALIASES.get(name, name) for name in stages] if stages is not None else ["*"]
    modules = dict(model.named_modules())
    batch = prepare([image], model.config.image).to(model.device)
    was_training = model.training
    model.eval()
    try:
        with ExitStack() as stack, torch.inference_mode():
            tensors = stack.enter_context(recording())
            tensors["image"] = batch.tensor
            tensors["image_meta"] = _meta(batch)
            for name in wanted if stages is not None else ():
                for path in fnmatch.filter((m for m in modules if m), name):
                    stack.callback(modules[path].register_forward_hook(_keep(tensors, path)).remove)
            unbatch(model(batch), batch, model.config)
    finally:
        model.train(was_training)
    for name in wanted:
        if not any(fnmatch.fnmatchcase(found, name) for found in tensors):
            hint = did_you_mean(name, [*tensors, *modules, *ALIASES])
            raise InputError(f"This network has no stage or module {name!r}.{hint}")
    chosen = {
        found: tensor for found, tensor in tensors.items() if any(fnmatch.fnmatchcase(found, name) for name in wanted)
    }
    return Trace(chosen)


def _meta(batch: ImageBatch) -> Float[Tensor, "N 8"]:
    """Return (height, width) of photo and input, the scale along y and x, and the padding below and right."""
    padded = torch.tensor(batch.tensor.shape[-2:], device=batch.sizes.device)
    scale = batch.sizes / batch.original_sizes
    return torch.cat((batch.original_sizes, batch.sizes, scale, padded - batch.sizes), dim=1)


def _keep(tensors: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            tensors[name] = output.clone()  # the ReLU that follows may work in place

    return hook


def _range(tensor: Tensor) -> list[str]:
    if not tensor.numel():
        return ["–", "–", "–"]
    values = tensor.float()
    return [f"{float(v):.4g}" for v in (values.min(), values.max(), values.mean())]
