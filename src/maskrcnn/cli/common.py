"""What several commands share."""

from __future__ import annotations

import ast
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.markup import escape

from maskrcnn.devices import choose_device
from maskrcnn.errors import ConfigError, InputError, WriteError, os_reason
from maskrcnn.export.load import is_exported, load_exported
from maskrcnn.files import replacing
from maskrcnn.model import MaskRCNN
from maskrcnn.prediction import Predictor
from maskrcnn.progress import Reporter
from maskrcnn.training.folder import CHECKPOINT
from maskrcnn.weights import load
from maskrcnn.weights.download import fetch
from maskrcnn.weights.published import find_detector, is_name
from maskrcnn.weights.releases import suggestion

Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps; the best there is by default.", show_default=False),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the native code of a compiled .pt2 file, since you know where it comes from."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, only warnings and results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a configuration field, as rpn.nms_threshold=0.6 or anchors.ratios=[0.5,1,2]. Repeatable.",
    ),
]


Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Optimize the network for this machine first; compiles once, then starts at once. See --precision.",
    ),
]
FastPrecision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="Of --fast: float32 (as without it, to 1e-4), bf16 or auto, the default: bf16 where the processor has it.",
        show_default=False,
    ),
]
PRECISIONS = {"auto": "auto", "float32": "float32", "bf16": "bfloat16"}


def parse_overrides(given: Sequence[str] | None) -> dict[str, Any]:
    """Return dotted fields and values; a value is read as JSON, else as Python's, or else is text."""
    values: dict[str, Any] = {}
    for item in given or ():
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set takes KEY=VALUE, as rpn.nms_threshold=0.6; got {item!r}.")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = _python(text)
    return values


def _python(text: str) -> Any:
    """Return what a list, a flag or None is, written as in Python; other text as it is."""
    if text.startswith(("(", "[")) or text in ("True", "False", "None"):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return ast.literal_eval(text)
    return text


def find_weights(weights: str, quiet: bool = False) -> Path:
    """Return the file that a path or the name of published weights stands for, fetched if need be.

    Raises:
        InputError: there is no such file or name, or it is a classifier's.
        DownloadError: the published file cannot be fetched.
    """
    if is_name(weights):
        return fetch(find_detector(weights), reporter(quiet))
    path = Path(weights).expanduser()
    if not path.exists():
        raise InputError(f"There is no weights file {weights}.{suggestion(weights)}")
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.safetensors") if p.name != CHECKPOINT)
        hint = f" It holds {', '.join(inside)}; name one." if inside else " Weights come first, then data or images."
        raise InputError(f"{path} is a folder, not a file of weights.{hint}")
    return path


def load_on(weights: str, device: str | None, overrides: Sequence[str] | None = None, quiet: bool = False) -> MaskRCNN:
    """Return the network of a weights file, or of published weights, on a device."""
    path = find_weights(weights, quiet)
    if is_exported(path):
        raise InputError(f"{path} is an exported network, which predict and evaluate take; this command needs weights.")
    chosen = choose_device(device)
    with notes(quiet):
        return load(path, overrides=parse_overrides(overrides)).to(chosen)


def load_predictor(
    weights: str,
    device: str | None,
    overrides: Sequence[str] | None = None,
    quiet: bool = False,
    trust: bool = False,
    fast: bool = False,
    precision: str | None = None,
) -> MaskRCNN | Predictor:
    """Return the network of a weights file, of published weights, or of an exported file; optimized if `fast`."""
    if precision is not None and not fast:
        raise InputError("--precision belongs to --fast; without it the network runs in the weights' own precision.")
    if precision not in (None, *PRECISIONS):
        raise InputError(f"--precision must be {', '.join(PRECISIONS)}; got {precision!r}.")
    if not is_exported(weights):
        model = load_on(weights, device, overrides, quiet)
        if not fast:
            return model
        with notes(quiet):
            return model.optimize(PRECISIONS[precision or "auto"])
    if fast:
        raise InputError(f"{weights} is an exported network, which runs as it was exported; --fast needs weights.")
    if overrides:
        raise InputError(f"{weights} is an exported network, whose configuration --set cannot change; export it anew.")
    return load_exported(find_weights(weights, quiet), device, trust)


@contextmanager
def notes(quiet: bool) -> Iterator[None]:
    """Let the notes through that loading logs, or keep them back."""
    logger = logging.getLogger("maskrcnn")

    def wanted(record: logging.LogRecord) -> bool:
        return not (quiet and getattr(record, "note", False))

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def output_folder(path: Path) -> None:
    """Make a folder for results; raise `WriteError` where that cannot be."""
    if path.exists() and not path.is_dir():
        raise WriteError(f"Cannot write into {path}: it is a file, not a folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise WriteError(f"Cannot make the folder {os_reason(path, e)}.") from None


def output_file(path: Path) -> None:
    """Make sure that a file can be put there, before the work for it is done; else raise `WriteError`."""
    if path.is_dir():
        raise WriteError(f"Cannot write {path}: it is a folder, not a file.")
    output_folder(path.parent)


def is_main_process() -> bool:
    """Return whether this is the process that speaks, of those that `accelerate launch` or torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def reporter(quiet: bool) -> Reporter:
    """Return where commands report to: standard error."""
    return Reporter(quiet=quiet or not is_main_process())


def bold(value: object) -> str:
    """Return a value in bold for `Reporter.say`, whatever brackets it has."""
    return f"[bold]{escape(str(value))}[/]"


def save_picture(picture: Image.Image, folder: Path, source: Path, taken: set[str]) -> None:
    """Write a picture under the name of its source; equal names get a number."""
    name, number = source.stem, 1
    while name.casefold() in taken:  # some systems take IMG.png and img.png for one
        number += 1
        name = f"{source.stem}_{number}"
    taken.add(name.casefold())
    path = folder / f"{name}.png"
    if path.is_symlink():  # it may lead to a photo
        path.unlink()
    with replacing(path) as new:
        picture.save(new)
