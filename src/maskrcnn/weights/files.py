"""From files of weights to networks, and back."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import CheckpointError, ConfigError, InputError, MaskRCNNError, counted, did_you_mean, printable
from maskrcnn.files import replacing
from maskrcnn.weights import detectron2, maskrcnn_benchmark, matterport, torchvision
from maskrcnn.weights.classes import carry_classes
from maskrcnn.weights.importing import Imported, described, some, theirs
from maskrcnn.weights.keypoints import carry_keypoints
from maskrcnn.weights.read import as_tensors, read
from maskrcnn.weights.releases import of_file, releases

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
MOST_ANEW = 500_000_000
"""Weights that may start anew, 2 GB; a whole Mask R-CNN on ResNeXt-152 has a third."""
NOTE = {"note": True}
"""Marks a log record that is for information: commands show it without alarm, and not if they are to be quiet."""
CLASSIFIER = (
    "is an image classifier, no detector; it starts a new network's backbone: Config.preset(…, overrides="
    '{"backbone_weights": …}), or maskrcnn train --set backbone_weights=…'
)
T = TypeVar("T")


def load(
    source: str | os.PathLike[str] | Mapping[str, Tensor | np.ndarray],
    format: str | None = None,
    class_names: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    partial: bool = False,
    keypoint_names: Sequence[str] | None = None,
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
        keypoint_names: the keypoints that the network shall know, none to leave out its keypoint head. Of keypoints
            that the file has under the same name all weights are kept; others start anew.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors do not fit together.
        ConfigError: an override is unknown or out of range.
        InputError: there is no such format.
    """
    imported = import_weights(source, format, partial)
    changed = adapt(imported, class_names, overrides, keypoint_names)
    if imported.assumed:
        told = "; ".join(f"{a.field} = {_plain(a.value)}" for a in imported.assumed)
        message = "%s is %s. The file does not tell, and it is assumed: %s."
        logger.warning(message, imported.file, imported.kind, told, extra=NOTE)
    if imported.unused:
        logger.warning("%s: no part of the network takes %s.", imported.file, some(imported.unused))
    for change in changed:
        logger.warning("%s: %s.", imported.file, change, extra=NOTE)
    model, missing = build(imported, partial)
    if missing:
        logger.warning("%s: from random weights start %s.", imported.file, some(missing))
    return model


def import_weights(
    source: str | os.PathLike[str] | Mapping[str, Tensor | np.ndarray],
    format: str | None = None,
    partial: bool = False,
) -> Imported:
    """Return what a weights file or mapping holds, in our terms; see `load` for arguments and errors."""
    if format is not None and format not in FORMATS:
        hint = did_you_mean(str(format), list(FORMATS))
        raise InputError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.{hint}")
    if not isinstance(source, (str, os.PathLike, Mapping)):
        hint = " For a network pass its state_dict()." if isinstance(source, torch.nn.Module) else ""
        raise InputError(f"weights must be a path or a mapping of tensors; got {type(source).__name__}.{hint}")
    metadata: Mapping[str, str] = {}
    if isinstance(source, Mapping):
        name, release = "the mapping", None
        # A copy: the network must not share its memory with whoever holds the mapping.
        tensors = {key: tensor.clone() for key, tensor in as_tensors(source).items()}
    else:
        path = Path(source).expanduser()
        if str(source) in releases() and not path.exists():
            raise CheckpointError(f"There is no file {source}; maskrcnn.pretrained({str(source)!r}) fetches it.")
        name, (tensors, metadata, _) = os.fspath(source), read(path)
        release = of_file(path)
    format = format or _recognise(tensors, metadata, name)
    if format == "maskrcnn":
        return _ours(tensors, metadata, name)
    if not IMPORTERS[format].recognises(tensors):
        raise CheckpointError(f"{name} is not of {format}: its tensors are called {some(list(tensors))}.")
    imported: Imported = _told(name, "does not fit together", IMPORTERS[format].convert, tensors, name, partial)
    imported.origin = getattr(imported.tensors, "origin", {})
    if release is not None:  # nothing is left to assume
        imported.kind += f", released as {release.name}"
        imported.config = imported.config.replace(dict(release.overrides))
        imported.assumed, imported.names_known = [], True
    return imported


