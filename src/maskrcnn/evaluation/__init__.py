"""Figures that say how good detections are."""

from maskrcnn.evaluation.coco_ap import CocoEvaluator, coco_results
from maskrcnn.evaluation.result import FIGURES, KEYPOINT_FIGURES, EvaluationResult
from maskrcnn.evaluation.run import counting_pixels, evaluate

__all__ = [
    "FIGURES",
    "KEYPOINT_FIGURES",
    "CocoEvaluator",
    "EvaluationResult",
    "coco_results",
    "counting_pixels",
    "evaluate",
]
