"""Plans as pictures: :func:`svg`, :func:`mermaid` and :func:`dot`.

All three draw the same :class:`~dalang.picture.Picture`: boxes with a node's name and type, links with their port and
condition, wide levels collapsed. Names come from whoever wrote the plan and are treated as hostile. ``statuses`` maps
nodeIds to :class:`~dalang.statuses.NodeStatus` values; a status is always told by its word too, not by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from dalang.picture import Box, Link, clip, picture, printable
from dalang.plan import Plan
from dalang.svg import draw

__all__ = ["dot", "mermaid", "svg"]

SVG_BOXES, SVG_LINKS = 2_500, 10_000
MERMAID_BOXES, MERMAID_LINKS = 200, 480
"""Mermaid refuses pictures of more than 500 links or 50,000 characters."""
DOT_BOXES, DOT_LINKS = 500, 2_000
"""Graphviz takes minutes for much more."""

_COLOURS = {
    "SUCCESS": "#d3f2de",
    "FAILED": "#ffd9d6",
    "COMPENSATION_FAILED": "#ffd9d6",
    "ERROR": "#ffe8c7",
    "RETRYING": "#ffe8c7",
    "RUNNING": "#d6e8ff",
    "AWAITING_HITL": "#ebdcff",
    "COMPENSATING": "#ebdcff",
    "COMPENSATED": "#ebdcff",
}


def svg(plan: Plan, statuses: Mapping[str, str] | None = None) -> str:
    """Return the plan as an SVG document of its own, which can also stand in an HTML page.

    Every box of one node has ``data-node-id``; it is readable in light and dark, and by screen readers.

    Raises:
        dalang.graph.GraphError: the plan is not valid: an edge leads nowhere or there is a cycle.
    """
    return draw(picture(plan, statuses, max_boxes=SVG_BOXES, max_links=SVG_LINKS))


def mermaid(plan: Plan, statuses: Mapping[str, str] | None = None) -> str:
    """Return the plan as a Mermaid flowchart, which GitHub and many editors draw.

    Raises:
        dalang.graph.GraphError: as :func:`svg`.
    """
    drawn = picture(plan, statuses, max_boxes=MERMAID_BOXES, max_links=MERMAID_LINKS)
    lines = ["flowchart LR"]
    for final in (False, True):
        boxes = [(at, box) for at, box in enumerate(drawn.boxes) if box.final is final]
        if final and boxes:
            lines.append('  subgraph finally["finally"]')
        for at, box in boxes:
            text = "<br/>".join(_mermaid(line) for line in _lines(box) if line)
            lines.append(f"  {'  ' if final else ''}n{at}" + (f'[["{text}"]]' if len(box.nodes) > 1 else f'["{text}"]'))
        if final and boxes:
            lines.append("  end")
    for link in drawn.links:
        arrow = "-.->" if link.error or link.conditional else "-->"
        label = f'|"{_mermaid(clip(printable(link.label), 60))}"|' if link.label else ""
        lines.append(f"  n{link.source} {arrow}{label} n{link.target}")
    for status, colour in _COLOURS.items():
        members = [f"n{at}" for at, box in enumerate(drawn.boxes) if _status(box) == status]
        if members:
            lines.append(f"  classDef {status} fill:{colour},color:#1b2430")
            lines.append(f"  class {','.join(members)} {status}")
    return "\n".join(lines) + "\n"


def dot(plan: Plan, statuses: Mapping[str, str] | None = None) -> str:
    """Return the plan in the DOT language of Graphviz.

    Raises:
        dalang.graph.GraphError: as :func:`svg`.
    """
    drawn = picture(plan, statuses, max_boxes=DOT_BOXES, max_links=DOT_LINKS)
    lines = [
        "digraph plan {",
        f"  graph [rankdir=LR, label={_dot(printable(drawn.title))}, labelloc=t, fontname=Helvetica];",
        "  node [shape=box, style=rounded, fontname=Helvetica, fontsize=11];",
        "  edge [fontname=Helvetica, fontsize=9];",
    ]
    for at, box in enumerate(drawn.boxes):
        styles = ["rounded"] + (["dashed"] if box.final else [])
        colour = _COLOURS.get(_status(box) or "")
        attributes = [f"label={_dot(*[line for line in _lines(box) if line])}"]
        if colour:
            styles.append("filled")
            attributes.append(f'fillcolor="{colour}"')
        if len(box.nodes) > 1:
            attributes.append("peripheries=2")
        attributes.append(f'style="{",".join(styles)}"')
        lines.append(f"  n{at} [{', '.join(attributes)}];")
    lines.extend(f"  n{link.source} -> n{link.target}{_dot_attributes(link)};" for link in drawn.links)
    return "\n".join([*lines, "}"]) + "\n"


def _dot_attributes(link: Link) -> str:
    attributes = []
    if link.label:
        attributes.append(f"label={_dot(clip(printable(link.label), 60))}")
    if link.error or link.conditional:
        attributes.append("style=dashed")
    if link.error:
        attributes.append('color="#b42318"')
    return f" [{', '.join(attributes)}]" if attributes else ""


def _lines(box: Box) -> tuple[str, ...]:
    counts = ", ".join(status if len(box.nodes) == 1 else f"{count} {status}" for status, count in box.statuses)
    subtitle = f"finally · {box.subtitle}" if box.final else box.subtitle
    return clip(printable(box.title), 60), clip(printable(subtitle), 60), printable(counts)


def _status(box: Box) -> str | None:
    """Return the status that the whole box has, or None."""
    return box.statuses[0][0] if len(box.statuses) == 1 else None


_MERMAID_UNSAFE = frozenset("#\"'<>&`%{}|\\;[]()")


def _mermaid(text: str) -> str:
    """Return ``text`` as Mermaid's own entities wherever a character means something to Mermaid or to HTML."""
    return "".join(f"#{ord(character)};" if character in _MERMAID_UNSAFE else character for character in text)


def _dot(*lines: str) -> str:
    escaped = (line.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
