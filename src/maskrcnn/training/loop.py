"""The training loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskrcnn.data.any import ImagesAndTargets, check_keypoint_names
from maskrcnn.errors import DatasetError, MaskRCNNError, NonFiniteLossError, WriteError
from maskrcnn.evaluation import EvaluationResult, evaluate
from maskrcnn.files import write_text
from maskrcnn.inspection.steps import step_trace, write_activations, write_gradients, write_pictures
from maskrcnn.inspection.structure import read_structure
from maskrcnn.inspection.tensorboard import write_graph
from maskrcnn.memory import made_batch, memory_explained
from maskrcnn.model import MaskRCNN
from maskrcnn.progress import Bar, Reporter
from maskrcnn.stages import recording
from maskrcnn.structures import ImageBatch, Losses, TargetBatch
from maskrcnn.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from maskrcnn.training.folder import BEST, CHECKPOINT, EVALUATION, RUN, WEIGHTS, prepare_folder
from maskrcnn.training.loader import Batch, Order, TrainingItems, dead_readers_told, read, training_batches
from maskrcnn.training.log import RunLog
from maskrcnn.training.machine import accelerator, interrupts_held_back, memory_layout, unwrap, unwrapped
from maskrcnn.training.options import TrainOptions


@dataclass(frozen=True)
class TrainResult:
    """What a run left: its last weights, how long it took, and the last evaluation if there was one."""

    folder: Path
    steps: int
    seconds: float
    evaluation: EvaluationResult | None

    @property
    def weights(self) -> Path:
        """The last weights."""
        return self.folder / WEIGHTS

    @property
    def best(self) -> Path:
        """The weights of the best evaluation; the last ones if there was none."""
        best = self.folder / BEST
        return best if best.exists() else self.weights


def train(
    model: MaskRCNN,
    dataset: ImagesAndTargets,
    folder: str | Path,
    options: TrainOptions | None = None,
    validation: ImagesAndTargets | None = None,
    resume: bool = False,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train `model` in place, on one CPU, one GPU or, started by `accelerate launch`, several.

    Args:
        model: the network, with random or loaded weights.
        dataset: any data set of (image, target).
        folder: receives `checkpoint.safetensors` to resume from, `model.safetensors` (the last weights),
            `best.safetensors` (by mask AP, else by keypoint AP, else by box AP), `log.jsonl`, `tensorboard/` and
            `evaluation.json`.
        options: how to train.
        validation: evaluated every `evaluate_every` epochs.
        resume: continue the run in `folder`; on a CPU the losses are those of an uninterrupted run.
        device: "cpu" keeps a machine's GPU out of it; None takes what Accelerate finds.
        reporter: shows progress; nothing is shown by default.

    Raises:
        NonFiniteLossError: a loss became NaN or infinite; the message names step, term and images.
        DatasetError, InputError: the data cannot be trained on.
        WriteError: the folder cannot be written, or the disk is full; the last checkpoint is intact.
    """
    return _Run(model, dataset, Path(folder), options or TrainOptions(), validation, device, reporter).run(resume)


