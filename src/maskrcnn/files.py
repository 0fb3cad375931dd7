"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskrcnn.errors import WriteError, os_reason

SUFFIX = ".tmp"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; what is there after the block takes the place of `path`.

    It lies in a hidden folder beside `path`, which a process killed in the block leaves behind; see
    `clear_leftovers`. An existing file stays until the new one is complete.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "figures.json") as new:
        ...     _ = new.write_text("{}")
        >>> [p.name for p in folder.iterdir()]
        ['figures.json']
    """
    path = Path(path)
    hidden = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX))
        new = hidden / path.name
        yield new
        with open(new, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(new, 0o666 & ~_umask())  # some writers make files for the owner alone
        os.replace(new, path)
    except OSError as e:
        raise WriteError(f"Cannot write {os_reason(path, e)}. What was there before is unchanged.") from None
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all; raise `WriteError` where that fails."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def clear_leftovers(path: Path) -> None:
    """Remove what processes killed while they wrote `path` have left."""
    for hidden in path.parent.glob(f".{path.name}.*{SUFFIX}"):
        shutil.rmtree(hidden)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
