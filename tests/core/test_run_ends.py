"""Examples of DESIGN section 4: failure, cancel, time-out, ``finally`` and pause; and what is not possible."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.events import (
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    Rejected,
    ResumeRequested,
    SkipRequested,
    TimedOut,
)
from dalang.run import Run
from dalang.statuses import ImpossibleMove
from tests.core.driven import ABOUT, TOOL_ERROR, Driven, edge, last, node, program

# -- failure, cancel, timeout, finally, pause ------------------------------------------------------------------------

CLEAN: dict[str, Any] = {"finally": [node("f", inputs={"was": "${run.status}"}), node("g")]}


def test_fail_fast_stops_the_rest() -> None:
    """The failure's cascade, then what waits is CANCELLED and what is in flight is stopped; then the run is FAILED."""
    nodes = [node("a"), node("b"), node("c"), node("d")]
    run = Driven(nodes, [edge("a", "c"), edge("b", "d")]).bad("a")
    assert run.statuses == {"a": "FAILED", "b": "RUNNING", "c": "SKIPPED", "d": "CANCELLED"}
    assert run.stopped == ["b"]
    assert run.end == "RUNNING"
    assert run.do(NodeStopped("b")).end == "FAILED"
    assert run.status("b") == "CANCELLED"


@pytest.mark.parametrize("last", [NodeSucceeded("b", {"x": 1}), NodeFailed("b", TOOL_ERROR), NodeStopped("b")])
@pytest.mark.parametrize("ending", [NodeFailed("a", TOOL_ERROR), CancelRequested(), TimedOut()])
def test_a_node_may_end_before_its_stop_arrives(ending: Event, last: Event) -> None:
    """Its own end counts for the node and changes nothing for the run."""
    run = Driven([node("a"), node("b"), node("d")], [edge("b", "d")]).do(ending)
    if not isinstance(ending, NodeFailed):
        run.do(NodeStopped("a"))
    run.do(last)
    assert run.end == ("FAILED" if isinstance(ending, NodeFailed) else "CANCELLED")
    expected = {NodeSucceeded: "SUCCESS", NodeFailed: "FAILED", NodeStopped: "CANCELLED"}[type(last)]
    assert (run.status("b"), run.status("d")) == (expected, "CANCELLED")


def test_abort_ends_the_run_under_continue() -> None:
    """An unhandled error whose suggestedAction is ABORT is failFast; a handled one is not."""
    more: dict[str, Any] = {"failurePolicy": "continue"}
    assert Driven([node("a"), node("b")], **more).bad("a", suggestedAction="ABORT").stopped == ["b"]
    handled = Driven([node("a"), node("b")], [edge("a", "b", sourcePort="error")], **more)
    assert handled.bad("a", suggestedAction="ABORT").ok("b").end == "COMPLETED"


@pytest.mark.parametrize(
    ("ending", "end"),
    [
        (NodeSucceeded("a", {}), "COMPLETED"),
        (NodeFailed("a", TOOL_ERROR), "FAILED"),
        (CancelRequested(reason="enough"), "CANCELLED"),
        (TimedOut(), "CANCELLED"),
    ],
)
def test_finally_runs_whatever_the_end(ending: Event, end: str) -> None:
    """finally nodes start when all else has ended, know the end as ``run.status``, and the end comes after them."""
    run = Driven([node("a"), node("b")], [edge("a", "b")], **CLEAN).do(ending)
    if isinstance(ending, NodeSucceeded):
        run.ok("b")
    elif not isinstance(ending, NodeFailed):
        assert "f" not in run.started
        run.do(NodeStopped("a"))
    assert run.started["f"] == {"was": end}
    assert run.ok("f").end == "RUNNING"
    assert run.ok("g").end == end
    if isinstance(ending, TimedOut):
        assert run.fact("PLAN_CANCELLED")["data"]["reason"] == "TIMEOUT"


