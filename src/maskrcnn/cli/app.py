"""The commands' common frame: help, exit status, and errors without tracebacks."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from maskrcnn import __version__
from maskrcnn.cli.convert import convert
from maskrcnn.cli.demo import demo
from maskrcnn.cli.draw import draw
from maskrcnn.cli.evaluate import evaluate
from maskrcnn.cli.explain_miss import explain_miss
from maskrcnn.cli.export import export
from maskrcnn.cli.predict import predict
from maskrcnn.cli.pretrained import pretrained
from maskrcnn.cli.report import report
from maskrcnn.cli.trace import trace
from maskrcnn.cli.train import train
from maskrcnn.devices import ask_for_huge_pages
from maskrcnn.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    ImageFileError,
    InputError,
    MaskRCNNError,
    WeightsWarning,
)
from maskrcnn.progress import Reporter, plain

FAILED, ASKED_WRONGLY, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    help="Mask R-CNN that you can run, train, ship and see through.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"maskrcnn {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Mask R-CNN that you can run, train, ship and see through."""


COMMANDS = (demo, train, evaluate, predict, report, trace, explain_miss, draw, export, convert, pretrained)
for command in COMMANDS:
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 (it failed) or 2 (it was asked wrongly)."""
    ask_for_huge_pages()
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.WARNING,
        handlers=[_Warnings(console)],
    )
    show = warnings.showwarning
    warnings.simplefilter("always", WeightsWarning)
    warnings.showwarning = _shown_with(Reporter(console), show)
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        result: Any = app(args=given, prog_name="maskrcnn", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except MaskRCNNError as e:
        _complain(console, str(e))
        wrong = (ConfigError, InputError, DatasetError, CheckpointError, ImageFileError)
        return ASKED_WRONGLY if isinstance(e, wrong) else FAILED
    except (KeyboardInterrupt, typer.Abort):
        console.print("Stopped.")
        return INTERRUPTED
    except BrokenPipeError:  # who read our output, as `head` does, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as e:  # a folder we may not look into, a full disk behind standard output
        where = e.filename or ("Standard output" if e.errno in (errno.ENOSPC, errno.EIO) else "The system")
        _complain(console, f"{where}: {e.strerror or e}.")
        return FAILED
    except MemoryError as e:
        _complain(console, f"Out of memory: {e}. A smaller batch size or image.max_size needs less.")
        return FAILED
    except Exception as e:  # noqa: BLE001  # a wrong command line is shown, all else raised again
        return _usage_or_raise(console, e)
    finally:
        warnings.showwarning = show


def _shown_with(reporter: Reporter, otherwise: Callable[..., None]) -> Callable[..., None]:
    """Return what shows our own Python warnings as commands show theirs, and others as before."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, WeightsWarning):
            reporter.warn(str(message))
        else:
            otherwise(message, category, *where, **more)

    return show


class _Warnings(logging.Handler):
    """Shows what the package logs as commands show their own warnings, and notes without alarm."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.reporter = Reporter(console)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        if getattr(record, "note", False):
            self.reporter.say(escape(record.getMessage()))
        else:
            self.reporter.warn(record.getMessage())


def _usage_or_raise(console: Console, error: Exception) -> int:
    """Show what was wrong with the command line; let any other error, which is a bug, pass."""
    if not hasattr(error, "format_message"):
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            _complain(console, f"{str(error).splitlines()[0]} A smaller batch size or image.max_size needs less.")
            return FAILED
        raise error
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # `maskrcnn` alone
        typer.echo(message)
    elif message:
        _complain(console, message)
        context = getattr(error, "ctx", None)
        if context is not None:
            console.print(f"Try '{context.command_path} --help'.", highlight=False)
    return int(getattr(error, "exit_code", ASKED_WRONGLY))


def _complain(console: Console, message: str) -> None:
    console.print(f"[bold red]Error:[/] {escape(plain(message))}", highlight=False, soft_wrap=True)
