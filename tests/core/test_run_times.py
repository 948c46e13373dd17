"""Timelines: a node's life is cut where its status changed, and where its attempts are known to have failed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dalang.graph import critical_path, levels
from dalang.run_times import Doing, Failed, Happened, Span, decisive, spans, time_taken


@st.composite
def dags(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], list[int]]:
    """Nodes by number, edges between them, and how long each takes."""
    count = draw(st.integers(1, 8))
    ends = [(source, target) for target in range(count) for source in range(target)]
    edges = draw(st.lists(st.sampled_from(ends), unique=True)) if ends else []
    return count, edges, draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))


def test_a_node_waits_queues_works_waits_for_a_person_and_is_undone() -> None:
    """Every status that lasts is a span; what follows the end of all that it depends on is waiting."""
    happened = [
        Happened("a", 100, "RUNNING"),
        Happened("a", 300, "SUCCESS"),
        Happened("b", 500, "QUEUED"),
        Happened("b", 600, "RUNNING"),
        Happened("b", 700, "AWAITING_HITL"),
        Happened("b", 900, "RUNNING"),
        Happened("b", 950, "SUCCESS"),
        Happened("a", 1000, "COMPENSATING"),
    ]
    found = spans(happened, began=95, roots={"a"}, sources={"b": ["a"]}, failed={})
    assert found["a"] == [Span(Doing.RUNNING, 100, 300), Span(Doing.UNDOING, 1000, None)]
    assert [(one.doing, one.start, one.end) for one in found["b"]] == [
        ("waiting", 300, 500),
        ("queued", 500, 600),
        ("running", 600, 700),
        ("person", 700, 900),
        ("running", 900, 950),
    ]


def test_failed_attempts_cut_the_work() -> None:
    """The pause between an attempt that failed and the next one is told where both of its ends are known."""
    happened = [Happened("a", 100, "RUNNING"), Happened("a", 900, "FAILED")]
    failed = {"a": [Failed(100, 200), Failed(400, 500), Failed(None, 600)]}
    found = spans(happened, began=100, roots={"a"}, sources={}, failed=failed)
    assert [(one.doing, one.start, one.end) for one in found["a"]] == [
        ("running", 100, 200),
        ("retrying", 200, 400),
        ("running", 400, 900),
    ]


def test_what_never_worked_has_no_life() -> None:
    """A node that was skipped did not wait; one that waits for something outside does nothing else."""
    happened = [Happened("a", 900, "SKIPPED"), Happened("b", 5, "RUNNING"), Happened("b", 6, "RUNNING", waits=True)]
    found = spans(happened, began=0, roots=set(), sources={}, failed={})
    assert found == {"a": [], "b": [Span(Doing.RUNNING, 5, 6), Span(Doing.OUTSIDE, 6, None)]}


def test_the_length_of_a_run_hangs_on_what_took_longest() -> None:
    """Times that were taken count, then estimates; where nothing is known the longest way does."""
    a, b, c, d = range(4)
    sources, targets = [b, c, a, a], [d, d, b, c]

    def path(now: int) -> tuple[list[int], int]:
        nodes = [("SUCCESS", 0, 10, None), ("SUCCESS", 10, 20, None), ("RUNNING", 10, None, 5)]
        took = [time_taken(*one, now) for one in (*nodes, ("PENDING", None, None, 30))]
        return decisive(took, sources, targets)

    assert path(60) == ([a, c, d], 90)
    assert path(12) == ([a, b, d], 50)
    assert decisive([0] * 4, [c, b, b, a, a], [d, d, c, b, c]) == ([a, b, c, d], 0)
    assert decisive([], [], []) == ([], 0)
    assert time_taken("SKIPPED", None, None, 30, 60) == 0


@given(dags())
def test_the_longest_way_is_the_critical_path_of_the_plan(dag: tuple[int, list[tuple[int, int]], list[int]]) -> None:
    """In columns it is the one that the graph has by its own rules."""
    count, edges, lengths = dag
    found = critical_path(range(count), edges, lambda node: lengths[node] if any(lengths) else 1)
    depth = {node: at for at, row in enumerate(levels(range(count), edges)) for node in row}
    edges = sorted(edges, key=lambda one: (-depth[one[0]], one))
    path, length = decisive(lengths, [one for one, _ in edges], [one for _, one in edges])
    assert (tuple(path), length) == (found.path, found.length if any(lengths) else 0)
