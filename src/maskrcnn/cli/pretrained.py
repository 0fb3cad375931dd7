"""`maskrcnn pretrained`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from maskrcnn.cli.common import AsJson, Quiet, reporter
from maskrcnn.weights.download import cache_folder, fetch, place
from maskrcnn.weights.releases import Release, find, releases


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
        Console().print(_table())
        reporter(quiet).say(f"Files go to {cache_folder()}.")


def _described(release: Release) -> dict[str, object]:
    fields = ("name", "address", "algorithm", "digest", "licence", "page", "size", "box", "mask", "keypoint")
    return {
        **{field: getattr(release, field) for field in fields},
        "classifier": release.classifier,
        "on_disk": place(release).is_file(),
    }


def _table() -> Table:
    table = Table(header_style="bold")
    table.add_column("Name", no_wrap=True)
    for title in ("Box AP", "Mask AP", "Keypoint AP", "MB"):
        table.add_column(title, justify="right")
    table.add_column("Licence")
    table.add_column("On disk")
    several = list(releases().values())
    for release, after in zip(several, [*several[1:], None], strict=True):
        figures = [f"{ap:.1f}" if ap is not None else "" for ap in (release.box, release.mask, release.keypoint)]
        size = "" if release.size is None else f"{release.size / 1e6:.0f}"
        last = after is None or after.classifier != release.classifier
        there = "yes" if place(release).is_file() else ""
        table.add_row(release.name, *figures, size, release.licence, there, end_section=last)
    return table
