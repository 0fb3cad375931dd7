"""How wide a text is in DejaVu Sans, the widest of the usual sans-serif fonts: what fits in it fits in all of them.

The advance widths are those of DejaVu Sans 2.37 and its bold, in thousandths of the font size.
"""

from __future__ import annotations

from functools import lru_cache

_CHARACTERS = (
    " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]"
    "^_`abcdefghijklmnopqrstuvwxyz{|}~×·–—…→←↑↓²³½−≥≤√⌊⌋⌈⌉∞±°’“”≈∈↻"
    "⊕"
)
_REGULAR = (
    "318 401 460 838 636 950 780 275 390 390 500 838 318 361 318 337 636 636 636 636 636 636 636 636 636 636 337 "
    "337 838 838 838 531 1000 684 686 698 770 632 575 775 752 295 295 656 557 863 748 787 603 787 695 635 611 732 "
    "684 989 685 611 685 390 337 390 838 500 500 613 635 550 635 615 352 635 634 278 278 579 278 974 634 612 635 "
    "635 411 521 392 634 592 818 592 592 525 636 337 636 838 838 318 500 1000 1000 838 838 838 838 401 401 969 "
    "838 838 838 637 390 390 390 390 833 838 500 318 518 518 838 871 838 838 "
)
_BOLD = (
    "348 456 521 838 696 1002 872 306 457 457 523 838 380 415 380 365 696 696 696 696 696 696 696 696 696 696 400 "
    "400 838 838 838 580 1000 774 762 734 830 683 683 821 837 372 372 775 637 995 837 850 733 850 770 720 682 812 "
    "774 1103 771 724 725 457 365 457 838 500 500 675 716 593 716 678 435 716 712 343 343 665 343 1042 712 687 "
    "716 716 493 595 478 712 652 924 645 652 582 712 365 712 838 838 380 500 1000 1000 838 838 838 838 438 438 "
    "1035 838 838 838 667 457 457 457 457 833 838 500 380 657 657 838 896 838 838 "
)
_WIDTHS = {
    bold: dict(zip(_CHARACTERS, (int(width) / 1000 for width in widths.split()), strict=True))
    for bold, widths in ((False, _REGULAR), (True, _BOLD))
}
_OTHER = 1.1
"""Em of a character that the tables lack; those of Chinese, the widest usual ones, are 1."""


@lru_cache(maxsize=4096)
def width(text: str, size: float, bold: bool = False) -> float:
    """Return how wide a line of text is at most, in the unit of `size`.

    Example:
        >>> round(width("p4", 10.0), 2), round(width("p4", 10.0, bold=True), 2)
        (12.71, 14.12)
    """
    widths = _WIDTHS[bold]
    return size * sum(widths.get(character, _OTHER) for character in text)


def shortened(text: str, size: float, most: float, bold: bool = False) -> str:
    """Return a text that is at most `most` wide, its end replaced by … where it is longer.

    Example:
        >>> shortened("a long name", 10.0, 40.0)
        'a lon…'
    """
    if width(text, size, bold) <= most:
        return text
    while text and width(text + "…", size, bold) > most:
        text = text[:-1]
    return text.rstrip() + "…"
