"""Checkpoints to resume from: weights, optimizer and step in one safetensors file, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.files import read_tensors, write_tensors

STATE_KEY = "maskrcnn.training"


class Progress(NamedTuple):
    """How far a run is, and what it must be continued with."""

    step: int
    """Steps done."""
    total_steps: int
    best: float | None
    """Best evaluation so far."""
    config: str
    options: str
    scaler: dict[str, float]
    """State of the fp16 loss scaler; empty otherwise."""


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the checkpoint; an older one stays until the new one is complete."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    write_tensors(path, tensors, {STATE_KEY: json.dumps(progress._asdict())})


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Fill model and optimizer and return the progress.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    tensors, metadata = read_tensors(path)
    if STATE_KEY not in metadata:
        raise CheckpointError(f"{path} is no training checkpoint; give weights to continue from as --weights.")
    weights, states = _split(tensors)
    try:
        model.load_state_dict(weights)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        return Progress(**json.loads(metadata[STATE_KEY]))
    except (RuntimeError, ValueError, TypeError) as e:
        raise CheckpointError(f"{path} does not fit this run: {str(e).splitlines()[0]}") from None


def read_progress(path: Path) -> Progress:
    """Return the progress that a checkpoint holds, without its tensors' use."""
    _, metadata = read_tensors(path)
    if STATE_KEY not in metadata:
        raise CheckpointError(f"{path} is no training checkpoint.")
    return Progress(**json.loads(metadata[STATE_KEY]))


def _split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, dict[str, Any]]]:
    weights: dict[str, Tensor] = {}
    states: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        if part == "model":
            weights[rest] = value
        else:
            index, key = rest.split(".", 1)
            states.setdefault(int(index), {})[key] = value
    return weights, states
