"""Texts and numbers as an SVG document holds them."""

from __future__ import annotations

from xml.sax.saxutils import escape

from dalang.picture import columns_of, printable

_NARROW, _BROAD = frozenset("iljtfrI.,:;'|!()[]{}- "), frozenset("mwMW@%")


def text_width(text: str) -> float:
    """Return about how wide ``text`` is, in units of the font's size, in the widest usual font (DejaVu Sans)."""
    return sum(
        0.4 if c in _NARROW else 1.0 if c in _BROAD else 0.7 if c.isupper() else 0.63 * columns_of(c) for c in text
    )


def num(value: float) -> str:
    """Return a coordinate with one decimal at most."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def xml(text: str) -> str:
    """Return ``text`` as the content of an element or of an attribute; characters that XML forbids become spaces."""
    lines = "\n".join(printable(line) for line in text.split("\n"))
    return escape(lines, {'"': "&quot;", "'": "&#39;"})
