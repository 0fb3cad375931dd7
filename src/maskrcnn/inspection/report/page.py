"""A report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from maskrcnn.inspection.drawings import draw, svg
from maskrcnn.inspection.drawings.sheet import Sheet
from maskrcnn.inspection.drawings.words import millions
from maskrcnn.inspection.parts import PARTS
from maskrcnn.inspection.report.album import data_uri
from maskrcnn.inspection.report.objects import thumbnail
from maskrcnn.inspection.report.places import Place, articles
from maskrcnn.inspection.report.subject import Subject
from maskrcnn.inspection.report.walk import Step, steps

PLAIN = {"paper": ("#ffffff", "#14191f"), "ink": ("#1d2733", "#e3e9ef"), "muted": ("#56626f", "#9aa7b4")}
PLAIN |= {"line": ("#46525f", "#a7b3bf"), "mark": ("#c01f1f", "#ff8080")}
DARK_PAGE = {
    "page": "#14191f",
    "panel": "#1a2129",
    "rule": "#333d48",
    "accent": "#6cb2ff",
    "accent-soft": "#1c3552",
    "lit": "#ff7b72",
}


def page(subject: Subject) -> str:
    """Return the whole page."""
    views = _views(subject)
    places = _places(views)
    walk = steps(subject)
    body = "".join(articles(subject, places))
    thumbs = [thumbnail(subject, trail) for trail in subject.objects]
    strip = _objects(subject, thumbs)
    data = {
        "images": subject.album.pictures,
        "inside": _inside(views),
        "where": _where(views),
        "walk": [{"view": step.view, "keys": step.keys} for step in walk],
    }
    height, width = subject.size
    picture = data_uri(subject.photo_picture())
    script = json.dumps(data).replace("<", "\\u003c")
    assets = resources.files(__package__) / "assets"
    style = (assets / "report.css").read_text(encoding="utf-8") + _colors()
    code = (assets / "report.js").read_text(encoding="utf-8")
    title = f"{subject.model_name.split(' on ')[0]} on {subject.name}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="maskrcnn">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#panel">Skip the map</a>
<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>
<image id="photo" href="{picture}" width="{width}" height="{height}" preserveAspectRatio="none"/></defs></svg>
<header class="top"><div><h1>{escape(title)}</h1><p>{escape(_subtitle(subject))}</p></div>
<div class="actions"><button class="button primary" id="start" aria-pressed="false">Walk through it</button>
<button class="button" id="print">Print</button>
<button class="button" id="theme" aria-pressed="false">Dark</button></div></header>
<main>
<section class="left" aria-label="Map of the network">
<div class="bar"><div id="views" role="tablist" aria-label="Level of detail">{_tabs(views)}</div>
<div class="zoom"><button class="button" id="in" aria-label="Enlarge">+</button>
<button class="button" id="out" aria-label="Reduce">−</button>
<button class="button" id="fit" aria-label="Show all">⤢</button></div></div>
<div id="map" role="tabpanel" aria-label="Drawing">{"".join(_drawn(name, sheet) for name, _, sheet in views)}</div>
<p class="hint">Click to see what is there; click again to go inside. Scroll or pinch to zoom, drag to move.</p>
{strip}
</section>
<section class="right" id="panel" tabindex="-1" aria-label="What is there">
{_walk(walk)}
<div id="details" aria-live="polite">{body}</div>
</section>
</main>
<button class="button primary" id="up">↑ Map</button>
<noscript><p style="padding:16px">This report shows its pictures with JavaScript, which is off here.</p></noscript>
<script type="application/json" id="data">{script}</script>
<script>{code}</script>
</body>
</html>
"""


def _subtitle(subject: Subject) -> str:
    found = "random weights" if subject.random else f"{subject.found} found with score {subject.threshold:g} or more"
    size = "input {} × {}".format(*subject.structure.input_size)
    parameters = f"{millions(sum(subject.structure.parameters.values()))} parameters"
    return f"{subject.model_name} · {size} · {parameters} · {found}"


def _views(subject: Subject) -> list[tuple[str, str, Sheet]]:
    """Return the drawings: name, tab, sheet."""
    config = subject.run.config
    found = [("parts", "Four parts", draw(config, "parts", subject.size).sheets[0])]
    found.append(("blocks", "Blocks", draw(config, "blocks", subject.size).sheets[0]))
    layers = draw(config, "layers", subject.size).sheets
    names = ("Feature layers", "Head layers")
    for number, sheet in enumerate(layers):
        tab = names[number] if len(layers) == len(names) else f"Layers {number + 1}"
        found.append((f"layers-{number + 1}", tab, sheet))
    return found


