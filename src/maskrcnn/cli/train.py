"""`maskrcnn train`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from maskrcnn.cli.common import (
    AsJson,
    Device,
    Overrides,
    Quiet,
    bold,
    find_weights,
    is_main_process,
    notes,
    parse_overrides,
    reporter,
)
from maskrcnn.config import Config
from maskrcnn.data import CocoDataset
from maskrcnn.data.open import open_dataset
from maskrcnn.errors import ConfigError, DatasetError, counted
from maskrcnn.fields import checked
from maskrcnn.model import MaskRCNN
from maskrcnn.progress import Reporter
from maskrcnn.training import TrainOptions
from maskrcnn.training import train as run_training
from maskrcnn.weights.files import import_weights, load
from maskrcnn.weights.importing import described

DEFAULT = TrainOptions()


def train(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A COCO JSON file, a folder with annotations/train.json and val.json, or shapes.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of this run.")] = Path("runs/train"),
    validation: Annotated[
        str | None,
        typer.Option("--val", help="COCO JSON to evaluate on; the folder's own by default.", show_default=False),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images; looked for near the annotations by default.", show_default=False),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Network to start from, as resnet50-fpn, vgg16; small-fpn by default.", show_default=False),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from, with their own configuration: a file, or a name of `pretrained`.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    epochs: Annotated[int, typer.Option(help="Times that every image is seen.")] = DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(help="Images per step and process.")] = DEFAULT.batch_size,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = DEFAULT.optimizer,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="Default: adamw 0.001, or 0.0001 from trained weights; sgd 0.00125 × batch size.",
            show_default=False,
        ),
    ] = None,
    schedule: Annotated[str, typer.Option(help="cosine or step.")] = DEFAULT.schedule,
    warmup: Annotated[
        int | None,
        typer.Option(help="Steps of rising rate; a tenth of the run, at most 500, by default.", show_default=False),
    ] = DEFAULT.warmup_steps,
    weight_decay: Annotated[
        float, typer.Option(help="Decay of the weights per step, as a multiple of the learning rate.")
    ] = DEFAULT.weight_decay,
    clip_norm: Annotated[float, typer.Option(help="Largest gradient norm; 0 for no limit.")] = DEFAULT.clip_norm,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = DEFAULT.precision,
    flip: Annotated[float, typer.Option(help="Probability that an image is mirrored.")] = DEFAULT.flip,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = DEFAULT.workers,
    seed: Annotated[int, typer.Option(help="Random seed.")] = DEFAULT.seed,
    evaluate_every: Annotated[
        int | None,
        typer.Option(help="Epochs between evaluations; 0 for none; by default a tenth of all.", show_default=False),
    ] = DEFAULT.evaluate_every,
    save_every: Annotated[
        int, typer.Option(help="Steps between checkpoints, besides every epoch's.")
    ] = DEFAULT.save_every,
    trace_every: Annotated[
        int,
        typer.Option(
            help="Steps between looks inside the network in TensorBoard: activations, gradients, pictures; 0 for none."
        ),
    ] = DEFAULT.trace_every,
    keypoints: Annotated[
        bool | None,
        typer.Option(
            help="Also learn the keypoints that the data's categories name; by default if the weights know some.",
            show_default=False,
        ),
    ] = None,
    keep_empty: Annotated[bool, typer.Option(help="Train on images without objects too.")] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train on your images.

    \b
    Example:
      maskrcnn train photos/ --preset resnet50-fpn --epochs 24 -o runs/photos

    The folder of the run receives model.safetensors (the last weights), best.safetensors (the best on the
    validation images), log.jsonl, tensorboard/ and checkpoint.safetensors, from which --resume continues.
    """
    changes = parse_overrides(overrides)
    if weights is None and "class_names" in changes:
        raise ConfigError("class_names cannot be set: a new network learns the classes of the data.")
    if "keypoint_names" in changes:
        raise ConfigError("keypoint_names cannot be set: --keypoints learns those that the data names.")
    if weights is not None and preset is not None:
        raise ConfigError("--weights bring their own network; leave out --preset, or the weights.")
    start = None if weights is None else find_weights(weights, quiet)
    imported = None if start is None else import_weights(start)
    masks = changes.get("masks", True if imported is None else imported.config.masks)
    known = () if imported is None else imported.config.keypoint_names
    keypoints = bool(known) if keypoints is None else keypoints
    wanted = {"masks": masks, "keypoints": keypoints}
    training_set = open_dataset(data, "train", images, **wanted, keep_empty=keep_empty)
    validation_set = open_dataset(validation or data, "val", images, **wanted, optional=validation is None)
    keypoint_names: tuple[str, ...] = ()
    if keypoints and isinstance(training_set, CocoDataset):
        keypoint_names = training_set.keypoint_names
        changes |= {"keypoint.skeleton": training_set.skeleton} if training_set.skeleton else {}
    if isinstance(training_set, CocoDataset) and not training_set.num_objects:
        raise DatasetError(f"{training_set.annotation_file}: no image has an object to learn from.")
    trained = weights is not None or changes.get("backbone_weights") is not None
    adamw_rate = DEFAULT.learning_rate / (10 if trained else 1)
    images_per_step = max(batch_size, 1) * int(os.environ.get("WORLD_SIZE", "1"))
    default_rate = adamw_rate if optimizer == "adamw" else 0.00125 * images_per_step
    settings: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "schedule": schedule,
        "learning_rate": default_rate if learning_rate is None else learning_rate,
        "warmup_steps": warmup, "weight_decay": weight_decay, "clip_norm": clip_norm, "precision": precision,
        "flip": flip, "workers": workers, "seed": seed, "evaluate_every": evaluate_every, "save_every": save_every,
        "trace_every": trace_every,
    }  # fmt: skip
    options = checked(TrainOptions, settings)
    report = reporter(quiet)
    names = training_set.class_names
    if start is None:
        changes |= {"keypoint_names": keypoint_names}
        model = _from_random_weights(preset or "small-fpn", names, changes, seed, report)
    else:
        torch.manual_seed(seed)
        with notes(quiet):
            model = load(start, class_names=names, overrides=changes, keypoint_names=keypoint_names)
        if not masks and "masks" not in changes:
            report.say("The weights have no mask head, and none is learnt; --set masks=true starts one.")
    report.say(
        f"{bold(counted(len(training_set), 'image'))} to train on, {bold(len(validation_set or ()))} to evaluate "
        f"on; {counted(len(names), 'class')}. Learning rate {options.learning_rate:g} for "
        f"{counted(images_per_step, 'image')} a step."
    )
    result = run_training(
        model, training_set, output, options, validation_set, resume=resume, device=device, reporter=report
    )
    if not is_main_process():
        return
    if as_json:
        figures = None if result.evaluation is None else json.loads(result.evaluation.to_json())
        written = {"weights": str(result.weights), "best": str(result.best), "steps": result.steps}
        typer.echo(json.dumps({**written, "evaluation": figures}))
    elif result.evaluation is not None:
        Console().print(result.evaluation)
        report.say("These are the figures of the last weights, model.safetensors.")
    report.say(
        f"Done: {counted(result.steps, 'step')} in {result.seconds / 60:.1f} minutes. "
        f"Best weights: {bold(result.best)}\n"
        f"Next: maskrcnn predict {escape(str(result.best))} PHOTOS -o found"
    )


