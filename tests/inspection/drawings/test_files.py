"""The files that drawings are saved in: well formed, whole, and made of shapes that can be edited."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from drawn import NETWORKS, drawn
from maskrcnn.errors import InputError, WriteError
from maskrcnn.inspection.drawings import LEVELS, Drawing, compare, save, svg, text

SVG = "{http://www.w3.org/2000/svg}"


def drawing(level: str, name: str = "resnet101-fpn") -> Drawing:
    return Drawing(level, level, drawn(name, level))  # type: ignore[arg-type]


def pages(level: str, name: str = "resnet101-fpn") -> list[ET.Element]:
    return list(ET.fromstring(text(drawing(level, name), "drawio")))


def cells(page: ET.Element) -> dict[str, ET.Element]:
    [root] = page.iter("root")
    return {cell.attrib["id"]: cell for cell in root}


def place(cell: ET.Element) -> tuple[float, float, float, float]:
    [geometry] = cell.findall("mxGeometry")
    return tuple(float(geometry.attrib[key]) for key in ("x", "y", "width", "height"))  # type: ignore[return-value]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("interactive", [False, True])
def test_svg_is_well_formed_and_has_every_text(level: str, interactive: bool) -> None:
    for sheet in drawn("resnet101-fpn", level):
        root = ET.fromstring(svg(sheet, interactive))
        assert root.tag == f"{SVG}svg"
        assert {element.text for element in root.iter(f"{SVG}text")} == {line.text for line in sheet.all_text()}


def test_plain_svg_stands_alone() -> None:
    [sheet] = drawn("resnet101-fpn", "parts")
    words = svg(sheet)
    assert "var(" not in words and "<script" not in words and "http://www.w3.org/2000/svg" in words
    assert ET.fromstring(words)[0].attrib["fill"] == "#ffffff"  # legible on a dark page too


def test_interactive_svg_lets_readers_choose_boxes() -> None:
    [sheet] = drawn("resnet101-fpn", "blocks")
    boxes = {
        e.attrib["data-key"]: e.attrib
        for e in ET.fromstring(svg(sheet, interactive=True)).iter()
        if e.get("class") == "box"
    }
    assert set(boxes) == {box.key for box in sheet.boxes}
    p4 = boxes["p4"]
    assert (p4["data-part"], p4["data-stages"], p4["data-kind"]) == ("backbone", "p4", "layer")
    assert (p4["tabindex"], p4["role"], p4["data-layers"]) == ("0", "button", "fpn.output4.conv")
    assert p4["aria-label"] == "p4. 256×64×64. conv 3×3"


def test_interactive_svg_takes_colours_from_the_page() -> None:
    words = svg(drawn("resnet101-fpn", "parts")[0], interactive=True)
    assert "fill:var(--backbone-fill, #dbe9fb)" in words and "fill:var(--ink, #1d2733)" in words
    assert 'fill="#' not in words and 'stroke="#' not in words


def test_drawio_has_a_page_for_each_sheet() -> None:
    assert [page.attrib["name"] for page in pages("layers")] == ["features", "heads"]
    assert [page.tag for page in pages("parts")] == ["diagram"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["resnet101-fpn", "c4 keypoints"])
def test_drawio_follows_mxgraph(name: str, level: str) -> None:
    for page in pages(level, name):
        [model] = page
        assert (model.tag, model[0].tag) == ("mxGraphModel", "root")
        assert [cell.attrib for cell in model[0]][:2] == [{"id": "0"}, {"id": "1", "parent": "0"}]
        there = cells(page)
        assert len(there) == len(model[0])
        for cell in list(model[0])[2:]:
            assert cell.attrib["parent"] in there and ("vertex" in cell.attrib) != ("edge" in cell.attrib)
            assert cell[0].attrib["as"] == "geometry"


@pytest.mark.parametrize("level", LEVELS)
def test_drawio_boxes_are_in_the_groups_of_their_parts(level: str) -> None:
    for page, sheet in zip(pages(level), drawn("resnet101-fpn", level), strict=True):
        there = cells(page)
        for box in sheet.boxes:
            x, y, w, h = place(there[f"box-{box.key}"])
            parent = there[f"box-{box.key}"].attrib["parent"]
            while parent != "1":  # a child's place is counted from its parent's corner
                assert "container=1" in there[parent].attrib["style"]
                dx, dy, _, _ = place(there[parent])
                x, y, parent = x + dx, y + dy, there[parent].attrib["parent"]
            assert (x, y, w, h) == pytest.approx((box.x, box.y, box.w, box.h), abs=0.05)
    assert level == "parts" or there[f"box-{sheet.boxes[-1].key}"].attrib["parent"].startswith("group-")


@pytest.mark.parametrize("level", LEVELS)
def test_drawio_arrows_are_connected_and_keep_their_turns(level: str) -> None:
    for page, sheet in zip(pages(level), drawn("resnet101-fpn", level), strict=True):
        there = cells(page)
        for number, arrow in enumerate(sheet.arrows):
            edge = there[f"arrow-{number}"]
            ends = (edge.attrib["source"], edge.attrib["target"])
            assert edge.attrib["edge"] == "1" and ends == (f"box-{arrow.source}", f"box-{arrow.target}")
            assert edge[0].attrib == {"relative": "1", "as": "geometry"}
            points = [(float(p.attrib["x"]), float(p.attrib["y"])) for p in edge.iter("mxPoint")]
            assert points == [pytest.approx(point, abs=0.01) for point in arrow.points[1:-1]]


def test_drawio_holds_names_with_any_characters() -> None:
    config = NETWORKS["vgg"]
    drawing = compare(config, config.replace({"class_names": ["<a> & 'b'", '"c"']}), "parts", names=("<&>", '"'))
    there = cells(ET.fromstring(text(drawing, "drawio"))[0])
    assert any(cell.get("value") == "&lt;&amp;&gt;" for cell in there.values())  # HTML, as draw.io reads it
    assert "&lt;&amp;&gt;" in svg(drawing.sheets[0])


@pytest.mark.parametrize("level", LEVELS)
def test_mermaid_and_dot_have_every_box_and_arrow(level: str) -> None:
    both = drawing(level)
    boxes = sum(len(sheet.boxes) for sheet in both.sheets)
    pairs = sum(len({(arrow.source, arrow.target) for arrow in sheet.arrows}) for sheet in both.sheets)
    mermaid, dot = text(both, "mermaid"), text(both, "dot")
    assert mermaid.splitlines()[2] == "flowchart LR"
    assert mermaid.count(" --> ") == dot.count(" -> ") == pairs
    assert dot.count("[label=") == boxes and dot.count("{") == dot.count("}")
    assert mermaid.count("subgraph") == mermaid.count("\n  end") + mermaid.count("\n    end") + mermaid.count(
        "\n      end"
    )


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("n.svg", ["n-1.svg", "n-2.svg"]),
        ("n.png", ["n-1.png", "n-2.png"]),
        ("n.pdf", ["n.pdf"]),
        ("n.drawio", ["n.drawio"]),
        ("n.mmd", ["n.mmd"]),
        ("n.gv", ["n.gv"]),
    ],
)
def test_save_writes_what_the_ending_says(file: str, names: list[str], tmp_path: Path) -> None:
    written = save(drawing("layers", "shallow c4"), tmp_path / file)
    assert [path.name for path in written] == names == sorted(path.name for path in tmp_path.iterdir())


def test_png_has_two_pixels_for_every_unit(tmp_path: Path) -> None:
    [sheet] = drawn("vgg", "blocks")
    [path] = save(drawing("blocks", "vgg"), tmp_path / "n.png")
    with Image.open(path) as image:
        assert image.size == pytest.approx((2 * sheet.width, 2 * sheet.height), abs=2)
        assert image.convert("RGB").getcolors(1 << 20) is not None
        box = sheet["c4"]
        inner = image.convert("RGB").getpixel((int(2 * box.x) + 12, int(2 * box.y) + 12))
        assert inner == pytest.approx((0xDB, 0xE9, 0xFB), abs=2)


def test_pdf_has_a_page_for_each_sheet_and_its_fonts(tmp_path: Path) -> None:
    [path] = save(drawing("layers"), tmp_path / "n.pdf")
    data = path.read_bytes()
    assert data.startswith(b"%PDF") and data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") == 2
    assert b"DejaVuSans" in data and b"/Subtype /Image" not in data
    assert b"/MediaBox [ 0 0 841" in data  # A4, lying


def test_without_matplotlib_png_and_pdf_say_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for suffix in (".png", ".pdf"):
        with pytest.raises(
            InputError, match=r"need matplotlib: pip install 'maskrcnn\[draw\]'. .* svg and drawio need nothing"
        ):
            save(drawing("parts"), tmp_path / f"n{suffix}")
    assert list(tmp_path.iterdir()) == []
    assert save(drawing("parts"), tmp_path / "n.svg")[0].exists()


def test_formats_that_are_unknown_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"n.jpg: its ending tells no format. Known are .svg, .png"):
        save(drawing("parts"), tmp_path / "n.jpg")
    with pytest.raises(InputError, match=r"format must be one of svg, .*; got 'svgg'. Did you mean 'svg'"):
        save(drawing("parts"), tmp_path / "n.jpg", "svgg")
    with pytest.raises(InputError, match="An SVG file holds one sheet, and layers has 2"):
        text(drawing("layers"), "svg")
    with pytest.raises(InputError, match="pdf is no format of text"):
        text(drawing("parts"), "pdf")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/n.svg"):
        save(drawing("parts"), tmp_path / "file" / "n.svg")


@pytest.mark.parametrize("level", ["parts", "blocks"])
def test_pictures_in_the_documents_are_what_the_command_draws(level: str) -> None:
    path = Path(__file__).parents[3] / "docs" / "images" / f"{level}.svg"
    again = f"maskrcnn draw --classes 6 --level {level} -o docs/images/{level}.svg"
    assert path.read_text(encoding="utf-8") == svg(drawn("resnet101-fpn", level)[0]), again  # type: ignore[arg-type]
