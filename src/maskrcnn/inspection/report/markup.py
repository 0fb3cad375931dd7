"""Small pieces of HTML, every foreign text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from maskrcnn.inspection.report.album import Album


def figure(album: Album, name: str, caption: str, alt: str = "", width: int | None = None, cells: bool = False) -> str:
    """Return a picture of the album with its caption.

    Args:
        album: where the picture is.
        name: its name.
        caption: below it; plain text.
        alt: what it shows, for those who do not see it; the caption by default.
        width: in CSS pixels; its own by default.
        cells: whether its pixels are single values, which stay sharp when enlarged.
    """
    wide, high = album.sizes[name]
    shown = width or wide
    kind = "pic cells" if cells else "pic"
    narrow = f' style="width:{max(width, 120)}px"' if width else ""
    return (
        f'<figure{narrow}><img class="{kind}" data-image="{escape(name)}" alt="{escape(alt or caption)}" '
        f'width="{shown}" height="{max(round(high * shown / wide), 1)}"><figcaption>{escape(caption)}</figcaption>'
        "</figure>"
    )


def row(figures: Iterable[str]) -> str:
    """Return figures beside each other, as far as there is room."""
    return f'<div class="row">{"".join(figures)}</div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values below each other; pairs without a value are left out."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs if value)
    return f'<dl class="facts">{lines}</dl>' if lines else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table; columns in `numbers` stand at the right."""

    def cell(tag: str, column: int, text: str) -> str:
        kind = ' class="n"' if column in numbers else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    head = "".join(cell("th", i, text) for i, text in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell('td', i, text) for i, text in enumerate(line))}</tr>" for line in rows)
    return f'<div class="wide"><table class="data"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def bars(entries: Iterable[tuple[str, float, bool]]) -> str:
    """Return shares as bars: (name, share from 0 to 1, whether it stands out)."""
    lines = "".join(
        f'<span>{escape(name)}</span><span class="bar-line" role="img" aria-label="{100 * share:.1f} per cent">'
        f'<i{"" if strong else " class=off"} style="width:{100 * min(max(share, 0.0), 1.0):.2f}%"></i></span>'
        f"<span>{share:.3f}</span>"
        for name, share, strong in entries
    )
    return f'<div class="bars">{lines}</div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Return colours (CSS) and what they stand for."""
    return (
        '<ul class="legend">'
        + "".join(f'<li><i style="background:{color}"></i>{escape(text)}</li>' for color, text in entries)
        + "</ul>"
    )


def go(key: str, text: str, deeper: bool = False) -> str:
    """Return a button that opens another place of the report."""
    return f'<button class="go" data-go="{escape(key)}"{" data-deeper" if deeper else ""}>{escape(text)}</button>'


def article(key: str, part: str, kicker: str, title: str, body: str, paper: str, inside: str) -> str:
    """Return what is shown of a place: its part, heading, text, source, and what `inside` holds."""
    source = f'<p class="paper">{escape(paper)}</p>' if paper else ""
    said = f'<p class="body">{escape(body)}</p>' if body else ""
    return (
        f'<article class="detail" id="d-{escape(key)}" hidden style="--part-ink:var(--{part}-ink)">'
        f'<p class="kicker">{escape(kicker)}</p><h2>{escape(title)}</h2>{said}{source}{inside}</article>'
    )
