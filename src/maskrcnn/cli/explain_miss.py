"""`maskrcnn explain-miss`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape

from maskrcnn.cli.common import AsJson, Device, Overrides, Quiet, bold, load_on, output_folder, reporter, save_picture
from maskrcnn.data.coco import CocoDataset
from maskrcnn.data.find import SPLITS
from maskrcnn.data.open import open_dataset
from maskrcnn.data.shapes import ShapesDataset
from maskrcnn.errors import InputError, did_you_mean
from maskrcnn.inspection.misses import ObjectOutcome, explain_dataset, miss_picture, outcomes_table
from maskrcnn.structures import Target

MOST_TABLES = 12
"""Images whose objects are told of one by one."""


def explain_miss(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A weights file, or a name of `pretrained`.")],
    annotations: Annotated[
        str,
        typer.Option(
            "--annotations",
            "-a",
            metavar="DATA",
            help="The truth: a COCO JSON file, a folder with annotations/val.json, or shapes.",
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="Images or folders of the data; all of it by default."),
    ] = None,
    images_folder: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of the images, if not near the annotations.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="Which annotations of a folder: val, train, test.")] = "val",
    threshold: Annotated[float, typer.Option(help="Least score of a detection.", min=0.0, max=1.0)] = 0.5,
    iou: Annotated[float, typer.Option(help="Least IoU of its box with the object's.", min=0.01, max=1.0)] = 0.5,
    mask_iou: Annotated[float, typer.Option(help="Least IoU of its mask with the object's.", min=0.0, max=1.0)] = 0.5,
    limit: Annotated[
        int | None, typer.Option(help="Look at so many images only, the first.", min=1, show_default=False)
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a picture of each image with misses there.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Say where the network lost the objects that it did not find, and what to change.

    \b
    Examples:
      maskrcnn explain-miss best.safetensors photos/street.jpg --annotations photos/
      maskrcnn explain-miss best.safetensors --annotations photos/ --pictures misses
      maskrcnn explain-miss best.safetensors --annotations val.json --threshold 0.3 --limit 200

    Every object passes anchors, the RPN's score, its NMS, the class head, the score threshold and the box head, NMS
    within its class, and the mask head. The tables tell the stage at which it was lost, with the numbers there; of
    a whole data set, the losses by stage and by the objects' size, and what would help against the largest.
    An image that cannot be read is named and left out; the exit status is 1 then.
    """
    model = load_on(weights, device, overrides, quiet)
    dataset = open_dataset(annotations, split, images_folder, masks=model.config.masks)
    chosen = list(range(len(dataset))) if not images else _chosen(images, dataset, annotations)
    report = reporter(quiet)
    if pictures is not None:
        _keep_photos(dataset, chosen, pictures)
        output_folder(pictures)
    taken: set[str] = set()

    def draw(index: int, pixels: UInt8[np.ndarray, "H W 3"], target: Target, outcomes: list[ObjectOutcome]) -> None:
        if pictures is not None and not all(outcome.found for outcome in outcomes):
            picture = miss_picture(pixels, target, outcomes)
            save_picture(picture, pictures, Path(dataset.image_name(index)), taken)

    result = explain_dataset(
        model,
        dataset,
        score_threshold=threshold,
        iou=iou,
        mask_iou=mask_iou,
        images=chosen[:limit],
        reporter=report,
        collect=draw,
    )
    if as_json:
        typer.echo(json.dumps(result.summary()))
    else:
        console = Console()
        if images and len(result.outcomes) <= MOST_TABLES:
            for name, outcomes in result.outcomes.items():
                console.print(outcomes_table(name, outcomes))
        if len(result.outcomes) > 1:
            console.print(result.table())
            for advice in result.advice():
                console.print(f"• {escape(advice)}", highlight=False)
    if pictures is not None:
        report.say(f"{len(taken)} of {len(result.outcomes)} images have misses, drawn in {bold(pictures)}")
    return 1 if result.unreadable else 0


def _chosen(images: Sequence[str], dataset: CocoDataset | ShapesDataset, annotations: str) -> list[int]:
    """Return the numbers of the images that arguments name, each once, in their order."""
    names = [dataset.image_name(index) for index in range(len(dataset))]
    chosen: dict[int, None] = {}
    for image in images:
        chosen |= dict.fromkeys(_named(image, names, annotations))
    return list(chosen)


def _named(image: str, names: list[str], annotations: str) -> list[int]:
    """Return which images of the data an argument names: those in a folder, or the one whose path ends alike."""
    if Path(image).is_dir():
        inside = os.path.join(os.path.abspath(image), "")
        found = [index for index, name in enumerate(names) if os.path.abspath(name).startswith(inside)]
        if not found:
            raise InputError(f"{annotations} has no image in the folder {image}.")
        return found
    agreeing = [_agreeing(image, name) for name in names]
    most = max(agreeing, default=0)
    found = [index for index, count in enumerate(agreeing) if count == most]
    if not most:
        elsewhere = _other_split(image, annotations)
        near = did_you_mean(Path(image).name, [Path(name).name for name in names])
        hint = " --split chooses other annotations of the folder." if Path(annotations).is_dir() and not near else ""
        raise InputError(f"{annotations} has no image called {image}.{elsewhere or near + hint}")
    if len(found) > 1:
        several = ", ".join(names[index] for index in found[:3])
        raise InputError(f"{annotations} has {len(found)} images called {image}: {several}. Tell more of the path.")
    return found


def _other_split(image: str, annotations: str) -> str:
    """Return a hint where other annotations of the folder have the image."""
    if Path(annotations).is_dir():
        for split in SPLITS:
            data = open_dataset(annotations, split, masks=False, optional=True)
            names = [] if data is None else [data.image_name(index) for index in range(len(data))]
            if any(_agreeing(image, name) for name in names):
                return f" It is among its others: --split {split}"
    return ""


def _agreeing(path: str, other: str) -> int:
    """Return how many of the last parts of two paths are the same."""
    pairs = zip(*(reversed(Path(os.path.abspath(p)).parts) for p in (path, other)), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _keep_photos(dataset: CocoDataset | ShapesDataset, chosen: Sequence[int], folder: Path) -> None:
    """Raise `InputError` where a picture could take the place of a photo."""
    if isinstance(dataset, ShapesDataset):
        return
    for index in chosen:
        if dataset.image_path(index).parent.resolve() == folder.resolve():
            raise InputError(
                f"--pictures {folder} is the folder of {dataset.image_path(index).name}, which a picture of the same "
                "name could overwrite. Choose another folder."
            )
