"""`maskrcnn report`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from maskrcnn.cli.common import AsJson, Device, Overrides, Quiet, bold, load_on, output_file, parse_overrides, reporter
from maskrcnn.cli.networks import Preset, Random, WeightsAndPhoto, random_network, weights_and_photo
from maskrcnn.devices import choose_device
from maskrcnn.files import write_text
from maskrcnn.images import load_image
from maskrcnn.weights.releases import DEFAULT


def report(
    inputs: WeightsAndPhoto,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("report.html"),
    threshold: Annotated[
        float, typer.Option(help="Least score of the detections that are followed.", min=0.0, max=1.0)
    ] = 0.5,
    random: Random = False,
    preset: Preset = None,
    overrides: Overrides = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write one HTML file that shows the whole network and what it did with a photo.

    \b
    Examples:
      maskrcnn report runs/photos/best.safetensors photo.jpg -o report.html
      maskrcnn report photo.jpg --random                 to study the architecture without a checkpoint
      maskrcnn report photo.jpg --preset vgg16 -o vgg.html

    A map to click through from the four parts down to single layers, this photo's own data at each, a walk from
    pixels to masks, and every object followed back to its anchor. The file needs no network and no other file.
    Without weights, and without --random or --preset, torchvision's are fetched once, as predict does.
    """
    from maskrcnn.inspection.report import report as make_report

    made_up = random or preset is not None
    weights, photo_name = weights_and_photo(inputs, made_up, "report")
    output_file(output)
    photo = load_image(photo_name)
    say = reporter(quiet)
    began = time.monotonic()
    if made_up:
        model = random_network(preset, parse_overrides(overrides), say).to(choose_device(device))
    else:
        model = load_on(weights or DEFAULT, device, overrides, quiet)
    with say.bar("report", 4) as bar:
        text = make_report(
            model, photo, threshold=threshold, name=Path(photo_name).name, random=made_up, progress=bar.advance
        )
    write_text(output, text)
    seconds, size = time.monotonic() - began, len(text.encode()) / 1e6
    if as_json:
        typer.echo(json.dumps({"report": str(output), "megabytes": round(size, 2), "seconds": round(seconds, 1)}))
    say.say(f"{bold(output)} ({size:.1f} MB, {seconds:.0f} s): open it in a browser.")
