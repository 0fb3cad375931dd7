"""Trains the run of test_resume.py in a process of its own, which kills itself where it is told to.

Usage: python train_child.py FOLDER {step N | checkpoint N | whole} [--workers N] [--resume]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import safetensors.torch
import torch

from maskrcnn.training import TrainOptions, train
from maskrcnn.weights import files
from tiny import PAPERS, tiny_data, tiny_model

STEPS = 12
CHOSEN = {"epochs": 4, "batch_size": 2, "learning_rate": 0.01, "warmup_steps": 3, "clip_norm": 10.0}
OPTIONS = TrainOptions(**{**PAPERS, **CHOSEN, "evaluate_every": 2, "save_every": 4})
"""Three steps an epoch; checkpoints after steps 3, 4, 6, 8, 9 and 12; after 6 and 12 also once evaluated."""


def run(folder: Path, workers: int = 0, resume: bool = False) -> None:
    """Train with the options above."""
    torch.set_num_threads(1)
    options = TrainOptions(**{**OPTIONS.model_dump(), "workers": workers})
    train(tiny_model(), tiny_data(6), folder, options, tiny_data(2, seed=1), resume=resume, device="cpu")


def kill_in_step(number: int) -> None:
    """Die in step `number`, losses computed and weights not yet changed."""
    steps = []
    original = torch.optim.SGD.step

    def step(self, closure=None):
        steps.append(1)
        if len(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, closure)

    torch.optim.SGD.step = step


def kill_in_checkpoint(number: int) -> None:
    """Die when half of checkpoint `number` is written."""
    checkpoints = []
    original = files.save_file

    def save_file(tensors, path, metadata=None):
        if "checkpoint" in Path(path).name:
            checkpoints.append(path)
        if len(checkpoints) == number:
            data = safetensors.torch.save(tensors, metadata)
            with open(path, "wb") as f:
                f.write(data[: len(data) // 2])
                f.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        original(tensors, path, metadata)

    files.save_file = save_file


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("until", choices=["step", "checkpoint", "whole"])
    parser.add_argument("number", type=int, nargs="?")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if given.until == "step":
        kill_in_step(given.number)
    elif given.until == "checkpoint":
        kill_in_checkpoint(given.number)
    run(given.folder, given.workers, given.resume)
