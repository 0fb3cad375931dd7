"""Bars on a terminal, lines elsewhere, and silence."""

import io

import pytest
from rich.console import Console

from maskrcnn import progress
from maskrcnn.progress import Reporter


@pytest.fixture
def told():
    """Return a reporter, and a function that gives what it showed."""

    def make(terminal=False, quiet=False, width=80):
        written = io.StringIO()
        console = Console(file=written, width=width, force_terminal=terminal, color_system=None, legacy_windows=False)
        return Reporter(console, quiet), written.getvalue

    return make


def test_a_terminal_gets_a_bar_with_its_text_below(told):
    reporter, shown = told(terminal=True)
    with reporter.bar("training", 2) as bar:
        bar.advance("loss 1.5")
        bar.advance("loss 0.5")
    last = shown().split("\r")[-1]
    assert "2/2" in shown()
    assert "left" in shown()
    assert "loss 0.5" in shown()
    [line] = [line for line in last.splitlines() if "2/2" in line]
    assert "loss 0.5" not in line


def test_a_long_text_is_cut_and_the_bar_is_whole(told):
    reporter, shown = told(terminal=True, width=60)
    with reporter.bar("training", 1) as bar:
        bar.advance("word " * 30)
    assert "1/1" in shown()
    assert max(map(len, shown().replace("\r", "\n").splitlines())) <= 60 + len("\x1b[2K\x1b[1A" * 3)


def test_a_bar_inside_a_bar_is_gone_afterwards(told):
    reporter, shown = told(terminal=True)
    with reporter.bar("training", 2) as outer:
        with reporter.bar("evaluating", 7) as inner:
            inner.advance()
        outer.advance()
        outer.advance()
    assert "evaluating" in shown()
    assert "evaluating" not in shown().split("2/2")[-1]


def test_without_a_terminal_a_line_comes_now_and_then(told, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    reporter, shown = told()
    with reporter.bar("training", 10, done=2) as bar:  # ten seconds a step
        for step in range(3, 11):
            bar.advance(f"loss [{step}]")
    assert shown().splitlines() == [
        "training 5/10, 0:00:50 left: loss [5]",
        "training 8/10, 0:00:20 left: loss [8]",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_warnings_alone(told, terminal):
    reporter, shown = told(terminal=terminal, quiet=True)
    reporter.say("hello")
    with reporter.bar("training", 1) as bar:
        bar.advance("loss 1.5")
    assert shown() == ""
    reporter.warn("photo[1].jpg: is empty.")
    assert shown() == "Warning: photo[1].jpg: is empty.\n"


def test_what_a_terminal_would_obey_is_not_shown():
    console = Console(file=io.StringIO(), width=80)
    Reporter(console).say("a\x1b[31mb\nc")
    Reporter(console).warn("d\x1b]0;x\x07e")
    assert console.file.getvalue() == "a?[31mb\nc\nWarning: d?]0;x?e\n"
