"""Whether freed memory is kept, by the page faults that a new block of the same size costs."""

import os
import platform
import subprocess
import sys

import pytest

from maskrcnn.allocator import CHOSEN_BY_USER

FAULTS = """
import resource, sys
import torch
from maskrcnn.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
torch.ones(64 << 18)  # 64 MB, freed at once
before = faults()
torch.ones(64 << 18)
print(kept, faults() - before)
"""
PAGES = (64 << 20) // os.sysconf("SC_PAGE_SIZE")

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")


def faults_of_a_second_block(way, **environment):
    """Whether memory is kept, and the page faults that a block costs after an equal one was freed."""
    plain = {name: value for name, value in os.environ.items() if name not in (*CHOSEN_BY_USER, "LD_PRELOAD")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, way], env=plain | environment, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@needs_glibc
def test_freed_memory_is_kept():
    kept, faults = faults_of_a_second_block("keep")
    assert kept == "True" and faults < PAGES / 20


@needs_glibc
def test_without_it_a_large_block_is_cleared_anew():
    _, faults = faults_of_a_second_block("leave", THP_MEM_ALLOC_ENABLE="0")
    assert faults > PAGES / 1024  # a fault a page; with huge pages one for 512


@needs_glibc
def test_what_the_user_told_the_c_library_stays():
    kept, _ = faults_of_a_second_block("keep", MALLOC_TRIM_THRESHOLD_="1000000")
    assert kept == "False"


def test_nothing_is_done_elsewhere(monkeypatch):
    from maskrcnn import allocator

    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
