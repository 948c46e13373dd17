"""Nodes and edges of a program in columns: in memory, and in the document that is sent to workers.

100,000 nodes with two edges each are 19 MB of JSON, and a million objects of 110 MB when it is decoded at once; most of
them say the same. In columns numbers are arrays, and of what equals another only one is kept, so that the
:func:`packed` document has 3 MB. A plain one, as older runs have and bodies of containers, is decoded node by node.
What is in here is shared by many nodes: nobody may change it.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from operator import sub
from sys import intern
from typing import Any, Protocol, TypeVar

from dalang.plan import derived_edge_id

MANY = 1_000
"""Objects that differ, of which is known how they are written."""
MANY_NAMES = 20_000
"""So many names stand in one text."""
PACKED_VERSION = 2
PORT, TARGET_PORT, MAPPING, CONDITION = range(4)
"""Places of what is said of an edge."""
T = TypeVar("T")
_raw_decode = json.JSONDecoder().raw_decode


class Column(Sequence[T]):
    """A value of each node, or each edge, by number; all of one kind have the same."""

    def __init__(self, values: Sequence[T], kinds: Sequence[int]) -> None:
        self._values, self._kinds = values, kinds

    def __getitem__(self, number: int) -> T:  # type: ignore[override]
        return self._values[self._kinds[number]]

    def __iter__(self) -> Iterator[T]:
        return map(self._values.__getitem__, self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


class Kinds:
    """What is said of nodes, or of edges, each thing once, and by number which of it."""

    def __init__(self, values: list[Any] | None = None, of: Iterable[int] = ()) -> None:
        self.values: list[Any] = [] if values is None else values
        self.of = array("i", of)
        self._known: dict[str, int] = {}

    def add(self, value: Any) -> None:
        """Take what is said of the next one."""
        written = repr(value)  # tells 1 from 1.0 and from true
        kind = self._known.get(written)
        if kind is None:
            if len(self._known) == MANY:  # they hardly ever are equal
                self._known.clear()
            kind = self._known[written] = len(self.values)
            self.values.append(_interned(value))
        self.of.append(kind)

    def packed(self) -> dict[str, Any]:
        """Return them for a packed document."""
        return {"kinds": self.values, "kindOf": self.of.tolist()}


class NodeColumns:
    """Nodes by number: their ids, and what is said of them otherwise."""

    def __init__(self, ids: list[str], kinds: Kinds) -> None:
        self.ids, self.kinds = ids, kinds

    @classmethod
    def of(cls, written: Any) -> NodeColumns:
        """Return the nodes of a program document, packed or plain, or what was read of them before."""
        if isinstance(written, NodeColumns):
            return written
        if isinstance(written, Mapping):
            return cls(written["ids"], Kinds(written["kinds"], written["kindOf"]))
        made = cls([], Kinds())
        for node in written:
            made.add(node)
        return made

    @property
    def definitions(self) -> Column[dict[str, Any]]:
        """What is said of each node."""
        return Column(self.kinds.values, self.kinds.of)

    def add(self, node: Mapping[str, Any]) -> None:
        """Take the next node of a plain document."""
        self.ids.append(node["id"])
        self.kinds.add({key: value for key, value in node.items() if key != "id"})

    def packed(self) -> dict[str, Any]:
        """Return them for a packed document."""
        return {"ids": self.ids, **self.kinds.packed()}


class EdgeColumns:
    """Edges by number: their ids as they are written, None for one that is made of its ends (:class:`EdgeIds`); their
    ends; and what is said of them otherwise: port, target port, mapping and condition."""

    def __init__(self, ids: list[str | None], sources: Iterable[int], targets: Iterable[int], kinds: Kinds) -> None:
        self.ids, self.kinds = ids, kinds
        self.sources, self.targets = array("i", sources), array("i", targets)

    @classmethod
    def of(cls, written: Any) -> EdgeColumns:
        """Return the edges of a program document, packed or plain, or what was read of them before."""
        if isinstance(written, EdgeColumns):
            return written
        if isinstance(written, Mapping):
            ids: list[str | None] = [None] * len(written["kindOf"])
            for edge, own in written["ids"]:
                ids[edge] = own
            return cls(ids, written["sources"], written["targets"], Kinds(written["kinds"], written["kindOf"]))
        made = cls([], (), (), Kinds())
        for edge in written:
            made.add(edge)
        return made

    def part(self, place: int) -> Column[Any]:
        """Return one of the things that are said of each edge."""
        return Column([kind[place] for kind in self.kinds.values], self.kinds.of)

    def add(self, edge: Sequence[Any]) -> None:
        """Take the next edge of a plain document."""
        edge_id, source, port, target, target_port, mapping, condition = edge
        self.ids.append(edge_id)
        self.sources.append(source)
        self.targets.append(target)
        self.kinds.add([port, target_port, mapping, condition])

    def packed(self, node_ids: Sequence[str]) -> dict[str, Any]:
        """Return them for a packed document; ``node_ids`` are those of their ends."""
        own = [[edge, one] for edge, one in enumerate(EdgeIds(self, node_ids).own) if one is not None]
        ends = {"sources": self.sources.tolist(), "targets": self.targets.tolist()}
        return {"ids": own, **ends, **self.kinds.packed()}


class EdgeIds(Sequence[str]):
    """The ids of edges; one that is made of its ends, as where a plan names no edges, is made when it is asked for."""

    def __init__(self, edges: EdgeColumns, node_ids: Sequence[str]) -> None:
        self._node_ids, self._sources, self._targets = node_ids, edges.sources, edges.targets
        self._ports = edges.part(PORT)
        own = [None if one is None or one == self._derived(edge) else one for edge, one in enumerate(edges.ids)]
        self.own: Sequence[str | None] = Column([None], bytes(len(own))) if all(one is None for one in own) else own
        """The ids of those that have another."""

    def _derived(self, edge: int) -> str:
        names = self._node_ids
        return derived_edge_id(names[self._sources[edge]], self._ports[edge], names[self._targets[edge]])

    def __getitem__(self, edge: int) -> str:  # type: ignore[override]
        own = self.own[edge]
        return self._derived(edge) if own is None else own

    def __len__(self) -> int:
        return len(self.own)


class Names(Sequence[str]):
    """Many names, one behind the other in one text: made when they are asked for, they take a tenth of the memory."""

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self._text = "".join(names)
        self._ends = array("i", accumulate(map(len, names), initial=0))

    def __getitem__(self, number: int) -> str:  # type: ignore[override]
        if number < 0:
            number += len(self)
        return self._text[self._ends[number] : self._ends[number + 1]]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        return map(self._text.__getitem__, map(slice, self._ends, self._ends[1:]))


class Numbers(Mapping[str, int]):
    """The numbers of many names, in a table by their hashes: at most 16 bytes each, where a dict takes 65."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._mask = (1 << (2 * len(names)).bit_length()) - 1
        self._table = table = array("i", [-1]) * (self._mask + 1)
        for number, name in enumerate(names):
            place = hash(name) & self._mask
            while table[place] >= 0:
                place = (place + 1) & self._mask
            table[place] = number

    def __getitem__(self, name: str) -> int:
        place = hash(name) & self._mask
        while (number := self._table[place]) >= 0:
            if self._names[number] == name:
                return number
            place = (place + 1) & self._mask
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def named(names: Sequence[str]) -> tuple[Sequence[str], Mapping[str, int]]:
    """Return names by number, and the numbers of these names, so that many take little."""
    if len(names) >= MANY_NAMES:
        names = Names(names)
        return names, Numbers(names)
    return names, {name: number for number, name in enumerate(names)}


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

    @classmethod
    def of(cls, numbers: array[int], ends: array[int]) -> Grouped:
        """Return what :meth:`columns` gave."""
        made = cls()
        made._numbers, made._ends = numbers, ends
        return made

    def columns(self) -> tuple[array[int], array[int]]:
        """Return all numbers, group after group, and where each group ends, after a 0."""
        return self._numbers, self._ends

    def place(self, number: int, one: int) -> int:
        """Return where ``one`` stands among the numbers of all groups; it is in the group ``number``, which rises."""
        return bisect_left(self._numbers, one, self._ends[number], self._ends[number + 1])

    def __getitem__(self, number: int) -> Sequence[int]:
        return self._numbers[self._ends[number] : self._ends[number + 1]]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[Sequence[int]]:
        return map(self.__getitem__, range(len(self)))

    def sizes(self) -> array[int]:
        """Return how many numbers each group has."""
        return array("i", map(sub, self._ends[1:], self._ends))


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
                document[key], at = _read_into(NodeColumns.of([]), text, at + 1)
            elif key == "edges":
                document[key], at = _read_into(EdgeColumns.of([]), text, at + 1)
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
