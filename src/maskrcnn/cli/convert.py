"""`maskrcnn convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from maskrcnn.cli.common import AsJson, Overrides, Quiet, bold, find_weights, output_file, parse_overrides, reporter
from maskrcnn.config import Config
from maskrcnn.errors import InputError, counted
from maskrcnn.progress import plain
from maskrcnn.weights.files import FORMATS, adapt, build, import_weights, save
from maskrcnn.weights.importing import Imported


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="Weights (.pth, .pkl, .h5, .safetensors), or a name of `pretrained`.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .safetensors to write; without it, only tell.", show_default=False),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(FORMATS)}; recognised by the tensors' names by default.", show_default=False),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class names, separated by commas: those with a known name are kept, others start anew.",
            show_default=False,
        ),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Start missing tensors from random weights.")] = False,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Convert weights of torchvision, Detectron2, maskrcnn-benchmark or Matterport to ours.

    \b
    Examples:
      maskrcnn convert model_final_f10217.pkl -o mask_rcnn.safetensors
      maskrcnn convert mask_rcnn_coco.h5 --set box.score_threshold=0.5 -o coco.safetensors

    Tells what was recognised, the configuration with what had to be assumed, and which tensors were used, unused
    and missing. The file that is written holds weights, configuration and class names.
    """
    weights = find_weights(source, quiet)
    if output is not None:
        if output.suffix != ".safetensors":
            raise InputError(f"--output must end in .safetensors; got {output}.")
        if output.exists() and output.samefile(weights):
            raise InputError(f"--output {output} is the file to convert; choose another name.")
        output_file(output)
    report = reporter(quiet)
    imported = import_weights(weights, format, partial)
    given = len(imported.tensors)
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    carried = adapt(imported, names, parse_overrides(overrides))
    if carried is not None and (carried.started or carried.renamed):
        report.say(f"Classes: {escape(carried.said().removeprefix('classes: '))}.")
    if not as_json:
        _tell(weights, imported)
    model, missing = build(imported, partial)
    unused = [*imported.unused, *(name for name in imported.tensors if name not in model.state_dict())]
    if output is not None:
        save(model, output)
    if as_json:
        result = {
            "recognised": imported.kind,
            "config": json.loads(model.config.to_json()),
            "assumed": [{"field": a.field, "value": a.value, "reason": a.reason} for a in imported.assumed],
            "used": given - len(unused) + len(imported.unused),
            "unused": unused,
            "missing": missing,
            "output": None if output is None else str(output),
        }
        typer.echo(json.dumps(result))
        return
    console = Console()
    console.print(f"[bold]Tensors[/]  {given - len(unused) + len(imported.unused)} used", highlight=False)
    for title, names in (("unused", unused), ("missing, started from random weights", missing)):
        if names:
            console.print(
                f"{counted(len(names), 'tensor')} {title}: {escape(plain(', '.join(names)))}", highlight=False
            )
    if output is None:
        report.say("Nothing was written; name a file with --output.")
    else:
        report.say(f"Wrote {bold(output)}, {output.stat().st_size / 1e6:.0f} MB.")


def _tell(weights: Path, imported: Imported) -> None:
    """Print what was recognised, what was assumed, and the configuration."""
    console = Console()
    console.print(f"{bold(weights)} is {escape(imported.kind)}.", highlight=False, soft_wrap=True)
    if imported.assumed:
        console.print("\n[bold]Assumed[/], since no tensor tells; change with --set", highlight=False)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for a in imported.assumed:
            table.add_row(a.field, escape(_plain(a.value)), f"[dim]{escape(a.reason)}[/]")
        console.print(table)
    console.print("\n[bold]Configuration[/]", highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for section, values in _sections(imported.config):
        table.add_row(section, escape(plain(values)))
    console.print(table)
    console.print()


def _sections(config: Config) -> list[tuple[str, str]]:
    """Return each section of a configuration in a line, nested ones by dotted names."""
    values = config.model_dump(mode="python")
    names = config.class_names
    first = ", ".join(names[:3]) + (f", … {names[-1]}" if len(names) > 4 else "".join(f", {n}" for n in names[3:]))
    rows = [("classes", f"{len(names)}: {first}")]
    loose = {k: v for k, v in values.items() if not isinstance(v, dict) and k != "class_names"}
    rows.append(("network", _listed(loose)))
    return rows + [(k, _listed(v)) for k, v in values.items() if isinstance(v, dict)]


def _listed(values: dict[str, Any], prefix: str = "") -> str:
    parts = []
    for key, value in values.items():
        nested = isinstance(value, dict)
        parts.append(_listed(value, f"{prefix}{key}.") if nested else f"{prefix}{key} {_plain(value)}")
    return ", ".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(_plain(v) for v in value)})"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
