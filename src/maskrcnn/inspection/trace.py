"""The tensors of one run by name, with what they are read together with: the photo, the configuration, the result."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.table import Table
from torch import Tensor, nn

from maskrcnn.batching import batch_targets, resize_target
from maskrcnn.config import Config
from maskrcnn.errors import InputError, did_you_mean
from maskrcnn.files import replacing
from maskrcnn.images import ImageLike, load_image, prepare
from maskrcnn.inspection.calls import call_name
from maskrcnn.inspection.glossary import ALIASES, named_shape
from maskrcnn.inspection.table import WIDE, letters_note, rendered, trace_table
from maskrcnn.keypoints import moved
from maskrcnn.prediction import to_photos, unbatch
from maskrcnn.stages import recording
from maskrcnn.structures import Detections, ImageBatch, Target, TargetBatch
from maskrcnn.targets import check_target

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN


class Summary(dict[str, Any]):
    """What the table tells of one tensor: name, shape, type, range and what is odd about it."""


class Trace(Mapping[str, Tensor]):
    """Named tensors of a run, in the order in which they came about; printing it gives a table."""

    def __init__(self, tensors: Mapping[str, Tensor], run: Run | None = None) -> None:
        self._tensors = dict(tensors)
        self._run = run

    def __getitem__(self, name: str) -> Tensor:
        found = self._tensors.get(name, self._tensors.get(ALIASES.get(name, name)))
        if found is None:
            hint = (
                did_you_mean(name, [*self._tensors, *ALIASES], most=3) or " Ask for it with trace(image, stages=[…])."
            )
            several = [other for other in self._tensors if other.startswith((f"{name}@", f"{name}."))]
            if several:
                hint = f" There are: {', '.join(several)}."
            raise KeyError(f"{name} is not in this trace.{hint}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def run(self) -> Run:
        """What the tensors are read together with: photo, configuration, detections."""
        if self._run is None:
            raise InputError("This trace was made of tensors alone; model.trace(image) gives one of a whole run.")
        return self._run

    def shape_of(self, name: str) -> str:
        """Return a tensor's shape with the names of its axes."""
        return named_shape(ALIASES.get(name, name), tuple(self[name].shape))

    def summary(self) -> list[Summary]:
        """Return the table's rows as plain values: name, shape, axes, dtype, min, max, mean, zeros, nan, inf.

        `min`, `max` and `mean` are those of the finite values, None where there is none. `zeros` is a share,
        `nan` and `inf` are counts.
        """
        return [_summary(name, tensor) for name, tensor in self._tensors.items()]

    def table(self, width: int = WIDE) -> Table:
        """Return name, shape, type, range, share of zeros and count of NaN and Inf of every tensor, by part.

        Args:
            width: columns that there is room for; with few of them the shape stands under the name.
        """
        return trace_table(self.summary(), width)

    def letters(self) -> str:
        """Return what the letters in the shapes mean, those that occur.

        Example:
            >>> Trace({"proposals": torch.zeros(1, 5, 4)}).letters()
            'N images · P proposals · xyxy left, top, right, bottom'
        """
        return letters_note({name: tensor.dim() for name, tensor in self._tensors.items()})

    def only(self, names: Sequence[str]) -> Trace:
        """Return a trace of the tensors that names, globs or Matterport's names stand for, in their order.

        Raises:
            InputError: a name stands for none of them.
        """
        return Trace(_chosen(names, self._tensors, {}), self._run)

    def save(self, path: str | Path) -> None:
        """Write the tensors into a safetensors file, each under its name.

        Raises:
            WriteError: the file cannot be written.
        """
        from safetensors.torch import save_file

        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self._tensors.items()}
        with replacing(Path(path)) as new:
            save_file(tensors, new)

    def __str__(self) -> str:
        return rendered(self.table())

    __repr__ = __str__


class Run:
    """A run on one photo: what its tensors are read together with."""

    def __init__(
        self,
        config: Config,
        strides: Mapping[str, int],
        photo: UInt8[np.ndarray, "H W 3"],
        batch: ImageBatch,
        targets: TargetBatch | None = None,
    ) -> None:
        self.config = config
        self.strides = dict(strides)
        """Levels that the RPN looks at, finest first, and their nominal strides."""
        self.photo = photo
        self.batch = batch
        self.targets = targets
        """The ground truth in the input frame, in a run of training."""
        self.detections: Detections | None = None
        """What was found, in the frame of the photo; every score. None in a run of training."""

    @property
    def roi_levels(self) -> list[str]:
        """Levels that RoIs are cut from, finest first: what `roi_levels` counts."""
        return [name for name in self.strides if name != "p6"]

    def to_photo(self, boxes: Float[Tensor, "R 4"]) -> Float[Tensor, "R 4"]:
        """Return boxes of the input frame, as the network has them, in pixels of the photo, not clipped to it."""
        return to_photos(boxes[None].float().cpu(), self.batch, self.config.box_corners)[0]