def adapt(
    imported: Imported,
    class_names: Sequence[str] | None,
    overrides: Mapping[str, Any] | None,
    keypoint_names: Sequence[str] | None = None,
) -> list[str]:
    """Give imported weights other classes, keypoints and fields; return in words what became of what they knew.

    Raises:
        ConfigError: a field is unknown or cannot be overridden here.
    """
    changes = overrides or {}
    if not isinstance(changes, Mapping):
        raise ConfigError(f"overrides must map fields to values, as {{'box.score_threshold': 0.3}}; got {changes!r}.")
    if changes.get("backbone_weights") is not None:
        raise ConfigError("backbone_weights starts a new network; these weights bring their own backbone.")
    names = changes.get("class_names")
    if names is not None and (class_names is not None or len(names) != imported.config.num_classes):
        raise ConfigError(
            f"overriding class_names renames the {counted(imported.config.num_classes, 'class')} that there are; for "
            "other classes pass class_names= to load, or --classes to convert."
        )
    before, said = imported.config, []
    if keypoint_names is not None:
        imported.config, imported.tensors, anew = carry_keypoints(before, imported.tensors, keypoint_names)
        if anew:
            said.append(f"keypoints: {some(anew, 10)} start{'s' * (len(anew) == 1)} anew")
    if class_names is not None:
        carried = carry_classes(imported.config, imported.tensors, class_names, imported.names_known)
        imported.config, imported.tensors = carried.config, carried.tensors
        said += [carried.said()] if carried.said() else []
    imported.config = imported.config.replace(changes)
    imported.assumed = [a for a in imported.assumed if a.field not in changes]
    for head, field in (("mask_head.", "masks"), ("keypoint_head.", "keypoint_names")):
        if not getattr(imported.config, field):
            imported.tensors = {k: v for k, v in imported.tensors.items() if not k.startswith(head)}
        elif not getattr(before, field):
            imported.anew += (head,)
    return said


def build(imported: Imported, partial: bool = False) -> tuple[MaskRCNN, list[str]]:
    """Return the network with its weights, in eval mode, and the tensors that the file lacked.

    The network takes over the tensors as they are, without a copy, where their type is that of its own.

    Raises:
        CheckpointError: a tensor is missing and `partial` is false, or one has another shape than the network's.
    """
    from maskrcnn.model import MaskRCNN

    name, tensors = imported.file, imported.tensors
    with torch.device("meta"):  # neither memory nor time for weights that are replaced
        model = _told(name, "describes a network that cannot be built", MaskRCNN, imported.config)
    wanted = model.state_dict()
    counters = {k: torch.zeros_like(v, device="cpu") for k, v in wanted.items() if k.endswith(".num_batches_tracked")}
    tensors = {**counters, **tensors}
    missing = [k for k in wanted if k not in tensors]
    lacking = [theirs(k, imported.origin) for k in missing if not k.startswith(imported.anew)]
    if lacking and not partial:
        those = "them" if len(lacking) > 1 else "it"
        raise CheckpointError(f"{name} lacks: {some(lacking)}. partial=True (--partial) starts {those} anew.")
    wrong = [
        f"{theirs(k, imported.origin)} is {list(tensors[k].shape)}, not {list(v.shape)}"
        for k, v in wanted.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if wrong:
        raise CheckpointError(f"{name} does not fit: {some(wrong)}.")
    whole = [k for k, v in wanted.items() if v.is_floating_point() and not tensors.get(k, v).is_floating_point()]
    if whole:
        raise CheckpointError(f"{name} holds whole numbers, which weights are not, in {some(whole)}.")
    absent = sum(wanted[k].numel() for k in missing)
    if absent > MOST_ANEW:
        raise CheckpointError(f"{name} lacks {some(missing)}: {absent:,} weights, too many to start anew.")
    unknown = [k for k in tensors if k not in wanted]
    if unknown and imported.ours:
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


def _told(name: str, problem: str, work: Callable[..., T], *arguments: Any) -> T:
    """Return what `work` does with a stranger's tensors or sizes, whatever these provoke told as the file's fault."""
    try:
        return work(*arguments)
    except ConfigError as e:
        raise CheckpointError(f"{name} {problem}: {e}") from None
    except MaskRCNNError:
        raise
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as e:
        raise CheckpointError(f"{name} {problem}: {printable(' '.join(str(e).split()), 200)}.") from e


UNSUPPORTED = (
    (r"(fc|head\.fc|classifier\.\d)\.weight|conv1_w|(fc1000|predictions)/.*|.*/branch2a.*", CLASSIFIER),
    (r"head\.(classification|regression)_head\..*", "is a one-stage detector of torchvision's; ours has two"),
    (r"backbone\.(body\.)?0\.0\.weight", "is a detector of torchvision's on MobileNet; ours are on ResNet and VGG"),
    (r"backbone\.bottom_up\.s1\..*", "is a network of Detectron2's on RegNet; ours are on ResNet and VGG"),
    (r"rpn_head\.rpn_conv\..*|bbox_head\..*", "is of MMDetection, whose names and dialect are not known here"),
)
"""What else people have, by a name that only it has."""


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
    for pattern, what in UNSUPPORTED:
        if any(re.fullmatch(pattern, key) for key in tensors):
            raise CheckpointError(f"{name} {what}.")
    raise CheckpointError(
        f"{name} is of no known format ({', '.join(FORMATS)}); its tensors are called {some(list(tensors))}."
    )


def _ours(tensors: dict[str, Tensor], metadata: Mapping[str, str], name: str) -> Imported:
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{name} holds no configuration: it was not written by maskrcnn's save.")
    try:
        config = Config.from_json(metadata[METADATA_KEY])
    except ConfigError as e:
        raise CheckpointError(f"{name} holds a configuration this version does not understand: {e}") from None
    config = config.replace({"backbone_weights": None})  # a path that a stranger's file names is never opened
    return Imported(name, f"our {described(config)}", config, tensors, ours=True)


def _plain(value: object) -> str:
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, tuple) else f"{value}"
