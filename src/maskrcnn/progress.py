"""Progress bars and messages on the terminal; silent when nobody is to be told."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY = 30.0
"""Seconds between lines where there is no terminal to draw a bar on, as in a batch job's log."""


def plain(text: str) -> str:
    """Return a text that may hold a stranger's, without what a terminal would obey; lines stay lines.

    Example:
        >>> plain("a" + chr(27) + "[31mb")
        'a?[31mb'
    """
    return "".join("?" if unicodedata.category(c) == "Cc" and c != "\n" else c for c in text)


class Bar:
    """One progress bar, or what stands in for it."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def advance(self, text: str = "") -> None:
        """Move on by one, with `text` under the bar."""
        self._show(text)


class Reporter:
    """Shows messages and bars on a console (standard error by default, so that output can be piped)."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """Print a line, which may hold rich markup."""
        if not self.quiet:
            self.console.print(plain(text), highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning; also when quiet, since something was left out."""
        self.console.print(f"[yellow]Warning:[/] {escape(plain(text))}", highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Show a bar for as long as the block runs; bars inside bars stand below each other.

        Where the console is no terminal, a line now and then tells the same.
        """
        if self.quiet:
            yield Bar(lambda text: None)
        elif not (self.console.is_terminal or self.console.is_jupyter):
            yield Bar(_Lines(self, what, total, done))
        elif self._progress is not None:
            with _task(self._progress, what, total, done) as bar:
                yield bar
        else:
            self._progress = _Bars(console=self.console)
            try:
                with self._progress, _task(self._progress, what, total, done, keep=True) as bar:
                    yield bar
            finally:
                self._progress = None


class _Bars(Progress):
    """Bars with their texts on lines of their own, which a narrow terminal has room for."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]left"),
            console=console,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, and under them what they have to say."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["text"]:
                yield Text(task.fields["text"], style="cyan", no_wrap=True, overflow="ellipsis")


@contextmanager
def _task(progress: Progress, what: str, total: int, done: int, keep: bool = False) -> Iterator[Bar]:
    task = progress.add_task(what, total=total, completed=done, text="")
    yield Bar(lambda text: progress.update(task, advance=1, text=text))
    if not keep:
        progress.remove_task(task)


class _Lines:
    """Says where a job is, every `LINE_EVERY` seconds."""

    def __init__(self, reporter: Reporter, what: str, total: int, done: int) -> None:
        self.reporter, self.what, self.total = reporter, what, total
        self.first = self.done = done
        self.began = self.last = time.monotonic()

    def __call__(self, text: str) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.last < LINE_EVERY:
            return
        self.last = now
        seconds = (now - self.began) / (self.done - self.first) * (self.total - self.done)
        left = timedelta(seconds=round(seconds))
        self.reporter.say(f"{self.what} {self.done}/{self.total}, {left} left{': ' if text else ''}{escape(text)}")
