"""What is drawn of a plan: boxes and links, before it is decided how.

A picture of every node is useless where a level is hundreds of nodes wide. Such levels are drawn as one box for the
nodes of each type, ``346 × sleep``; what is still too large is drawn as bands of whole levels. The texts here are raw:
they come from whoever wrote the plan, and each notation escapes them by its own rules.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dalang.graph import levels
from dalang.plan import ERROR_PORT, SUCCESS_PORT
from dalang.sketch import DrawnEdge, DrawnNode, DrawnPlan

MAX_WIDTH = 100
"""A level with more nodes than this is drawn by type."""
COLLAPSED_BOXES = 500
"""What has to be collapsed at all is collapsed until it is a picture to look at, with at most as many boxes."""
_WIDTHS = (MAX_WIDTH, 40, 15, 5, 1)
_BANDS = 60


@dataclass(frozen=True, slots=True)
class Box:
    """One node, or several (``len(nodes) > 1``) in one box; ``level`` counts from 0."""

    title: str
    subtitle: str
    tooltip: str
    type: str
    level: int
    nodes: Sequence[DrawnNode]
    final: bool = False
    statuses: tuple[tuple[str, int], ...] = ()
    """How many of the nodes have which status, most first; empty when none is known."""
    key: str = ""
    """What the box is called to have it opened, or drawn as before: the node's id, or that of a group."""


@dataclass(frozen=True, slots=True)
class Link:
    """One edge, or all edges between two boxes; ``source`` and ``target`` are indexes of boxes."""

    source: int
    target: int
    label: str
    tooltip: str
    error: bool = False
    conditional: bool = False
    count: int = 1
    keys: tuple[str, ...] = ()
    """The ids of the edges."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes and links; ``collapsed`` tells whether some box stands for several nodes."""

    title: str
    boxes: tuple[Box, ...]
    links: tuple[Link, ...]
    collapsed: bool


@dataclass(slots=True)
class _Grouping:
    members: dict[object, list[DrawnNode]] = field(default_factory=dict)
    level: dict[object, int] = field(default_factory=dict)
    group: dict[str, object] = field(default_factory=dict)
    label: dict[object, str] = field(default_factory=dict)

    def add(self, key: object, node: DrawnNode, level: int) -> None:
        self.members.setdefault(key, []).append(node)
        self.level.setdefault(key, level)
        self.group[node.node_id] = key


def picture(
    plan: DrawnPlan,
    statuses: Mapping[str, str] | None = None,
    *,
    max_boxes: int,
    max_links: int,
    max_width: int = MAX_WIDTH,
    opened: Collection[str] = (),
) -> Picture:
    """Return what to draw of ``plan``, with at most about ``max_boxes`` boxes and ``max_links`` links.

    Levels wider than ``max_width`` are drawn by type; groups whose key is among ``opened`` are drawn node by node.

    Raises:
        dalang.graph.GraphError: an edge leads nowhere or there is a cycle.
    """
    rows = _rows(plan)
    finals = {node.node_id for node in plan.finally_}
    ends = [(edge.source_node_id, edge.target_node_id) for edge in plan.edges]
    for width in (max_width, *(width for width in _WIDTHS if width < max_width)):
        grouping = _by_type(rows, width, opened)
        group = grouping.group
        pairs = {(group[source], group[target]) for source, target in ends}
        if len(grouping.members) < len(plan.nodes) + len(plan.finally_):
            max_boxes, max_links = min(max_boxes, COLLAPSED_BOXES), min(max_links, 4 * COLLAPSED_BOXES)
        if len(grouping.members) <= max_boxes and len(pairs) <= max_links:
            break
    else:
        grouping = _bands(rows, finals)
    index = {key: at for at, key in enumerate(grouping.members)}
    boxes = tuple(
        replace(
            _box(members, grouping.level[key], members[0].node_id in finals, statuses, grouping.label.get(key, "")),
            key=_key(key),
        )
        for key, members in grouping.members.items()
    )
    between: dict[tuple[int, int], list[DrawnEdge]] = {}
    for edge in plan.edges:
        pair = index[grouping.group[edge.source_node_id]], index[grouping.group[edge.target_node_id]]
        if pair[0] != pair[1]:
            between.setdefault(pair, []).append(edge)
    links: list[Link] = []
    for (source, target), edges in between.items():
        if len(boxes[source].nodes) == len(boxes[target].nodes) == 1:
            links.extend(_link(source, target, edge) for edge in edges)
        else:
            links.append(_bundle(source, target, edges))
    return Picture(plan.name, boxes, tuple(links), len(boxes) < len(plan.nodes) + len(plan.finally_))


def _rows(plan: DrawnPlan) -> list[list[DrawnNode]]:
    """Return the nodes by level; the ``finally`` nodes have the levels after all others."""
    finals = {node.node_id for node in plan.finally_}
    pairs = [(edge.source_node_id, edge.target_node_id) for edge in plan.edges]
    by_id = {node.node_id: node for node in (*plan.nodes, *plan.finally_)}
    if not finals:
        return [[by_id[node] for node in row] for row in levels(by_id, pairs)]
    main = levels((node.node_id for node in plan.nodes), (pair for pair in pairs if not finals.intersection(pair)))
    end = levels((node.node_id for node in plan.finally_), (pair for pair in pairs if finals.intersection(pair)))
    return [[by_id[node] for node in row] for row in (*main, *end)]