@pytest.mark.parametrize("policy", ["failFast", "continue"])
def test_a_failing_finally_node_fails_the_run_and_stops_nothing(policy: str) -> None:
    """The other finally nodes go on; a run that was cancelled stays CANCELLED."""
    run = Driven([node("a")], failurePolicy=policy, **CLEAN).ok("a").bad("f")
    assert run.status("g") == "RUNNING"
    assert run.stopped == []
    assert run.ok("g").end == "FAILED"
    cancelled = Driven([node("a")], failurePolicy=policy, **CLEAN).do(CancelRequested(), NodeStopped("a"))
    assert cancelled.bad("f").ok("g").end == "CANCELLED"


def test_pause_drains() -> None:
    """What is in flight ends and its consequences follow, nothing starts and the run does not end; resume goes on."""
    nodes, edges = [node("a"), node("b"), node("c")], [edge("a", "b"), edge("a", "c", condition="false")]
    run = Driven(nodes, edges, **CLEAN).do(PauseRequested("ann", "lunch")).ok("a")
    assert run.statuses == dict(a="SUCCESS", b="PENDING", c="SKIPPED", f="PENDING", g="PENDING")
    assert run.end == "PAUSED"
    assert "b" in run.do(ResumeRequested()).started
    run.do(PauseRequested()).ok("b")
    assert (run.end, "f" in run.started) == ("PAUSED", False)
    assert run.do(ResumeRequested()).ok("f").ok("g").end == "COMPLETED"


@pytest.mark.parametrize("request_", [CancelRequested(), TimedOut()])
def test_cancel_of_a_paused_run(request_: Event) -> None:
    """A paused run can be cancelled: it goes on only to end, with its finally nodes."""
    run = Driven([node("a"), node("b")], [edge("a", "b")], **CLEAN).do(PauseRequested(), request_)
    assert (run.end, run.stopped, run.status("b")) == ("RUNNING", ["a"], "CANCELLED")
    assert run.do(NodeStopped("a")).ok("f").ok("g").end == "CANCELLED"


def test_fail_fast_while_paused() -> None:
    """A failure while paused stops what is in flight at once; the run ends when it is resumed."""
    run = Driven([node("a"), node("b")]).do(PauseRequested()).bad("a")
    assert run.stopped == ["b"]
    assert run.do(NodeStopped("b")).end == "PAUSED"
    assert run.do(ResumeRequested()).end == "FAILED"


def test_cancel_of_a_failing_run() -> None:
    """A cancel while a failing run is still stopping its nodes decides the end; nothing is stopped twice."""
    run = Driven([node("a"), node("b")]).bad("a").do(CancelRequested())
    assert run.stopped == ["b"]
    assert run.do(NodeStopped("b")).end == "CANCELLED"


def test_an_empty_main_part_ends_at_once() -> None:
    """A plan without nodes is complete when it begins; one with only finally nodes runs them."""
    assert Driven([]).end == "COMPLETED"
    assert Driven([], **CLEAN).ok("f").ok("g").end == "COMPLETED"


def test_order_of_starts() -> None:
    """Priority, then the longest remaining path of estimated work, then plan order; a slot frees one start."""
    nodes = [
        node("short"),
        node("also"),
        node("long", requirements={"estimatedDuration": "1h"}),
        node("behind"),
        node("urgent", priority=2),
        node("work", requirements={"estimatedDuration": "2h"}),
    ]
    run = Driven(nodes, [edge("behind", "work")], maxInFlight=1)
    for name in ("urgent", "behind", "work", "long", "short", "also"):
        assert list(run.started)[-1] == name
        run.ok(name)
    assert run.end == "COMPLETED"


def test_sleeping_nodes_hold_no_slot_unless_the_plan_counts() -> None:
    """A timer costs nobody a slot; with maxInFlight in the plan every node counts."""
    nodes = [{**node(name), "type": "sleep"} for name in "ab"] + [node("c"), node("d")]
    free = Run(program(nodes), {}, ABOUT, 1)
    free.apply(Begin(), 0)
    assert [step.node_id for step in free.due(0)] == ["c", "a", "b"]
    counted = Driven(nodes, maxInFlight=1)
    assert list(counted.started) == ["a"]


