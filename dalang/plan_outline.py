"""What the pages need of a plan's nodes and edges, in columns by place: 100,000 nodes are read back in milliseconds.

A plan never changes under its digest, so neither does its outline, nor what is drawn of it: both are made once, which
takes seconds for a large plan, and packed into a few columns of bytes that are stored beside it.
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cached_property
from typing import Any, overload

from dalang.picture import Box, Link, Picture
from dalang.program_columns import Grouped
from dalang.sketch import Sketch, SketchedNeeds, SketchedNode

FORM = 1
"""Of what is packed. Another picture of the same plan, or other columns, are another form: the old one is made anew."""
_NO_NEEDS = SketchedNeeds()
_LINK = [one.name for one in fields(Link)]


@dataclass(frozen=True)
class Outline:
    """Nodes in plan order, its ``finally`` nodes last. Edges go from the deepest source to the first."""

    ids: Sequence[str]
    names: Mapping[int, str]
    """Names by place, of nodes that have one."""
    types: Sequence[str]
    type_of: Sequence[int]
    estimates: Sequence[int]
    """How long each takes as the plan says, in milliseconds; 0 where it does not."""
    first_final: int
    sources: Sequence[int]
    targets: Sequence[int]

    @classmethod
    def of(cls, plan: Sketch) -> Outline:
        """Return the outline of a plan without cycles."""
        nodes = plan.all_nodes()
        types = {kind: at for at, kind in enumerate(dict.fromkeys(node.type for node in nodes))}
        places = {node.node_id: at for at, node in enumerate(nodes)}
        ends = [(places[edge.source_node_id], places[edge.target_node_id]) for edge in plan.edges]
        depths = _depths(len(nodes), ends)
        ends = sorted(set(ends), key=lambda pair: (-depths[pair[0]], pair))
        return cls(
            ids=list(places),
            names={at: node.name for at, node in enumerate(nodes) if node.name},
            types=list(types),
            type_of=array("i", (types[node.type] for node in nodes)),
            estimates=array("q", (node.estimate or 0 for node in nodes)),
            first_final=len(plan.nodes),
            sources=array("i", (source for source, _ in ends)),
            targets=array("i", (target for _, target in ends)),
        )

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each node by its id."""
        return {node_id: at for at, node_id in enumerate(self.ids)}

    def name(self, place: int) -> str:
        """Return what a node is called."""
        return self.names.get(place) or self.ids[place]

    def type(self, place: int) -> str:
        """Return the type of a node."""
        return self.types[self.type_of[place]]

    def edges_into(self, places: Iterable[int]) -> dict[int, list[int]]:
        """Return by node the nodes that its edges come from; one without any is left out."""
        found: dict[int, list[int]] = {}
        wanted = frozenset(places)
        for source, target in zip(self.sources, self.targets, strict=True):
            if target in wanted:
                found.setdefault(target, []).append(source)
        return found


class Members(Sequence[SketchedNode]):
    """The nodes of a box, made when somebody looks at one."""

    def __init__(self, outline: Outline, places: Sequence[int]) -> None:
        self._outline, self._places = outline, places

    @overload
    def __getitem__(self, number: int) -> SketchedNode: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[SketchedNode]: ...
    def __getitem__(self, number: int | slice) -> SketchedNode | Sequence[SketchedNode]:
        if isinstance(number, slice):
            return Members(self._outline, self._places[number])
        place, of = self._places[number], self._outline
        kind = of.type(place)
        return SketchedNode(of.ids[place], of.names.get(place), kind, None, None, "allLive", _NO_NEEDS, None)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class PackedOutline:
    """An outline and the picture of the plan as they are stored."""

    nodes: bytes
    edges: bytes
    picture: bytes


def pack(outline: Outline, picture: Picture, boxes: Sequence[int]) -> PackedOutline:
    """Return an outline and a picture to be stored; ``boxes`` tells by place in which box each node is drawn."""
    # Nodes and ids of edges are left out: where they are drawn, ``boxes`` tells, and nobody asks for these.
    drawn = [astuple(replace(box, nodes=(), statuses=())) for box in picture.boxes]
    links = [astuple(replace(link, keys=())) for link in picture.links]
    return PackedOutline(
        nodes=_packed(
            [list(outline.ids), list(outline.names.items()), outline.types, outline.first_final],
            _bytes("i", outline.type_of),
            _bytes("q", outline.estimates),
        ),
        edges=_packed([len(outline.sources)], _bytes("i", outline.sources), _bytes("i", outline.targets)),
        picture=_packed([picture.title, drawn, links, picture.collapsed], _bytes("i", boxes)),
    )


def unpack(packed: PackedOutline) -> tuple[Outline, Picture, Sequence[int]]:
    """Return what :func:`pack` was given, but for the ids of edges."""
    (ids, names, types, first_final), rest = _unpacked(packed.nodes)
    count = len(ids)
    type_of, estimates = _ints("i", rest[: 4 * count]), _ints("q", rest[4 * count :])
    _, ends = _unpacked(packed.edges)
    half = len(ends) // 2
    sources, targets = _ints("i", ends[:half]), _ints("i", ends[half:])
    outline = Outline(ids, dict(names), types, type_of, estimates, first_final, sources, targets)
    (title, drawn, links, collapsed), rest = _unpacked(packed.picture)
    boxes = _ints("i", rest)
    members: list[list[int]] = [[] for _ in drawn]
    for place, box in enumerate(boxes):
        members[box].append(place)
    made = tuple(
        Box(name, subtitle, tooltip, kind, level, Members(outline, members[at]), final, (), key)
        for at, (name, subtitle, tooltip, kind, level, _, final, _, key) in enumerate(drawn)
    )
    joined = tuple(Link(**{**dict(zip(_LINK, link, strict=True)), "keys": ()}) for link in links)
    return outline, Picture(title, made, joined, collapsed), boxes


def _depths(count: int, ends: Sequence[tuple[int, int]]) -> list[int]:
    """Return by node how many edges the longest path to it has."""
    after = Grouped.places([source for source, _ in ends], count)
    missing = [0] * count
    for _, target in ends:
        missing[target] += 1
    depths = [0] * count
    ready = [node for node in range(count) if not missing[node]]
    for node in ready:
        below = depths[node] + 1
        for edge in after[node]:
            target = ends[edge][1]
            missing[target] -= 1
            if depths[target] < below:
                depths[target] = below
            if not missing[target]:
                ready.append(target)
    return depths


def _packed(told: Any, *columns: bytes) -> bytes:
    """Return JSON and, behind a byte that no JSON has, columns of numbers."""
    text = json.dumps(told, separators=(",", ":"))
    return zlib.compress(b"\0".join([text.encode(), b"".join(columns)]), 1)


def _unpacked(packed: bytes) -> tuple[Any, bytes]:
    text, _, columns = zlib.decompress(packed).partition(b"\0")
    return json.loads(text), columns


def _bytes(kind: str, numbers: Iterable[int]) -> bytes:
    column = array(kind, numbers)
    return _little(column).tobytes()


def _ints(kind: str, column: bytes) -> array[int]:
    found: array[int] = array(kind)
    found.frombytes(column)
    return _little(found)


def _little(column: array[int]) -> array[int]:
    if sys.byteorder == "big":
        column.byteswap()
    return column
