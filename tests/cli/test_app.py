"""Help, exit status and errors that all commands share."""

import os
import re
import subprocess
import sys

import pytest
import torch

from maskrcnn import __version__, errors
from maskrcnn.cli import app as frame


def test_version(run):
    assert run("--version") == (0, f"maskrcnn {__version__}\n", "")


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "predict", "convert", "pretrained"])
def test_every_command_has_help_with_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert re.search(rf"Examples?:\n    maskrcnn {command}[ \n]", out)


def test_without_a_command_it_shows_the_commands(run):
    status, out, err = run()
    assert status == 2
    assert all(f"\n  {command}  " in out for command in ("demo    ", "train   ", "evaluate", "predict "))
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'."),
        (["train"], "Missing argument 'DATA'."),
        (["train", "x", "--epoch", "3"], "No such option: --epoch (Possible options: --epochs)"),
        (["train", "x", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["predict", "w", "x", "--threshold", "1.5"], "Invalid value for '--threshold'"),
        (["predict"], "Missing argument '"),
    ],
    ids=["command", "no argument", "option", "kind", "range", "no images"],
)
def test_a_wrong_command_line_has_status_2_and_no_traceback(run, arguments, said):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("Error: ")
    assert said in err
    assert "--help'" in err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (errors.ConfigError("no such key"), 2, "Error: no such key\n"),
        (errors.DatasetError("[red] is a class"), 2, "Error: [red] is a class\n"),
        (errors.ImageFileError("a.jpg: is empty"), 2, "Error: a.jpg: is empty\n"),
        (errors.WriteError("the disk is full"), 1, "Error: the disk is full\n"),
        (errors.NonFiniteLossError("loss is nan"), 1, "Error: loss is nan\n"),
        (KeyboardInterrupt(), 130, "Stopped.\n"),
        (PermissionError(13, "Permission denied", "/root/x"), 1, "Error: /root/x: Permission denied.\n"),
        (OSError(28, "No space left on device"), 1, "Error: Standard output: No space left on device.\n"),
        (OSError(24, "Too many open files"), 1, "Error: The system: Too many open files.\n"),
        (MemoryError("8 GB"), 1, "A smaller batch size or image.max_size needs less"),
        (torch.OutOfMemoryError("CUDA out of memory.\nhint"), 1, "Error: CUDA out of memory. A smaller batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 GB"), 1, "A smaller batch size"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else "",
)
def test_what_a_command_raises_becomes_a_status_and_a_sentence(run, monkeypatch, error, status, said):
    def fail(**given):
        raise error

    monkeypatch.setattr(frame, "app", lambda **given: fail())
    got, out, err = run("predict")
    assert (got, out) == (status, "")
    assert said in err
    assert "Traceback" not in err


def test_a_bug_is_not_hidden(run, monkeypatch):
    def fail(**given):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(frame, "app", fail)
    with pytest.raises(ZeroDivisionError):
        run("predict")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell with pipes")
def test_a_reader_that_has_read_enough_gives_no_traceback(weights, album, tmp_path):
    command = f"{sys.executable} -m maskrcnn predict {weights} {album} -o {tmp_path / 'found'} --json -q --threshold 0"
    done = subprocess.run(f"{command} | head -c 1", shell=True, capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("{", "")
