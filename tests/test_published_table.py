"""The documented table of published weights is that of the data."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_has_the_table_of_the_data():
    written = runpy.run_path(str(DOCS / "published.py"))["with_table"]
    page = (DOCS / "weights.md").read_text(encoding="utf-8")
    assert page == written(page) and "torchvision/maskrcnn_resnet50_fpn_v2" in page
