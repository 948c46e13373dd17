"""What people wrote, as HTML that can do nothing: Markdown without HTML and without pictures, texts, differences."""

from __future__ import annotations

import difflib
import re
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup, escape

MAX_PROSE = 200_000
"""Longer texts are shown as they are."""
MAX_COMPARED = 5_000
"""Lines of a difference: finding it takes time with the square of them."""


def _link_open(self: RendererHTML, tokens: list[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    tokens[at].attrSet("rel", "noopener noreferrer nofollow")
    return self.renderToken(tokens, at, options, env)


def _renderer() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable(["table", "strikethrough"])
    made.disable("image")  # it would tell somebody's server who looks
    made.add_render_rule("link_open", _link_open)
    return made


_markdown = _renderer()


def markdown(text: str) -> Markup:
    """Return Markdown as HTML; HTML in it stays text, and links lead to where browsers may go only."""
    if len(text) > MAX_PROSE:
        return Markup("<pre>{}</pre>").format(text)
    return Markup('<div class="prose">{}</div>').format(Markup(_markdown.render(text)))  # noqa: S704  # html is off


_DIFF = re.compile(r"^(diff --git |--- .*\n\+\+\+ |@@ -\d)", re.M)
_PROSE = re.compile(r"^(#{1,4} |[-*] |\d+\. |> |\|.*\|$)|\*\*[^*\n]+\*\*|`[^`\n]+`", re.M)


def text(value: str) -> Markup:
    """Return a text as what it looks like: a difference, Markdown with its source, or lines."""
    if _DIFF.search(value):
        return patch(value)
    if "\n" in value and len(value) <= MAX_PROSE and _PROSE.search(value):
        source = Markup('<details class="source"><summary>As it was written</summary><pre>{}</pre></details>')
        return markdown(value) + source.format(value)
    return Markup('<div class="lines">{}</div>').format(value)


def patch(value: str) -> Markup:
    """Return a unified difference with its lines marked."""
    return _lines(value.splitlines())


def difference(before: Any, after: Any) -> Markup:
    """Return what is between two texts (or two JSON texts), line by line; nothing where they are the same."""
    old, new = str(before).splitlines(), str(after).splitlines()
    if len(old) + len(new) > MAX_COMPARED:
        return Markup("<p>{}</p>").format("Too long to be compared here.")
    found = list(difflib.unified_diff(old, new, lineterm="", n=3))[2:]
    return _lines([line for line in found if not line.startswith("@@")])


_KINDS = {"+": "plus", "-": "minus", "@": "place"}


def _kind(line: str) -> str:
    return "place" if line.startswith(("--- ", "+++ ")) else _KINDS.get(line[:1], "same")


def _lines(lines: list[str]) -> Markup:
    told = Markup().join(
        Markup('<span class="{}">{}</span>').format(_kind(line), escape(line) or " ") for line in lines
    )
    return Markup('<pre class="diff">{}</pre>').format(told)
