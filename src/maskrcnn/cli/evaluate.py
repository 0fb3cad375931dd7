"""`maskrcnn evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from maskrcnn.cli.common import (
    AsJson,
    Device,
    Fast,
    FastPrecision,
    Overrides,
    Quiet,
    Trust,
    load_predictor,
    output_file,
    reporter,
)
from maskrcnn.data.open import open_dataset
from maskrcnn.evaluation import evaluate as measure
from maskrcnn.files import write_text


def evaluate(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A weights file, or a name of `pretrained`.")],
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A COCO JSON file, a folder with annotations/val.json, or shapes."),
    ],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images; looked for near the annotations by default.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="Which annotations of a folder: val, train, test.")] = "val",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the figures to this JSON file.", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images that go through the network together.", min=1)] = 1,
    fast: Fast = False,
    precision: FastPrecision = None,
    overrides: Overrides = None,
    device: Device = None,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Measure box, mask and keypoint AP, as COCO does.

    \b
    Example:
      maskrcnn evaluate runs/photos/best.safetensors photos/ --split val

    An image that cannot be read is named and left out; the exit status is 1 then.
    """
    if output is not None:
        output_file(output)
    model = load_predictor(weights, device, overrides, quiet, trust, fast, precision)
    config = model.config
    dataset = open_dataset(data, split, images, masks=config.masks, keypoints=bool(config.keypoint_names))
    result = measure(model, dataset, batch_size, reporter(quiet))
    if as_json:
        typer.echo(result.to_json())
    else:
        Console().print(result)
    if output is not None:
        write_text(output, result.to_json() + "\n")
    return 1 if result.num_images < len(dataset) else 0
