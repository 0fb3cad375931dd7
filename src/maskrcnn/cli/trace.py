"""`maskrcnn trace`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape

from maskrcnn.cli.common import (
    AsJson,
    Device,
    Overrides,
    Quiet,
    bold,
    load_on,
    output_file,
    output_folder,
    parse_overrides,
    reporter,
)
from maskrcnn.cli.networks import Preset, Random, WeightsAndPhoto, random_network, weights_and_photo
from maskrcnn.config import Config
from maskrcnn.data.any import CheckedDataset, check_keypoint_names
from maskrcnn.data.coco import CocoDataset
from maskrcnn.data.find import find_image
from maskrcnn.data.shapes import ShapesDataset
from maskrcnn.devices import choose_device
from maskrcnn.errors import DatasetError, InputError, counted
from maskrcnn.files import replacing
from maskrcnn.images import ImageLike, load_image
from maskrcnn.inspection.follow import follow as follow_object
from maskrcnn.inspection.profile import Profile
from maskrcnn.inspection.profile import profile as measure
from maskrcnn.inspection.trace import Trace
from maskrcnn.inspection.trace import trace as run_trace
from maskrcnn.inspection.trail import ObjectTrail
from maskrcnn.model import MaskRCNN
from maskrcnn.progress import Reporter
from maskrcnn.structures import Detections, Target
from maskrcnn.weights.releases import DEFAULT

SHOWN = 10
"""Detections that are listed."""
Labelled = tuple[CocoDataset | ShapesDataset, int]
"""A data set, and the number of the photo in it."""


def trace(
    inputs: WeightsAndPhoto,
    stages: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            metavar="NAME",
            help="Stage, module or glob, as p6, rpn.*, backbone.layer3.5.conv2, fpn_p6; all stages by default. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the tensors of the table to this safetensors file.", show_default=False),
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Trace a step of training, with this photo's ground truth: a COCO JSON file, a folder with "
            "annotations/val.json, or shapes.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the annotations' images, if not near them.", show_default=False),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for pictures of what every part does.", show_default=False)
    ] = None,
    follow: Annotated[
        int | None,
        typer.Option(
            "--object",
            metavar="N",
            help="Follow detection N, from 0, back to its anchor: every number on its way.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Least score of detections that are listed and drawn; 0.5 by default, 0 with random weights.",
            min=0.0,
            max=1.0,
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also measure time, memory and FLOPs of every stage and part.")
    ] = False,
    random: Random = False,
    preset: Preset = None,
    overrides: Overrides = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show every stage between a photo and its masks.

    \b
    Examples:
      maskrcnn trace runs/photos/best.safetensors photo.jpg
      maskrcnn trace photo.jpg --random --stage "p?" --stage backbone.layer3.5.conv2
      maskrcnn trace best.safetensors photo.jpg --object 0 --pictures inside
      maskrcnn trace best.safetensors photos/7.jpg --annotations photos --save step.safetensors
      maskrcnn trace photo.jpg --preset resnet50-fpn --profile

    The table tells shape, type and range of every stage, the share of zeros, and how many values are NaN or
    infinite. With random weights nobody needs a checkpoint to study a network: the shapes are the same. With
    --annotations the photo is looked up by its name among them.
    """
    made_up = random or preset is not None
    weights, photo_name = weights_and_photo(inputs, made_up, "trace")
    _check_wishes(annotations, images, follow, profile)
    _check_places(save, pictures, (weights, photo_name))
    if threshold is None:
        threshold = 0.0 if made_up else 0.5
    report = reporter(quiet)
    photo: ImageLike = photo_name
    target: Target | None = None
    labels = None if annotations is None else partial(find_image, annotations, photo_name, images)
    if labels is None:
        photo = load_image(photo_name)  # before a network is loaded in vain
    if made_up:
        model, found = _random(preset, parse_overrides(overrides), labels, report)
        model.to(choose_device(device))
    else:
        model = load_on(weights or DEFAULT, device, overrides, quiet)
        kinds = {"masks": model.config.masks, "keypoints": bool(model.config.keypoint_names)}
        found = None if labels is None else labels(**kinds)
    if found is not None:
        photo, target = _labelled(*found, model.config)
    whole = run_trace(model, photo, stages, target, everything=follow is not None or pictures is not None)
    shown = whole if stages is None else whole.only(stages)
    trail = None if follow is None else _follow(whole, follow)
    costs = measure(model, photo, reporter=report) if profile else None
    if save is not None:
        shown.save(save)
    drawn = None if pictures is None else _draw(whole, pictures, model, trail, threshold, report)
    if as_json:
        told = _json(shown, trail, costs, save, drawn)
        typer.echo(json.dumps({"image": photo_name, **told}))
        return
    _print(shown, trail, costs)
    if whole.run.detections is not None:
        report.say(_found(whole.run.detections, threshold))
    if save is not None:
        report.say(f"{counted(len(shown), 'tensor')}, {save.stat().st_size / 1e6:.1f} MB: {bold(save)}")
    if drawn is not None:
        report.say(f"{counted(len(drawn), 'picture')}: {bold(pictures)}")


