"""draw.io files: boxes that can be moved and edited, arrows that stay connected, a page for each sheet.

The XML is mxGraph's model, not compressed: mxfile > diagram > mxGraphModel > root > mxCell.
"""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree as ET

from maskrcnn.inspection.drawings.sheet import Arrow, Box, Drawing, Group, Point, Shape, Sheet, Swatch, TextLine
from maskrcnn.inspection.drawings.svg import COLOURS

FONT = "fontFamily=Helvetica;"
ELLIPSE = "ellipse;shape=ellipse;perimeter=ellipsePerimeter;"
ROOT = "1"
"""Id of the layer that everything is on."""


def drawio(drawing: Drawing) -> str:
    """Return a drawing as the text of a `.drawio` file.

    Example:
        >>> from maskrcnn.config import Config
        >>> from maskrcnn.inspection.drawings import draw
        >>> drawio(draw(Config.preset(class_names=["cat"]), "layers")).count("<diagram ")
        2
    """
    file = ET.Element("mxfile", host="maskrcnn", type="device", compressed="false")
    for sheet in drawing.sheets:
        page = ET.SubElement(file, "diagram", id=sheet.key, name=sheet.key)
        _Page(sheet, page)
    ET.indent(file)
    return ET.tostring(file, encoding="unicode") + "\n"