def _places(views: Iterable[tuple[str, str, Sheet]]) -> list[Place]:
    """Return every box once, with all that the drawings know of it."""
    places: dict[str, Place] = {}
    for _, _, sheet in views:
        fresh = {box.key for box in sheet.boxes} - set(places)
        for box in sheet.boxes:
            place = places.setdefault(box.key, Place(box.key, box.part, box.title, box.lines))
            place.stages = tuple(dict.fromkeys((*place.stages, *box.stages)))
            place.layers = tuple(dict.fromkeys((*place.layers, *box.layers)))
        for arrow in sheet.arrows:
            if arrow.target in fresh:
                said = " ".join(line.text for line in arrow.labels)
                places[arrow.target].sources.setdefault(arrow.source, said)
    return list(places.values())


def _inside(views: Sequence[tuple[str, str, Sheet]]) -> dict[str, dict[str, dict[str, object]]]:
    """Return, for each view and box, the view that shows what is inside, and which boxes that is."""
    sheets = {name: sheet for name, _, sheet in views}
    blocks = sheets["blocks"]
    inside: dict[str, dict[str, dict[str, object]]] = {"parts": {}, "blocks": {}}
    for box in sheets["parts"].boxes:
        keys = [b.key for b in blocks.boxes if b.part == box.part or b.key == box.key]
        if keys:
            inside["parts"][box.key] = {"view": "blocks", "keys": keys}
    for box in blocks.boxes:
        for name, sheet in sheets.items():
            if not name.startswith("layers"):
                continue
            keys = [b.key for b in sheet.boxes if set(b.layers) & set(box.layers) or b.key == box.key]
            if keys and box.layers:
                inside["blocks"][box.key] = {"view": name, "keys": keys}
                break
    return inside


def _where(views: Iterable[tuple[str, str, Sheet]]) -> dict[str, dict[str, str]]:
    """Return, for every box and every layer, the first drawing that has it, and the box there."""
    places: dict[str, dict[str, str]] = {}
    for name, _, sheet in views:
        for box in sheet.boxes:
            places.setdefault(box.key, {"view": name, "key": box.key})
    for name, _, sheet in views:
        for box in sheet.boxes if name.startswith("layers") else ():
            for layer in box.layers:
                places.setdefault(layer, {"view": name, "key": box.key})
    return places


def _tabs(views: Iterable[tuple[str, str, Sheet]]) -> str:
    return " ".join(
        f'<button class="button" role="tab" aria-controls="map" data-view="{name}" aria-selected="false">'
        f"{escape(tab)}</button>"
        for name, tab, _ in views
    )


def _drawn(name: str, sheet: Sheet) -> str:
    drawing = svg(sheet, interactive=True)
    return drawing.replace("<svg ", f'<svg data-view="{name}" {"" if name == "parts" else "hidden "}', 1)


def _objects(subject: Subject, thumbs: Sequence[str]) -> str:
    if not subject.objects:
        return (
            '<div class="objects"><h2>Objects</h2><p class="none">Nothing was found in this image. Every stage up to '
            "the heads still has its data.</p></div>"
        )
    items = "".join(
        f'<li><button class="object" data-go="object-{trail.number}" data-obj="object-{trail.number}">'
        f'<img data-image="{thumb}" alt="">{escape(trail.name)} {trail.score:.2f}</button></li>'
        for trail, thumb in zip(subject.objects, thumbs, strict=True)
    )
    heading = (
        "Objects: click one to follow it" if subject.found else f"Nothing reaches {subject.threshold:g}; the best are"
    )
    return f'<div class="objects"><h2>{heading}</h2><ul>{items}</ul></div>'


def _walk(walk: Sequence[Step]) -> str:
    dots = "".join(
        f'<li><button aria-label="Step {i + 1}: {escape(step.title)}"></button></li>' for i, step in enumerate(walk)
    )
    shown = "".join(
        f'<article class="detail step" hidden><h2>{i + 1}. {escape(step.title)}</h2>'
        f'<p class="say">{escape(step.say)}</p>'
        f"{step.picture}</article>"
        for i, step in enumerate(walk)
    )
    return (
        '<div id="walk" hidden><nav aria-label="Walk"><button class="button" id="previous">← Back</button>'
        '<button class="button primary" id="next">Next →</button><span class="count" aria-live="polite"></span>'
        f'<button class="button end" id="end">End the walk</button></nav><ol class="steps">{dots}</ol>{shown}</div>'
    )


def _colors() -> str:
    """Return the drawing's and the page's colours, light and dark."""
    light = {name: plain for name, (plain, _) in PLAIN.items()}
    dark = {name: deep for name, (_, deep) in PLAIN.items()} | DARK_PAGE
    for part in PARTS.values():
        light |= {f"{part.name}-fill": part.fill, f"{part.name}-ink": part.ink}
        dark |= {f"{part.name}-fill": part.dark_fill, f"{part.name}-ink": part.dark_ink}

    def rule(selector: str, values: dict[str, str]) -> str:
        return selector + "{" + ";".join(f"--{name}:{value}" for name, value in values.items()) + "}"

    return (
        "\n"
        + rule(":root", light)
        + "\n@media screen{"  # on paper the colours are the light ones
        + rule(":root.dark", dark)
        + "}"
    )
