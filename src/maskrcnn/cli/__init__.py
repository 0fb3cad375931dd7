"""The command line: `maskrcnn demo | train | evaluate | predict`."""

from __future__ import annotations

from maskrcnn.cli.app import main

__all__ = ["main"]
