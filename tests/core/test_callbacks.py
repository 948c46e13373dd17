"""Nodes with a callback: their activity only asks, and what somebody answers ends them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.canonical import body_reference, compact_json
from dalang.compilation import compile_plan
from dalang.events import (
    AlarmRang,
    Begin,
    CallbackReceived,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    RetryRequested,
    SkipRequested,
    Undo,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.run_state import ACTIVITY, WAIT
from dalang.statuses import IN_FLIGHT, RUN_ENDS, ImpossibleMove, NodeStatus, RunStatus
from tests.core.test_hearing import NOON, SECOND, Clock, edge, event

FAILED = {"type": "TOOL_ERROR", "message": "broken"}


def asking(node_id: str, timeout: str | None = None, **more: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "http", "callback": {"timeout": timeout} if timeout else {}, **more}


def answer(node: str, call: str = "c1", generation: int = 0, **outputs: Any) -> CallbackReceived:
    return CallbackReceived(node, call, generation, outputs)


def test_the_answer_ends_the_node() -> None:
    """What the activity returned is kept as acknowledgement; the answer's outputs are the node's."""
    run = Clock([asking("a"), {"nodeId": "b", "type": "noop"}], edge("a", "b", sourcePort="text"))
    run.do(NodeSucceeded("a", {"status": 202}, 2, {"worker": "w"}))
    assert run.fact("NODE_WAITING", "a") == {
        "seq": 4,
        "type": "NODE_WAITING",
        "at": NOON,
        "nodeId": "a",
        "data": {"status": "RUNNING", "waitsFor": "callback", "attempt": 2, "worker": "w"},
        "body": {"acknowledgement": {"status": 202}},
    }
    assert (run.statuses["a"], run.started) == ("RUNNING", ["a"])
    run.do(answer("a", text="done"), 3600)
    assert run.outputs("a") == {"text": "done", "acknowledgement": {"status": 202}}
    assert run.fact("NODE_COMPLETED", "a")["data"]["callbackId"] == "c1"
    assert run.started == ["a", "b"]


def test_an_answer_may_come_before_the_activity_has_ended() -> None:
    """It is kept until then: a service may be quick."""
    run = Clock([asking("a")]).do(answer("a", n=1))
    assert run.statuses["a"] == "RUNNING"
    run.do(NodeSucceeded("a", {"status": 202}))
    assert run.kinds("a") == ["NODE_STARTED", "CALLBACK_RECEIVED", "NODE_COMPLETED"]
    assert run.outputs("a") == {"n": 1, "acknowledgement": {"status": 202}}


def test_an_answer_wins_over_a_failed_request() -> None:
    """The work is done, although its acknowledgement was lost: that failure is what is acknowledged."""
    run = Clock([asking("a")]).do(answer("a", n=1)).do(NodeFailed("a", FAILED))
    assert run.outputs("a") == {"n": 1, "acknowledgement": {"error": FAILED}}
    assert run.run.status is RunStatus.COMPLETED


def test_an_answer_may_be_an_error() -> None:
    """The node fails with it, and error edges take it."""
    run = Clock([asking("a"), {"nodeId": "b", "type": "noop"}], edge("a", "b", sourcePort="error"))
    run.do(NodeSucceeded("a", {})).do(CallbackReceived("a", "c1", error=FAILED))
    assert run.statuses == {"a": "ERROR", "b": "RUNNING"}
    assert run.fact("NODE_ERROR", "a")["body"]["error"] == {**FAILED, "originNode": "a"}


def test_nobody_calls_back() -> None:
    """The time runs from the activity's end; then the node fails with TIMEOUT."""
    run = Clock([asking("a", "1h")]).do(NodeSucceeded("a", {}), 10)
    assert run.ring() == 3610
    assert run.fact("NODE_FAILED", "a")["body"]["error"]["type"] == "TIMEOUT"


def test_the_same_call_told_twice_counts_once() -> None:
    """A delivery that is repeated after a crash does not end the next attempt of the same work."""
    run = Clock([asking("a")], failurePolicy="pause").do(NodeSucceeded("a", {}))
    run.do(CallbackReceived("a", "c1", error=FAILED)).do(RetryRequested("a"))
    run.do(CallbackReceived("a", "c1", error=FAILED))
    assert run.statuses["a"] == "RUNNING"
    run.do(NodeSucceeded("a", {})).do(answer("a", "c2"))
    assert run.run.status is RunStatus.COMPLETED


def test_an_answer_to_the_same_work_counts_whenever_it_comes() -> None:
    """After a time-out, before and after the operator's retry: with the same inputs it is the same work."""
    run = Clock([asking("a", "1m")], failurePolicy="pause").do(NodeSucceeded("a", {}))
    run.ring()
    run.do(answer("a", n=1)).do(RetryRequested("a")).do(NodeSucceeded("a", {"status": 200}))
    assert run.outputs("a") == {"n": 1, "acknowledgement": {"status": 200}}


