"""The log of a run: JSON lines, and the same as TensorBoard scalars."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from maskrcnn.errors import WriteError, os_reason


class RunLog:
    """Appends records to `log.jsonl` and scalars to `tensorboard/`.

    When a run is resumed, lines after the step it resumes from are dropped: those steps are done again.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        self.path = folder / "log.jsonl"
        try:
            if resume_step:
                self._drop_after(resume_step)
            self._file = open(self.path, "a" if resume_step else "w", encoding="utf-8")  # noqa: SIM115
        except OSError as e:
            raise WriteError(f"Cannot write {os_reason(self.path, e)}.") from None
        self._board = _summary_writer(folder / "tensorboard", resume_step)

    def write(self, step: int, record: dict[str, Any]) -> None:
        """Append a record, whole on its line even if the process dies right after."""
        try:
            self._file.write(json.dumps({"step": step, **record}) + "\n")
            self._file.flush()
        except OSError as e:
            raise WriteError(f"Cannot write {os_reason(self.path, e)}. Checkpoints are unchanged.") from None
        if self._board is not None:
            for name, value in _scalars(record):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _drop_after(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                keep = line.endswith("\n") and json.loads(line)["step"] <= step
            except (ValueError, KeyError, TypeError):
                keep = False  # a line that a killed process left unfinished
            if keep:
                kept.append(line)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, self.path)


def _summary_writer(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an extra; the JSON lines hold the same
        return None
    return SummaryWriter(str(folder), purge_step=resume_step + 1)  # of an earlier writer, what is done again


def _scalars(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