# -- impossible moves ------------------------------------------------------------------------------------------------


def _in(state: str) -> Driven:
    """Return a run of a -> b, with finally node f, in one of the states of the table below."""
    run = Driven([node("a"), node("b")], [edge("a", "b")], begin=state != "PENDING", **last("f"))
    events: dict[str, tuple[Event, ...]] = {
        "PENDING": (),
        "RUNNING": (),
        "PAUSED": (PauseRequested(),),
        "ending": (CancelRequested(),),
        "failing": (NodeFailed("a", TOOL_ERROR),),
        "closing": (NodeSucceeded("a", {}), NodeSucceeded("b", {})),
        "ended": (NodeSucceeded("a", {}), NodeSucceeded("b", {}), NodeSucceeded("f", {})),
    }
    if state == "failing":
        run = Driven([node("a"), node("b"), node("c")], [edge("c", "b")], **last("f"))
    return run.do(*events[state])


TABLE: dict[str, tuple[Event, str]] = {
    "begin": (Begin(), "PENDING"),
    "succeeded a": (NodeSucceeded("a", {}), "RUNNING PAUSED ending"),
    "failed a": (NodeFailed("a", TOOL_ERROR), "RUNNING PAUSED ending"),
    "stopped a": (NodeStopped("a"), "ending"),
    "stopped f": (NodeStopped("f"), ""),
    "succeeded b": (NodeSucceeded("b", {}), ""),
    "stopped b": (NodeStopped("b"), ""),
    "succeeded f": (NodeSucceeded("f", {}), "closing"),
    "pause": (PauseRequested(), "RUNNING"),
    "resume": (ResumeRequested(), "PAUSED"),
    "cancel": (CancelRequested(), "RUNNING PAUSED failing"),
    "time out": (TimedOut(), "RUNNING PAUSED failing"),
    "skip a": (SkipRequested("a"), ""),
    "skip b": (SkipRequested("b"), "RUNNING PAUSED"),
    "skip f": (SkipRequested("f"), "RUNNING PAUSED"),
    "skip nobody": (SkipRequested("nobody"), ""),
    "succeeded nobody": (NodeSucceeded("nobody", {}), ""),
    "rejected": (Rejected("signal pause", "malformed"), "PENDING RUNNING PAUSED ending failing closing ended"),
}


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "PAUSED", "ending", "failing", "closing", "ended"])
@pytest.mark.parametrize("name", TABLE)
def test_table_of_possible_events(name: str, state: str) -> None:
    """Each event in each state is taken, or refused by an ImpossibleMove that says what it met, changing nothing."""
    event, possible = TABLE[name]
    driven = _in(state)
    run = driven.run
    before, facts = json.dumps(run.snapshot()), len(run.facts)
    refusal = run.refusal(event)
    assert json.dumps(run.snapshot()) == before
    if state in possible.split():
        assert refusal is None
        driven.do(event)
        assert len(run.facts) > facts
        return
    assert refusal is not None
    with pytest.raises(ImpossibleMove) as raised:
        run.apply(event, 0)
    assert str(raised.value) == str(refusal)
    subject = f"node {event.node}" if hasattr(event, "node") else "the run"
    assert raised.value.subject in (subject, "the run")
    assert raised.value.status
    assert (json.dumps(run.snapshot()), len(run.facts)) == (before, facts)


def test_a_rejected_request_is_recorded() -> None:
    """It becomes a fact and changes nothing else."""
    run = Driven([node("a")]).do(Rejected("signal pause", "it was a number"))
    assert run.fact("REQUEST_REJECTED")["data"] == {"request": "signal pause", "reason": "it was a number"}
    assert run.statuses == {"a": "RUNNING"}
