"""The picture of a run on its page: laid out as every picture of a plan, but alive.

Its boxes carry ``data-box``, ``data-node-id`` and ``data-status``, its links the boxes they join, so that scripts
recolour it as events come in. It brings no style: colours, and what moves, are in ``run.css``. A box of several nodes
tells how many of them have which status, by a bar and in words. What a status looks like is told by ``marks.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from dalang.api.ui.icons import path
from dalang.api.ui.marks import NODE_MARKS
from dalang.picture import Box, Link, Picture, clip, printable
from dalang.statuses import NODE_ENDS, NodeStatus
from dalang.svg import HUES, MARGIN, Drawing
from dalang.svg_text import num, xml

HEIGHT = 62
LEAST_WIDTH = 204.0
BAR_HEIGHT = 5
CULLED_FROM = 300
"""Of a picture with more boxes a browser lays out only those that are seen; the script says which."""

_N = NodeStatus
URGENCY: tuple[NodeStatus, ...] = (
    _N.FAILED,
    _N.COMPENSATION_FAILED,
    _N.AWAITING_HITL,
    _N.COMPENSATING,
    _N.RETRYING,
    _N.RUNNING,
    _N.QUEUED,
    _N.PENDING,
    _N.ERROR,
    _N.COMPENSATED,
    _N.SUCCESS,
    _N.CANCELLED,
    _N.SKIPPED,
)
"""A box of several nodes has the first of these that one of them has."""
BAR: tuple[NodeStatus, ...] = (
    _N.SUCCESS,
    _N.ERROR,
    _N.SKIPPED,
    _N.CANCELLED,
    _N.COMPENSATED,
    _N.FAILED,
    _N.COMPENSATION_FAILED,
    _N.AWAITING_HITL,
    _N.COMPENSATING,
    _N.RETRYING,
    _N.RUNNING,
    _N.QUEUED,
    _N.PENDING,
)
"""The order of the parts of a bar."""

Changes = Mapping[str, str]
"""What a revision did to nodes and edges, by id: added, removed or changed."""


class LiveDrawing(Drawing):
    """One picture laid out for the page; :meth:`fragment` draws it with the statuses of a moment."""

    height = HEIGHT
    slot = 20.0
    broad = 2_200

    def __init__(self, picture: Picture, nodes: Changes | None = None, edges: Changes | None = None) -> None:
        self.node_changes, self.edge_changes = nodes or {}, edges or {}
        super().__init__(picture)

    def fragment(self, statuses: Mapping[str, str]) -> str:
        """Return the picture as an SVG element of a page; a node that is not in ``statuses`` is PENDING."""
        boxes = self.picture.boxes
        return self.drawn([Counter(statuses.get(node.node_id, _N.PENDING) for node in box.nodes) for box in boxes])

    def drawn(self, counts: Sequence[Mapping[str, int]]) -> str:
        """Return the same of boxes of which it is known how many of the nodes have which status."""
        extent = max(self.layout.extent, 20.0)
        width, height = (extent, self.main) if self.down else (self.main, extent)
        width, height = max(width, LEAST_WIDTH) + 2 * MARGIN, max(height, HEIGHT) + 2 * MARGIN
        zone, deeper = self._zone()
        height += deeper
        culled = " cull" if len(self.frames) > CULLED_FROM else ""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="dag{culled}" role="group" '
            f'viewBox="0 0 {num(width)} {num(height)}" width="{num(width)}" height="{num(height)}" '
            f'data-down="{str(self.down).lower()}" aria-label="{xml(self.summary())}">'
        )
        boxes = (self._live_box(at, counts[at]) for at in range(len(self.frames)))
        return "\n".join([head, '<g class="all">', zone, *self._links(), *boxes, "</g></svg>"])

    def summary(self) -> str:
        """Return what the picture shows in a sentence."""
        nodes = sum(len(box.nodes) for box in self.picture.boxes)
        drawn = f", drawn as {len(self.picture.boxes)} boxes" if self.picture.collapsed else ""
        return f"{self.picture.title}: {nodes} nodes in {self.depth} levels{drawn}"

    def _texts_of(self, box: Box) -> tuple[str, str]:
        return clip(printable(box.title), 28), clip(printable(box.subtitle), 34)

    def _widths(self) -> list[float]:
        return [max(width + 22, LEAST_WIDTH) for width in super()._widths()]

    def _path(self, link: Link, points: list[tuple[float, float]]) -> str:
        change = one_of(self.edge_changes.get(key, "") for key in link.keys) if self.edge_changes else ""
        classes = "edge" + (" error" if link.error else "") + (" conditional" if link.conditional else "")
        changed = f' data-change="{change}"' if change else ""
        tooltip = f"{change}: {link.tooltip}" if change else link.tooltip
        plain = len(self.picture.boxes) > CULLED_FROM and not (link.label or change)  # thousands of titles cost time
        return (
            f'<g class="{classes}" data-from="{link.source}" data-to="{link.target}"{changed}>'
            f'{"" if plain else f"<title>{xml(tooltip)}</title>"}<path class="line" d="{self._curve(points)}"/>'
            f'<path class="tip" d="{self._head(points[-1])}" data-back="{self._head(points[0], -8)}"/></g>'
        )

    def _live_box(self, at: int, counts: Mapping[str, int]) -> str:
        box, frame, (title, subtitle) = self.picture.boxes[at], self.frames[at], self.texts[at]
        one = len(box.nodes) == 1
        status = summed_up(counts)
        mark = NODE_MARKS[status]
        word = mark.word if one else told(counts)
        change = self._change(box)
        label = ", ".join(filter(None, [box.title, box.subtitle, change, word]))
        named = f' data-node-id="{xml(box.nodes[0].node_id)}"' if one else f' data-group="{xml(box.key)}"'
        changed = f' data-change="{change}"' if change else ""
        hue = HUES[sum(box.type.encode("utf-8", "replace")) % len(HUES)]
        width = num(frame.width)
        sheets = (
            ""
            if one
            else "".join(
                f'<rect class="sheet" x="{shift}" y="{shift}" width="{width}" height="{HEIGHT}" rx="9"/>'
                for shift in (8, 4)
            )
        )
        return (
            f'<g class="node{"" if one else " many"}" data-box="{at}"{named} data-status="{status}" '
            f'data-tone="{mark.tone}"{changed} transform="translate({num(frame.x)},{num(frame.y)})" role="button" '
            f'tabindex="{-1 if at else 0}" aria-label="{xml(printable(label))}">'
            f"<title>{xml(box.tooltip)}</title>{sheets}"
            f'<rect class="card" width="{width}" height="{HEIGHT}" rx="9"/>'
            f'<rect class="kind" y="12" width="4" height="{HEIGHT - 24}" rx="2" fill="{hue}"/>'
            f'<circle class="disc" cx="25" cy="22" r="12"/>'
            f'<path class="mark" transform="translate(17,14)" d="{path(mark.icon)}"/>'
            f'<text class="name" x="45" y="20">{xml(title)}</text>'
            f'<text class="sub" x="45" y="35">{xml(subtitle)}</text>'
            f'<text class="word" x="45" y="52">{xml(word)}</text>'
            f'<text class="extra" x="{num(frame.width - 10)}" y="52"></text>'
            + ("" if one else _bar(counts, frame.width))
            + "</g>"
        )

    def _change(self, box: Box) -> str:
        return one_of(self.node_changes.get(node.node_id, "") for node in box.nodes) if self.node_changes else ""


def one_of(changes: Iterable[str]) -> str:
    """Return what became of all of some nodes or edges together: the same as of each, or that some changed."""
    found = set(changes)
    return found.pop() if len(found) == 1 else "changed" if found else ""


def summed_up(counts: Mapping[str, int]) -> NodeStatus:
    """Return the status of a box whose nodes have these."""
    if counts.get(_N.PENDING) and any(counts.get(status) for status in NODE_ENDS):
        counts = {**counts, _N.RUNNING: 1}  # between two of its nodes it is neither pending nor at its end
    return next((status for status in URGENCY if counts.get(status)), _N.PENDING)


def told(counts: Mapping[str, int]) -> str:
    """Return how far a box of several nodes is, in words."""
    total = sum(counts.values())
    done = sum(count for status, count in counts.items() if status in NODE_ENDS)
    failed = sum(counts.get(status, 0) for status in (_N.FAILED, _N.COMPENSATION_FAILED))
    return f"{done} of {total} done" + (f", {failed} failed" if failed else "")


def _bar(counts: Mapping[str, int], width: float) -> str:
    total, room, at = sum(counts.values()), width - 55, 45.0
    parts = []
    for status in BAR:
        if counts.get(status):
            size = room * counts[status] / total
            parts.append(f'<rect data-tone="{NODE_MARKS[status].tone}" x="{num(at)}" width="{num(size)}"')
            at += size
    return (
        f'<g class="bar" data-x="45" data-width="{num(room)}">'
        + "".join(f'{part} y="56" height="{BAR_HEIGHT - 2}"/>' for part in parts)
        + "</g>"
    )


def looks() -> list[Sequence[str]]:
    """Return what scripts have to know of statuses: name, word, drawn icon and tone, in the order of their codes."""
    return [
        (str(status), NODE_MARKS[status].word, path(NODE_MARKS[status].icon), NODE_MARKS[status].tone)
        for status in NodeStatus
    ]
