"""A layered layout of a directed acyclic graph, after Sugiyama: plain numbers in, plain numbers out.

Vertices come with their layer; edges that pass over layers get a dummy vertex in each, so that they are routed around
what lies between. Vertices are ordered within their layer by sweeps of barycentres, the best order by crossings is
kept, and coordinates are those with the least squared distance to the middle of the neighbours that keep the order and
the spacing (:func:`spread`). All is deterministic: ties fall to the order given.

*Main* is the axis from layer to layer, *cross* the one along a layer; who draws decides which is which.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

MAX_DUMMIES = 20_000
"""With more dummy vertices than this the longest edges are drawn straight, over what lies between."""
EXACT_CROSSINGS = 4_000
"""Up to this many edge pieces crossings are counted to keep the best of all orders."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is: ``cross`` holds the middle of each vertex, ``routes`` the stops of each edge in between."""

    cross: tuple[float, ...]
    routes: tuple[tuple[tuple[int, float], ...], ...]
    """For each edge the layers that it passes and the cross coordinate there."""
    extent: float
    """The size of the whole along the cross axis, which begins at 0."""


def layered(
    layers: Sequence[int], sizes: Sequence[float], edges: Sequence[tuple[int, int]], *, gap: float, lane: float
) -> Layout:
    """Lay out vertices, given by their layer and their size along the cross axis, and edges, given by vertex indexes.

    ``gap`` separates neighbours of a layer; ``lane`` is the room of an edge that passes between them.
    Every edge must lead to a later layer.
    """
    graph = _Graph(layers, sizes, edges, gap, lane)
    graph.order()
    graph.place()
    return graph.result()


