"""Order in graphs, against naive definitions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang import graph

Graph = tuple[list[int], list[tuple[int, int]]]


@st.composite
def graphs(draw: st.DrawFn, acyclic: bool = False) -> Graph:
    size = draw(st.integers(0, 7))
    nodes = draw(st.permutations(range(size)))
    if size == 0:
        return [], []
    pairs = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))
    edges = draw(st.lists(pairs, max_size=14))
    return nodes, [(min(e), max(e)) for e in edges if e[0] != e[1]] if acyclic else edges


def naive_paths(nodes: list[int], edges: list[tuple[int, int]], start: int) -> list[list[int]]:
    """Return every path from ``start`` to an end of an acyclic graph."""
    targets = sorted({t for s, t in edges if s == start})
    return [[start, *rest] for t in targets for rest in naive_paths(nodes, edges, t)] or [[start]]


def naive_reach(edges: list[tuple[int, int]], start: int) -> set[int]:
    found: set[int] = set()
    while True:
        more = {t for s, t in edges if s == start or s in found} - found
        if not more:
            return found
        found |= more


@given(graphs())
def test_cycle_is_found_iff_there_is_one(g: Graph) -> None:
    """A cycle is reported as its actual path exactly if some node reaches itself."""
    nodes, edges = g
    cycle = graph.find_cycle(nodes, edges)
    assert (cycle is not None) == any(n in naive_reach(edges, n) for n in nodes)
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1 >= 1
        assert all(step in edges for step in pairwise(cycle))
        with pytest.raises(graph.CycleFound):
            graph.topological_order(nodes, edges)


@given(graphs(acyclic=True))
def test_order_is_the_first_in_plan_order(g: Graph) -> None:
    """Every next node of the order is the first in plan order whose sources have all come."""
    nodes, edges = g
    done: list[int] = []
    while len(done) < len(nodes):
        done.append(next(n for n in nodes if n not in done and all(s in done for s, t in edges if t == n)))
    assert graph.topological_order(nodes, edges) == done


@given(graphs(acyclic=True))
def test_levels_are_longest_distances(g: Graph) -> None:
    """A node's level is the number of edges on the longest path to it, and plan order holds within a level."""
    nodes, edges = g
    back = [(t, s) for s, t in edges]
    depth = {n: max(map(len, naive_paths(nodes, back, n))) - 1 for n in nodes}
    found = graph.levels(nodes, edges)
    assert found == [[n for n in nodes if depth[n] == at] for at in range(max(depth.values(), default=-1) + 1)]
    assert graph.widest_level(nodes, edges) == max(map(len, found), default=0)


@given(graphs(acyclic=True), st.lists(st.integers(0, 5), min_size=7, max_size=7))
def test_critical_path_is_the_longest(g: Graph, durations: list[int]) -> None:
    """The critical path is a longest one from a root to an end; slack is what a node can be late."""
    nodes, edges = g

    def length(path: list[int]) -> int:
        return sum(durations[n] for n in path)

    longest = {n: max(map(length, naive_paths(nodes, edges, n))) for n in nodes}
    assert graph.longest_remaining(nodes, edges, durations.__getitem__) == longest
    found = graph.critical_path(nodes, edges, durations.__getitem__)
    assert found.length == length(list(found.path)) == max(longest.values(), default=0)
    assert all(step in edges for step in pairwise(found.path))
    back = [(t, s) for s, t in edges]
    for n in nodes:
        before = max(map(length, naive_paths(nodes, back, n))) - durations[n]
        assert found.earliest[n] == before
        assert found.latest[n] == found.length - longest[n]
        assert found.slack[n] == found.latest[n] - before
    assert all(found.slack[n] == 0 for n in found.path)


@given(graphs())
def test_reach(g: Graph) -> None:
    """Descendants and ancestors are what can be reached forwards and backwards, each once."""
    nodes, edges = g
    for n in nodes:
        below, above = graph.descendants(edges, [n]), graph.ancestors(edges, n)
        assert sorted(below) == sorted(naive_reach(edges, n))
        assert sorted(above) == sorted(naive_reach([(t, s) for s, t in edges], n))
    linked = {n for edge in edges for n in edge}
    assert graph.roots(nodes, edges) == [n for n in nodes if n not in {t for _, t in edges}]
    assert graph.orphans(nodes, edges) == ([n for n in nodes if n not in linked] if edges else [])


@given(graphs(acyclic=True))
def test_an_edge_given_twice_counts_once(g: Graph) -> None:
    """Duplicate edges change nothing."""
    nodes, edges = g
    assert graph.topological_order(nodes, edges * 2) == graph.topological_order(nodes, edges)
    assert graph.levels(nodes, edges * 2) == graph.levels(nodes, edges)


def test_cycle_in_plan_order() -> None:
    """Of two cycles the one that the first node of the plan leads into is told, along its path."""
    edges = [("d", "e"), ("e", "d"), ("a", "b"), ("b", "c"), ("c", "b")]
    assert graph.find_cycle("abcde", edges) == ["b", "c", "b"]
    assert graph.find_cycle("a", [("a", "a")]) == ["a", "a"]


@pytest.mark.parametrize(
    "call", [graph.find_cycle, graph.topological_order, graph.levels, graph.roots, graph.orphans, graph.widest_level]
)
def test_an_unknown_end_is_an_error(call: Any) -> None:
    """An edge to a node that is not there is never ignored."""
    with pytest.raises(graph.UnknownNode) as caught:
        call(["a"], [("a", "x")])
    assert (caught.value.edge, caught.value.node) == (("a", "x"), "x")


@pytest.mark.parametrize("length", [-1.0, float("nan")])
def test_a_duration_is_a_time(length: float) -> None:
    """A negative duration, or one that is no number, is refused."""
    with pytest.raises(graph.GraphError):
        graph.critical_path(["a"], [], lambda _: length)


def test_equal_paths_follow_plan_order() -> None:
    """Of two equally long paths the critical one is the first in plan order."""
    found = graph.critical_path("abcd", [("a", "c"), ("a", "b"), ("b", "d"), ("c", "d")], lambda _: 0.1)
    assert found.path == ("a", "b", "d")
    assert found.slack == {"a": 0, "b": 0, "c": pytest.approx(0), "d": 0}


def test_a_chain_of_100_000_nodes() -> None:
    """Depth costs no stack."""
    nodes = list(range(100_000))
    edges = list(pairwise(nodes))
    assert graph.topological_order(nodes, edges) == nodes
    assert graph.find_cycle(nodes, [*edges, (99_999, 0)]) == [*nodes, 0]
    assert graph.critical_path(nodes, edges, lambda _: 1).length == 100_000
    assert len(graph.levels(nodes, edges)) == 100_000
    assert len(graph.ancestors(edges, 99_999)) == len(graph.descendants(edges, [0])) == 99_999
