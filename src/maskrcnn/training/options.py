"""How to train: everything that is not the network itself."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from maskrcnn.config import Fraction, Natural, Positive, PositiveFloat
from maskrcnn.fields import Fields


class TrainOptions(Fields):
    """Options of a training run; a run is a function of these, the data and the configuration.

    The defaults learn a few hundred photos from random weights. The papers' own recipe is SGD with
    `learning_rate` 0.02 for 16 images a step, `schedule` step and no `clip_norm`.
    """

    epochs: Positive = 50
    batch_size: Positive = 4
    """Images per step and process."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: PositiveFloat = 0.001
    """With SGD, scale it with the batch (Goyal et al. 2017)."""
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Not applied to biases and normalisation."""
    schedule: Literal["step", "cosine"] = "cosine"
    milestones: tuple[Fraction, ...] = (2 / 3, 11 / 12)
    """`step`: fractions of the run after which the rate is multiplied by `gamma`; the papers' 1x by default."""
    gamma: Fraction = 0.1
    warmup_steps: Natural | None = None
    """Steps over which the rate rises linearly from a thousandth; None for a tenth of the run, at most 500."""
    clip_norm: Annotated[float, Field(ge=0)] = 5.0
    """Largest norm of all gradients together; 0 does not limit it."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    flip: Fraction = 0.5
    """Chance that an image is mirrored left to right."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    workers: Natural = 0
    """Processes that read images; 0 reads them in the training process."""
    evaluate_every: Natural | None = None
    """Epochs between evaluations; 0 evaluates never, None about ten times in the run."""
    save_every: Natural = 0
    """Steps between checkpoints, besides the one after every epoch; 0 for no others."""
    trace_every: Natural = 0
    """Steps between looks inside the network, the first step's besides, written to TensorBoard; 0 for none."""

    @property
    def epochs_between_evaluations(self) -> int:
        """`evaluate_every`, or what None stands for."""
        return max(self.epochs // 10, 1) if self.evaluate_every is None else self.evaluate_every

    def rate(self, step: int, total: int) -> float:
        """Return the learning rate of a step, counted from 0, of `total`.

        Example:
            >>> options = TrainOptions(learning_rate=0.02, schedule="step", warmup_steps=0)
            >>> [round(options.rate(step, 12), 6) for step in (0, 7, 8, 11)]
            [0.02, 0.02, 0.002, 0.0002]
        """
        progress = step / total
        if self.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            factor = self.gamma ** sum(progress >= milestone - 1e-9 for milestone in self.milestones)
        warmup = min(total // 10, 500) if self.warmup_steps is None else self.warmup_steps
        if step < warmup:
            factor *= 0.001 + 0.999 * step / warmup
        return self.learning_rate * factor
