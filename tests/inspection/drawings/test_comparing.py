"""Comparisons mark what differs, and nothing else."""

from __future__ import annotations

from drawn import NETWORKS, network
from maskrcnn.config import Config
from maskrcnn.inspection.drawings import Sheet, compare, differing


def marked(sheet: Sheet) -> set[str]:
    return {box.key for box in sheet.boxes if box.mark}


def words(sheet: Sheet) -> list[str]:
    return [line.text for line in sheet.texts]


def test_what_differs_is_marked_on_both_sides() -> None:
    [sheet] = compare(network("resnet50-fpn"), network("resnet101-fpn"), "blocks").sheets
    assert marked(sheet) == {"a:c4", "b:c4"}
    box = sheet["b:c4"]
    assert box.mark == "differs" and {box.lines[k] for k in box.marked} == {"23 bottlenecks", "26 M parameters"}


def test_what_one_side_alone_has_is_marked() -> None:
    [sheet] = compare(network("resnet50-fpn"), network("resnet50-fpn", masks=False), "blocks").sheets
    assert {box.key for box in sheet.boxes if box.mark == "only here"} == {
        *("a:mask_roi_levels", "a:mask_roi_align", "a:mask_head", "a:paste", "a:masks")
    }
    assert not sheet["a:mask_head"].marked


def test_counts_of_repeated_blocks_are_compared() -> None:
    sheet = compare(network("resnet50-fpn"), network("resnet101-fpn"), "layers").sheets[0]
    notes = {(group.key[0], group.note) for group in sheet.groups if group.mark}
    assert notes == {("a", "× 5"), ("b", "× 22")}


def test_fields_that_differ_are_listed_with_both_values() -> None:
    one = network("resnet50-fpn")
    [sheet] = compare(one, one.replace({"rpn.nms_threshold": 0.6}), "parts").sheets
    assert "These configuration fields differ:" in words(sheet)
    assert {"rpn.nms_threshold", "0.7", "→  0.6"} <= set(words(sheet))


def test_equal_networks_have_no_mark() -> None:
    for sheet in compare(NETWORKS["vgg"], NETWORKS["vgg"], "layers").sheets:
        assert not marked(sheet) and "The two configurations are the same." in words(sheet)


def test_sections_of_two_kinds_show_what_both_have() -> None:
    fields = differing(network("resnet101-fpn"), network("vgg16"))
    assert fields["backbone.kind"] == ("resnet", "vgg") and fields["backbone.norm"] == ("frozen_batch", "none")
    assert "backbone.depth" not in fields
    assert fields["fpn"][1] == "None" and fields["fpn"][0].startswith("channels 256")


def test_long_lists_of_fields_and_values_are_cut() -> None:
    one, other = network("resnet101-fpn", 1000), network("small-fpn", 2)
    changed = {f"{part}.matching.positive_fraction": 0.1 for part in ("rpn", "box")}
    other = other.replace({**changed, "anchors.offset": 0.5, "box.pool_size": 5, "mask.pool_size": 10})
    [sheet] = compare(one, other, "parts").sheets
    assert any(text.startswith("and ") and text.endswith(" more") for text in words(sheet))
    assert len(differing(one, other)["class_names"][0]) <= 40


def test_names_are_shown_without_what_a_terminal_would_obey() -> None:
    config = Config.preset("vgg16", class_names=["cat"])
    [sheet] = compare(config, config, "parts", names=("a\x1b[31m", "b")).sheets
    assert "a?[31m" in words(sheet)
