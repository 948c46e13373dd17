"""A plan as a graph of characters: levels from left to right, one line per node, lines of box-drawing between them.

The layout is that of the pictures (``dalang/layout.py``), with every node and every edge that passes a level one line
high. Edges of one source share a track between two levels, so what meets belongs together, and what crosses crosses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor

from dalang.layout import layered

MAX_NODES = 120
"""More would never fit a terminal."""
MAX_NAME = 26
UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
_LINES = {
    UP: "│", DOWN: "│", UP | DOWN: "│", LEFT: "─", RIGHT: "─", LEFT | RIGHT: "─",
    DOWN | RIGHT: "╭", DOWN | LEFT: "╮", UP | RIGHT: "╰", UP | LEFT: "╯",
    UP | DOWN | RIGHT: "├", UP | DOWN | LEFT: "┤", DOWN | LEFT | RIGHT: "┬", UP | LEFT | RIGHT: "┴",
    UP | DOWN | LEFT | RIGHT: "┼",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a node's text stands: its line, its first column, and how many columns it has."""

    row: int
    column: int
    width: int


class TerminalGraph:
    """The lines of a plan's graph; ``places`` say by node where its text goes, ``height`` and ``width`` its size.

    ``nodes`` give the level of each node, ``widths`` how many columns its text wants, ``edges`` pairs of node ids; an
    edge to the same or an earlier level is not drawn.
    """

    def __init__(self, nodes: Mapping[str, int], widths: Mapping[str, int], edges: Sequence[tuple[str, str]]) -> None:
        names = list(nodes)
        index = {name: at for at, name in enumerate(names)}
        pairs = [
            (index[source], index[target])
            for source, target in dict.fromkeys(edges)
            if source in index and target in index and nodes[source] < nodes[target]
        ]
        levels = [nodes[name] for name in names]
        found = layered(levels, [1.0] * len(names), pairs, gap=0.0, lane=1.0)
        rows = [floor(cross + 0.5) for cross in found.cross]
        top = min(rows, default=0)
        self._cells: dict[tuple[int, int], int] = {}
        self._arrows: set[tuple[int, int]] = set()
        wanted = [0] * (max(levels, default=-1) + 1)
        for name, level in nodes.items():
            wanted[level] = max(wanted[level], widths[name])
        crossings: list[list[tuple[int, int, bool]]] = [[] for _ in wanted]
        passing: list[set[int]] = [set() for _ in wanted]
        for (source, target), route in zip(pairs, found.routes, strict=True):
            points = [(levels[source], rows[source] - top)]
            points += [(layer, floor(cross + 0.5) - top) for layer, cross in route]
            points.append((levels[target], rows[target] - top))
            points = sorted(dict(points).items())
            for (layer, row), (after, next_row) in pairwise(points):
                crossings[layer].append((row, next_row, after == levels[target]))
                passing[after].update([next_row] if after != levels[target] else [])
        starts = self._draw(wanted, crossings, passing)
        self.places = {
            name: Place(rows[at] - top, starts[nodes[name]], wanted[nodes[name]]) for at, name in enumerate(names)
        }
        used = [*(place.row for place in self.places.values()), *(row for row, _ in self._cells)]
        self.height = 1 + max(used, default=-1)
        self.width = starts[-1] + wanted[-1] if wanted else 0

    def _draw(
        self, wanted: list[int], crossings: list[list[tuple[int, int, bool]]], passing: list[set[int]]
    ) -> list[int]:
        """Draw the lines between levels and of edges that pass one; return where each level begins."""
        starts, column = [], 0
        for level, width in enumerate(wanted):
            starts.append(column)
            for row in passing[level]:
                self._across(row, column - 1, column + width)
            column += width
            bends = list(dict.fromkeys(row for row, to, _ in crossings[level] if row != to))
            tracks = {row: column + 1 + at for at, row in enumerate(bends)}
            end = column + len(bends) + 2
            for row, to, arrives in crossings[level]:
                track = tracks.get(row, column)
                self._across(row, column, track)
                low, high = min(row, to), max(row, to)
                for between in range(low, high):
                    self._add(between, track, DOWN)
                    self._add(between + 1, track, UP)
                self._across(to, track, end - 1)
                if arrives:
                    self._arrows.add((to, end - 1))
            if level + 1 < len(wanted):
                column = end
        return starts

    def _across(self, row: int, first: int, last: int) -> None:
        """Draw from the middle of one column to the middle of another."""
        for column in range(first, last):
            self._add(row, column, RIGHT)
            self._add(row, column + 1, LEFT)

    def _add(self, row: int, column: int, way: int) -> None:
        self._cells[row, column] = self._cells.get((row, column), 0) | way

    def line(self, row: int, first: int, last: int, plain: bool = False) -> str:
        """Return what is drawn in some columns of a line, where no node stands."""
        return "".join(self._sign(row, column, plain) for column in range(first, last))

    def _sign(self, row: int, column: int, plain: bool) -> str:
        if (row, column) in self._arrows:
            return ">" if plain else "▸"
        ways = self._cells.get((row, column))
        if ways is None:
            return " "
        if plain:
            return "-" if not ways & (UP | DOWN) else "|" if not ways & (LEFT | RIGHT) else "+"
        return _LINES[ways]
