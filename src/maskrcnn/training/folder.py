"""The folder of a run: its files, and whether a run may begin in it."""

from __future__ import annotations

from pathlib import Path

from maskrcnn.errors import InputError, WriteError, os_reason

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"


def prepare_folder(folder: Path, resume: bool) -> None:
    """Make the folder if need be, and clear away what a process killed while it wrote has left.

    Raises:
        InputError: there is a run already, or with `resume` there is none.
        WriteError: the folder cannot be written.
    """
    if resume and not (folder / CHECKPOINT).exists():
        raise InputError(f"There is nothing to resume in {folder}: it holds no {CHECKPOINT}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
        for name in (CHECKPOINT, WEIGHTS, BEST):
            for leftover in folder.glob(f".{name}.*.tmp"):
                leftover.unlink(missing_ok=True)
    except OSError as e:
        raise WriteError(f"Cannot write {os_reason(folder, e)}.") from None
    if not resume and (folder / CHECKPOINT).exists():
        raise InputError(f"{folder} already holds a run. Continue it with --resume, or choose another folder.")


def write_text(path: Path, text: str) -> None:
    """Write a file; raise `WriteError` where that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise WriteError(f"Cannot write {os_reason(path, e)}.") from None
