"""Which node of a plan may give to which, in little memory: for what looks around one node of a very large plan.

The documents of the nodes are elsewhere. From here it is known whose are wanted, and :func:`excerpt` makes a plan of
them: *explained* nodes stand in it as they were written, with the edges into them, and *told* ones, which only gave
something, by their id alone. A plan of 100,000 nodes is so answered for by as many as somebody looks at.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import deque
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dalang.expressions import compile as compile_expression
from dalang.program import TASK_TEXTS
from dalang.program_columns import Grouped
from dalang.templates import compile_template

Document = Mapping[str, Any]
MAX_INTO, MAX_EDGES = 1_000, 20_000
"""So many edges into one node are looked at, and into all of them; after these, those between explained nodes."""
_READ = re.compile(r"""\bnodes\s*(?:\.\s*\??\s*([A-Za-z_]\w*)|\[\s*\??\s*\\?["'](.+?)\\?["']\s*\])""", re.ASCII)


class PlanGraph:
    """A plan's nodes and edges by number, in plan order; ``reads`` are pairs of a node and another that it reads."""

    def __init__(
        self,
        ids: Sequence[str],
        sources: Iterable[str],
        targets: Iterable[str],
        *,
        reads: Iterable[tuple[int, int]] = (),
        people: Collection[str] = (),
        final: int = 0,
        outputs: Any = None,
    ) -> None:
        self.ids, self.people, self.outputs = ids, frozenset(people), outputs
        self.first_final = len(ids) - final
        self.index = {node_id: number for number, node_id in enumerate(ids)}
        self.sources = array("i", map(self.index.__getitem__, sources))
        self.targets = array("i", map(self.index.__getitem__, targets))
        self._into, self._out = Grouped.places(self.targets, len(ids)), Grouped.places(self.sources, len(ids))
        pairs = sorted(set(reads))
        self._reads = _second_by_first(pairs, len(ids))
        self._readers = _second_by_first(sorted((read, reader) for reader, read in pairs), len(ids))

    @classmethod
    def of(cls, plan: Document) -> PlanGraph:
        """Return the graph of a plan's document."""
        nodes, edges = nodes_of(plan), plan.get("edges") or ()
        index = {node["nodeId"]: number for number, node in enumerate(nodes)}

        def reads() -> Iterator[tuple[int, int]]:
            for number, node in enumerate(nodes):
                written = json.dumps(node)
                if "${" in written and "nodes" in written:
                    yield from ((number, index[name]) for name in names_read(written) if name in index)
            for edge in edges:
                names = names_read(edge["condition"]) if edge.get("condition") is not None else ()
                yield from ((index[edge["targetNodeId"]], index[name]) for name in names if name in index)

        return cls(
            list(index),
            [edge["sourceNodeId"] for edge in edges],
            [edge["targetNodeId"] for edge in edges],
            reads=reads(),
            people=[node["nodeId"] for node in nodes if node["type"] == "human"],
            final=len(plan.get("finally") or ()),
            outputs=plan.get("outputs"),
        )

    def packed(self) -> tuple[dict[str, Any], bytes]:
        """Return it, but for the ids, to be kept: what is JSON, and its numbers."""
        groups = (self._into, self._out, self._reads, self._readers)
        columns = (self.sources, self.targets, *(column for group in groups for column in group.columns()))
        sizes = [len(column) for column in columns]
        said = {"people": sorted(self.people), "outputs": self.outputs, "firstFinal": self.first_final, "sizes": sizes}
        return said, b"".join(column.tobytes() for column in columns)

    @classmethod
    def unpacked(cls, ids: Sequence[str], said: Document, numbers: bytes) -> PlanGraph:
        """Return what was packed, with its ids."""
        made = cls.__new__(cls)
        made.ids, made.people, made.outputs = ids, frozenset(said["people"]), said["outputs"]
        made.first_final = said["firstFinal"]
        made.index = {node_id: number for number, node_id in enumerate(ids)}
        columns = []
        at = 0
        for size in said["sizes"]:
            column = array("i")
            column.frombytes(numbers[at : at + size * column.itemsize])
            columns.append(column)
            at += size * column.itemsize
        made.sources, made.targets = columns[:2]
        made._into, made._out, made._reads, made._readers = (
            Grouped.of(*columns[at : at + 2]) for at in range(2, len(columns), 2)
        )
        return made

    @property
    def edges_by_target(self) -> Sequence[int]:
        """All edges, those into one node beside each other."""
        return self._into.columns()[0]

    def place_of_edge(self, edge: int) -> int:
        """Return where an edge stands in :attr:`edges_by_target`."""
        return self._into.place(self.targets[edge], edge)

    def nearest(self, starts: Iterable[int], count: int, known: Container[int], *, forward: bool) -> list[int]:
        """Return ``starts`` and what is nearest to them, in the direction of edges or against it, without ``known``."""
        near = self.takers if forward else self.givers
        found = {one: None for one in starts if one not in known}
        waiting = deque(found)
        while waiting and len(found) < count:
            for node in near(waiting.popleft()):
                if node not in found and node not in known:
                    found[node] = None
                    waiting.append(node)
                    if len(found) >= count:
                        break
        return list(found)[:count]

    def givers(self, node: int) -> Iterator[int]:
        """Yield the nodes that may give to one."""
        yield from (self.sources[edge] for edge in self._into[node])
        yield from self._reads[node]

    def takers(self, node: int) -> Iterator[int]:
        """Yield the nodes that one may give to."""
        yield from (self.targets[edge] for edge in self._out[node])
        yield from self._readers[node]

    def edges_into(self, nodes: Iterable[int]) -> tuple[list[int], dict[str, int]]:
        """Return the edges into ``nodes``, in plan order, and of how many edges into which node they are too many."""
        known = dict.fromkeys(nodes)
        found: list[int] = []
        cut: dict[str, int] = {}
        for node in known:
            edges: Sequence[int] = self._into[node]
            if len(edges) > MAX_INTO or len(found) + len(edges) > MAX_EDGES:
                near = [edge for edge in edges if self.sources[edge] in known]
                kept = near[:MAX_INTO]
                if len(kept) < len(edges):
                    cut[self.ids[node]] = len(edges) - len(kept)
                edges = kept
            found.extend(edges)
        return sorted(found), cut


@dataclass(frozen=True)
class Parts:
    """The documents of some nodes and edges, by number."""

    nodes: Mapping[int, Document]
    edges: Mapping[int, Document]


def nodes_of(plan: Document) -> Sequence[Document]:
    """Return the documents of all nodes of a plan, in the order of their numbers."""
    return [*plan["nodes"], *(plan.get("finally") or ())]


def _second_by_first(pairs: Sequence[tuple[int, int]], count: int) -> Grouped:
    """Return the second of sorted pairs by the first."""
    groups = Grouped.places([first for first, _ in pairs], count)
    return Grouped.of(array("i", [second for _, second in pairs]), groups.columns()[1])


def names_read(text: str) -> set[str]:
    """Return what may be the ids of nodes that expressions in the JSON ``text`` of a node or a condition read."""
    return {match[1] or match[2] for match in _READ.finditer(text)}


def excerpt(graph: PlanGraph, parts: Parts) -> dict[str, Any]:
    """Return a plan of ``parts``, whose edges lead into its nodes, and of all nodes that these need to be explained."""
    told = {graph.index[name] for name in _references({"inputs": graph.outputs})} | parts.nodes.keys()
    for edge in parts.edges.values():
        told.add(graph.index[edge["sourceNodeId"]])
        if edge.get("condition") is not None:
            told.update(graph.index[name] for name in compile_expression(edge["condition"]).references)
    for node in parts.nodes.values():
        told.update(graph.index[name] for name in _references(node))
    nodes = [_explained(parts.nodes[one]) if one in parts.nodes else _told(graph, one) for one in sorted(told)]
    edges = [parts.edges[number] for number in sorted(parts.edges)]
    return {"name": "excerpt", "nodes": nodes, "edges": edges, "outputs": graph.outputs}


def _explained(node: Document) -> Document:
    """Return a node without its join, which may name any edge and explains nothing."""
    return {key: value for key, value in node.items() if key != "join"}


def _told(graph: PlanGraph, node: int) -> Document:
    """Return what stands for a node that is not explained; what people decide lights edges in a way of its own."""
    return {"nodeId": graph.ids[node], "type": "human" if graph.ids[node] in graph.people else "noop"}


def _references(node: Document) -> list[str]:
    """Return the nodes that a node's templates read: those that ``Program`` compiles."""
    task, undo, each = (node.get(key) or {} for key in ("task", "compensation", "map"))
    pools = ((node.get("requirements") or {}).get("pools") or {}).values()
    written = [node.get("inputs"), undo.get("inputs"), each.get("items"), *(task.get(key) for key in TASK_TEXTS)]
    written += [pool.get("key") for pool in pools if isinstance(pool, Mapping)]
    template = compile_template(written)
    return [] if template is None else [name for _, one in template.expressions for name in one.references]
