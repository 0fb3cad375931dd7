"""Run-time checks of all annotated shapes and types, unless MASKRCNN_SHAPE_CHECKS=0.

Tests marked `compiled` hand the package to a compiler, which the checks would get in the way of; they run
only where checks are off, all others only where they are on.
"""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports Triton: its kernels are tested under its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

CHECKS = os.environ.get("MASKRCNN_SHAPE_CHECKS", "1") != "0"

if CHECKS:
    from jaxtyping import install_import_hook

    source = Path(__file__).parents[1] / "src" / "maskrcnn"
    parts = sorted({p.relative_to(source).parts[0].removesuffix(".py") for p in source.glob("**/*.py")})
    # Left out: what pydantic and typer read themselves, and the training loop around the network.
    names = [f"maskrcnn.{p}" for p in parts if p not in ("__init__", "__main__", "config", "fields", "cli", "training")]
    install_import_hook(names, "beartype.beartype")


def pytest_collection_modifyitems(config, items):
    kept = [item for item in items if (item.get_closest_marker("compiled") is None) == CHECKS]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared():
    """The folder of reference runs and photographs that may lie beside the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with reference runs and photographs is not there")
    return folder


@pytest.fixture
def unchecked(monkeypatch):
    """Turn the run-time checks off, for arguments of a wrong type: what users, who have none, are told of them."""
    if CHECKS:
        from jaxtyping import config

        monkeypatch.setattr(config, "jaxtyping_disable", True)
