"""`maskrcnn trace`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
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
from maskrcnn.data.any import CheckedDataset
from maskrcnn.data.find import find_image
from maskrcnn.devices import choose_device
from maskrcnn.errors import DatasetError, InputError, counted
from maskrcnn.images import ImageLike, load_image
from maskrcnn.inspection.profile import Profile
from maskrcnn.inspection.profile import profile as measure
from maskrcnn.inspection.trace import Trace
from maskrcnn.inspection.trace import trace as run_trace
from maskrcnn.model import MaskRCNN
from maskrcnn.progress import Reporter
from maskrcnn.structures import Detections, Target
from maskrcnn.weights.coco_names import coco_names
from maskrcnn.weights.releases import DEFAULT

SHOWN = 10
"""Detections that are listed."""


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
    _check_wishes(annotations, follow, profile)
    if save is not None:
        output_file(save)
    if pictures is not None:
        output_folder(pictures)
    report = reporter(quiet)
    photo: ImageLike = photo_name if annotations is not None else load_image(photo_name)
    found = None
    if made_up:
        given = parse_overrides(overrides)
        if annotations is not None:
            found = find_image(annotations, photo_name, images, masks=given.get("masks", True))
        names = found[0].class_names if found else coco_names(80)
        model = random_network(preset, {"class_names": names, **given}, report)
        model.to(choose_device(device))
    else:
        model = load_on(weights or DEFAULT, device, overrides, quiet)
        if annotations is not None:
            kinds = {"masks": model.config.masks, "keypoints": bool(model.config.keypoint_names)}
            found = find_image(annotations, photo_name, images, **kinds)
    target: Target | None = None
    if found is not None:
        photo, target = _labelled(*found, model.config)
    if threshold is None:
        threshold = 0.0 if made_up else 0.5
    whole = run_trace(model, photo, stages, target, everything=follow is not None or pictures is not None)
    shown = whole if stages is None else whole.only(stages)
    trail = None if follow is None else _follow(whole, follow)
    costs = None
    if profile:
        costs = measure(model, photo, reporter=report)
    written: dict[str, Any] = {}
    if save is not None:
        shown.save(save)
        written["saved"] = str(save)
    if pictures is not None:
        written["pictures"] = [str(path) for path in _draw(whole, pictures, model, trail, threshold, report)]
    if as_json:
        told: dict[str, Any] = {"image": photo_name, "stages": shown.summary(), **written}
        told |= {} if trail is None else {"object": trail.summary()}
        told |= {} if costs is None else {"profile": json.loads(costs.to_json())}
        typer.echo(json.dumps(told))
        return
    _print(shown, trail, costs)
    _tell(report, whole, shown, threshold, save, written.get("pictures"), pictures)


def _check_wishes(annotations: str | None, follow: int | None, profile: bool) -> None:
    """Refuse what a step of training has not."""
    if annotations is not None and follow is not None:
        raise InputError("--object follows a detection, and a step of training finds none; leave out --annotations.")
    if annotations is not None and profile:
        raise InputError("--profile measures a photo being looked at, not a step of training; leave out --annotations.")


def _labelled(dataset: Any, index: int, config: Config) -> tuple[Any, Target]:
    """Return a photo and its ground truth, checked for the network."""
    if tuple(dataset.class_names) != config.class_names:
        raise DatasetError(
            f"The annotations have the classes {', '.join(dataset.class_names)}; "
            f"the network has {', '.join(config.class_names)}."
        )
    return CheckedDataset(dataset, config.class_names, config.masks, config.keypoint_names)[index]


def _follow(whole: Trace, number: int) -> Any:
    """Return the trail of a detection; raise `InputError` where there is none of this number."""
    from maskrcnn.inspection.follow import follow

    found = whole.run.detections
    if not found:
        least = whole.run.config.box.score_threshold
        raise InputError(
            f"Nothing was found on this photo with a score above {least:g}, so there is no object to follow. "
            "--set box.score_threshold=0 keeps what scores less."
        )
    return follow(whole, number)


def _draw(whole: Trace, folder: Path, model: MaskRCNN, trail: Any, threshold: float, report: Reporter) -> list[Path]:
    """Write the pictures, that of a followed object too, and return their paths."""
    from maskrcnn.inspection import pictures

    paths = pictures.save_pictures(whole, folder, model, lambda left_out: report.say(escape(left_out)), threshold)
    if trail is not None:
        path = folder / f"object-{trail.number}.png"
        pictures.trail_picture(whole, trail).save(path)
        paths.append(path)
    return paths


def _print(shown: Trace, trail: Any, costs: Profile | None) -> None:
    """Print the tables on standard output."""
    console = Console(highlight=False)
    console.print(shown.table(console.width))
    if shown.letters():
        console.print(shown.letters(), style="dim", markup=False)
    for table in (trail, costs):
        if table is not None:
            console.print()
            console.print(table.table())


def _tell(
    report: Reporter,
    whole: Trace,
    shown: Trace,
    threshold: float,
    save: Path | None,
    drawn: list[str] | None,
    folder: Path | None,
) -> None:
    """Tell what was found and written."""
    found = whole.run.detections
    if found is not None:
        report.say(_found(found, threshold))
    if save is not None:
        report.say(f"{counted(len(shown), 'tensor')}, {save.stat().st_size / 1e6:.1f} MB: {bold(save)}")
    if drawn is not None:
        report.say(f"{counted(len(drawn), 'picture')}: {bold(folder)}")


def _found(found: Detections, threshold: float) -> str:
    """Return how many objects were found, and the best by the numbers that --object takes."""
    scores = found.scores.tolist()
    count = sum(score >= threshold for score in scores)
    if not count:
        return f"Nothing was found with a score of {threshold:g} or more" + (
            f"; the best has {scores[0]:.2f}." if scores else "."
        )
    best = [f"{n} {escape(name)} {scores[n]:.2f}" for n, name in enumerate(found.names[: min(count, SHOWN)])]
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return f"Found, by the numbers of --object: {', '.join(best)}{more}."
