"""The folder of a run: its files, and whether a run may begin in it."""

from __future__ import annotations

from pathlib import Path

from maskrcnn.errors import InputError, WriteError, os_reason
from maskrcnn.files import clear_leftovers

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"
RUN = "run.json"
EVALUATION = "evaluation.json"


def prepare_folder(folder: Path, resume: bool) -> None:
    """Make the folder if need be, and clear away what a process killed while it wrote has left.

    Raises:
        InputError: there is a run already, or with `resume` there is none.
        WriteError: the folder cannot be written.
    """
    if resume and not (folder / CHECKPOINT).exists():
        raise InputError(f"There is nothing to resume in {folder}: it holds no {CHECKPOINT}.")
    if folder.exists() and not folder.is_dir():
        raise WriteError(f"Cannot write into {folder}: it is a file, not a folder.")
    if not resume and any((folder / name).exists() for name in (CHECKPOINT, WEIGHTS, BEST)):
        raise InputError(f"{folder} already holds a run. Continue it with --resume, or choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise WriteError(f"Cannot write {os_reason(folder, e)}.") from None
