"""The log of a run: JSON lines, and the same as TensorBoard scalars."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from maskrcnn.errors import WriteError, os_reason
from maskrcnn.files import write_text
from maskrcnn.progress import Reporter


class RunLog:
    """Appends records to `log.jsonl` and scalars to `tensorboard/`.

    When a run is resumed, lines after the step it resumes from are dropped, and evaluations after the last that
    its checkpoint knows: those are done again.
    """

    def __init__(self, folder: Path, reporter: Reporter, step: int = 0, evaluated: int = 0) -> None:
        self.path = folder / "log.jsonl"
        self.reporter = reporter
        try:
            if step:
                self._drop_after(step, evaluated)
            self._file = open(self.path, "a" if step else "w", encoding="utf-8")  # noqa: SIM115
        except OSError as e:
            raise WriteError(f"Cannot write {os_reason(self.path, e)}.") from None
        self._board: Any = None
        self.board_installed = True
        """Whether TensorBoard is there to be written to; it is an extra."""
        with self._board_may_fail():
            try:
                self._board = _summary_writer(folder / "tensorboard", step)
            except ImportError:  # the JSON lines hold the same
                self.board_installed = False

    def write(self, step: int, record: dict[str, Any]) -> None:
        """Append a record, whole on its line even if the process dies right after."""
        try:
            self._file.write(json.dumps({"step": step, **record}) + "\n")
            self._file.flush()
        except OSError as e:
            raise WriteError(f"Cannot write {os_reason(self.path, e)}. Checkpoints are unchanged.") from None
        if self._board is not None:
            with self._board_may_fail():
                for name, value in _scalars(record):
                    self._board.add_scalar(name, value, step)

    @property
    def has_board(self) -> bool:
        """Whether TensorBoard is written to."""
        return self._board is not None

    def show(self, write: Callable[[Any], None]) -> None:
        """Let `write` put on TensorBoard, if it is written to, what a line of the log cannot hold."""
        if self._board is not None:
            with self._board_may_fail():
                write(self._board)

    def close(self) -> None:
        """Close the files."""
        with suppress(OSError):  # a line that could not be written was told of then
            self._file.close()
        if self._board is not None:
            with self._board_may_fail():
                self._board.close()

    @contextmanager
    def _board_may_fail(self) -> Iterator[None]:
        """Go on without TensorBoard where it cannot write: the JSON lines hold the same."""
        try:
            yield
        except OSError as e:
            self._board = None
            reason = os_reason(self.path.with_name("tensorboard"), e)
            self.reporter.warn(f"TensorBoard gets no more of this run: {reason}.")

    def _drop_after(self, step: int, evaluated: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                record = json.loads(line)
                keep = line.endswith("\n") and record["step"] <= (evaluated if "evaluation" in record else step)
            except (ValueError, KeyError, TypeError):
                keep = False  # a line that a killed process left unfinished
            if keep:
                kept.append(line)
        write_text(self.path, "".join(kept))


def _summary_writer(folder: Path, resume_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=resume_step + 1)  # of an earlier writer, what is done again


def _scalars(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
