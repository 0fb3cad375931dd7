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
from maskrcnn.weights.importing import Imported, theirs


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
    """Convert the weights of other implementations to ours.

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
    given = list(imported.tensors)
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    said = adapt(imported, names, parse_overrides(overrides))
    console = Console(quiet=quiet)
    if not as_json:
        console.print(f"{bold(weights)} is {escape(imported.kind)}.", highlight=False, soft_wrap=True)
    model, missing = build(imported, partial)
    left = [name for name in given if name not in model.state_dict()]
    unused = [*imported.unused, *(theirs(name, imported.origin) for name in left)]
    if output is not None:
        save(model, output)
    if as_json:
        result = {
            "recognised": imported.kind,
            "config": json.loads(model.config.to_json()),
            "assumed": [{"field": a.field, "value": a.value, "reason": a.reason} for a in imported.assumed],
            "used": len(given) - len(left),
            "changes": said,
            "unused": unused,
            "missing": missing,
            "output": None if output is None else str(output),
        }
        typer.echo(json.dumps(result))
        return
    _tell(console, imported)
    for change in said:
        console.print(escape(plain(change[0].upper() + change[1:] + ".")), highlight=False, soft_wrap=True)
    console.print(f"[bold]Tensors[/]  {len(given) - len(left)} used", highlight=False)
    for title, names in (("unused", unused), ("missing, started from random weights", missing)):
        if names:
            console.print(
                f"{counted(len(names), 'tensor')} {title}: {escape(plain(', '.join(names)))}", highlight=False
            )
    if output is None:
        report.say("Nothing was written; name a file with --output.")
    else:
        report.say(f"Wrote {bold(output)}, {output.stat().st_size / 1e6:.0f} MB.")


def _tell(console: Console, imported: Imported) -> None:
    """Print what was assumed, and the configuration."""
    if imported.assumed:
        console.print("\n[bold]Assumed[/], since the file does not tell; change with --set", highlight=False)
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
    """Return each section of a configuration in a line, nested ones by dotted names; of heads, those there are."""
    values = config.model_dump(mode="python")
    for section, there in (("mask", config.masks), ("keypoint", config.keypoint_names)):
        if not there:
            del values[section]
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
    """Return a value as --set takes it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_plain(v) for v in value)}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
