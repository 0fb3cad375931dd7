"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskrcnn.errors import MaskRCNNError, WriteError, os_reason

PREFIX, SUFFIX = ".maskrcnn-", ".tmp"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; what is there after the block takes the place of `path`.

    It lies in a hidden folder beside `path`, which a process killed in the block leaves behind; see
    `clear_leftovers`. An existing file stays until the new one is complete, which then has its mode. A link is
    followed, and what is no file, as a device, is written to as it is.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "figures.json") as new:
        ...     _ = new.write_text("{}")
        >>> [p.name for p in folder.iterdir()]
        ['figures.json']
    """
    shown, path = path, Path(os.path.realpath(path))
    hidden = None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=PREFIX, suffix=SUFFIX))
        new = hidden / path.name
        yield new
        with open(new, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(new, _mode(path, hidden))
        os.replace(new, path)
    except MaskRCNNError:
        raise
    except OSError as e:
        raise WriteError(f"Cannot write {os_reason(shown, e)}. What was there before is unchanged.") from None
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all; raise `WriteError` where that fails."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def clear_leftovers(folder: Path) -> None:
    """Remove what processes killed while they wrote into a folder have left."""
    for hidden in folder.glob(f"{PREFIX}*{SUFFIX}"):
        shutil.rmtree(hidden)


def _mode(path: Path, hidden: Path) -> int:
    """Return the mode of the file that is replaced, or that of any new one: some writers make private files."""
    if not path.exists():
        path = hidden / "any"
        path.touch()
    return path.stat().st_mode & 0o777
