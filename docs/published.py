"""Write the table of published weights in docs/weights.md anew: `python docs/published.py`."""

from __future__ import annotations

from pathlib import Path

from maskrcnn.weights.releases import Release, releases

PAGE = Path(__file__).with_name("weights.md")
BEGIN, END = "<!-- begin: python docs/published.py -->\n", "<!-- end -->\n"


def rows(several: list[Release]) -> str:
    """Return the rows of several releases, each name a link to its file."""
    lines = []
    for r in several:
        figures = [f"{ap:.1f}" if ap is not None else "" for ap in (r.box, r.mask, r.keypoint)]
        size = "" if r.size is None else f"{r.size / 1e6:.0f}"
        check = f"{r.algorithm} {r.digest[:8]}…" if r.digest else "size" if r.size else "none"
        cells = [f"[`{r.name}`]({r.address})", str(r.num_classes or ""), *figures, size, check, r.licence]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table() -> str:
    """Return the table of all releases."""
    every = list(releases().values())
    head = f"| name | classes | box AP | mask AP | keypoint AP | MB | checked by | licence |\n{'|---' * 8}|\n"
    detectors, classifiers = ([r for r in every if r.classifier == c] for c in (False, True))
    return f"{head}{rows(detectors)}\n\nClassifiers, for `backbone_weights`:\n\n{head}{rows(classifiers)}\n"


def with_table(text: str) -> str:
    """Return the page with the table between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
