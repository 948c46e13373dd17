"""Plans drawn with characters."""

from __future__ import annotations

from random import Random

import pytest

from dalang.commands.terminal_graph import TerminalGraph
from dalang.graph import levels


def drawn(edges: list[tuple[str, str]], names: str, *, plain: bool = False) -> list[str]:
    level = {name: at for at, members in enumerate(levels(names, edges)) for name in members}
    graph = TerminalGraph(level, dict.fromkeys(names, 3), edges)
    lines = []
    for row in range(graph.height):
        line, column = "", 0
        for name, place in sorted(graph.places.items(), key=lambda one: one[1].column):
            if place.row == row:
                line += graph.line(row, column, place.column, plain) + f" {name} "
                column = place.column + place.width
        lines.append((line + graph.line(row, column, graph.width, plain)).rstrip())
    return lines


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ("ab bc", [" a ─▸ b ─▸ c"]),
        ("ab ac", [" a ─┬▸ b", "    ╰▸ c"]),
        ("ac bc", [" a ─┬▸ c", " b ─╯"]),
        ("ab bc ac", [" a ─┬▸ b ─┬▸ c", "    ╰─────╯"]),
    ],
)
def test_edges_are_drawn(edges: str, expected: list[str]) -> None:
    """Branches leave a track, joins arrive at one, and an edge over a level goes around what stands there."""
    pairs = [(one[0], one[1]) for one in edges.split()]
    assert drawn(pairs, "abc"[: 1 + max("abc".index(name) for pair in pairs for name in pair)]) == expected


def test_without_box_drawing() -> None:
    """A terminal that has only ASCII sees the same."""
    assert drawn([("a", "b"), ("a", "c")], "abc", plain=True) == [" a -+> b", "    +> c"]


def test_no_text_is_drawn_over() -> None:
    """Whatever the plan: every node has its own place, and no line runs through it."""
    for seed in range(60):
        rnd = Random(seed)
        names = "abcdefghijklmnop"[: rnd.randint(1, 16)]
        edges = [(names[i], names[j]) for j in range(len(names)) for i in range(j) if rnd.random() < 0.2]
        level = {name: at for at, members in enumerate(levels(names, edges)) for name in members}
        graph = TerminalGraph(level, dict.fromkeys(names, 3), edges)
        places = list(graph.places.values())
        assert len({(place.row, place.column) for place in places}) == len(places)
        assert all(0 <= place.row < graph.height and place.column + place.width <= graph.width for place in places)
        for place in places:
            inside = graph.line(place.row, place.column, place.column + place.width)
            assert not inside.strip(), (seed, inside)