def _by_type(rows: Sequence[Sequence[DrawnNode]], width: int, opened: Collection[str] = ()) -> _Grouping:
    grouping = _Grouping()
    for level, row in enumerate(rows):
        for node in row:
            key = level, node.type
            grouping.add(key if len(row) > width and _key(key) not in opened else node.node_id, node, level)
    return grouping


def _key(key: object) -> str:
    return key if isinstance(key, str) else ":".join(map(str, key)) if isinstance(key, tuple) else ""


def _bands(rows: Sequence[Sequence[DrawnNode]], finals: set[str]) -> _Grouping:
    """Group whole levels, so that there are few; levels of ``finally`` nodes are a band of their own."""
    grouping = _Grouping()
    per_band = -(-len(rows) // _BANDS)
    for level, row in enumerate(rows):
        for node in row:
            final = node.node_id in finals
            band = _BANDS if final else level // per_band
            grouping.add(("band", band), node, band)
            first, last = band * per_band + 1, min((band + 1) * per_band, len(rows))
            grouping.label["band", band] = "finally: " if final else f"levels {first}–{last}: "
    return grouping


def _box(
    members: Sequence[DrawnNode], level: int, final: bool, statuses: Mapping[str, str] | None, label: str = ""
) -> Box:
    known = Counter(statuses[node.node_id] for node in members if node.node_id in statuses) if statuses else Counter()
    counts = tuple(sorted(known.items(), key=lambda item: (-item[1], item[0])))
    if len(members) == 1:
        (node,) = members
        details = [node.type]
        if node.handler:
            details.append(node.handler)
        elif node.requirements.capabilities:
            details.append(", ".join(node.requirements.capabilities))
        if node.join != "allLive":
            details.append(f"join {node.join}")
        tooltip = "\n".join(
            filter(None, [node.name or node.node_id, f"{node.node_id} ({node.type})", node.description])
        )
        return Box(node.name or node.node_id, " · ".join(details), tooltip, node.type, level, (node,), final, counts)
    types = Counter(node.type for node in members).most_common()
    kind = types[0][0] if len(types) == 1 else "mixed"
    title = f"{label}{len(members)} × {kind}" if len(types) == 1 else f"{label}{len(members)} nodes"
    stems = Counter(_stem(node.name or node.node_id) for node in members).most_common()
    subtitle = stems[0][0] if len(stems) == 1 else _several(stems)
    if 3 < len(stems) == len(members):
        subtitle = f"{stems[0][0]} … {stems[-1][0]}"
    if len(types) > 1:
        subtitle = _several(types)
    shown = [node.name or node.node_id for node in members[:15]]
    tooltip = "\n".join([title, *shown, *(["…"] if len(members) > len(shown) else [])])
    return Box(title, subtitle, tooltip, kind, level, tuple(members), final, counts)


def _several(counts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ×{count}" for name, count in counts[:3]) + (", …" if len(counts) > 3 else "")


_NUMBERED = re.compile(r"[\W_]*(?:ID)?\d+$")


def _stem(name: str) -> str:
    """Return a name without the number at its end: ``sifting_ID0000012`` is one of many ``sifting``."""
    return _NUMBERED.sub("", name) or name


def _link(source: int, target: int, edge: DrawnEdge) -> Link:
    words = [] if edge.source_port == SUCCESS_PORT else [edge.source_port]
    if edge.condition is not None:
        words.append(f"if {edge.condition}")
    tooltip = [f"{edge.source_node_id} → {edge.target_node_id}", *words]
    if edge.target_port is not None:
        tooltip.append(f"into {edge.target_port}")
    tooltip.extend(f"{output} → {name}" for output, name in (edge.mapping or {}).items())
    return Link(
        source,
        target,
        " ".join(" ".join(words).split()),
        "\n".join(tooltip),
        error=edge.source_port == ERROR_PORT,
        conditional=edge.condition is not None or edge.source_port not in (SUCCESS_PORT, ERROR_PORT),
        keys=(edge.edge_id or "",),
    )


def _bundle(source: int, target: int, edges: Sequence[DrawnEdge]) -> Link:
    ports = {edge.source_port for edge in edges}
    label = f"×{len(edges)}" if len(edges) > 1 else ""
    if ports != {SUCCESS_PORT}:
        label = f"{', '.join(sorted(ports)[:3])} {label}".strip()
    return Link(
        source,
        target,
        label,
        f"{len(edges)} edge(s)",
        error=ports == {ERROR_PORT},
        conditional=all(edge.condition is not None for edge in edges),
        count=len(edges),
        keys=tuple(edge.edge_id or "" for edge in edges),
    )


def printable(text: str) -> str:
    """Return ``text`` on one line, without control and formatting characters, which no notation can be trusted with."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    return " ".join("".join(_replacement(character) for character in text).split())


def _replacement(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # such as the overrides of direction; the joiners of emoji and of Persian stay
        return character if character in "\u200c\u200d" else ""
    return " " if category in _UNPRINTABLE else character


_UNPRINTABLE = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})


def clip(text: str, columns: int) -> str:
    """Return ``text`` cut to ``columns``, where wide characters take two."""
    used = 0
    for at, character in enumerate(text):
        used += columns_of(character)
        if used > columns:
            return text[: max(at - 1, 0)].rstrip() + "…"
    return text


def columns_of(text: str) -> int:
    """Return how many columns ``text`` takes; wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
