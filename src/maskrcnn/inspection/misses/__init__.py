"""Why true objects are not found: the stage at which each was lost, with the numbers and what would help."""

from __future__ import annotations

from maskrcnn.inspection.misses.cascade import explain, explain_trace, match_detections
from maskrcnn.inspection.misses.evidence import Limits
from maskrcnn.inspection.misses.outcome import STAGES, ObjectOutcome, Size, Stage
from maskrcnn.inspection.misses.picture import miss_picture
from maskrcnn.inspection.misses.report import MissReport, explain_dataset, outcomes_table

__all__ = [
    "STAGES",
    "Limits",
    "MissReport",
    "ObjectOutcome",
    "Size",
    "Stage",
    "explain",
    "explain_dataset",
    "explain_trace",
    "match_detections",
    "miss_picture",
    "outcomes_table",
]
