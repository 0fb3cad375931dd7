"""A report: one HTML file that shows the whole network and what it did with one photo."""

from __future__ import annotations

from maskrcnn.inspection.report.make import report

__all__ = ["report"]
