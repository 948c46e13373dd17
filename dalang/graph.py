"""Order in a plan's graph: plain data in, plain data out.

Nodes are any hashable ids in plan order, edges are pairs (source, target). Every answer is deterministic: where the
graph leaves a choice, plan order decides. All functions take linear time (the orders an extra logarithm for the plan
order among equals), do not recurse, count an edge given twice once, and raise :class:`UnknownNode` for an edge with
an end that is not among the nodes (``ancestors`` and ``descendants`` are given edges only). Durations are numbers of
one unit, whichever the caller uses; none may be negative.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

N = TypeVar("N")
Edges = Iterable[tuple[N, N]]


class GraphError(ValueError):
    """The edges cannot be worked with."""


class UnknownNode(GraphError):
    """An edge names a node that is not in the graph."""

    def __init__(self, edge: tuple[object, object], node: object) -> None:
        super().__init__(f"edge {edge[0]!r} -> {edge[1]!r} names the unknown node {node!r}")
        self.edge = edge
        self.node = node


class CycleFound(GraphError):
    """The graph has a cycle, so nothing in it can be ordered; ``path`` starts and ends with the same node."""

    def __init__(self, path: Sequence[object]) -> None:
        super().__init__("cycle: " + " -> ".join(str(node) for node in path))
        self.path = tuple(path)


@dataclass(frozen=True, slots=True)
class CriticalPath(Generic[N]):
    """The longest path by duration, and the room that every node has beside it.

    ``length`` is the time from the first start to the last end with unlimited parallelism; ``earliest`` and ``latest``
    are start times that keep it; ``slack`` is their difference, 0 on the critical path.
    """

    path: tuple[N, ...]
    length: float
    slack: dict[N, float]
    earliest: dict[N, float]
    latest: dict[N, float]


def _targets(nodes: Iterable[N], edges: Edges[N]) -> dict[N, list[N]]:
    """Return the targets of every node in plan order of the edges, each once."""
    targets: dict[N, dict[N, None]] = {node: {} for node in nodes}
    for source, target in edges:
        if source not in targets:
            raise UnknownNode((source, target), source)
        if target not in targets:
            raise UnknownNode((source, target), target)
        targets[source][target] = None
    return {node: list(found) for node, found in targets.items()}


def _indegrees(targets: dict[N, list[N]]) -> dict[N, int]:
    counts = dict.fromkeys(targets, 0)
    for found in targets.values():
        for target in found:
            counts[target] += 1
    return counts


def find_cycle(nodes: Iterable[N], edges: Edges[N]) -> list[N] | None:
    """Return one cycle as its path, first node repeated at the end, or None.

    The first one that a search from the nodes in plan order, along edges in plan order, runs into.
    """
    targets = _targets(nodes, edges)
    done: set[N] = set()
    for root in targets:
        if root in done:
            continue
        path: dict[N, int] = {root: 0}
        while path:
            node, at = path.popitem()
            if at == len(targets[node]):
                done.add(node)
                continue
            path[node] = at + 1
            target = targets[node][at]
            if target in path:
                trail = list(path)
                return [*trail[trail.index(target) :], target]
            if target not in done:
                path[target] = 0
    return None


def _ordered(targets: dict[N, list[N]]) -> list[N]:
    position = {node: index for index, node in enumerate(targets)}
    names = list(targets)
    missing = _indegrees(targets)
    ready = [position[node] for node, count in missing.items() if not count]
    order: list[N] = []
    while ready:
        node = names[heapq.heappop(ready)]
        order.append(node)
        for target in targets[node]:
            missing[target] -= 1
            if not missing[target]:
                heapq.heappush(ready, position[target])
    if len(order) < len(targets):
        cycle = find_cycle(targets, ((node, target) for node, found in targets.items() for target in found))
        raise CycleFound(cycle or ())
    return order


def topological_order(nodes: Iterable[N], edges: Edges[N]) -> list[N]:
    """Return the nodes, each after all it depends on; among those that could come next, the first in plan order.

    Raises CycleFound.
    """
    return _ordered(_targets(nodes, edges))


def levels(nodes: Iterable[N], edges: Edges[N]) -> list[list[N]]:
    """Return the nodes by the number of edges on the longest path that leads to them, in plan order within a level.

    Raises CycleFound.
    """
    targets = _targets(nodes, edges)
    level = dict.fromkeys(targets, 0)
    for node in _ordered(targets):
        for target in targets[node]:
            level[target] = max(level[target], level[node] + 1)
    answer: list[list[N]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for node, at in level.items():
        answer[at].append(node)
    return answer


def widest_level(nodes: Iterable[N], edges: Edges[N]) -> int:
    """Return the number of nodes in the widest level (0 without nodes): how parallel the plan can be, roughly."""
    return max((len(level) for level in levels(nodes, edges)), default=0)


def _remaining(order: list[N], targets: dict[N, list[N]], duration: dict[N, float]) -> dict[N, float]:
    longest: dict[N, float] = {}
    for node in reversed(order):
        longest[node] = duration[node] + max((longest[target] for target in targets[node]), default=0)
    return {node: longest[node] for node in targets}


def _durations(nodes: Iterable[N], duration: Callable[[N], float]) -> dict[N, float]:
    answer = {node: duration(node) for node in nodes}
    for node, length in answer.items():
        if not length >= 0:
            raise GraphError(f"the duration of {node!r} is {length!r}, which is no time")
    return answer


def longest_remaining(nodes: Iterable[N], edges: Edges[N], duration: Callable[[N], float]) -> dict[N, float]:
    """Return for every node the longest path from its start to an end of the plan, its own duration included.

    Raises CycleFound, and GraphError for a duration that is negative or not a number.
    """
    targets = _targets(nodes, edges)
    return _remaining(_ordered(targets), targets, _durations(targets, duration))


def critical_path(nodes: Iterable[N], edges: Edges[N], duration: Callable[[N], float]) -> CriticalPath[N]:
    """Return the critical path; of several equally long ones that whose nodes come first in plan order.

    Raises CycleFound, and GraphError for a duration that is negative or not a number.
    """
    targets = _targets(nodes, edges)
    order = _ordered(targets)
    durations = _durations(targets, duration)
    remaining = _remaining(order, targets, durations)
    earliest: dict[N, float] = dict.fromkeys(targets, 0)
    for node in order:
        for target in targets[node]:
            earliest[target] = max(earliest[target], earliest[node] + durations[node])
    length = max(remaining.values(), default=0)
    latest = {node: length - remaining[node] for node in targets}
    position = {node: index for index, node in enumerate(targets)}
    counts = _indegrees(targets)
    # From node to node by remaining length, not by slack 0: sums of fractions differ in the last digit by their order.
    candidates = [node for node in targets if not counts[node]]
    path: list[N] = []
    while candidates:
        path.append(min(candidates, key=lambda node: (-remaining[node], position[node])))
        candidates = targets[path[-1]]
    on_path = set(path)
    slack = {node: 0 if node in on_path else max(latest[node] - earliest[node], 0) for node in targets}
    return CriticalPath(tuple(path), length, slack, earliest, latest)


def _reach(neighbours: dict[N, list[N]], starts: Iterable[N]) -> list[N]:
    """Return what can be reached from ``starts`` by at least one step, breadth first."""
    found: dict[N, None] = {}
    queue = list(dict.fromkeys(starts))
    for node in queue:
        for neighbour in neighbours.get(node, ()):
            if neighbour not in found:
                found[neighbour] = None
                queue.append(neighbour)
    return list(found)


def ancestors(edges: Edges[N], node: N) -> list[N]:
    """Return the nodes from which ``node`` can be reached, nearest first; without it, unless it is on a cycle."""
    sources: dict[N, list[N]] = {}
    for source, target in edges:
        sources.setdefault(target, []).append(source)
    return _reach(sources, [node])


def descendants(edges: Edges[N], nodes: Iterable[N]) -> list[N]:
    """Return the nodes that can be reached from any of ``nodes``, nearest first (one of them only if from another)."""
    targets: dict[N, list[N]] = {}
    for source, target in edges:
        targets.setdefault(source, []).append(target)
    return _reach(targets, nodes)


def roots(nodes: Iterable[N], edges: Edges[N]) -> list[N]:
    """Return the nodes no edge leads to, in plan order."""
    return [node for node, count in _indegrees(_targets(nodes, edges)).items() if not count]


def orphans(nodes: Iterable[N], edges: Edges[N]) -> list[N]:
    """Return the nodes without any edge, in plan order, while others have some; a plan without edges has none."""
    targets = _targets(nodes, edges)
    counts = _indegrees(targets)
    if not any(counts.values()):
        return []
    return [node for node, found in targets.items() if not found and not counts[node]]
