"""The articles of a report: one for every box of the drawings, for every single layer, and for every object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from maskrcnn.errors import counted
from maskrcnn.inspection.glossary import STAGES, named_shape
from maskrcnn.inspection.parts import PARTS, PartName
from maskrcnn.inspection.report import markup, scenes
from maskrcnn.inspection.report.objects import object_article
from maskrcnn.inspection.report.subject import Subject
from maskrcnn.inspection.report.texts import explain, number
from maskrcnn.inspection.structure import Layer
from maskrcnn.inspection.table import share

Scene = Callable[[Subject], str]


@dataclass
class Place:
    """A box of a drawing, from all drawings where it stands."""

    key: str
    part: PartName
    title: str
    lines: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)
    """Keys of the boxes that arrows come from, with what is written at the arrow."""


SCENES: dict[str, Scene] = {
    "input": scenes.photo,
    "backbone": lambda s: scenes.energies(s, _maps(s), "where it is strong"),
    "rpn": scenes.proposals,
    "roi_align": lambda s: scenes.region(s, "proposals"),
    "heads": scenes.result,
    "output": scenes.result,
    "rpn_head": scenes.objectness,
    "anchors": scenes.anchors,
    "top_k": scenes.top_anchors,
    "refine": scenes.refined,
    "rpn_decode": scenes.refined,
    "rpn_clip": scenes.refined,
    "nms": scenes.suppression,
    "proposals": scenes.proposals,
    "roi_levels": scenes.levels_of_rois,
    "box_roi_align": lambda s: scenes.region(s, "proposals"),
    "mask_roi_align": lambda s: scenes.region(s, "detections"),
    "box_head": lambda s: scenes.classes(s) + scenes.head_refinement(s),
    "select": scenes.head_refinement,
    "candidates": scenes.classes,
    "box_decode": scenes.head_refinement,
    "class_nms": scenes.head_refinement,
    "detections": lambda s: scenes.result(s, masks=False),
    "mask_head": scenes.mask_logits,
    "paste": scenes.result,
    "masks": scenes.result,
    "keypoint_head": scenes.keypoints,
    "locate": scenes.keypoints,
    "keypoints": scenes.result,
}
"""What of the image is shown at a box; feature maps have theirs by their names."""


def _maps(subject: Subject) -> list[str]:
    """Return the feature maps that a reader should see first: the pyramid's, or the backbone's."""
    return [name for name in subject.run.strides if name in subject.trace]


def articles(subject: Subject, places: Iterable[Place]) -> list[str]:
    """Return everything that can be opened."""
    known = {place.key: place for place in places}
    made = [overview(subject)]
    made += [_place(subject, place, known) for place in known.values() if place.key not in subject.structure.layers]
    made += [
        _layer(subject, layer, known[key].layers if key in known else ())
        for key, layer in subject.structure.layers.items()
    ]
    made += [object_article(subject, trail) for trail in subject.objects]
    return made


def overview(subject: Subject) -> str:
    """Return the article that a reader meets first."""
    counts = subject.structure.parameters
    adds = subject.structure.multiply_adds
    anchors = number(sum(subject.structure.level_anchors.values()))
    rows = [
        (PARTS[part].number + " " + PARTS[part].title, number(counts[part]), f"{adds.get(part, 0) / 1e9:.1f}")
        for part in counts
    ]
    rows.append(("all", number(sum(counts.values())), f"{sum(adds.values()) / 1e9:.1f}"))
    random = (
        "The weights are random numbers, so what is found means nothing; every shape and every step is as in a trained "
        "network. "
        if subject.random
        else ""
    )
    masks = subject.run.config.masks
    body = (
        f"{random}Four parts turn pixels into {'masks' if masks else 'boxes'}: the backbone describes the image, the "
        f"region proposal network looks at {anchors} anchors and proposes boxes, RoIAlign cuts a crop of one size for "
        f"each, and the heads say what is in it{', where exactly, and which pixels' if masks else ' and where exactly'}"
        ". Click a part of the map to go inside, or take the walk."
    )
    keys = (
        "<p class='body'><kbd>W</kbd> begins the walk, <kbd>←</kbd> <kbd>→</kbd> go through it, <kbd>Tab</kbd> and "
        "<kbd>Enter</kbd> choose boxes of the map, <kbd>Esc</kbd> returns here.</p>"
    )
    told = markup.table(("part", "parameters", "multiply-adds, 10⁹"), rows, numbers=(1, 2))
    return markup.article(
        "overview", "input", subject.model_name, f"What the network does with {subject.name}", body, "",
        scenes.result(subject) + keys + "<h3>What it costs</h3>" + told,
    )  # fmt: skip


def _place(subject: Subject, place: Place, known: dict[str, Place]) -> str:
    text = explain(place.key, subject.structure)
    title, body = (text.title, text.body) if text.body else (place.title, ". ".join(place.lines))
    layers = [subject.structure.layers[key] for key in place.layers if key in subject.structure.layers]
    inside = [markup.facts(_facts(subject, place, layers, known)), _scene(subject, place), _figures(subject, place)]
    if layers:
        inside.append(_inside(layers, place.key))
    part = PARTS[place.part]
    kicker = f"{part.number} {part.title}".strip()
    return markup.article(place.key, place.part, kicker, title, body, text.paper, "".join(inside))


def _scene(subject: Subject, place: Place) -> str:
    if place.key in SCENES:
        return SCENES[place.key](subject)
    return "".join(
        scenes.feature_map(subject, stage)
        for stage in place.stages
        if stage in subject.trace and stage[0] in "cp" and stage[1:].isdigit()
    )


def _facts(subject: Subject, place: Place, layers: list[Layer], known: dict[str, Place]) -> list[tuple[str, str]]:
    pairs = []
    names = {"+": "the sum"}
    sources = [
        names.get(known[key].title, known[key].title)
        + (f" ({said})" if said and place.key in PARTS else _shape_of(subject, known[key]))
        for key, said in place.sources.items()
        if key in known
    ]
    pairs.append(("From", "; ".join(dict.fromkeys(sources))))
    for stage in place.stages:
        if stage in subject.trace:
            pairs.append((stage, subject.trace.shape_of(stage)))
        elif stage in subject.structure.shapes:
            pairs.append((stage, named_shape(stage, subject.structure.shapes[stage])))
    if layers:
        parameters, adds = sum(v.parameters for v in layers), sum(v.multiply_adds for v in layers)
        pairs.append(("Parameters", number(parameters) if parameters else "none of its own"))
        pairs.append(("Multiply-adds", f"{adds / 1e9:.2f} · 10⁹" if adds else ""))
    return pairs


def _shape_of(subject: Subject, place: Place) -> str:
    """Return the shape of what a place hands on, in brackets: crops before levels, else the first of its stages."""
    layers = subject.structure.layers
    handed = sorted((s for s in place.stages if s in subject.trace), key=lambda s: not s.endswith("_features"))
    shapes = [tuple(subject.trace[stage].shape) for stage in handed]
    if not shapes and place.layers and place.layers[-1] in layers:
        shapes = [layers[place.layers[-1]].out_shape]
    return f" ({' × '.join(map(str, shapes[0]))})" if shapes else ""


def _figures(subject: Subject, place: Place) -> str:
    """Return range and zeros of the stages, on this image."""
    rows = []
    for stage in place.stages:
        row = subject.summaries.get(stage)
        if row is None or row["zeros"] is None:  # not of this run, or without values
            continue
        odd = f"{number(row['nan'])} NaN, {number(row['inf'])} Inf" if row["nan"] or row["inf"] else ""
        values = ["–" if row[key] is None else f"{row[key]:.4g}" for key in ("min", "max", "mean")]
        rows.append((stage, row["dtype"], *values, share(row["zeros"]), odd))
    if not rows:
        return ""
    said = {stage: STAGES[stage].what for stage in place.stages if stage in STAGES}
    terms = markup.facts(said.items()) if len(said) > 1 else ""
    heads = ("on this image", "type", "min", "max", "mean", "zeros", "")
    return "<h3>Its numbers</h3>" + markup.table(heads, rows, numbers=(2, 3, 4, 5)) + terms


def _inside(layers: list[Layer], key: str) -> str:
    """Return buttons for the single layers."""
    buttons = "".join(f"<li>{markup.go(layer.key, _short(layer))}</li>" for layer in layers)
    zoom = f'<p class="more">{markup.go(key, "Show them on the map", deeper=True)}</p>'
    return f"<h3>{counted(len(layers), 'layer')} inside</h3>{zoom}<ul class='layers'>{buttons}</ul>"


def _short(layer: Layer) -> str:
    kernel = f" {layer.kernel} × {layer.kernel}" if layer.kernel else ""
    return f"{layer.key}: {layer.kind}{kernel}"


def _layer(subject: Subject, layer: Layer, alike: tuple[str, ...]) -> str:
    """Return the place of a single layer; `alike` are those that its box on the map stands for."""
    text = explain(layer.key, subject.structure)
    seen = subject.seen.get(layer.key)
    pairs = [
        ("Input", " × ".join(map(str, layer.in_shape))),
        ("Output", " × ".join(map(str, layer.out_shape))),
        ("Follows", ", ".join(layer.inputs)),
        ("Norm", layer.norm),
        ("Activation", layer.activation),
        ("Parameters", number(layer.parameters) if layer.parameters else ""),
        ("Multiply-adds", f"{layer.multiply_adds / 1e9:.3f} · 10⁹" if layer.multiply_adds else ""),
        ("Is the stage", ", ".join(layer.tensors)),
    ]
    if seen is not None:
        pairs.append(
            (
                "On this image",
                f"{seen.low:.4g} to {seen.high:.4g}, mean {seen.mean:.4g}, {share(seen.zeros)} zeros",
            )
        )
        pairs.append(("NaN or Inf", number(seen.odd) if seen.odd else ""))
    inside = markup.facts(pairs)
    if seen is not None:
        name = subject.album.add(f"layer-{layer.key}", seen.picture, cells=True)
        inside += markup.figure(
            subject.album, name, f"On this image: {seen.what}.", width=_wide(seen.picture.shape), cells=True
        )
    if len(alike) > 1:
        buttons = "".join(f"<li>{markup.go(key, key)}</li>" for key in alike)
        inside += f"<h3>On the map it stands for {len(alike)} layers alike</h3><ul class='layers'>{buttons}</ul>"
    part = PARTS[layer.part]
    return markup.article(
        layer.key, layer.part, f"{part.number} {part.title} · layer", text.title, text.body, text.paper, inside
    )


def _wide(shape: tuple[int, ...]) -> int:
    """Return how wide to show a small picture of cells, in CSS pixels."""
    return 480 if shape[1] > 240 else shape[1] * max(480 // max(shape[1], 1), 1)
