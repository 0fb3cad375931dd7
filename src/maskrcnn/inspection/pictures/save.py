"""All pictures that apply to a run, as numbered files in the order of the figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from torch import nn

from maskrcnn.files import replacing
from maskrcnn.inspection.glossary import STAGES
from maskrcnn.inspection.pictures.anchors import anchor_sheet
from maskrcnn.inspection.pictures.features import feature_energies, feature_mosaic
from maskrcnn.inspection.pictures.heads import (
    box_refinement,
    class_scores,
    default_rois,
    final_overlay,
    keypoint_heatmaps,
    mask_logits,
    pasted_mask,
)
from maskrcnn.inspection.pictures.objectness import objectness_maps
from maskrcnn.inspection.pictures.proposals import proposals, proposals_by_level, refinement
from maskrcnn.inspection.pictures.roi import roi_align
from maskrcnn.inspection.pictures.training import mask_targets, matched_anchors, sampled_rois
from maskrcnn.inspection.pictures.views import NothingToShowError, network_input, rois_of
from maskrcnn.inspection.pictures.weights import weight_histograms
from maskrcnn.inspection.trace import Trace

Maker = Callable[[], Image.Image]


def save_pictures(
    trace: Trace,
    folder: str | Path,
    model: nn.Module | None = None,
    say: Callable[[str], None] | None = None,
    threshold: float = 0.5,
) -> list[Path]:
    """Write every picture that applies to a run into a folder, and return the files in the order of the figure.

    They are numbered, as `01-input.png`, each written whole or not at all; files of the same name are replaced. Of
    detections the best is shown. Feature maps of modules that the trace was asked for come last.

    Args:
        trace: of a whole run, best with all stages; pictures whose stages it lacks are left out.
        folder: is made if need be.
        model: the network, for histograms of its weights.
        say: is told, in a sentence each, which pictures are left out and why.
        threshold: least score of what the final picture shows.

    Raises:
        InputError: the trace is not of a whole run.
        WriteError: the folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    written: list[Path] = []
    for name, make in _pictures(trace, model, threshold):
        try:
            picture = make()
        except NothingToShowError as e:
            if say is not None:
                say(f"{name} is left out. {e}")
            continue
        path = folder / f"{len(written) + 1:02d}-{name}.png"
        with replacing(path) as new:
            picture.save(new, compress_level=3)
        written.append(path)
    return written


def _pictures(trace: Trace, model: nn.Module | None, threshold: float) -> Iterator[tuple[str, Maker]]:
    """Yield names and makers of the pictures of this kind of run, in the order of the figure."""
    run = trace.run
    yield "input", lambda: network_input(trace)
    maps = [name for name in trace if name in STAGES and STAGES[name].axes == "N C H W" and name != "image"]
    if maps:
        yield "feature-energy", lambda: feature_energies(trace, maps)
    for name in run.strides:
        few = name == "p6"
        yield name, lambda name=name, few=few: feature_mosaic(trace, name, "all" if few else "strongest")  # type: ignore[misc]
    yield "anchors", lambda: anchor_sheet(trace)
    yield "objectness", lambda: objectness_maps(trace)
    yield "proposals-before-refinement", lambda: proposals(trace, "before_refinement")
    yield "refinement", lambda: refinement(trace)
    yield "proposals-before-nms", lambda: proposals(trace, "before_nms")
    yield "proposals", lambda: proposals(trace)
    if run.detections is None:
        yield "matched-anchors", lambda: matched_anchors(trace)
        yield "sampled-rois", lambda: sampled_rois(trace)
    yield "levels-of-rois", lambda: proposals_by_level(trace)
    yield "roi-align", lambda: roi_align(trace, _first_roi(trace))
    yield "class-scores", lambda: class_scores(trace)
    if run.detections is None:
        yield "mask-targets", lambda: mask_targets(trace)
    else:
        yield "box-refinement", lambda: box_refinement(trace)
        yield "roi-align-for-masks", lambda: roi_align(trace, 0, "detections")
        yield "mask-logits", lambda: mask_logits(trace)
        yield "pasted-mask", lambda: pasted_mask(trace)
        if run.config.keypoint_names:
            yield "keypoint-heatmaps", lambda: keypoint_heatmaps(trace)
        yield "detections", lambda: final_overlay(trace, threshold)
    if model is not None:
        yield "weights", lambda: weight_histograms(model)
    for name in trace:
        if name not in STAGES and trace[name].dim() == 4 and trace[name].shape[0] == 1:
            yield name.replace("/", "-"), lambda name=name: feature_mosaic(trace, name)  # type: ignore[misc]


def _first_roi(trace: Trace) -> int:
    """Return the RoI that the best detection comes from, among the valid ones; the best where nothing was found."""
    [roi, *_] = default_rois(trace, 1) or [0]
    return int(rois_of(trace).valid[:roi].sum())
