"""Which device to run on, and whether programs can be compiled for it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import sysconfig

import torch

from maskrcnn.errors import InputError


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name, or the best there is.

    Raises:
        InputError: there is no such device here.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        reason = str(e).splitlines()[0]
        if "Expected one of" in reason:
            reason = "it is none of cpu, cuda, cuda:1 … and mps."
        raise InputError(f"The device {name!r} cannot be used here: {reason}") from None
    return device


def ask_for_huge_pages() -> None:
    """Let PyTorch ask for huge pages (2 MB) from now on, unless THP_MEM_ALLOC_ENABLE says otherwise.

    A feature map of a large image or batch is more than 32 MB. glibc gives such blocks back and asks for them anew, and
    Linux then clears them page by page, which can take as long as the convolution that fills them; with huge pages 512
    at a time. The command line does this. It counts only before the first tensor of 2 MB is made.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


INSTALL = "On Debian and Ubuntu: apt install g++ python3-dev; on a Mac: xcode-select --install."
"""What gives torch's compiler the C++ compiler that it needs."""

_PROBE = "#include <Python.h>\n#include <vector>\n#include <omp.h>\nint main() { return omp_get_max_threads(); }\n"
"""The headers that torch's compiler needs, beside its own."""


@functools.cache
def compiler_missing() -> str | None:
    """Return why torch cannot compile programs for this CPU, in a sentence that says what to install; None if it can.

    Looked for is a C++ compiler that works, with the headers of Python and OpenMP. It is the one that torch takes: the
    environment variable CXX names it, or it is called g++ (clang++ on a Mac, cl on Windows).
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        compiler = get_cpp_compiler()
    except (RuntimeError, OSError):
        from torch._inductor import config

        name = config.cpp.cxx[1] if isinstance(config.cpp.cxx, tuple) else config.cpp.cxx
        return f"There is no C++ compiler {name}, which torch.compile needs for a CPU. {INSTALL}"
    if sys.platform != "linux":  # elsewhere torch finds OpenMP in places of its own
        return None
    include = sysconfig.get_paths()["include"]
    command = [compiler, "-x", "c++", "-std=c++17", "-fopenmp", "-fsyntax-only", f"-I{include}", "-"]
    done = subprocess.run(command, input=_PROBE, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    said = next((line for line in done.stderr.splitlines() if "error" in line), f"status {done.returncode}")
    return f"The C++ compiler {compiler} cannot build for torch.compile: {said.strip()}. {INSTALL}"
