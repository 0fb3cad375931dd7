"""`maskrcnn pretrained`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from maskrcnn.cli.common import AsJson, Quiet, reporter
from maskrcnn.weights.download import cache_folder, fetch, place
from maskrcnn.weights.releases import Release, find, releases

FIGURES = ("box", "mask", "keypoint")
"""Fields of a release."""


def pretrained(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Published weights to download.", show_default=False)
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """List published weights, or download some.

    \b
    Examples:
      maskrcnn pretrained
      maskrcnn pretrained torchvision/maskrcnn_resnet50_fpn_v2

    With a name, downloads the file into PyTorch's cache, unless it is there, and prints its path. Every command that
    takes weights takes such a name as well. AP is on COCO val2017, in percent, as published.
    """
    if name is not None:
        path = fetch(find(name), reporter(quiet))
        typer.echo(json.dumps({**_described(find(name)), "path": str(path)}) if as_json else str(path))
    elif as_json:
        typer.echo(json.dumps([_described(release) for release in releases().values()]))
    else:
        _show()
        reporter(quiet).say(f"Files go to {cache_folder()}.")


def _described(release: Release) -> dict[str, object]:
    fields = asdict(release)
    del fields["overrides"]
    return {**fields, "on_disk": place(release).is_file()}


def _show() -> None:
    """Print two tables that a terminal of 80 columns has room for, and under them whose licence is which."""
    console = Console()
    every = list(releases().values())
    console.print(_table("Detectors", [r for r in every if not r.classifier], FIGURES), end="\n\n")
    console.print(_table("Classifiers, to start a backbone from", [r for r in every if r.classifier]), end="\n\n")
    licences = {release.name.split("/")[0]: release.licence for release in every}
    console.print(
        "box, mask and keypoint are AP on COCO val2017, in percent, as published. Licences: "
        + ", ".join(f"{publisher} {licence}" for publisher, licence in licences.items())
        + ".",
        highlight=False,
    )


def _table(title: str, several: list[Release], figures: Sequence[str] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(title, no_wrap=True, min_width=44)
    for heading in (*figures, "MB", "here"):
        table.add_column(heading, justify="right")
    for release in several:
        published = [getattr(release, figure) for figure in figures]
        table.add_row(
            release.name,
            *("" if ap is None else f"{ap:.1f}" for ap in published),
            "" if release.size is None else f"{release.size / 1e6:.0f}",
            "yes" if place(release).is_file() else "",
        )
    return table