def trace(
    model: MaskRCNN,
    image: ImageLike,
    stages: Sequence[str] | None = None,
    targets: Target | Mapping[str, Any] | None = None,
    into: MutableMapping[str, Tensor] | None = None,
    everything: bool = False,
) -> Trace:
    """Return named tensors of a run on one image; see `MaskRCNN.trace`.

    Args:
        model: the network.
        image: as for `predict`.
        stages: names, globs or Matterport's names; all stages by default.
        targets: ground truth in the frame of the photo, for a run of training.
        into: see `stages.recording`.
        everything: keep all stages besides those asked for; `Trace.only` chooses among them.
    """
    names = ["*"] if stages is None else [stages] if isinstance(stages, str) else list(stages)
    modules = {path: module for path, module in model.named_modules() if path}
    photo = load_image(image)
    run = Run(model.config, model.fpn.strides, photo, prepare([photo], model.config.image))
    if targets is not None:
        run.targets = _prepared(targets, run).to(model.device)
    batch = run.batch.to(model.device, model.dtype)
    was_training = model.training
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with ExitStack() as stack, torch.inference_mode():
            tensors = stack.enter_context(recording(into))
            for name in names if stages is not None else ():
                for path in _paths(name, modules):
                    stack.callback(modules[path].register_forward_hook(_keep(model, tensors, path)).remove)
            if run.targets is None:
                [run.detections] = unbatch(model(batch), batch, model.config)
            else:  # the lottery of anchors and RoIs gives the same numbers each time, and takes none from others
                with torch.random.fork_rng(devices):
                    torch.manual_seed(0)
                    model(batch, run.targets)
    finally:
        model.train(was_training)
    chosen = _chosen(names, tensors, modules)
    return Trace(tensors if everything else chosen, run)


def _prepared(targets: Target | Mapping[str, Any], run: Run) -> TargetBatch:
    """Return ground truth of the photo in the input frame, as the training's loader makes it."""
    config = run.config
    size = (run.photo.shape[0], run.photo.shape[1])
    points = len(config.keypoint_names)
    target = check_target(targets, size, config.num_classes, config.masks, "targets", points).without_crowds()
    if target.keypoints is not None:
        target.keypoints = moved(target.keypoints, config.keypoint.pixel_offset)
    height, width = (int(v) for v in run.batch.sizes[0])
    resized = resize_target(target, size, (height, width), config.image.resize)
    padded = run.batch.tensor.shape
    return batch_targets([resized], (int(padded[2]), int(padded[3])), config.masks, run.batch.offsets)


def _paths(name: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the modules that a name or glob may mean, that of one call (`rpn.convs.0@p3`) included."""
    return fnmatch.filter(modules, name.partition("@")[0])


def _chosen(names: Sequence[str], tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return those of the tensors that names or globs stand for; raise `InputError` for one that stands for none."""
    chosen: set[str] = set()
    for name in names:
        matching = _matching(name, tensors)
        if not matching:
            raise InputError(_unknown(name, [*tensors, *ALIASES], modules))
        chosen |= matching
    return {name: tensor for name, tensor in tensors.items() if name in chosen}


def _matching(name: str, found: Mapping[str, Tensor]) -> set[str]:
    """Return which of what was found a name or glob stands for; Matterport's names too."""
    matching = {other for other in found if fnmatch.fnmatchcase(other, name)}
    matching |= {other for other in found if fnmatch.fnmatchcase(other.partition("@")[0], name)}
    matching |= {other for other in found if other.startswith(f"{name}.")}  # of a module with several outputs
    return matching | {ours for theirs, ours in ALIASES.items() if fnmatch.fnmatchcase(theirs, name) and ours in found}


def _unknown(name: str, stages: list[str], modules: Mapping[str, nn.Module]) -> str:
    if name in modules:
        return f"The module {name!r} is a part without an output of its own; ask for '{name}.*'."
    near = did_you_mean(name, [*stages, *modules], most=3)
    there = ", ".join(stage for stage in stages if "." not in stage and stage not in ALIASES)
    return f"This network has no stage or module {name!r}.{near or f' Its stages are: {there}.'}"


def _keep(model: MaskRCNN, tensors: MutableMapping[str, Tensor], path: str) -> Any:
    """Return a hook that keeps a module's output; several by their own names, as `backbone.c2`."""
    calls: Counter[str] = Counter()

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        name = call_name(model, path, calls[path])
        calls[path] += 1
        parts = {name: output}
        if not isinstance(output, Tensor):
            several = output if isinstance(output, Mapping) else getattr(output, "_asdict", dict)()
            parts = {f"{name}.{part}": value for part, value in several.items()}
        for key, value in parts.items():
            if isinstance(value, Tensor):
                tensors[key] = value.clone()  # the ReLU that follows may work in place

    return hook


def _summary(name: str, tensor: Tensor) -> Summary:
    if tensor.dtype == torch.bool:  # 100 masks of a large photo are 2 GB, and would be 16 as numbers
        return _summary_of_flags(name, tensor)
    values = tensor.detach().cpu().float()  # not every device has the float64 of the mean
    figures: dict[str, float | None] = {"min": None, "max": None, "mean": None}
    nan = inf = 0
    shown = values
    if values.numel() and not all(v.isfinite() for v in values.aminmax()):  # which are NaN if any value is
        nan, inf = int(values.isnan().sum()), int(values.isinf().sum())
        shown = values[values.isfinite()]
    if shown.numel():
        low, high = shown.aminmax()
        figures = {"min": float(low), "max": float(high), "mean": float(shown.mean(dtype=torch.float64))}
    return Summary(
        name=name,
        shape=list(tensor.shape),
        axes=named_shape(name, tuple(tensor.shape)),
        dtype=str(tensor.dtype).removeprefix("torch."),
        **figures,
        zeros=1 - int(values.count_nonzero()) / values.numel() if values.numel() else None,
        nan=nan,
        inf=inf,
    )


def _summary_of_flags(name: str, tensor: Tensor) -> Summary:
    """Return the row of a tensor of flags, without making numbers of them."""
    size, true = tensor.numel(), int(tensor.count_nonzero())
    return Summary(
        name=name,
        shape=list(tensor.shape),
        axes=named_shape(name, tuple(tensor.shape)),
        dtype="bool",
        min=float(true == size) if size else None,
        max=float(true > 0) if size else None,
        mean=true / size if size else None,
        zeros=1 - true / size if size else None,
        nan=0,
        inf=0,
    )
