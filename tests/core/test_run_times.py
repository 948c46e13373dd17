"""Timelines: a node's life is cut where its status changed, and where its attempts are known to have failed."""

from __future__ import annotations

from dalang.run_times import Doing, Failed, Happened, Span, Took, decisive, spans


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
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    nodes = {
        "a": Took("SUCCESS", 0, 10, None),
        "b": Took("SUCCESS", 10, 20, None),
        "c": Took("RUNNING", 10, None, 5),
        "d": Took("PENDING", None, None, 30),
    }
    assert decisive(nodes, edges, now=60) == (("a", "c", "d"), 90.0)
    assert decisive({**nodes, "c": Took("RUNNING", 10, None, 5)}, edges, now=12) == (("a", "b", "d"), 50.0)
    unknown = {node: Took("PENDING", None, None, None) for node in nodes}
    assert decisive(unknown, [*edges, ("b", "c")], now=0) == (("a", "b", "c", "d"), 0)
