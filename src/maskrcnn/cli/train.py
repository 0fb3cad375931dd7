"""`maskrcnn train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from maskrcnn.cli.common import AsJson, Device, Overrides, Quiet, parse_overrides, reporter
from maskrcnn.config import Config, checked
from maskrcnn.data.open import open_dataset
from maskrcnn.errors import ConfigError
from maskrcnn.model import MaskRCNN
from maskrcnn.training import TrainOptions
from maskrcnn.training import train as run_training
from maskrcnn.weights import load


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
        str, typer.Option(help="Network to start from, as resnet50-fpn, vgg16, small-fpn.")
    ] = "small-fpn",
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights to start from, with their own configuration.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    epochs: Annotated[int, typer.Option(help="Times that every image is seen.")] = 12,
    batch_size: Annotated[int, typer.Option(help="Images per step and process.")] = 2,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="Default: sgd 0.00125 × batch size, adamw 0.0005.",
            show_default=False,
        ),
    ] = None,
    schedule: Annotated[str, typer.Option(help="step or cosine.")] = "step",
    warmup: Annotated[int, typer.Option(help="Steps of rising rate.")] = 500,
    weight_decay: Annotated[float, typer.Option(help="Pull of weights towards zero.")] = 1e-4,
    clip_norm: Annotated[float, typer.Option(help="Largest gradient norm; 0 for no limit.")] = 0.0,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    flip: Annotated[float, typer.Option(help="Chance of mirroring an image.")] = 0.5,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    seed: Annotated[int, typer.Option(help="Start of all chance.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="Epochs between evaluations; 0 for none.")] = 1,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints, besides every epoch's.")] = 0,
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
    masks = parse_overrides(overrides).get("masks", True)
    training_set = open_dataset(data, "train", images, masks=masks, keep_empty=keep_empty)
    validation_set = open_dataset(validation or data, "val", images, masks=masks, optional=validation is None)
    default_rate = 0.0005 if optimizer == "adamw" else 0.00125 * max(batch_size, 1)
    settings: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "schedule": schedule,
        "learning_rate": default_rate if learning_rate is None else learning_rate,
        "warmup_steps": warmup, "weight_decay": weight_decay, "clip_norm": clip_norm, "precision": precision,
        "flip": flip, "workers": workers, "seed": seed, "evaluate_every": evaluate_every, "save_every": save_every,
    }  # fmt: skip
    options = checked(TrainOptions, settings)
    torch.manual_seed(seed)  # for random weights
    if weights is not None:
        model = load(weights, overrides=parse_overrides(overrides))
        if model.config.class_names != training_set.class_names:
            raise ConfigError(
                f"{weights} knows the classes {', '.join(model.config.class_names)}; the data has "
                f"{', '.join(training_set.class_names)}."
            )
    else:
        names = training_set.class_names
        model = MaskRCNN(Config.preset(preset, class_names=names, overrides=parse_overrides(overrides)))
    report = reporter(quiet)
    report.say(
        f"[bold]{len(training_set)}[/] images to train on, [bold]{len(validation_set) if validation_set else 0}[/] to "
        f"evaluate on, {len(training_set.class_names)} classes. Learning rate {options.learning_rate:g} for "
        f"{options.batch_size} images a step."
    )
    result = run_training(
        model, training_set, output, options, validation_set, resume=resume, device=device, reporter=report
    )
    if result.evaluation is not None:
        report.say("")
        if not quiet:
            report.console.print(result.evaluation)
    report.say(
        f"Done: {result.steps} steps in {result.seconds / 60:.1f} minutes. Weights: [bold]{result.weights}[/]\n"
        f"Next: maskrcnn predict {result.weights} PHOTOS -o {output}/predictions"
    )
    if as_json:
        figures = None if result.evaluation is None else json.loads(result.evaluation.to_json())
        described = {"weights": str(result.weights), "steps": result.steps, "evaluation": figures}
        typer.echo(json.dumps(described))
