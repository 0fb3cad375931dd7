"""Whether torch can compile programs here, and what is said where it cannot."""

import os
import subprocess

import pytest
from torch._inductor import config, cpp_builder

from maskrcnn.devices import ask_for_huge_pages, compiler_missing


def forget():
    compiler_missing.cache_clear()
    cpp_builder.cpp_compiler_search.cache_clear()


@pytest.fixture
def answer(tmp_path):
    """What is said where torch takes a compiler of this name, made of a shell script."""

    def ask(name, script=None):
        if script is not None:
            name = str(tmp_path / name)
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        forget()
        with config.patch({"cpp.cxx": (None, name)}):
            return compiler_missing()

    yield ask
    forget()


def test_a_compiler_that_takes_the_headers_is_enough(answer):
    assert answer("c++", "exit 0") is None


def test_no_compiler_is_told_with_what_to_install(answer):
    said = answer("no-such-c++")
    assert said.startswith("There is no C++ compiler no-such-c++, which torch.compile needs for a CPU. On Debian")
    assert "apt install g++ python3-dev" in said


def test_a_missing_header_is_named(answer):
    line = "<stdin>:1:10: fatal error: Python.h: No such file or directory"
    said = answer("c++", f'[ "$1" = --version ] || {{ echo "{line}" >&2; exit 1; }}')
    assert "c++ cannot build for torch.compile: <stdin>:1:10: fatal error: Python.h: No such" in said


def test_a_compiler_that_dies_without_a_word_is_told_by_its_status(answer):
    assert "cannot build for torch.compile: status 3." in answer("c++", '[ "$1" = --version ] || exit 3')


def test_the_answer_is_kept(answer, monkeypatch):
    answer("c++", "exit 0")
    monkeypatch.setattr(subprocess, "run", None)
    assert compiler_missing() is None


def test_huge_pages_are_asked_for_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    ask_for_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    ask_for_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
