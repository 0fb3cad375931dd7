"""Pictures of a run's data: what each stage of a trace holds, drawn on the photo.

Every function takes a trace of a whole run and returns an RGB picture without a title. What does not apply to a run, as
masks where nothing was found, raises `NothingToShowError`.
"""

from __future__ import annotations

from maskrcnn.inspection.pictures.anchors import anchor_sheet, anchors_at
from maskrcnn.inspection.pictures.colors import (
    LEVEL_COLORS,
    css,
    heat,
    level_color,
    scale_bar,
    signed_heat,
    value_range,
)
from maskrcnn.inspection.pictures.features import feature_energies, feature_energy, feature_mosaic
from maskrcnn.inspection.pictures.heads import (
    box_refinement,
    class_scores,
    final_overlay,
    keypoint_heatmaps,
    mask_logits,
    pasted_mask,
)
from maskrcnn.inspection.pictures.objectness import (
    objectness_layer,
    objectness_map,
    objectness_maps,
    objectness_values,
)
from maskrcnn.inspection.pictures.proposals import proposals, proposals_by_level, refinement
from maskrcnn.inspection.pictures.roi import roi_align
from maskrcnn.inspection.pictures.roi_geometry import RoIGeometry, roi_geometry
from maskrcnn.inspection.pictures.save import save_pictures
from maskrcnn.inspection.pictures.trail import trail_picture
from maskrcnn.inspection.pictures.training import mask_targets, matched_anchors, sampled_rois
from maskrcnn.inspection.pictures.views import NothingToShowError, network_input, photo_part, photo_view
from maskrcnn.inspection.pictures.weights import LayerWeights, weight_health, weight_histograms

__all__ = [
    "LEVEL_COLORS",
    "LayerWeights",
    "NothingToShowError",
    "RoIGeometry",
    "anchor_sheet",
    "anchors_at",
    "box_refinement",
    "class_scores",
    "css",
    "feature_energies",
    "feature_energy",
    "feature_mosaic",
    "final_overlay",
    "heat",
    "keypoint_heatmaps",
    "level_color",
    "mask_logits",
    "mask_targets",
    "matched_anchors",
    "network_input",
    "objectness_layer",
    "objectness_map",
    "objectness_maps",
    "objectness_values",
    "pasted_mask",
    "photo_part",
    "photo_view",
    "proposals",
    "proposals_by_level",
    "refinement",
    "roi_align",
    "roi_geometry",
    "sampled_rois",
    "save_pictures",
    "scale_bar",
    "signed_heat",
    "trail_picture",
    "value_range",
    "weight_health",
    "weight_histograms",
]