class _Run:
    """One run: the pieces that the steps share."""

    def __init__(
        self,
        model: MaskRCNN,
        dataset: ImagesAndTargets,
        folder: Path,
        options: TrainOptions,
        validation: ImagesAndTargets | None,
        device: str | None,
        reporter: Reporter | None,
    ) -> None:
        if len(dataset) == 0:
            raise DatasetError("The training data set holds no images.")
        for name, data in (("training", dataset), ("validation", validation)):
            _check_classes(model, data, name)
        self.accelerator = accelerator(options, device)
        self.model, self.options, self.folder = model, options, folder
        self.validation = validation
        self.main = self.accelerator.is_main_process
        self.reporter = reporter if reporter and self.main else Reporter(quiet=True)
        self.order = Order(
            len(dataset),
            options.batch_size,
            options.seed,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self.total = self.order.steps_per_epoch * options.epochs
        self.items = TrainingItems(dataset, model.config, options.flip, options.seed)
        self.optimizer = _optimizer(model, options)
        self.best: float | None = None
        self.evaluation: EvaluationResult | None = None
        self.warned: set[str] = set()
        self.evaluated = 0
        """Steps done when the last evaluation was made."""

    def run(self, resume: bool) -> TrainResult:
        started = time.monotonic()
        if self.main:
            prepare_folder(self.folder, resume)
        self.accelerator.wait_for_everyone()
        self.layout = memory_layout(self.accelerator.device)
        self.model.to(self.accelerator.device, memory_format=self.layout)  # type: ignore[call-overload]
        start = self._resume() if resume else 0
        if start:
            self.reporter.say(f"Resuming after step {start} of {self.total}.")
        with ExitStack() as stack:
            stack.callback(unwrap, self.model)
            stack.callback(lambda: self.model.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
            self.network, self.wrapped = self.accelerator.prepare(self.model, self.optimizer)
            log = None
            if self.main:
                described = {"config": json.loads(self.model.config.to_json()), "options": self.options.model_dump()}
                write_text(self.folder / RUN, json.dumps(described, indent=2) + "\n")
                log = RunLog(self.folder, self.reporter, start, self.evaluated)
                stack.callback(log.close)
                self._begin_board(log, start)
            bar = stack.enter_context(self.reporter.bar("training", self.total, start))
            stack.enter_context(dead_readers_told())  # also of one that dies in the middle of a step
            self._steps(start, log, bar)
        return TrainResult(self.folder, self.total, time.monotonic() - started, self.evaluation)

    def _begin_board(self, log: RunLog, start: int) -> None:
        """Show the network on TensorBoard, once in a run; tell where what is wished cannot be shown."""
        if not start:
            log.show(lambda board: write_graph(board, read_structure(self.model.config)))
        if self.options.trace_every and not log.board_installed:
            self.reporter.warn(
                'TensorBoard is not installed, so --trace-every shows nothing: pip install "maskrcnn[train]"'
            )

    def _steps(self, start: int, log: RunLog | None, bar: Bar) -> None:
        """Do the steps from `start` on."""
        batches = training_batches(self.items, self.order, start, self.total, self.options.workers)
        self.model.train()
        self.clock = time.monotonic()
        done = start
        try:
            if start and self._evaluation_due(start):  # stopped after that step, before its evaluation
                self._evaluate(start, log)
                self._save(start)
            for batch in read(batches):
                with interrupts_held_back(), self._memory_explained(batch):
                    record = self._step(done, batch, log)
                    done += 1
                    if log is not None:
                        log.write(done, record)
                bar.advance(_shown(record))
                self._after_step(done, log)
        except (KeyboardInterrupt, MaskRCNNError) as e:
            # After a bad loss or on a full disk the checkpoint of before is the better one.
            if self.main and done > start and not isinstance(e, (NonFiniteLossError, WriteError)):
                with interrupts_held_back():
                    self._save(done)
                self.reporter.say(f"Saved after step {done} of {self.total}; resuming continues from there.")
            raise

    def _step(self, step: int, batch: Batch | MaskRCNNError, log: RunLog | None) -> dict[str, float]:
        """Do one step and return its figures."""
        if isinstance(batch, MaskRCNNError):
            raise batch
        for reason in set(batch.skipped) - self.warned:
            self.warned.add(reason)
            self.reporter.warn(f"{reason} It is left out.")
        # The sampling of anchors and RoIs in a step depends on seed, step and process alone: that is
        # what makes a resumed run equal to an uninterrupted one.
        torch.manual_seed(_mixed(self.options.seed, step, self.accelerator.process_index))
        rate = self.options.rate(step, self.total)
        for group in self.wrapped.param_groups:
            group["lr"] = rate
        device = self.accelerator.device
        images, targets = batch.images.to(device), batch.targets.to(device)
        images = images._replace(tensor=images.tensor.contiguous(memory_format=self.layout))
        traced = log if log is not None and log.has_board and self._trace_due(step) else None
        stages: dict[str, Tensor] = {}
        with recording(stages) if traced is not None else nullcontext():
            losses: Losses = self.network(images, targets)
        if traced is not None:  # before the losses are checked: bad ones are what it is there for
            self._show_forward(step, traced, stages, images, targets)
            stages.clear()
        values = self._checked(step, losses, batch.names)
        self.accelerator.backward(losses.total)
        norm = self._clip(step, batch.names)
        if traced is not None:
            self._show(traced, lambda board: write_gradients(board, step + 1, self.model, norm))
        self.wrapped.step()
        self.wrapped.zero_grad()
        before, self.clock = self.clock, time.monotonic()
        count = len(batch.names) * self.accelerator.num_processes
        return {
            "epoch": step // self.order.steps_per_epoch + 1,
            "learning_rate": rate,
            **values,
            "gradient_norm": norm,
            "images_per_second": round(count / (self.clock - before), 3),
        }

    def _memory_explained(self, batch: Batch | MaskRCNNError) -> AbstractContextManager[None]:
        """Return a context that tells which batch would fit, should a step not fit in a GPU's memory."""
        if isinstance(batch, MaskRCNNError):
            return nullcontext()
        count, _, height, width = batch.images.tensor.shape

        def probe(side: int) -> None:
            self.wrapped.zero_grad()
            images, targets = made_batch(self.model.config, side, self.accelerator.device)
            self.accelerator.backward(self.network(images, targets).total)
            self.wrapped.zero_grad()

        alone = self.accelerator.num_processes == 1  # else its step would wait for the others
        return memory_explained(self.accelerator.device, count, (height, width), probe if alone else None)

    def _trace_due(self, step: int) -> bool:
        every = self.options.trace_every
        return every > 0 and (step == 0 or (step + 1) % every == 0)

    def _show_forward(
        self, step: int, log: RunLog, stages: dict[str, Tensor], images: ImageBatch, targets: TargetBatch
    ) -> None:
        """Write what the forward pass of a step held to TensorBoard, with pictures of its first image."""

        def write(board: Any) -> None:
            write_activations(board, step + 1, self.model, stages)
            write_pictures(board, step + 1, step_trace(self.model, stages, images, targets))

        self._show(log, write)

    def _show(self, log: RunLog, write: Callable[[Any], None]) -> None:
        """Let `write` write to TensorBoard; the time that takes is not the step's, and no fault of it ends the run."""
        began = time.monotonic()
        try:
            log.show(write)
        except Exception as e:  # noqa: BLE001  # a picture is not worth a run
            told = f"What --trace-every shows could not be drawn: {type(e).__name__}: {e}"
            if told not in self.warned:
                self.warned.add(told)
                self.reporter.warn(told)
        self.clock += time.monotonic() - began

    def _checked(self, step: int, losses: Losses, names: Sequence[str]) -> dict[str, float]:
        """Return the losses as numbers, the mean over processes; raise if one is not finite."""
        config, named = self.model.config, losses.named()
        for head, there in (("mask", config.masks), ("keypoint", bool(config.keypoint_names))):
            if not there:
                del named[head]
        stacked = torch.stack([*named.values(), losses.total]).detach()
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, reduction="mean")
        keys = [*(f"loss_{name}" for name in named), "loss"]
        values = dict(zip(keys, stacked.tolist(), strict=True))
        wrong = [f"{name} is {value}" for name, value in values.items() if not abs(value) < float("inf")]
        if wrong:
            terms = [w for w in wrong if not w.startswith("loss is")] or wrong
            raise NonFiniteLossError(
                f"Step {step + 1}: {', '.join(terms)}. Images of the step: {', '.join(names)}. "
                f"{self._saved_before()} A lower learning rate, more warm-up or clip_norm usually helps."
            )
        return values

    def _clip(self, step: int, names: Sequence[str]) -> float:
        """Return the norm of all gradients, after limiting it if wished; raise if it is not finite."""
        limit = self.options.clip_norm or float("inf")
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        if not norm < float("inf") and self.options.precision != "fp16":  # fp16's scaler skips such steps
            raise NonFiniteLossError(
                f"Step {step + 1}: the gradient's norm is {norm} though every loss is finite. Images of the step: "
                f"{', '.join(names)}. {self._saved_before()}"
            )
        return norm

    def _saved_before(self) -> str:
        path = self.folder / CHECKPOINT
        return f"{path} is from before." if path.exists() else "No checkpoint was written before it."

    def _after_step(self, done: int, log: RunLog | None) -> None:
        """Save and evaluate where it is time to; what was learnt is safe before anything else can fail."""
        every = self.options.save_every
        if done % self.order.steps_per_epoch == 0 or (every and done % every == 0):
            self._save(done)
        if self._evaluation_due(done):
            self._evaluate(done, log)
            self._save(done)
        self.clock = time.monotonic()

    def _evaluation_due(self, done: int) -> bool:
        epoch, rest = divmod(done, self.order.steps_per_epoch)
        every = self.options.epochs_between_evaluations
        wanted = self.validation is not None and every > 0 and rest == 0
        return wanted and (epoch % every == 0 or done == self.total) and self.evaluated < done

    def _evaluate(self, done: int, log: RunLog | None) -> None:
        if self.main and self.validation is not None:
            with unwrapped(self.model):  # as `maskrcnn evaluate` will measure the weights, whatever the precision
                self.evaluation = evaluate(self.model, self.validation, reporter=self.reporter)
            self.model.train()
            if log is not None:
                log.write(done, {"evaluation": self.evaluation.parts()})
            write_text(self.folder / EVALUATION, self.evaluation.to_json() + "\n")
            score = (self.evaluation.mask or self.evaluation.keypoint or self.evaluation.box)["AP"]
            if score is not None and (self.best is None or score >= self.best):
                self.model.save(self.folder / BEST)
                self.best = score
            self.reporter.say(f"step {done}: {_summary(self.evaluation)}")
        self.evaluated = done
        self.accelerator.wait_for_everyone()

    def _save(self, done: int) -> None:
        if self.main:
            save_checkpoint(self.folder / CHECKPOINT, self.model, self.optimizer, self._progress(done))
            self.model.save(self.folder / WEIGHTS)

    def _progress(self, done: int) -> Progress:
        scaler = self.accelerator.scaler
        return Progress(
            step=done,
            total_steps=self.total,
            evaluated=self.evaluated,
            best=self.best,
            config=json.loads(self.model.config.to_json()),
            options=self.options.model_dump(mode="json"),
            scaler=dict(scaler.state_dict()) if scaler is not None else {},
        )

    def _resume(self) -> int:
        progress = load_checkpoint(self.folder / CHECKPOINT, self.model, self.optimizer, self._progress(0))
        if progress.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(progress.scaler)
        self.best, self.evaluated = progress.best, progress.evaluated
        if self.main:  # the process may have died between the two files
            self.model.save(self.folder / WEIGHTS)
        return progress.step


def _mixed(*numbers: int) -> int:
    """Return one seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate)
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum)


def _check_classes(model: MaskRCNN, dataset: ImagesAndTargets | None, which: str) -> None:
    names = getattr(dataset, "class_names", None)
    if names is not None and tuple(names) != model.config.class_names:
        raise DatasetError(
            f"The {which} data has the classes {', '.join(names)}; "
            f"the network has {', '.join(model.config.class_names)}."
        )
    check_keypoint_names(dataset, model.config.keypoint_names, which)


def _summary(result: EvaluationResult) -> str:
    return "  ".join(
        f"{name} AP {100 * (figures['AP'] or 0):.1f} (AP50 {100 * (figures['AP50'] or 0):.1f})"
        for name, figures in result.parts().items()
    )


def _shown(record: dict[str, float]) -> str:
    """Return the losses for a line of 80 characters."""
    short = {"rpn_objectness": "objectness", "rpn_box": "rpn box"}
    short |= {name: name for name in ("class", "box", "mask", "keypoint") if f"loss_{name}" in record}
    terms = ", ".join(f"{shown} {record[f'loss_{name}']:.3f}" for name, shown in short.items())
    return f"loss {record['loss']:.3f}: {terms}"