def _check_wishes(annotations: str | None, images: Path | None, follow: int | None, profile: bool) -> None:
    """Refuse what a step of training has not."""
    if annotations is None and images is not None:
        raise InputError("--images is the folder of the images of --annotations; name those too.")
    if annotations is not None and follow is not None:
        raise InputError("--object follows a detection, and a step of training finds none; leave out --annotations.")
    if annotations is not None and profile:
        raise InputError("--profile measures a photo being looked at, not a step of training; leave out --annotations.")


def _check_places(save: Path | None, pictures: Path | None, inputs: Sequence[str | None]) -> None:
    """Make sure, before the work, that the results can be put there, and that no input is lost to them."""
    if save is not None:
        output_file(save)
        for name in inputs:
            if name is not None and save.exists() and Path(name).exists() and save.samefile(name):
                raise InputError(f"--save {save} would overwrite {name}, which is read. Choose another name.")
    if pictures is not None:
        output_folder(pictures)


def _random(
    preset: str | None, changes: dict[str, Any], labels: Callable[..., Labelled] | None, report: Reporter
) -> tuple[MaskRCNN, Labelled | None]:
    """Return a network with random weights, and the photo among annotations, whose classes the network has then."""
    if labels is None:
        return random_network(preset, changes, report), None
    found = labels(masks=changes.get("masks", True), keypoints=bool(changes.get("keypoint_names")))
    return random_network(preset, {"class_names": found[0].class_names, **changes}, report), found


def _labelled(
    dataset: CocoDataset | ShapesDataset, index: int, config: Config
) -> tuple[UInt8[np.ndarray, "H W 3"], Target]:
    """Return a photo and its ground truth, checked, with the network's labels for the classes of the same name."""
    names = tuple(dataset.class_names)
    unknown = [name for name in names if name not in config.class_names]
    if unknown:
        raise DatasetError(
            f"The annotations have classes that the network does not know: {', '.join(unknown)}. "
            f"It knows {', '.join(config.class_names)}."
        )
    check_keypoint_names(dataset, config.keypoint_names, "annotated")
    photo, target = CheckedDataset(dataset, names, config.masks, config.keypoint_names)[index]
    places = torch.tensor([config.class_names.index(name) for name in names])
    return photo, replace(target, labels=places[target.labels])


def _follow(whole: Trace, number: int) -> ObjectTrail:
    """Return the trail of a detection; raise `InputError` where there is none of this number."""
    if not whole.run.detections:
        least = whole.run.config.box.score_threshold
        raise InputError(
            f"Nothing was found on this photo with a score above {least:g}, so there is no object to follow. "
            "--set box.score_threshold=0 keeps what scores less."
        )
    return follow_object(whole, number)


def _draw(
    whole: Trace, folder: Path, model: MaskRCNN, trail: ObjectTrail | None, threshold: float, report: Reporter
) -> list[Path]:
    """Write the pictures, that of a followed object too, and return their paths."""
    from maskrcnn.inspection import pictures

    paths = pictures.save_pictures(whole, folder, model, lambda left_out: report.say(escape(left_out)), threshold)
    if trail is not None:
        path = folder / f"object-{trail.number}.png"
        with replacing(path) as new:
            pictures.trail_picture(whole, trail).save(new)
        paths.append(path)
    return paths


def _json(
    shown: Trace, trail: ObjectTrail | None, costs: Profile | None, save: Path | None, drawn: list[Path] | None
) -> dict[str, Any]:
    """Return what was asked for as plain values."""
    told: dict[str, Any] = {"stages": shown.summary()}
    if save is not None:
        told["saved"] = str(save)
    if drawn is not None:
        told["pictures"] = [str(path) for path in drawn]
    if trail is not None:
        told["object"] = trail.summary()
    if costs is not None:
        told["profile"] = json.loads(costs.to_json())
    return told


def _print(shown: Trace, trail: ObjectTrail | None, costs: Profile | None) -> None:
    """Print the tables on standard output."""
    console = Console(highlight=False)
    console.print(shown.table(console.width))
    if shown.letters():
        console.print(shown.letters(), style="dim", markup=False)
    for table in (trail, costs):
        if table is not None:
            console.print()
            console.print(table.table())


def _found(found: Detections, threshold: float) -> str:
    """Return how many objects were found, and the best by the numbers that --object takes."""
    scores = found.scores.tolist()
    count = sum(score >= threshold for score in scores)
    if not count:
        return f"Nothing was found with a score of {threshold:g} or more" + (
            f"; the best has {scores[0]:.3f}." if scores else "."
        )
    best = [f"{n} {escape(name)} {scores[n]:.3f}" for n, name in enumerate(found.names[: min(count, SHOWN)])]
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return f"Found, by the numbers of --object: {', '.join(best)}{more}."
