"""Checkpoints to resume from: weights, optimizer and step in one safetensors file, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.weights.files import TRAINING_KEY, write_tensors
from maskrcnn.weights.read import read_tensors

MAY_DIFFER = frozenset({"workers", "evaluate_every", "save_every", "trace_every"})
"""Options that do not change what the steps compute."""


class Progress(NamedTuple):
    """How far a run is, and what it must be continued with."""

    step: int
    """Steps done."""
    total_steps: int
    evaluated: int
    """Steps done at the last evaluation."""
    best: float | None
    """Best evaluation so far."""
    config: dict[str, Any]
    options: dict[str, Any]
    scaler: dict[str, float]
    """State of the fp16 loss scaler; empty otherwise."""


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the checkpoint; an older one stays until the new one is complete."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    write_tensors(path, tensors, {TRAINING_KEY: json.dumps(progress._asdict())})


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, expected: Progress) -> Progress:
    """Fill model and optimizer and return the progress.

    Args:
        path: the file.
        model: filled with the weights.
        optimizer: filled with its state.
        expected: the run that is to be continued; its step does not matter.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint.
        ConfigError: it is of a run with other options, another network or other data.
    """
    tensors, metadata = read_tensors(path)
    if TRAINING_KEY not in metadata:
        raise CheckpointError(f"{path} is no training checkpoint; give weights to continue from as --weights.")
    try:
        progress = Progress(**json.loads(metadata[TRAINING_KEY]))
        _check_same_run(path, progress, expected)
        weights, states = _split(tensors)
        model.load_state_dict(weights)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    except ConfigError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as e:
        raise CheckpointError(f"{path} does not fit this run: {' '.join(str(e).split())}") from None
    return progress


def _check_same_run(path: Path, found: Progress, expected: Progress) -> None:
    """Raise `ConfigError` where continuing with what is expected would not give the run that was begun."""
    old, new = ({**_flat(p.config), **_flat(p.options)} for p in (found, expected))
    differ = [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in MAY_DIFFER]
    if differ:
        told = ", ".join(f"{key} {json.dumps(old.get(key))}, now {json.dumps(new.get(key))}" for key in differ[:3])
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise ConfigError(
            f"{path} is from a run with other settings: {told}{more}. Resume with the same settings, or start in "
            "another folder from its model.safetensors with --weights."
        )
    if found.total_steps != expected.total_steps:
        raise ConfigError(
            f"{path} is from a run of {found.total_steps} steps; with this data it would be {expected.total_steps}. "
            "Resume with the same data, or start in another folder from its model.safetensors with --weights."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, dict[str, Any]]]:
    weights: dict[str, Tensor] = {}
    states: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        if part == "model":
            weights[rest] = value
        else:
            index, key = rest.split(".", 1)
            states.setdefault(int(index), {})[key] = value.clone()  # the file's own memory would keep it open
    return weights, states
