"""The walk: an image's way from pixels to masks, a picture and a sentence or two for each step."""

from __future__ import annotations

from dataclasses import dataclass

from maskrcnn.inspection.report import scenes
from maskrcnn.inspection.report.subject import Subject
from maskrcnn.inspection.report.texts import Facts, number


@dataclass(frozen=True)
class Step:
    """A step: its heading, what it says, what it shows (HTML), and the boxes of the map that are lit."""

    title: str
    say: str
    picture: str
    keys: tuple[str, ...]
    view: str = "blocks"


def steps(subject: Subject) -> list[Step]:
    """Return the steps that this network has."""
    f = Facts(subject.structure)
    found = [*_features(subject, f), *_proposals(subject, f), *_heads(subject, f)]
    return found


def _features(subject: Subject, f: Facts) -> list[Step]:
    maps = [f"c{k}" for k in range(1, 6) if f"c{k}" in f.structure.shapes]
    last = maps[-1]
    made = [
        Step(
            "The photo becomes a tensor",
            f"Scaled, normalised and padded, it is 3 × {f.height} × {f.width} numbers. From here to the detections the "
            "network knows nothing else.",
            scenes.photo(subject),
            ("input",),
        ),
        Step(
            "First features: edges and colours",
            f"c1 has {f.channels('c1')} channels at half the resolution. Each is one detector slid over the whole "
            "image.",
            scenes.mosaic(subject, "c1"),
            ("c1",),
        ),
        Step(
            "Deeper means coarser, and knows more",
            f"Stage by stage {f.backbone} makes the map coarser and adds channels: from {f.cells('c2')} × "
            f"{f.channels('c2')} at c2 "
            f"to {f.cells(last)} × {f.channels(last)} at {last}. What is gained in meaning is lost in place.",
            scenes.energies(subject, maps[1:], "where it is strong"),
            tuple(maps[1:]),
        ),
    ]
    if f.fpn:
        made.append(
            Step(
                "The pyramid brings both together",
                "From the coarsest map downwards, each level is enlarged and added to the finer one. Every level of "
                "p2 … p6 "
                f"now has {f.channels('p2')} channels that know the scene, at its own resolution: small objects are "
                "looked for "
                "on fine levels, large ones on coarse levels.",
                scenes.energies(subject, f.levels, "where it is strong"),
                tuple(f.levels),
            )
        )
    return made


def _proposals(subject: Subject, f: Facts) -> list[Step]:
    rpn = f.config.rpn
    per = "level" if rpn.per_level and len(f.levels) > 1 else "image"
    return [
        Step(
            f"{f.anchors} places to look",
            f"At every cell of every level stand {f.per_cell} anchors. They are the same for every image.",
            scenes.anchors(subject),
            ("anchors",),
        ),
        Step(
            "Is there an object?",
            "The RPN gives every anchor a probability. Bright cells are where its best anchor says yes; it does not "
            "yet care "
            "what the object is.",
            scenes.objectness(subject),
            ("rpn_head",),
        ),
        Step(
            "The best anchors",
            f"The {number(rpn.pre_nms_top_n)} best of each {per} go on. As they stand, they fit nothing exactly.",
            scenes.top_anchors(subject),
            ("top_k",),
        ),
        Step(
            "Moved onto the object",
            "The RPN also says how to move and scale each anchor. Dashed the anchor, solid what becomes of it.",
            scenes.refined(subject),
            ("refine",),
        ),
        Step(
            "Duplicates go, proposals stay",
            f"NMS deletes what overlaps a better box by more than IoU {rpn.nms_threshold:g}. At most {f.proposals} "
            "proposals "
            "are left.",
            scenes.suppression(subject),
            ("nms", "proposals"),
        ),
    ]


def _heads(subject: Subject, f: Facts) -> list[Step]:
    method = f.config.roi_align.method
    made = [
        Step(
            "A crop of one size for each",
            f"Each proposal is cut from {'the level that fits its size' if f.fpn else f.levels[0]}. "
            + (
                "RoIAlign samples at exact points between the cells; RoIPool, below, would have rounded the box to "
                f"whole cells, and lost the alignment{' that masks need' if f.config.masks else ''}."
                if method == "align"
                else "RoIAlign would sample at exact points between the cells."
            ),
            scenes.region(subject, "proposals"),
            ("roi_levels", "box_roi_align"),
        ),
        Step(
            "What is it?",
            f"The class head turns each crop into {f.classes + 1} scores: {f.classes} "
            f"{'class' if f.classes == 1 else 'classes'} and background.",
            scenes.classes(subject),
            ("box_head",),
        ),
        Step(
            "Where exactly?",
            "The box head moves the proposal once more"
            f"{'' if f.config.box.class_agnostic else ', for the class in question'}. NMS within each class leaves "
            "the detections.",
            scenes.head_refinement(subject),
            ("box_head", "select", "detections"),
        ),
    ]
    if f.config.masks:
        size = f.structure.shapes["mask_logits"][-1]
        whose = "" if f.config.mask.class_agnostic else " for its class"
        made.append(
            Step(
                "Which pixels?",
                f"Each detection is cut out once more, now {f.config.mask.pool_size} × {f.config.mask.pool_size}, "
                "and the mask "
                f"head gives {size} × {size} logits{whose}. Above zero means: belongs to it.",
                scenes.mask_logits(subject),
                ("mask_roi_align", "mask_head"),
            )
        )
    if f.config.keypoint_names:
        size = f.structure.shapes["keypoint_logits"][-1]
        made.append(
            Step(
                "Where are its keypoints?",
                f"For each of {len(f.config.keypoint_names)} keypoints the keypoint head gives a heatmap of {size} × "
                f"{size}; "
                "its highest cell is the answer.",
                scenes.keypoints(subject),
                ("keypoint_roi_align", "keypoint_head"),
            )
        )
    keys = ("paste", "masks") if f.config.masks else ("detections",)
    ending = (
        "Each small mask is stretched over its box on the photo and cut at " + f"{f.config.mask.threshold:g}."
        if (f.config.masks)
        else "The boxes go back to the photo's own pixels."
    )
    made.append(Step("Back on the photo", ending, scenes.result(subject), keys))
    return made
