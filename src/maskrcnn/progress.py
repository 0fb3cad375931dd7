"""Progress bars and messages on the terminal; silent when nobody is to be told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column


class Bar:
    """One progress bar."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress, self._task = progress, task

    def advance(self, text: str = "") -> None:
        """Move on by one, with `text` beside the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=1, text=text)


class Reporter:
    """Shows messages and bars on a console (standard error by default, so that output can be piped)."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """Print a line, which may hold rich markup."""
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning; also when quiet, since something was left out."""
        self.console.print(f"[yellow]Warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Show a bar for as long as the block runs; bars inside bars stand below each other."""
        if self.quiet:
            yield Bar(None, None)
            return
        outer = self._progress
        progress = outer or Progress(
            TextColumn("{task.description:<10}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("[dim]left", table_column=Column(no_wrap=True)),
            # What the line has no room for is cut off the text, never off the bar.
            TextColumn("[cyan]{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=self.console,
            expand=True,
        )
        task = progress.add_task(what, total=total, completed=done, text="")
        if outer is not None:
            yield Bar(progress, task)
            progress.remove_task(task)
            return
        self._progress = progress
        try:
            with progress:
                yield Bar(progress, task)
        finally:
            self._progress = None
