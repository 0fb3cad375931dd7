"""`maskrcnn export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape

from maskrcnn.cli.common import Overrides, Quiet, bold, load_on, output_file, parse_overrides, reporter
from maskrcnn.cli.networks import PhotoSize, Preset, Random, photo_size, random_config
from maskrcnn.config import Config
from maskrcnn.errors import InputError, did_you_mean
from maskrcnn.export import check_installed, export_for_netron
from maskrcnn.model import MaskRCNN
from maskrcnn.presets import PRESETS

NETRON = "--format onnx --for netron, a file to look at in a graph viewer"


def export(
    weights: Annotated[
        str | None,
        typer.Argument(metavar="WEIGHTS", help="A weights file, or a name of `pretrained`.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("model.onnx"),
    format: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    purpose: Annotated[
        str | None,
        typer.Option("--for", help="netron: a file to look at in a graph viewer, not to run.", show_default=False),
    ] = None,
    weights_free: Annotated[
        bool, typer.Option("--weights-free", help="Leave the weights out: the file is under 1 MB.")
    ] = False,
    random: Random = False,
    preset: Preset = None,
    size: PhotoSize = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Write the network for another program; for now, for graph viewers.

    \b
    Examples:
      maskrcnn export runs/photos/best.safetensors --format onnx --for netron -o model.onnx
      maskrcnn export --preset resnet50-fpn --weights-free --for netron --size 480x640

    --for netron is for looking, not for running. Nodes carry their module's path, as fpn/lateral4, every edge has a
    shape, and stages of the backbone open with a click on their ƒ. In Netron, Ctrl+U shows the names and Ctrl+D the
    numbers of every node.
    """
    _check(output, format, purpose)
    photo = photo_size(size)
    report = reporter(quiet)
    with report.bar("exporting", 2) as bar:
        network = _network(weights, preset, random, weights_free, overrides, quiet)
        bar.advance("building the graph")
        export_for_netron(network, output, photo, weights=not weights_free)
        bar.advance()
    report.say(
        f"Wrote {bold(output)}, {output.stat().st_size / 1e6:.1f} MB, for looking at, not for running. Open it at "
        f"https://netron.app, or: pip install netron, then netron {escape(str(output))}"
    )


def _check(output: Path, format: str, purpose: str | None) -> None:
    """Refuse what there is no export for, before any work is done."""
    if format != "onnx":
        raise InputError(f"There is no export to {format!r}.{did_you_mean(format, ['onnx'])} There is: {NETRON}.")
    if purpose is None:
        raise InputError(f"There is no ONNX export for running yet. There is: {NETRON}.")
    if purpose != "netron":
        raise InputError(f"--for must be netron; got {purpose!r}. There is: {NETRON}.")
    if output.suffix.lower() != ".onnx":
        raise InputError(f"--output must end in .onnx; got {output}.")
    check_installed()
    output_file(output)


def _network(
    weights: str | None, preset: str | None, random: bool, weights_free: bool, overrides: list[str] | None, quiet: bool
) -> MaskRCNN | Config:
    """Return the network that is asked for; its configuration alone where that is enough."""
    if weights is not None and (random or preset is not None):
        raise InputError(f"--random and --preset take no weights; leave out {weights}, or the option.")
    if weights in PRESETS and not Path(str(weights)).exists():
        raise InputError(f"{weights} is a preset; name it with --preset {weights}.")
    if weights is not None:
        model = load_on(weights, "cpu", overrides, quiet)
        return model.config if weights_free else model
    if not random and preset is None:
        raise InputError("Name a weights file, or a preset: maskrcnn export --preset resnet50-fpn --for netron")
    config = random_config(preset, parse_overrides(overrides))
    if weights_free:
        return config
    torch.manual_seed(0)
    return MaskRCNN(config)