def test_an_answer_to_other_work_is_refused() -> None:
    """Changed inputs are other work, with a generation of its own."""
    run = Clock([asking("a", "1m")], failurePolicy="pause").do(NodeSucceeded("a", {}))
    run.ring()
    run.do(answer("a", "early", n=1)).do(RetryRequested("a", {"x": 2}))
    with pytest.raises(ImpossibleMove, match="in generation 1, not 0"):
        run.do(answer("a", n=1))
    run.do(NodeSucceeded("a", {}))
    assert (run.statuses["a"], run.run.answers) == ("RUNNING", {})
    assert run.do(answer("a", "c3", 1, n=2)).outputs("a")["n"] == 2


@pytest.mark.parametrize(
    ("happened", "why"),
    [
        (answer("nobody"), "not in the plan"),
        (answer("plain"), "waits for no callback"),
        (answer("later", "c3"), "PENDING"),
        (answer("early", "c2"), "answered already"),
        (answer("done", "c2"), "SUCCESS"),
    ],
)
def test_answers_that_nobody_wants_are_refused(happened: Event, why: str) -> None:
    """Unknown nodes, nodes that ask nobody, that were not asked yet, that were answered."""
    nodes = [asking("early"), asking("done"), asking("later"), {"nodeId": "plain", "type": "noop"}]
    run = Clock(nodes, edge("plain", "later")).do(answer("early"))
    run.do(NodeSucceeded("done", {})).do(answer("done", "c0"))
    with pytest.raises(ImpossibleMove, match=why):
        run.do(happened)


def test_a_waiting_node_holds_no_slot() -> None:
    """Others go on beside it; a plan with maxInFlight counts it, as it counts every node that is RUNNING."""
    nodes = [asking("a"), {"nodeId": "b", "type": "noop"}]
    run = Clock(nodes)
    run.run._max_in_flight = 1
    assert (run.run._busy[ACTIVITY], run.run._busy[WAIT]) == (2, 0)
    run.do(NodeSucceeded("a", {}))
    assert (run.run._busy[ACTIVITY], run.run._busy[WAIT]) == (1, 1)
    run.do(answer("a"))
    assert (run.run._busy[ACTIVITY], run.run._busy[WAIT]) == (1, 0)
    counted = Clock(nodes, maxInFlight=1).do(NodeSucceeded("a", {}))
    assert counted.started == ["a"]
    assert counted.do(answer("a")).started == ["a", "b"]


def test_a_cancel_ends_the_wait() -> None:
    """At once where the activity has ended, else with it; an answer after the end is refused."""
    run = Clock([asking("a"), asking("b", "1h"), asking("c")]).do(NodeSucceeded("a", {})).do(NodeSucceeded("b", {}))
    run.do(CancelRequested())
    assert run.statuses == {"a": "CANCELLED", "b": "CANCELLED", "c": "RUNNING"}
    run.do(NodeSucceeded("c", {}))
    assert run.statuses["c"] == "CANCELLED"
    assert (run.run.status, run.run.next_alarm) == (RunStatus.CANCELLED, None)
    with pytest.raises(ImpossibleMove, match="CANCELLED"):
        run.do(answer("a"))
    stopped = Clock([asking("a")]).do(answer("a")).do(CancelRequested()).do(NodeStopped("a"))
    assert stopped.statuses["a"] == "CANCELLED"
    assert stopped.run.answers == {}


def test_an_operator_may_skip_the_wait() -> None:
    """As with every wait."""
    run = Clock([asking("a", "1h")]).do(NodeSucceeded("a", {})).do(SkipRequested("a", {"n": 1}))
    assert run.run.status is RunStatus.COMPLETED


def test_a_pause_lets_answers_in() -> None:
    """What was asked before is answered meanwhile."""
    run = Clock([asking("a"), {"nodeId": "b", "type": "noop"}], edge("a", "b")).do(NodeSucceeded("a", {}))
    run.do(PauseRequested()).do(answer("a"))
    assert (run.statuses["a"], run.started) == ("SUCCESS", ["a"])