def spread(wishes: Sequence[float], offsets: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the coordinates nearest to ``wishes`` (least weighted squares) that keep order and distances.

    ``offsets`` are the least distances from the first one, ascending. The method is pooling of adjacent violators.
    """
    blocks: list[tuple[float, float, int]] = []
    for wish, offset, weight in zip(wishes, offsets, weights, strict=True):
        total, summed, length = (wish - offset) * weight, weight, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / summed:
            other = blocks.pop()
            total, summed, length = total + other[0], summed + other[1], length + other[2]
        blocks.append((total, summed, length))
    bases = [total / summed for total, summed, length in blocks for _ in range(length)]
    return [base + offset for base, offset in zip(bases, offsets, strict=True)]


class _Graph:
    """Vertices and dummies by index; ``rows`` are the layers' vertices in their order."""

    def __init__(
        self,
        layers: Sequence[int],
        sizes: Sequence[float],
        edges: Sequence[tuple[int, int]],
        gap: float,
        lane: float,
    ) -> None:
        self.count = len(layers)
        self.gap = gap
        self.lane = lane
        self.size = list(sizes)
        self.rows: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
        for vertex, layer in enumerate(layers):
            self.rows[layer].append(vertex)
        self.layer = list(layers)
        self.before: list[list[int]] = [[] for _ in layers]
        self.after: list[list[int]] = [[] for _ in layers]
        self.chains = self._chains(edges)
        self.x: list[float] = []

    def _chains(self, edges: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Return the dummies of every edge, the shortest edges served first."""
        spans = sorted(range(len(edges)), key=lambda at: (self._span(edges[at]), at))
        chains: list[list[int]] = [[] for _ in edges]
        left = MAX_DUMMIES
        for at in spans:
            source, target = edges[at]
            needed = self._span(edges[at]) - 1
            if needed > left:
                continue
            left -= needed
            previous = source
            for layer in range(self.layer[source] + 1, self.layer[target]):
                dummy = len(self.layer)
                self.layer.append(layer)
                self.size.append(self.lane)
                self.before.append([])
                self.after.append([])
                self.rows[layer].append(dummy)
                chains[at].append(dummy)
                self._connect(previous, dummy)
                previous = dummy
            self._connect(previous, target)
        return chains

    def _span(self, edge: tuple[int, int]) -> int:
        return self.layer[edge[1]] - self.layer[edge[0]]

    def _connect(self, source: int, target: int) -> None:
        self.after[source].append(target)
        self.before[target].append(source)

    def order(self) -> None:
        """Order every layer so that few edges cross."""
        pieces = sum(map(len, self.after))
        exact = pieces <= EXACT_CROSSINGS
        best, least = [list(row) for row in self.rows], self._crossings() if exact else 0
        for sweep in range(12 if exact else 6):
            forward = sweep % 2 == 0
            rows = self.rows[1:] if forward else self.rows[-2::-1]
            neighbours = self.before if forward else self.after
            position = self._positions()
            for row in rows:
                self._sort(row, neighbours, position)
                for index, vertex in enumerate(row):
                    position[vertex] = index
            if exact:
                crossings = self._crossings()
                if crossings < least:
                    best, least = [list(row) for row in self.rows], crossings
                if not least:
                    break
        if exact:
            self.rows = best

    def _positions(self) -> list[int]:
        position = [0] * len(self.layer)
        for row in self.rows:
            for index, vertex in enumerate(row):
                position[vertex] = index
        return position

    @staticmethod
    def _sort(row: list[int], neighbours: list[list[int]], position: list[int]) -> None:
        """Sort by the neighbours' barycentre; what has no neighbours keeps its place."""
        movable = [vertex for vertex in row if neighbours[vertex]]
        centre = {vertex: sum(position[n] for n in neighbours[vertex]) / len(neighbours[vertex]) for vertex in movable}
        replacement = iter(sorted(movable, key=lambda vertex: centre[vertex]))
        row[:] = [next(replacement) if vertex in centre else vertex for vertex in row]

    def _crossings(self) -> int:
        position = self._positions()
        total = 0
        for row in self.rows:
            seen: list[int] = []
            for vertex in row:
                ends = sorted(position[target] for target in self.after[vertex])
                total += sum(len(seen) - bisect_left(seen, end + 1) for end in ends)
                for end in ends:
                    insort(seen, end)
        return total

    def place(self) -> None:
        """Give every vertex a coordinate along its layer."""
        self.x = [0.0] * len(self.layer)
        for row in self.rows:
            offsets = self._offsets(row)
            middle = offsets[-1] / 2 if offsets else 0
            for vertex, offset in zip(row, offsets, strict=True):
                self.x[vertex] = offset - middle
        for sweep in range(10 if len(self.layer) <= 5_000 else 6):
            forward = sweep % 2 == 0
            for row in self.rows if forward else reversed(self.rows):
                self._settle(row, forward)
        self._centre_isolated()
        for row in self.rows:
            self._settle(row, None)

    def _centre_isolated(self) -> None:
        """Move what has no edges to the middle of what has some."""
        isolated = [not self.before[vertex] and not self.after[vertex] for vertex in range(len(self.layer))]
        connected = [x for x, alone in zip(self.x, isolated, strict=True) if not alone]
        if connected:
            middle = (min(connected) + max(connected)) / 2
            self.x = [middle if alone else x for x, alone in zip(self.x, isolated, strict=True)]

    def _offsets(self, row: Sequence[int]) -> list[float]:
        """Return the least distances of a row's vertices from its first."""
        offsets: list[float] = []
        for index, vertex in enumerate(row):
            if not index:
                offsets.append(0.0)
                continue
            previous = row[index - 1]
            both_dummies = vertex >= self.count and previous >= self.count
            space = 0 if both_dummies else self.gap
            offsets.append(offsets[-1] + (self.size[previous] + self.size[vertex]) / 2 + space)
        return offsets

    def _settle(self, row: Sequence[int], forward: bool | None) -> None:
        """Move a row's vertices to the middle of their neighbours: those before, those after, or (None) both."""
        wishes: list[float] = []
        weights: list[float] = []
        for vertex in row:
            if forward is None:
                near = self.before[vertex] + self.after[vertex]
            else:
                near = self.before[vertex] if forward else self.after[vertex]
            wishes.append(sum(self.x[n] for n in near) / len(near) if near else self.x[vertex])
            weights.append((8.0 if vertex >= self.count else 1.0) if near else 0.1)
        for vertex, x in zip(row, spread(wishes, self._offsets(row), weights), strict=True):
            self.x[vertex] = x

    def result(self) -> Layout:
        """Return the coordinates, moved so that the smallest edge of a vertex is at 0."""
        vertices = range(len(self.layer))
        low = min((self.x[vertex] - self.size[vertex] / 2 for vertex in vertices), default=0.0)
        high = max((self.x[vertex] + self.size[vertex] / 2 for vertex in vertices), default=0.0)
        routes = tuple(tuple((self.layer[dummy], self.x[dummy] - low) for dummy in chain) for chain in self.chains)
        return Layout(tuple(self.x[vertex] - low for vertex in range(self.count)), routes, high - low)
