"""What one program has otherwise than another, in the terms of the engine: definitions of nodes and edges by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dalang.program import Program

_Edge = tuple[Any, ...]


@dataclass(frozen=True)
class Changes:
    """What changed from ``before`` to ``after``; ids, in plan order of the program that has them.

    ``nodes`` are defined otherwise, or have other incoming edges; ``fresh`` are the numbers in ``after`` of edges that
    are new or defined otherwise; ``kept`` gives every other edge's number in ``before``.
    """

    before: Program
    after: Program
    nodes: frozenset[str]
    rewired: frozenset[str]
    """Nodes of both programs whose incoming edges differ."""
    fresh: tuple[int, ...]
    kept: Mapping[int, int]

    def is_changed(self, node_id: str) -> bool:
        """Tell whether a node of both programs starts otherwise than it would have."""
        return node_id in self.nodes or node_id in self.rewired

    def needed(self) -> tuple[str, ...]:
        """Return the nodes whose outputs or errors somebody reads who did not before: in the order of ``before``."""
        after, needed = self.after, set[int]()
        for node, node_id in enumerate(after.ids):
            if node_id not in self.before.index or self.is_changed(node_id):
                needed.update(after.reads[node])
        for edge in self.fresh:
            needed.add(after.sources[edge])
            needed.update(after.edge_reads.get(edge, ()))
        needed.update(after.kept)
        names = {after.ids[node] for node in needed}
        return tuple(node_id for node_id in self.before.ids if node_id in names)


def changes(before: Program, after: Program) -> Changes:
    """Compare two programs."""
    numbers = {edge_id: number for number, edge_id in enumerate(before.edge_ids)}
    kept: dict[int, int] = {}
    fresh: list[int] = []
    for number, edge_id in enumerate(after.edge_ids):
        old = numbers.get(edge_id)
        if old is not None and edge_definition(before, old) == edge_definition(after, number):
            kept[number] = old
        else:
            fresh.append(number)
    rewired = {after.ids[after.targets[edge]] for edge in fresh}
    still = set(kept.values())
    rewired.update(before.ids[before.targets[edge]] for edge in range(len(before.edge_ids)) if edge not in still)
    both = [node_id for node_id in before.ids if node_id in after.index]
    differing = [
        one for one in both if node_definition(before, before.index[one]) != node_definition(after, after.index[one])
    ]
    return Changes(before, after, frozenset(differing), frozenset(rewired).intersection(both), tuple(fresh), kept)


def node_definition(program: Program, node: int) -> dict[str, Any]:
    """Return all that a program says about a node, in a form that can be compared between programs."""
    document = program.nodes[node]
    definition = {**document, "retry": program.retries[document["retry"]], "finally": node >= program.first_finally}
    undo = document.get("compensation")
    if undo is not None:
        definition["compensation"] = {**undo, "retry": program.retries[undo["retry"]]}
    return definition


def edge_definition(program: Program, edge: int) -> _Edge:
    """Return all that a program says about an edge, its ends by id."""
    ends = program.ids[program.sources[edge]], program.ids[program.targets[edge]]
    return (
        *ends,
        program.ports[edge],
        program.target_ports[edge],
        program.mappings[edge],
        program.conditions[edge],
    )
