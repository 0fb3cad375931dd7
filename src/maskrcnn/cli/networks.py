"""Which network a command is about: weights, or a preset with random ones; and of which size its photo is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from maskrcnn.cli.common import bold
from maskrcnn.config import Config
from maskrcnn.errors import InputError, counted
from maskrcnn.export.load import EXPORTED
from maskrcnn.model import MaskRCNN
from maskrcnn.progress import Reporter
from maskrcnn.weights.coco_names import coco_names
from maskrcnn.weights.published import is_name

RANDOM_PRESET = "resnet101-fpn"
LARGEST_SIDE = 20_000
WEIGHTS = (".safetensors", ".pth", ".pt", ".pkl", ".h5", *EXPORTED)
"""Endings of weights files, and of exported networks."""

WeightsAndPhoto = Annotated[
    list[str], typer.Argument(metavar="[WEIGHTS] IMAGE", help="A photo; a weights file or name may stand first.")
]
Random = Annotated[
    bool, typer.Option("--random", help=f"Random weights, of {RANDOM_PRESET} unless --preset names another.")
]
Preset = Annotated[
    str | None, typer.Option(help="Random weights of this preset, as resnet50-fpn, vgg16.", show_default=False)
]
PhotoSize = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="Height and width of the photo to take shapes for; by default one that fills the input.",
        show_default=False,
    ),
]


def are_weights(name: str) -> bool:
    """Return whether an argument names weights, not an image.

    Example:
        >>> are_weights("best.safetensors"), are_weights("photo.jpg")
        (True, False)
    """
    return Path(name).suffix.lower() in WEIGHTS or is_name(name)


def weights_and_photo(inputs: list[str], random: bool, command: str) -> tuple[str | None, str]:
    """Return the weights, if they are named, and the photo.

    Args:
        inputs: what stands on the command line.
        random: whether random weights are wished, which leave no place for others.
        command: the command's name, for examples in messages.
    """
    if len(inputs) > 2:
        raise InputError(f"{command} takes one photo; got {', '.join(inputs)}.")
    if random and len(inputs) == 2:
        raise InputError(f"--random and --preset take no weights; leave out {inputs[0]}, or the option.")
    if len(inputs) == 2:
        return inputs[0], inputs[1]
    if are_weights(inputs[0]):
        raise InputError(f"Name a photo after the weights: maskrcnn {command} {inputs[0]} photo.jpg")
    return None, inputs[0]


def random_config(preset: str | None, changes: dict[str, Any]) -> Config:
    """Return a preset's configuration, for COCO's 80 classes unless `changes` name others."""
    if changes.get("backbone_weights") is not None:
        raise InputError("backbone_weights cannot be set with random weights.")
    rest = {key: value for key, value in changes.items() if key != "class_names"}
    names = changes.get("class_names", coco_names(80))
    return Config.preset(preset or RANDOM_PRESET, class_names=names, overrides=rest)


def random_network(preset: str | None, changes: dict[str, Any], report: Reporter) -> MaskRCNN:
    """Return a network with random weights, the same each time; as its scores know no threshold, it finds something.

    Args:
        preset: as `Config.preset` takes it.
        changes: fields to set.
        report: is told.
    """
    config = random_config(preset, {"box.score_threshold": 0.0, **changes})
    torch.manual_seed(0)
    model = MaskRCNN(config)
    report.say(
        f"[yellow]Random weights[/] of {bold(preset or RANDOM_PRESET)} with {counted(config.num_classes, 'class')}: "
        "shapes are those of a trained network; values, and what is found, mean nothing."
    )
    return model


def photo_size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of a photo, as 480x640 tells it.

    Raises:
        InputError: it is no such text.

    Example:
        >>> photo_size("480x640")
        (480, 640)
    """
    if text is None:
        return None
    sides = re.fullmatch(r"([0-9]{1,9})[x×]([0-9]{1,9})", text.strip().lower())
    height, width = (int(sides[1]), int(sides[2])) if sides else (0, 0)
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise InputError(f"--size must be height x width in pixels, 1 to {LARGEST_SIDE}, as 480x640; got {text!r}.")
    return height, width