def test_a_large_acknowledgement_is_recorded_by_reference() -> None:
    """Its worker has stored it under its digest; what follows reads it whole."""
    large = {"response": "x" * 10_000}
    run = Clock([asking("a"), {"nodeId": "b", "type": "noop"}], edge("a", "b")).do(NodeSucceeded("a", large))
    run.do(answer("a", n=1))
    assert run.outputs("a") == {"n": 1, "acknowledgement": body_reference(compact_json(large))}
    assert run.fact("NODE_STARTED", "b")["body"]["inputs"] == {"n": 1, "acknowledgement": large}


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_work_ends_once_and_by_its_answer(rnd: Random) -> None:
    """Activities that end, fail or are stopped, answers early, late, repeated and of other work, alarms, retries,
    cancels, and a snapshot after every step: no node is stuck, no index is wrong, and who was answered is done."""
    names = [f"n{number}" for number in range(rnd.randint(1, 4))]
    nodes = [asking(name, rnd.choice([None, "20s"])) for name in names] + [event("e", timeout="45s")]
    run = Clock(nodes, failurePolicy=rnd.choice(["pause", "continue", "failFast"]))
    answered: dict[str, dict[str, Any]] = {}
    for at in range(1, 80):
        if run.run.status in RUN_ENDS:
            break
        for one in (run.ring_if_due(at), _some_event(rnd, run, names, answered, at)):
            if one is not None and run.run.refusal(one) is None:
                run.do(one, at)
        _check(run)
    for at in range(80, 400):
        if run.run.status in RUN_ENDS:
            break
        run.do_if_possible(run.ring_if_due(at), at)
        for name in names:
            run.do_if_possible(NodeSucceeded(name, {}), at)
            run.do_if_possible(answer(name, f"last{at}", run.run.generations.get(run.program.index[name], 0)), at)
        for node in list(run.run.awaiting):
            run.do_if_possible(SkipRequested(run.program.ids[node]), at)
        _check(run)
    assert run.run.status in RUN_ENDS
    for name in names:
        for fact in run.facts:
            if fact["type"] == "NODE_COMPLETED" and fact.get("nodeId") == name:
                call = fact["data"]["callbackId"]
                assert call.startswith("last") or fact["body"]["outputs"]["call"] == call


def _some_event(rnd: Random, run: Clock, names: list[str], answered: dict[str, Any], at: int) -> Event | None:
    name = rnd.choice(names)
    generation = run.run.generations.get(run.program.index[name], 0)
    call = rnd.choice([f"c{at}", f"c{at - 1}", f"c{at - 5}"])
    options: list[Event | None] = [
        None,
        NodeSucceeded(name, {"at": at}),
        NodeFailed(name, FAILED),
        NodeStopped(name),
        CallbackReceived(name, call, rnd.choice([generation, generation, generation + 1]), {"call": call}),
        CallbackReceived(name, f"c{at}", generation, error=FAILED),
        RetryRequested(name, rnd.choice([None, {"x": at}])),
        CancelRequested() if rnd.random() < 0.1 else None,
    ]
    return rnd.choice(options)


def _check(run: Clock) -> None:
    """What is derived is what its definition gives; what waits is RUNNING; alarms belong to waits."""
    state = run.run
    waiting = {node for node, wait in state.waits.items() if wait["waitsFor"] == "callback"}
    assert waiting == set(state.acknowledged)
    assert all(state.statuses[node] is NodeStatus.RUNNING for node in state.waits)
    assert not waiting & set(state.answers)
    assert {alarm[2] for alarm in state._alarms} <= set(state.waits)
    slots = [WAIT if node in state.waits else 0 for node in range(len(state.statuses))]
    flying = [slot for slot, status in zip(slots, state.statuses, strict=True) if status in IN_FLIGHT]
    assert state._busy == [flying.count(kind) for kind in range(len(state._busy))]
    json.dumps(state.snapshot())


def test_the_clock_helpers_ring() -> None:
    """A helper that never rang would let alarms go untested."""
    run = Clock([asking("a", "20s")]).do(NodeSucceeded("a", {}), 5)
    assert run.ring_if_due(24) is None
    assert run.ring_if_due(25) == AlarmRang()
    assert run.run.next_alarm == NOON + 25 * SECOND


def test_a_node_that_asks_again_takes_a_slot_again() -> None:
    """Within one process, too, where nothing is restored in between."""
    document = {"name": "p", "nodes": [asking("a", "1m")], "failurePolicy": "pause"}
    run = Run(Program(compile_plan(Plan.model_validate(document))), {}, {"id": "r"})
    for one in (Begin(), NodeSucceeded("a", {}), AlarmRang(), RetryRequested("a")):
        run.apply(one, NOON + (run.next_alarm is not None) * 60 * SECOND)
        run.due(NOON)
    assert run.statuses == [NodeStatus.RUNNING]
    assert (run._busy[ACTIVITY], run._busy[WAIT]) == (1, 0)


def test_what_was_asked_for_is_undone() -> None:
    """A cancel while the answer is waited for: the compensation gets what the activity returned."""
    undo = {"type": "http", "inputs": {"url": "http://x.org/${outputs.acknowledgement.job}"}}
    document = {"name": "p", "nodes": [asking("a", compensation=undo)]}
    run = Run(Program(compile_plan(Plan.model_validate(document))), {}, {"id": "r"})
    for one in (Begin(), NodeSucceeded("a", {"job": 7}), CancelRequested()):
        run.apply(one, NOON)
        steps = run.due(NOON)
    assert [(step.node_id, dict(step.inputs)) for step in steps if isinstance(step, Undo)] == [
        ("a", {"url": "http://x.org/7"})
    ]