class _Page:
    def __init__(self, sheet: Sheet, page: ET.Element) -> None:
        self.sheet = sheet
        settings = dict.fromkeys(("grid", "guides", "tooltips", "connect", "arrows", "fold", "page", "pageScale"), "1")
        size = {"pageWidth": _n(sheet.width), "pageHeight": _n(sheet.height)}
        model = ET.SubElement(page, "mxGraphModel", {**settings, "gridSize": "10", **size, "math": "0", "shadow": "0"})
        self.root = ET.SubElement(model, "root")
        ET.SubElement(self.root, "mxCell", {"id": "0"})
        ET.SubElement(self.root, "mxCell", {"id": ROOT, "parent": "0"})
        self.frames = {group.key: group for group in sheet.groups}
        for group in sheet.groups:
            self.group(group)
        for box in sheet.boxes:
            self.box(box)
        for number, shape in enumerate(sheet.shapes):
            self.shape(f"shape-{number}", shape)
        for number, arrow in enumerate(sheet.arrows):
            self.arrow(f"arrow-{number}", arrow)
        texts = [*sheet.texts, *(line for arrow in sheet.arrows for line in arrow.labels)]
        for number, line in enumerate(texts):
            self.text(f"text-{number}", line)
        for number, swatch in enumerate(sheet.legend):
            self.swatch(f"legend-{number}", swatch)

    def vertex(
        self, id: str, value: str, style: str, place: tuple[float, float, float, float], parent: str = ROOT
    ) -> None:
        """Add a shape; `place` is left, top, width and height on the sheet."""
        x, y, w, h = place
        if parent != ROOT:  # a child's place is counted from its parent's corner
            outer = self.frames[parent.removeprefix("group-")] if parent.startswith("group-") else self.owner(parent)
            x, y = x - outer.x, y - outer.y
        named = {"id": id, "value": value, "style": style, "vertex": "1", "parent": parent}
        cell = ET.SubElement(self.root, "mxCell", named)
        geometry = {"x": _n(x), "y": _n(y), "width": _n(w), "height": _n(h)}
        ET.SubElement(cell, "mxGeometry", {**geometry, "as": "geometry"})

    def owner(self, parent: str) -> Box:
        """Return the box that a piece of a pictogram is in."""
        return self.sheet[parent.removeprefix("box-")]

    def group(self, group: Group) -> None:
        ink, fill = COLOURS[f"{group.part}-ink"], COLOURS[f"{group.part}-fill"]
        look = "fillColor=none;dashed=1;dashPattern=2 3;" if group.parent else f"fillColor={fill};fillOpacity=35;"
        stroke = f"strokeColor={COLOURS['mark']};strokeWidth=2;" if group.mark else f"strokeColor={ink};"
        style = (
            f"rounded=1;absoluteArcSize=1;arcSize=18;html=1;whiteSpace=wrap;container=1;collapsible=0;{look}{stroke}"
            f"verticalAlign=top;align=left;spacing=0;spacingLeft=11;spacingTop=4;fontStyle=1;fontColor={ink};"
            f"fontSize={_n(group.size)};{FONT}"
        )
        words = " &nbsp; ".join(escape(line.text) for line in group.text())
        place = (group.x, group.y, group.w, group.h)
        self.vertex(f"group-{group.key}", words, style, place, f"group-{group.parent}" if group.parent else ROOT)

    def box(self, box: Box) -> None:
        fill = COLOURS[f"{box.part}-fill"] if box.kind == "layer" else COLOURS["paper"]
        stroke = "mark" if box.mark else f"{box.part}-ink"
        arc = {"layer": 10.0, "step": 10.0, "tensor": min(box.h, 32.0)}[box.kind]
        form = ELLIPSE if box.circle else f"rounded=1;absoluteArcSize=1;arcSize={_n(arc)};"
        style = (
            f"{form}html=1;whiteSpace=wrap;spacing=0;fillColor={fill};strokeColor={COLOURS[stroke]};"
            f"strokeWidth={2.6 if box.mark else 1.2};{'dashed=1;dashPattern=5 3;' if box.kind == 'step' else ''}"
            f"fontColor={COLOURS['ink']};fontSize={_n(box.size)};{FONT}"
        )
        if box.top:
            style += "verticalAlign=bottom;spacingBottom=12;"
        inside = [group for group in self.sheet.groups if box.key in group.members]
        parent = f"group-{inside[-1].key}" if inside else ROOT
        words = "<br>".join(_html(line, box.size) for line in box.text())
        self.vertex(f"box-{box.key}", words, style, (box.x, box.y, box.w, box.h), parent)

    def arrow(self, id: str, arrow: Arrow) -> None:
        source, target = self.sheet[arrow.source], self.sheet[arrow.target]
        ends = {"exit": _share(source, arrow.points[0]), "entry": _share(target, arrow.points[-1])}
        where = "".join(f"{end}X={x:.4g};{end}Y={y:.4g};{end}Dx=0;{end}Dy=0;" for end, (x, y) in ends.items())
        style = (
            f"edgeStyle=orthogonalEdgeStyle;rounded=1;arcSize=14;html=1;endArrow=block;endFill=1;endSize=5;"
            f"strokeWidth=1.5;strokeColor={COLOURS['line']};{where}"
        )
        names = {"source": f"box-{arrow.source}", "target": f"box-{arrow.target}"}
        cell = ET.SubElement(self.root, "mxCell", {"id": id, "style": style, "edge": "1", "parent": ROOT, **names})
        geometry = ET.SubElement(cell, "mxGeometry", {"relative": "1", "as": "geometry"})
        if arrow.points[1:-1]:
            turns = ET.SubElement(geometry, "Array", {"as": "points"})
            for x, y in arrow.points[1:-1]:
                ET.SubElement(turns, "mxPoint", x=_n(x), y=_n(y))

    def text(self, id: str, line: TextLine) -> None:
        left, top, right, bottom = line.extent
        align = {"start": "left", "middle": "center", "end": "right"}[line.anchor]
        style = (
            f"text;html=1;strokeColor=none;fillColor=none;whiteSpace=nowrap;align={align};verticalAlign=middle;spacing=0;fontColor={_tone(line)};"
            f"fontSize={_n(line.size)};fontStyle={int(line.bold)};{FONT}"
        )
        self.vertex(id, escape(line.text), style, (left, top, right - left, bottom - top))

    def swatch(self, id: str, swatch: Swatch) -> None:
        fill = COLOURS[f"{swatch.part}-fill"] if swatch.kind in ("frame", "layer") else "none"
        stroke = COLOURS["mark" if swatch.kind == "mark" else f"{swatch.part}-ink"]
        dashes = "dashed=1;dashPattern=4 2;" if swatch.kind == "step" else ""
        style = (
            f"rounded=1;arcSize={50 if swatch.kind == 'tensor' else 20};fillColor={fill};strokeColor={stroke};{dashes}"
        )
        self.vertex(id, "", style, (swatch.x, swatch.y, swatch.w, swatch.h))

    def shape(self, id: str, shape: Shape) -> None:
        ink = COLOURS[f"{shape.part}-ink"]
        fills = {"none": "none", "pale": COLOURS[f"{shape.part}-fill"], "ink": ink, "paper": COLOURS["paper"]}
        xs, ys = [x for x, _ in shape.points], [y for _, y in shape.points]
        left, top, wide, high = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
        parent = f"box-{shape.box}"
        if shape.form == "line" and shape.fill == "none":
            self.line(id, shape, parent)
            return
        form = {"rect": "rounded=0;", "ellipse": ELLIPSE}.get(shape.form, "")
        if not form:
            shares = [[round((x - left) / wide, 4), round((y - top) / high, 4)] for x, y in shape.points]
            form = f"shape=mxgraph.basic.polygon;polyCoords={shares};polyline=0;".replace(" ", "")
        style = f"{form}fillColor={fills[shape.fill]};strokeColor={ink};strokeWidth={_n(shape.thick)};"
        self.vertex(id, "", style, (left, top, wide, high), parent)

    def line(self, id: str, shape: Shape, parent: str) -> None:
        """Add an open line, which is an edge that joins nothing; its points are counted from the parent's corner."""
        outer = self.owner(parent)
        points = [{"x": _n(x - outer.x), "y": _n(y - outer.y)} for x, y in shape.points]
        style = f"endArrow=none;html=1;strokeColor={COLOURS[f'{shape.part}-ink']};strokeWidth={_n(shape.thick)};"
        named = {"id": id, "style": style, "edge": "1", "parent": parent}
        geometry = ET.SubElement(
            ET.SubElement(self.root, "mxCell", named), "mxGeometry", {"relative": "1", "as": "geometry"}
        )
        ET.SubElement(geometry, "mxPoint", {**points[0], "as": "sourcePoint"})
        ET.SubElement(geometry, "mxPoint", {**points[-1], "as": "targetPoint"})
        if points[1:-1]:
            turns = ET.SubElement(geometry, "Array", {"as": "points"})
            for point in points[1:-1]:
                ET.SubElement(turns, "mxPoint", point)


def _html(line: TextLine, size: float) -> str:
    words = escape(line.text)
    if line.size != size:
        words = f'<span style="font-size: {_n(line.size)}px">{words}</span>'
    if line.tone == "mark":
        words = f"<u>{words}</u>"
    words = f"<b>{words}</b>" if line.bold else words
    return words if line.tone == "ink" else f'<font color="{_tone(line)}">{words}</font>'


def _tone(line: TextLine) -> str:
    return COLOURS[f"{line.part}-ink" if line.tone == "part" else line.tone]


def _share(box: Box, point: Point) -> Point:
    """Return where on a box's border a point is, in shares of width and height."""
    return (point[0] - box.x) / box.w, (point[1] - box.y) / box.h


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
