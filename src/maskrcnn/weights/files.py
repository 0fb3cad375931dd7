"""From files of weights to networks, and back."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import CheckpointError, ConfigError, InputError, did_you_mean
from maskrcnn.files import replacing
from maskrcnn.weights import detectron2, maskrcnn_benchmark, matterport, torchvision
from maskrcnn.weights.classes import carry_classes
from maskrcnn.weights.importing import Imported, described, some
from maskrcnn.weights.read import as_tensors, read
from maskrcnn.weights.releases import of_file

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN

logger = logging.getLogger("maskrcnn")
IMPORTERS: dict[str, Any] = {
    "torchvision": torchvision,
    "detectron2": detectron2,
    "maskrcnn-benchmark": maskrcnn_benchmark,
    "matterport": matterport,
}
FORMATS = ("maskrcnn", *IMPORTERS)
METADATA_KEY = "maskrcnn.config"
TRAINING_KEY = "maskrcnn.training"


def load(
    source: str | os.PathLike[str] | Mapping[str, Tensor | np.ndarray],
    format: str | None = None,
    class_names: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    partial: bool = False,
) -> MaskRCNN:
    """Return the network that a weights file describes, in eval mode, on the CPU.

    What no tensor tells is assumed by the rule of the file's implementation and logged, by the logger "maskrcnn",
    with what to override.

    Args:
        source: our `.safetensors`, a `.pth` or `.pkl` of torchvision, Detectron2 or maskrcnn-benchmark, a `.h5` of
            Matterport's, or a mapping from tensor names to tensors.
        format: which implementation wrote it, one of `FORMATS`; recognised by the names of its tensors if not given.
        class_names: the classes that the network shall know, background not counted. Of classes that the file
            has under the same name all weights are kept; others start anew. Names for a file without any, if they
            are as many.
        overrides: dotted configuration fields that the file does not tell, as `{"backbone.norm_eps": 0.0}`.
        partial: start parts that the file lacks from random weights.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors do not fit together.
        ConfigError: an override is unknown or out of range.
        InputError: there is no such format.
    """
    name = "the mapping" if isinstance(source, Mapping) else os.fspath(source)
    if (overrides or {}).get("backbone_weights") is not None:
        raise ConfigError("backbone_weights starts a new network; these weights bring their own backbone.")
    imported = import_weights(source, format)
    open_questions = [a for a in imported.assumed if a.field not in (overrides or {})]
    if open_questions:
        told = "; ".join(map(str, open_questions))
        logger.warning(
            "%s is %s. No tensor tells, and so is assumed: %s. To change it, override.", name, imported.kind, told
        )
    if imported.unused:
        logger.warning("%s: no part of the network takes %s.", name, some(imported.unused))
    if class_names is not None:
        carried = carry_classes(imported.config, imported.tensors, class_names, imported.names_known)
        imported.config, imported.tensors = carried.config, carried.tensors
        if carried.started:
            logger.warning("%s: %s.", name, carried.said())
    imported.config = imported.config.replace(overrides or {})
    model, missing = build(imported, name, partial)
    if missing:
        logger.warning("%s: from random weights start %s.", name, some(missing))
    return model


def import_weights(
    source: str | os.PathLike[str] | Mapping[str, Tensor | np.ndarray], format: str | None = None
) -> Imported:
    """Return what a weights file or mapping holds, in our terms; see `load` for arguments and errors."""
    if format is not None and format not in FORMATS:
        hint = did_you_mean(format, list(FORMATS))
        raise InputError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.{hint}")
    name = "the mapping" if isinstance(source, Mapping) else os.fspath(source)
    metadata: Mapping[str, str] = {}
    if isinstance(source, Mapping):
        tensors = as_tensors(source)
    else:
        tensors, metadata, _ = read(Path(source).expanduser())
    format = format or _recognise(tensors, metadata, name)
    if format != "maskrcnn":
        imported: Imported = IMPORTERS[format].convert(tensors, name, metadata)
        return imported if isinstance(source, Mapping) else _as_released(imported, Path(source).expanduser())
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{name} holds no configuration: it was not written by maskrcnn's save.")
    # A path that a stranger's file names is never opened.
    config = _stored_config(metadata[METADATA_KEY], name).replace({"backbone_weights": None})
    return Imported(f"our {described(config)}", config, tensors)


def _as_released(imported: Imported, path: Path) -> Imported:
    """Return the same with nothing left to assume, if the file is one that its publisher released."""
    release = of_file(path)
    if release is not None:
        imported.kind += f", released as {release.name}"
        imported.config = imported.config.replace(dict(release.overrides))
        imported.assumed, imported.names_known = [], True
    return imported


def build(imported: Imported, name: str, partial: bool = False) -> tuple[MaskRCNN, list[str]]:
    """Return the network with its weights, in eval mode, and the tensors that the file lacked.

    The network takes over the tensors as they are, without a copy, where their type is that of its own.

    Raises:
        CheckpointError: a tensor is missing and `partial` is false, or one has another shape than the network's.
    """
    from maskrcnn.model import MaskRCNN

    with torch.device("meta"):  # neither memory nor time for weights that are replaced
        model = MaskRCNN(imported.config)
    tensors, wanted = imported.tensors, model.state_dict()
    counters = {k: torch.zeros_like(v, device="cpu") for k, v in wanted.items() if k.endswith(".num_batches_tracked")}
    tensors = {**counters, **tensors}
    missing = [k for k in wanted if k not in tensors]
    if missing and not partial:
        raise CheckpointError(f"{name} lacks: {some(missing)}.")
    wrong = [
        f"{k} is {list(tensors[k].shape)}, not {list(v.shape)}"
        for k, v in wanted.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if wrong:
        raise CheckpointError(f"{name} does not fit: {some(wrong)}.")
    unknown = [k for k in tensors if k not in wanted]
    if unknown and imported.kind.startswith("our "):
        raise CheckpointError(f"{name} has unknown tensors: {some(unknown)}.")
    if missing:
        tensors = {**MaskRCNN(imported.config).state_dict(), **tensors}
    model.load_state_dict({k: tensors[k].to(v.dtype) for k, v in wanted.items()}, assign=True)
    return model.eval(), missing


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
    for format, importer in IMPORTERS.items():
        if importer.recognises(tensors):
            return format
    if TRAINING_KEY in metadata:
        raise CheckpointError(
            f"{name} is a checkpoint to resume a run from; its weights are in model.safetensors beside it."
        )
    if "box_head.class_logits.weight" in tensors:
        raise CheckpointError(
            f"{name} holds our tensors without their configuration, as a bare state_dict does; model.save(path) "
            "writes both."
        )
    raise CheckpointError(
        f"{name} is of no known format ({', '.join(FORMATS)}); its tensors are called {some(list(tensors))}."
    )


def _stored_config(text: str, name: str) -> Config:
    try:
        return Config.from_json(text)
    except ConfigError as e:
        raise CheckpointError(f"{name} holds a configuration this version does not understand: {e}") from None
