"""Nodes and edges of a program in columns: in memory, and in the document that is sent to workers.

100,000 nodes with two edges each are 19 MB of JSON, and a million objects of 110 MB when it is decoded at once; most of
them say the same. In columns numbers are arrays, and of what equals another only one is kept, so that the
:func:`packed` document has 3 MB. A plain one, as older runs have and bodies of containers, is decoded node by node.
What is in here is shared by many nodes: nobody may change it.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from operator import sub
from sys import intern
from typing import Any, Protocol

from dalang.plan import derived_edge_id

MANY = 1_000
"""Objects that differ, of which is known how they are written."""
PACKED_VERSION = 2
_raw_decode = json.JSONDecoder().raw_decode


class NodeColumns:
    """Nodes by number: their ids, and what is said of them otherwise, which equal ones have in common."""

    def __init__(self, nodes: Iterable[Mapping[str, Any]] = ()) -> None:
        self.ids: list[str] = []
        self.definitions: list[dict[str, Any]] = []
        self._shared = _Shared()
        for node in nodes:
            self.add(node)

    @classmethod
    def of(cls, written: Any) -> NodeColumns:
        """Return the nodes of a program document, packed or plain, or what was read of them before."""
        if isinstance(written, NodeColumns):
            return written
        if not isinstance(written, Mapping):
            return cls(written)
        made = cls()
        made.ids = written["ids"]
        made.definitions = list(map(written["kinds"].__getitem__, written["kindOf"]))
        return made

    def packed(self) -> dict[str, Any]:
        """Return them for a packed document."""
        numbers: dict[int, int] = {}
        kind_of = [numbers.setdefault(id(one), len(numbers)) for one in self.definitions]
        return {"ids": self.ids, "kinds": list({id(one): one for one in self.definitions}.values()), "kindOf": kind_of}

    def add(self, node: Mapping[str, Any]) -> None:
        """Take the next node of a program document."""
        self.append(node["id"], self._shared({key: value for key, value in node.items() if key != "id"}))

    def append(self, node_id: str, definition: dict[str, Any]) -> None:
        """Take the next node; ``definition`` is the same object where it is the same for several."""
        self.ids.append(node_id)
        self.definitions.append(definition)


class EdgeColumns:
    """Edges by number; ids as they are written, None for one that is made of its ends (:class:`EdgeIds`)."""

    def __init__(self, edges: Iterable[Sequence[Any]] = ()) -> None:
        self.ids: list[str | None] = []
        self.sources = array("i")
        self.ports: list[str] = []
        self.targets = array("i")
        self.target_ports: list[str | None] = []
        self.mappings: list[dict[str, str] | None] = []
        self.conditions: list[str | None] = []
        self._shared = _Shared()
        for edge in edges:
            self.add(edge)

    @classmethod
    def of(cls, written: Any) -> EdgeColumns:
        """Return the edges of a program document, packed or plain, or what was read of them before."""
        if isinstance(written, EdgeColumns):
            return written
        if not isinstance(written, Mapping):
            return cls(written)
        made, kinds = cls(), written["kinds"]
        made.sources.extend(written["sources"])
        made.targets.extend(written["targets"])
        made.ids = [None] * len(made.sources)
        for edge, edge_id in written["ids"]:
            made.ids[edge] = edge_id
        columns: tuple[list[Any], ...] = (made.ports, made.target_ports, made.mappings, made.conditions)
        for place, column in enumerate(columns):
            column.extend(kinds[kind][place] for kind in written["kindOf"])
        return made

    def packed(self, node_ids: Sequence[str]) -> dict[str, Any]:
        """Return them for a packed document; ``node_ids`` are those of their ends."""
        kinds: dict[str, int] = {}
        rest = [*zip(self.ports, self.target_ports, self.mappings, self.conditions, strict=True)]
        kind_of = [kinds.setdefault(repr(one), len(kinds)) for one in rest]
        values = dict(zip(kind_of, rest, strict=True))
        return {
            "sources": self.sources.tolist(),
            "targets": self.targets.tolist(),
            "ids": [[edge, own] for edge, own in enumerate(EdgeIds(self, node_ids).own) if own is not None],
            "kinds": [list(values[kind]) for kind in kinds.values()],
            "kindOf": kind_of,
        }

    def add(self, edge: Sequence[Any]) -> None:
        """Take the next edge of a program document."""
        edge_id, source, port, target, target_port, mapping, condition = edge
        self.ids.append(edge_id)
        self.sources.append(source)
        self.ports.append(intern(port))
        self.targets.append(target)
        self.target_ports.append(None if target_port is None else intern(target_port))
        self.mappings.append(None if mapping is None else self._shared(mapping))
        self.conditions.append(None if condition is None else intern(condition))


class EdgeIds(Sequence[str]):
    """The ids of edges; one that is made of its ends, as where a plan names no edges, is made when it is asked for."""

    def __init__(self, edges: EdgeColumns, node_ids: Sequence[str]) -> None:
        self._edges, self._node_ids = edges, node_ids
        self.own = [None if own is None or own == self._derived(edge) else own for edge, own in enumerate(edges.ids)]
        """The ids of those that have another."""
        edges.ids = []

    def _derived(self, edge: int) -> str:
        edges, names = self._edges, self._node_ids
        return derived_edge_id(names[edges.sources[edge]], edges.ports[edge], names[edges.targets[edge]])

    def __getitem__(self, edge: int) -> str:  # type: ignore[override]
        own = self.own[edge]
        return self._derived(edge) if own is None else own

    def __len__(self) -> int:
        return len(self.own)


class Grouped:
    """Groups of numbers by number, such as a node's edges."""

    def __init__(self, groups: Iterable[Iterable[int]] = ()) -> None:
        self._numbers = array("i")
        self._ends = array("i", [0])
        for group in groups:
            self._numbers.extend(group)
            self._ends.append(len(self._numbers))

    @classmethod
    def places(cls, numbers: Sequence[int], count: int) -> Grouped:
        """Return by number where it stands in ``numbers``, of which each is below ``count``."""
        made = cls()
        made._numbers.extend(sorted(range(len(numbers)), key=numbers.__getitem__))
        found = Counter(numbers)
        made._ends.extend(accumulate(map(found.__getitem__, range(count))))
        return made

    def __getitem__(self, number: int) -> Sequence[int]:
        return self._numbers[self._ends[number] : self._ends[number + 1]]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[Sequence[int]]:
        return map(self.__getitem__, range(len(self)))

    def sizes(self) -> list[int]:
        """Return how many numbers each group has."""
        return list(map(sub, self._ends[1:], self._ends))


