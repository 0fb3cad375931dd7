"""How the C library deals with memory that is freed: given back to the system, or kept for what comes next."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of glibc's `mallopt`, from its malloc.h."""

CHOSEN_BY_USER = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which glibc is told what to do; where one is set, it stays so."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; return whether it does now.

    A feature map of a large image or batch is more than 32 MB. glibc asks the system for every such block anew, and the
    system clears it page by page, which can take as long as the convolution that fills it. Kept blocks are filled at
    once. The price is that the process holds its peak until it ends, and up to a third more than without, for gaps.

    The command line does this. In a program of your own, call it before the first network runs on the CPU. Nothing
    happens where the C library is not glibc, or an environment variable has told it otherwise.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in CHOSEN_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
