"""The report as a reader meets it, in a real headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.inspection.report import report
from tiny import tiny_data, tiny_model

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report(tiny_model(box__score_threshold=0.0), tiny_data()[0][0], random=True), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    env = {"HOME": str(tmp_path_factory.mktemp("home"))}
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], env=env)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Any]:
    """The page at 1280 pixels; whatever it complains of fails the test."""
    page, complaints = _open(browser, file, {"width": 1280, "height": 800})
    yield page
    page.close()
    assert complaints == []


def _open(browser: Any, file: Path, viewport: dict[str, int], **options: Any) -> tuple[Any, list[str]]:
    page = browser.new_page(viewport=viewport, reduced_motion="reduce", **options)
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto(file.as_uri())
    page.wait_for_selector("html.ready")
    return page, complaints


def shown(page: Any) -> str:
    """Return the text of the article that is open."""
    return page.inner_text("#details > article:not([hidden])")


def box(key: str) -> str:
    return f'#map > svg:not([hidden]) .box[data-key="{key}"]'


def test_it_opens_with_the_four_parts_and_a_picture(opened: Any) -> None:
    assert opened.is_visible(box("backbone")) and opened.is_visible(box("heads"))
    assert opened.is_visible("#d-overview svg.photo")


def test_a_click_on_a_part_goes_inside_and_one_on_p4_shows_its_shape(opened: Any) -> None:
    opened.click(box("backbone"))
    assert "Backbone" in shown(opened) and opened.is_visible(box("c4"))
    opened.click(box("p4"))
    assert "N 1 × C 16 × H 4 × W 4" in shown(opened)
    assert opened.evaluate("document.querySelector('#d-p4 img.pic').naturalWidth") > 0


@pytest.mark.parametrize("key", ["input", "backbone", "rpn", "roi_align", "heads", "output"])
def test_the_middle_of_every_part_can_be_clicked(opened: Any, key: str) -> None:
    area = opened.locator(box(key)).bounding_box()
    opened.mouse.click(area["x"] + area["width"] / 2, area["y"] + area["height"] / 3)
    assert opened.is_visible(f"#d-{key}")


def test_a_second_click_goes_down_to_layers_and_one_there_shows_a_layer(opened: Any) -> None:
    opened.click(box("backbone"))
    opened.click(box("c4"))
    opened.click(box("c4"))
    assert opened.get_attribute("#map > svg:not([hidden])", "data-view").startswith("layers")
    opened.click("#d-c4 .layers button >> nth=0")
    assert "Convolution" in shown(opened) and "Multiply-adds" in shown(opened)


def test_the_walk_goes_forward_and_back_by_keyboard(opened: Any) -> None:
    opened.keyboard.press("w")
    assert opened.inner_text("#walk .count").startswith("1 of ")
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    assert opened.inner_text("#walk .count").startswith("3 of ")
    assert opened.locator("#map .box.lit").count() > 0
    opened.keyboard.press("ArrowLeft")
    assert opened.inner_text("#walk .count").startswith("2 of ")
    opened.keyboard.press("End")
    last = opened.inner_text("#walk .count").split(" of ")
    assert last[0] == last[1] and opened.is_disabled("#next")
    opened.keyboard.press("Escape")
    assert opened.is_hidden("#walk")


def test_every_step_has_a_picture(opened: Any) -> None:
    opened.keyboard.press("w")
    count = int(opened.inner_text("#walk .count").split(" of ")[1])
    for _ in range(count):
        step = "#walk .step:not([hidden])"
        assert opened.locator(f"{step} :is(img, svg.photo, .bars)").count() > 0
        assert opened.evaluate(f"[...document.querySelectorAll('{step} img')].every(i => i.src)")
        opened.keyboard.press("ArrowRight")


def test_an_object_is_followed_by_a_click(opened: Any) -> None:
    opened.click(".object >> nth=0")
    text = shown(opened)
    assert all(word in text for word in ("anchor", "rank", "Class scores", "Its crops", "Its mask"))


def test_pointing_at_an_object_lights_it_up_everywhere(opened: Any) -> None:
    opened.click(".object >> nth=0")
    opened.hover(".object >> nth=0")
    assert opened.locator("svg.photo .lit").count() > 2
    opened.mouse.move(5, 5)
    assert opened.locator("svg.photo .lit").count() == 0


def test_the_map_is_used_by_keyboard(opened: Any) -> None:
    opened.focus(box("rpn"))
    opened.keyboard.press("Enter")
    assert "Region Proposal Network" in shown(opened)
    assert opened.is_visible(box("anchors"))
    assert opened.evaluate("document.activeElement.dataset.part") == "rpn"


def test_a_shape_on_the_photo_is_opened_by_keyboard(opened: Any) -> None:
    opened.focus("#d-overview svg.photo [data-go]")
    name = opened.get_attribute("#d-overview svg.photo [data-go]", "data-go")
    opened.keyboard.press("Enter")
    assert opened.is_visible(f"#d-{name}")


def test_the_map_enlarges_and_returns(opened: Any) -> None:
    before = opened.get_attribute("#map > svg:not([hidden])", "viewBox")
    opened.click("#in")
    assert opened.get_attribute("#map > svg:not([hidden])", "viewBox") != before
    opened.click("#fit")
    after = opened.get_attribute("#map > svg:not([hidden])", "viewBox").split()
    assert [float(v) for v in after] == [float(v) for v in before.split()]


def test_an_address_leads_back_to_its_place(opened: Any, file: Path) -> None:
    opened.goto(f"{file.as_uri()}#walk-4")
    opened.reload()
    assert opened.inner_text("#walk .count").startswith("4 of ")


def test_dark_by_the_systems_wish_and_by_choice(browser: Any, file: Path) -> None:
    page, complaints = _open(browser, file, {"width": 1280, "height": 800}, color_scheme="dark")
    color = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(color) == "rgb(20, 25, 31)"
    page.click("#theme")
    assert page.evaluate(color) == "rgb(255, 255, 255)"
    page.close()
    assert not complaints


def test_a_phone_has_no_sideways_scrolling(browser: Any, file: Path) -> None:
    page, complaints = _open(browser, file, {"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for place in ("overview", "anchors", "box_roi_align", "object-0", "backbone.conv1", "walk-1", "walk-5"):
        page.goto(f"{file.as_uri()}#{place}")
        page.reload()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
    page.click("#up")
    assert page.evaluate("document.querySelector('#views').getBoundingClientRect().top") < 100
    page.close()
    assert not complaints


def test_it_prints_the_map_and_every_step(browser: Any, file: Path) -> None:
    page, complaints = _open(browser, file, {"width": 1280, "height": 800})
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 8
    page.close()
    assert not complaints


def test_the_tabs_are_used_by_keyboard(opened: Any) -> None:
    tab = '#views [role="tab"]'
    assert opened.evaluate(f"[...document.querySelectorAll('{tab}')].map(t => t.tabIndex)") == [0, -1, -1, -1]
    opened.focus(f"{tab} >> nth=0")
    opened.keyboard.press("ArrowRight")
    assert opened.get_attribute("#map > svg:not([hidden])", "data-view") == "blocks"
    assert opened.evaluate("document.activeElement.dataset.view") == "blocks"
    opened.keyboard.press("End")
    assert opened.get_attribute("#map > svg:not([hidden])", "data-view").startswith("layers")


def test_what_is_dark_is_printed_light(browser: Any, file: Path) -> None:
    page, complaints = _open(browser, file, {"width": 1280, "height": 800}, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    page.close()
    assert not complaints


def test_it_works_with_a_broken_address_and_inside_another_page(browser: Any, file: Path) -> None:
    page, complaints = _open(browser, file, {"width": 1280, "height": 800})
    page.goto(f"{file.as_uri()}#%E0%A4%A")
    page.reload()
    assert page.is_visible("#d-overview")
    page.set_content("<iframe width='1200' height='700'></iframe>")
    page.eval_on_selector("iframe", "(frame, text) => { frame.srcdoc = text; }", file.read_text(encoding="utf-8"))
    inner = page.frame_locator("iframe")
    inner.locator(box("backbone")).click()
    assert "Backbone" in inner.locator("#details > article:not([hidden])").inner_text()
    page.close()
    assert not complaints
