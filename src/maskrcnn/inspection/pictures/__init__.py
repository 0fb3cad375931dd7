"""Pictures of a run's data: what each stage of a trace holds, drawn on the photo."""

from __future__ import annotations

from maskrcnn.inspection.pictures.colors import (
    LEVEL_COLORS,
    css,
    heat,
    level_color,
    scale_bar,
    signed_heat,
    value_range,
)
from maskrcnn.inspection.pictures.features import feature_energy, feature_mosaic
from maskrcnn.inspection.pictures.objectness import (
    objectness_layer,
    objectness_map,
    objectness_maps,
    objectness_values,
)
from maskrcnn.inspection.pictures.proposals import proposals, proposals_by_level, refinement
from maskrcnn.inspection.pictures.roi import roi_align
from maskrcnn.inspection.pictures.roi_geometry import RoIGeometry, roi_geometry
from maskrcnn.inspection.pictures.views import NothingToShowError, photo_part, photo_view

__all__ = [
    "LEVEL_COLORS",
    "NothingToShowError",
    "RoIGeometry",
    "css",
    "feature_energy",
    "feature_mosaic",
    "heat",
    "level_color",
    "objectness_layer",
    "objectness_map",
    "objectness_maps",
    "objectness_values",
    "photo_part",
    "photo_view",
    "proposals",
    "proposals_by_level",
    "refinement",
    "roi_align",
    "roi_geometry",
    "scale_bar",
    "signed_heat",
    "value_range",
]
