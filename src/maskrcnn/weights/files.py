"""From files of weights to networks, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import CheckpointError, ConfigError, InputError, did_you_mean
from maskrcnn.files import replacing
from maskrcnn.weights import torchvision
from maskrcnn.weights.read import as_tensors, read

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN

FORMATS = ("maskrcnn", "torchvision")
METADATA_KEY = "maskrcnn.config"
TRAINING_KEY = "maskrcnn.training"


def load(
    source: str | os.PathLike[str] | Mapping[str, Tensor | np.ndarray],
    format: str | None = None,
    class_names: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> MaskRCNN:
    """Return the network that a weights file describes, in eval mode, on the CPU.

    Args:
        source: our `.safetensors`, a torchvision `.pth`, or a mapping from tensor names to tensors.
        format: which implementation wrote it, "maskrcnn" or "torchvision"; recognised by the names of its
            tensors if not given.
        class_names: names for its classes, background not counted; needed where the file has none.
        overrides: dotted configuration fields that the file does not tell, as `{"backbone.norm_eps": 0.0}`.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors do not fit together.
        ConfigError: an override is unknown or out of range.
        InputError: there is no such format.
    """
    from maskrcnn.model import MaskRCNN

    if format is not None and format not in FORMATS:
        hint = did_you_mean(format, list(FORMATS))
        raise InputError(f"format must be {' or '.join(FORMATS)}; got {format!r}.{hint}")
    name = "the mapping" if isinstance(source, Mapping) else os.fspath(source)
    metadata: Mapping[str, str] = {}
    if isinstance(source, Mapping):
        tensors = as_tensors(source)
    else:
        tensors, metadata, _ = read(Path(source).expanduser())
    format = format or _recognise(tensors, metadata, name)
    if format == "torchvision":
        config, tensors = torchvision.convert(tensors, class_names, name)
    elif METADATA_KEY not in metadata:
        raise CheckpointError(f"{name} holds no configuration: it was not written by maskrcnn's save.")
    else:
        config = _stored_config(metadata[METADATA_KEY], class_names, name)
    model = MaskRCNN(config.replace(overrides or {}))
    _fill(model, tensors, name)
    return model.eval()


def save(model: MaskRCNN, path: str | os.PathLike[str]) -> None:
    """Write weights, configuration and class names into one safetensors file.

    The file appears whole or not at all: it is written beside its place and then moved there.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.
    """
    write_tensors(path, model.state_dict(), {METADATA_KEY: model.config.to_json()})


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; an existing file stays until the new one is complete."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as new:
        try:
            save_file(contiguous, new, metadata={"format": "pt", **metadata})
        except SafetensorError as e:
            raise OSError(str(e)) from None


def _recognise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> str:
    if METADATA_KEY in metadata:
        return "maskrcnn"
    if torchvision.recognises(tensors):
        return "torchvision"
    if TRAINING_KEY in metadata:
        raise CheckpointError(
            f"{name} is a checkpoint to resume a run from; its weights are in model.safetensors beside it."
        )
    if "box_head.class_logits.weight" in tensors:
        raise CheckpointError(
            f"{name} holds our tensors without their configuration, as a bare state_dict does; model.save(path) "
            "writes both."
        )
    some = ", ".join(list(tensors)[:3])
    raise CheckpointError(f"{name} is of no known format (maskrcnn, torchvision); its tensors are called {some}, …")


def _stored_config(text: str, class_names: Sequence[str] | None, name: str) -> Config:
    try:
        config = Config.from_json(text)
    except ConfigError as e:
        raise CheckpointError(f"{name} holds a configuration this version does not understand: {e}") from None
    if class_names is None:
        return config
    if len(class_names) != config.num_classes:
        raise CheckpointError(
            f"{name} has {config.num_classes} classes ({', '.join(config.class_names)}); class_names has "
            f"{len(class_names)}."
        )
    return config.replace({"class_names": tuple(class_names)})


def _fill(model: MaskRCNN, tensors: Mapping[str, Tensor], name: str) -> None:
    """Put tensors into the model; every one must fit and none may be missing."""
    wanted = model.state_dict()
    missing = [k for k in wanted if k not in tensors]
    unknown = [k for k in tensors if k not in wanted]
    shapes = [
        f"{k} is {list(tensors[k].shape)}, not {list(v.shape)}"
        for k, v in wanted.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    for problem, items in (("lacks", missing), ("has unknown tensors", unknown), ("does not fit", shapes)):
        if items:
            more = f" and {len(items) - 3} more" if len(items) > 3 else ""
            raise CheckpointError(f"{name} {problem}: {', '.join(items[:3])}{more}.")
    model.load_state_dict(dict(tensors))