def _from_random_weights(
    preset: str, class_names: tuple[str, ...], changes: dict[str, Any], seed: int, report: Reporter
) -> MaskRCNN:
    """Return a new network, its backbone from a classifier if `changes` name one.

    The presets are the papers' networks, whose backbones come trained: early stages and norms are frozen. From
    random weights all of it is trained, with GroupNorm (He et al. 2018, Rethinking ImageNet Pre-training), unless
    `changes` say otherwise.
    """
    config = Config.preset(preset, class_names=class_names, overrides=changes)
    if config.backbone_weights is not None:
        torch.manual_seed(seed)
        model = MaskRCNN(config)
        report.say(f"{described(model.config)}, its backbone from {escape(config.backbone_weights)}.")
        return model
    learn: dict[str, Any] = {"backbone.frozen_stages": 0}
    if config.backbone.norm in ("none", "frozen_batch"):
        learn["backbone.norm"] = "group"
    learn = {key: value for key, value in learn.items() if key not in changes and "backbone" not in changes}
    changed = config.replace(learn)
    if changed != config:
        told = " ".join(f"--set {key}={value}" for key, value in learn.items())
        report.say(f"From random weights the whole backbone is trained, as by {told}.")
    torch.manual_seed(seed)
    return MaskRCNN(changed)
