"""Attempts that were not begun: what they leave of the attempts made before, of effects, of the places of others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.events import (
    AlarmRang,
    Ask,
    CallbackReceived,
    CancelRequested,
    NodeDeferred,
    NodeFailed,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    Start,
    Stop,
    Undo,
)
from dalang.queueing import MAX_ASKED, MAX_DEFERRAL_MS
from dalang.run import Run
from dalang.statuses import NodeStatus, RunStatus
from dalang.wire import Checkpoint
from tests.core.test_queueing import NETWORK, begun, facts, program

LEFT: Checkpoint = {"begun": 1, "attempt": 2, "number": 1, "at": 3, "size": 7, "state": {"n": 1}}
UNDO = {"compensation": {"type": "python", "handler": "undo"}}


def deferred(node: str = "a", until: int = 500, attempts: int = 0, **more: Any) -> NodeDeferred:
    return NodeDeferred(node, until, "breaker", ("breaker http https://x:443",), attempts, **more)


def restarted(run: Run, at: int = 500) -> Start:
    """Ring the alarm and return the start that follows."""
    assert run.next_alarm == at
    run.apply(AlarmRang(), at)
    (start,) = run.due(at)
    assert isinstance(start, Start)
    return start


def test_it_waits_queued_with_its_reason_and_starts_as_the_same_attempt() -> None:
    run = begun(program({"nodeId": "a"}))
    run.due(1)
    run.apply(deferred(), 2)
    assert run.statuses == [NodeStatus.QUEUED]
    assert facts(run, "NODE_QUEUED")[0]["data"] == {
        "status": "QUEUED",
        "reason": "breaker",
        "short": ["breaker http https://x:443"],
        "until": "1970-01-01T00:00:00.500Z",
    }
    start = restarted(run)
    assert (start.attempt, start.starts, start.generation) == (1, 0, 0)
    assert [fact["data"]["attempt"] for fact in facts(run, "NODE_STARTED")] == [1, 1]


def test_attempts_made_before_are_not_forgotten_nor_what_they_left() -> None:
    run = begun(program({"nodeId": "a", "retryPolicy": {"maxAttempts": 3}}))
    run.due(1)
    run.apply(deferred(attempts=2, checkpoint=LEFT), 2)
    run = Run.restore(run.program, {}, json.loads(json.dumps(run.snapshot())))
    start = restarted(run)
    assert (start.attempt, start.starts, start.checkpoint) == (3, 1, LEFT)
    run.apply(deferred(attempts=2, until=900), 600)
    start = restarted(run, 900)
    assert (start.attempt, start.starts, start.checkpoint) == (3, 1, LEFT), "it has attempted nothing since"


def test_an_operators_retry_begins_to_count_anew() -> None:
    run = begun(program({"nodeId": "a"}, failurePolicy="pause"))
    run.due(1)
    run.apply(deferred(attempts=2), 2)
    restarted(run)
    run.apply(NodeFailed("a", {**NETWORK, "attempt": 3}), 501)
    run.due(502)
    run.apply(RetryRequested("a"), 503)
    (start,) = run.due(504)
    assert isinstance(start, Start)
    assert (start.attempt, start.starts) == (1, 2)


def test_an_operators_retry_of_a_node_with_leases_begins_to_count_anew() -> None:
    from dalang.events import LeaseAnswered

    run = begun(program({"nodeId": "a", "retryPolicy": {"maxAttempts": 1}}, failurePolicy="pause"), "*")
    run.due(1)
    run.apply(LeaseAnswered("a", 1, "GRANTED"), 2)
    run.due(3)
    run.apply(NodeFailed("a", NETWORK), 4)
    run.due(5)
    run.apply(RetryRequested("a"), 6)
    run.due(7)
    run.apply(LeaseAnswered("a", 2, "GRANTED"), 8)
    (start,) = run.due(9)
    assert isinstance(start, Start)
    assert start.attempt == 1


def test_no_deferral_lasts_for_ever() -> None:
    run = begun(program({"nodeId": "a"}))
    run.due(1)
    run.apply(deferred(until=2**53 - 1), 2)
    assert run.next_alarm == 2 + MAX_DEFERRAL_MS


def test_a_run_that_is_ending_does_not_wait() -> None:
    run = begun(program({"nodeId": "a"}))
    run.due(1)
    run.apply(CancelRequested(), 2)
    assert run.due(3) == [Stop("a")]
    run.apply(deferred(), 4)
    run.due(5)
    assert run.status is RunStatus.CANCELLED


def test_a_cancel_ends_the_wait() -> None:
    run = begun(program({"nodeId": "a"}))
    run.due(1)
    run.apply(deferred(), 2)
    run.apply(CancelRequested(), 3)
    assert run.due(4) == []
    assert (run.status, run.next_alarm) == (RunStatus.CANCELLED, None)


def test_a_finally_node_waits_and_runs_however_the_run_ends() -> None:
    run = begun(program({"nodeId": "a"}, **{"finally": [{"nodeId": "f", "type": "python", "handler": "f"}]}))
    run.due(1)
    run.apply(NodeFailed("a", {"type": "TOOL_ERROR", "retryable": False}), 2)
    assert [step.node_id for step in run.due(3) if isinstance(step, Start)] == ["f"]
    run.apply(deferred("f"), 4)
    assert restarted(run).node_id == "f"
    run.apply(NodeSucceeded("f", {}), 501)
    run.due(502)
    assert run.status is RunStatus.FAILED


def test_a_paused_run_begins_it_when_it_goes_on() -> None:
    run = begun(program({"nodeId": "a"}))
    run.due(1)
    run.apply(PauseRequested(mode="interrupt"), 2)
    assert run.due(3) == [Stop("a", True)]
    run.apply(deferred(), 4)
    run.apply(AlarmRang(), 500)
    assert run.due(501) == []
    run.apply(ResumeRequested(), 502)
    assert [type(step) for step in run.due(503)] == [Start]


def test_it_can_be_skipped_meanwhile() -> None:
    run = begun(program({"nodeId": "a"}))
    run.due(1)
    run.apply(deferred(), 2)
    run.apply(SkipRequested("a", {"x": 1}), 3)
    assert (run.due(4), run.status, run.next_alarm) == ([], RunStatus.COMPLETED, None)


@pytest.mark.parametrize(("attempts", "undone"), [(0, []), (1, ["a"])])
def test_what_was_never_attempted_is_not_undone(attempts: int, undone: list[str]) -> None:
    run = begun(program({"nodeId": "a", **UNDO}))
    run.due(1)
    run.apply(deferred(attempts=attempts), 2)
    run.apply(CancelRequested(), 3)
    assert [step.node_id for step in run.due(4) if isinstance(step, Undo)] == undone


def test_an_answer_to_an_earlier_attempt_is_taken() -> None:
    run = begun(program({"nodeId": "a", "callback": {}}))
    run.due(1)
    run.apply(CallbackReceived("a", "1", 0, {"done": True}), 2)
    run.apply(deferred(attempts=1), 3)
    run.due(4)
    assert run.status is RunStatus.COMPLETED


def test_an_answer_that_comes_while_it_waits_is_kept() -> None:
    run = begun(program({"nodeId": "a", "callback": {}}))
    run.due(1)
    run.apply(deferred(attempts=1), 2)
    run.apply(CallbackReceived("a", "1", 0, {"done": True}), 3)
    restarted(run)
    run.apply(deferred(attempts=1, until=900), 501)
    run.due(502)
    assert run.status is RunStatus.COMPLETED


def test_those_who_wait_for_a_breaker_take_no_place_from_those_who_ask_for_a_lease() -> None:
    count = MAX_ASKED + 20
    free = [{"nodeId": f"d{at}", "type": "noop"} for at in range(count)]
    run = begun(program(*free, {"nodeId": "w"}, edges=[{"sourceNodeId": "d0", "targetNodeId": "w"}]), "*")
    began = 0
    while began < count:
        for step in run.due(1):
            assert isinstance(step, Start)
            began += 1
            if step.node_id != "d0":
                run.apply(deferred(step.node_id), 2)
    run.apply(NodeSucceeded("d0", {}), 3)
    assert [type(step) for step in run.due(4)] == [Ask]
