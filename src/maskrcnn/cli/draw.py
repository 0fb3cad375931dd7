"""`maskrcnn draw`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError, safe_open

from maskrcnn.cli.common import Overrides, Quiet, bold, find_weights, notes, output_file, parse_overrides, reporter
from maskrcnn.cli.networks import PhotoSize, photo_size
from maskrcnn.config import Config
from maskrcnn.errors import ConfigError, InputError, did_you_mean
from maskrcnn.inspection.drawings import FORMATS, LEVELS, compare, save, text
from maskrcnn.inspection.drawings import draw as draw_network
from maskrcnn.inspection.drawings.drawing import checked_format, checked_level, format_of
from maskrcnn.presets import PRESETS
from maskrcnn.weights.files import METADATA_KEY, import_weights

PRESET = "resnet101-fpn"
CLASSES = 80
"""Of a preset, if nothing is said: COCO's."""
MOST_CLASSES = 100_000
STDOUT = "-"


def draw(
    weights: Annotated[
        str | None,
        typer.Argument(
            metavar="WEIGHTS", help="A weights file, a name of `pretrained`, or a preset.", show_default=False
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"Draw a preset; {PRESET} if nothing is named.", show_default=False)
    ] = None,
    level: Annotated[str, typer.Option(help=f"How much detail: {', '.join(LEVELS)}.")] = "parts",
    format: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(FORMATS)}; that of the file's ending by default, else svg.", show_default=False),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write; named after what is drawn by default; - for standard output.",
            show_default=False,
        ),
    ] = None,
    other: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="OTHER",
            show_default=False,
            help="Draw it beside other weights or another preset, and mark what differs.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help=f"Of presets: how many classes, or their names with commas; {CLASSES} by default.", show_default=False
        ),
    ] = None,
    size: PhotoSize = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Draw the architecture, from four boxes to every layer.

    \b
    Examples:
      maskrcnn draw
      maskrcnn draw best.safetensors --level blocks -o network.drawio
      maskrcnn draw --preset vgg16 --classes 2 --level layers -o network.pdf
      maskrcnn draw --preset resnet50-fpn --set masks=false --compare resnet101-fpn -o compared.svg
      maskrcnn draw --level layers --format mermaid -o -

    The drawing is made from the network that the configuration describes. parts is one slide, blocks one page,
    layers two: the features, then proposals and heads. draw.io and PDF files have a page for each; svg and png become
    files NAME-1 and NAME-2. Without -o the file is named after preset and level, as resnet101-fpn-parts.svg.
    png and pdf need matplotlib: pip install 'maskrcnn[draw]'. With --compare, --set changes the first alone, and a
    preset takes the classes of the weights that it is compared with.
    """
    report = reporter(quiet)
    checked_level(level)
    form = checked_format(format) if format else format_of(Path(output)) if output not in (None, STDOUT) else "svg"
    if output is not None and Path(output).suffix.lower() in {*FORMATS.values()} - {FORMATS[form]}:
        raise InputError(f"--format {form} does not fit {output}, whose ending says another; {FORMATS[form]} would.")
    if output == STDOUT and form in ("png", "pdf"):
        raise InputError(f"{form} cannot go to standard output; name a file with -o.")
    photo = photo_size(size)
    if weights is not None and preset is not None:
        raise InputError(f"Name weights or a preset, not both; got {weights} and --preset {preset}.")
    if preset is not None and preset not in PRESETS:
        Config.preset(preset, class_names=["any"])  # raises, and names those that there are
    first = weights or preset or PRESET
    configs = _configs([first, *([other] if other else [])], classes, quiet)
    configs[0] = configs[0].replace(parse_overrides(overrides))
    names = [_name(source) for source in (first, *([other] if other else []))]
    shown = [f"{names[0]}, changed" if overrides else names[0], *names[1:]]
    if len(configs) == 1:
        drawing = draw_network(configs[0], level, photo)  # type: ignore[arg-type]
    else:
        drawing = compare(configs[0], configs[1], level, photo, (shown[0], shown[1]))  # type: ignore[arg-type]
    if output == STDOUT:
        typer.echo(text(drawing, form), nl=False)
        return
    path = Path(output) if output else Path("-".join([*names, level]) + FORMATS[form])
    output_file(path)
    for file in save(drawing, path, form):
        report.say(f"Wrote {bold(file)}")


def _configs(sources: Sequence[str], classes: str | None, quiet: bool) -> list[Config]:
    """Return the configurations of weights files and presets."""
    found: dict[str, Config] = {s: _of_weights(s, quiet) for s in sources if s not in PRESETS}
    if classes is not None and len(found) == len(sources):
        raise InputError("--classes is for presets; weights bring their own classes.")
    names = _classes(classes)
    if classes is None and found:
        names = next(iter(found.values())).class_names
    return [found[s] if s in found else Config.preset(s, class_names=names) for s in sources]


def _of_weights(source: str, quiet: bool) -> Config:
    """Return the configuration of a weights file; of our own files nothing else is read."""
    try:
        path = find_weights(source, quiet)
    except InputError as e:
        hint = did_you_mean(source, list(PRESETS))
        raise InputError(f"{e}{hint}") from None
    with suppress(SafetensorError, OSError, ConfigError), safe_open(path, framework="pt") as file:
        config = (file.metadata() or {}).get(METADATA_KEY)
        if config is not None:
            return Config.from_json(config).replace({"backbone_weights": None})
    with notes(quiet):
        return import_weights(path).config


def _classes(given: str | None) -> tuple[str, ...]:
    """Return as many names as a number says, or the names of a list with commas."""
    text = str(CLASSES) if given is None else given.strip()
    if not text.isdecimal():
        return tuple(name.strip() for name in text.split(","))
    if not 1 <= int(text[:9]) <= MOST_CLASSES:
        raise InputError(f"--classes must be from 1 to {MOST_CLASSES}, or names with commas; got {given}.")
    return tuple(f"class {number}" for number in range(1, int(text) + 1))


def _name(source: str) -> str:
    """Return what a source is called in names of files."""
    return Path(source).stem if source not in PRESETS else source