class _Shared:
    """Keeps one of objects that are equal."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}

    def __call__(self, value: Mapping[str, Any]) -> dict[str, Any]:
        written = repr(value)  # tells 1 from 1.0 and from true
        known = self._known.get(written)
        if known is None:
            if len(self._known) == MANY:  # they hardly ever are equal
                self._known.clear()
            known = self._known[written] = _interned(value)
        return known


def _interned(value: Any) -> Any:
    """Return a copy whose keys are the same objects in all of them."""
    if isinstance(value, Mapping):
        return {intern(key): _interned(item) for key, item in value.items()}
    return list(map(_interned, value)) if isinstance(value, list) else value


def packed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a program document with its nodes and edges in columns, as it is sent to workers."""
    nodes, edges = NodeColumns.of(document["nodes"]), EdgeColumns.of(document["edges"])
    columns = {"nodes": nodes.packed(), "edges": edges.packed(nodes.ids)}
    return {**document, "v": PACKED_VERSION, **columns}


class _Columns(Protocol):
    def add(self, one: Any, /) -> None: ...


def read_in_columns(text: str) -> dict[str, Any] | None:
    """Return the plain program document that is written in ``text``, its nodes and edges in columns.

    None: it is none, or not written as we write it, without any spaces.
    """
    document: dict[str, Any] = {}
    at = 0
    try:
        while text[at] == ("," if document else "{"):
            key, at = _raw_decode(text, at + 1)
            if not isinstance(key, str) or text[at] != ":":
                return None
            if key == "nodes":
                document[key], at = _read_into(NodeColumns(), text, at + 1)
            elif key == "edges":
                document[key], at = _read_into(EdgeColumns(), text, at + 1)
            else:
                document[key], at = _raw_decode(text, at + 1)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return document if text[at:] == "}" else None


def _read_into(columns: _Columns, text: str, at: int) -> tuple[_Columns, int]:
    if text[at : at + 2] == "[]":
        return columns, at + 2
    if text[at] != "[":
        raise ValueError("this is no list")
    while True:
        one, at = _raw_decode(text, at + 1)
        columns.add(one)
        if text[at] == "]":
            return columns, at + 1
        if text[at] != ",":
            raise ValueError("this is no list")
