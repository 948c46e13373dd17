"""Timers and external events: nodes that the state machine itself begins and ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalang import hearing
from dalang.compilation import compile_plan
from dalang.events import (
    AlarmRang,
    Begin,
    CancelRequested,
    Event,
    ExternalEvent,
    NodeFailed,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    Start,
)
from dalang.instants import format_instant, parse_instant
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.statuses import RUN_ENDS, ImpossibleMove, RunStatus
from tests.effort import tries

ABOUT = {"id": "r1"}
SECOND = 1_000
NOON = parse_instant("2026-11-22T12:00:00Z")


def timer(node_id: str, duration: str = "1s", **inputs: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "timer", "inputs": inputs or {"duration": duration}}


def event(node_id: str, name: str = "paid", key: str = "", **inputs: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "event", "inputs": {"name": name, "correlationKey": key, **inputs}}


def edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"edgeId": f"{source}{target}", "sourceNodeId": source, "targetNodeId": target, **more}


class Clock:
    """A run that has begun at noon; ``at`` is seconds after it. Every step goes through a snapshot."""

    def __init__(self, nodes: list[dict[str, Any]], *edges: dict[str, Any], **more: Any) -> None:
        self.run_inputs = more.pop("run_inputs", {})
        document = {"name": "p", "nodes": nodes, "edges": list(edges), **more}
        self.program = Program(json.loads(json.dumps(compile_plan(Plan.model_validate(document)))))
        self.run = Run(self.program, self.run_inputs, ABOUT)
        self.started: list[str] = []
        self.facts: list[Any] = []
        self.do(Begin())

    def do(self, happened: Event, at: float = 0) -> Clock:
        ms = NOON + round(at * SECOND)
        self.run.apply(happened, ms)
        self.started += [step.node_id for step in self.run.due(ms) if isinstance(step, Start)]
        self.facts += self.run.facts
        self.run = Run.restore(self.program, self.run_inputs, json.loads(json.dumps(self.run.snapshot())))
        return self

    def ring(self) -> float:
        """Let the next alarm ring when it is due; return when that is."""
        assert self.run.next_alarm is not None
        at = (self.run.next_alarm - NOON) / SECOND
        self.do(AlarmRang(), at)
        return at

    def ring_if_due(self, at: int) -> Event | None:
        due = self.run.next_alarm
        return AlarmRang() if due is not None and due <= NOON + at * SECOND else None

    def do_if_possible(self, happened: Event | None, at: int) -> None:
        if happened is not None and self.run.refusal(happened) is None:
            self.do(happened, at)

    def hear(
        self, name: str = "paid", key: str = "", at: float = 0, event_id: str | None = None, **payload: Any
    ) -> Clock:
        return self.do(ExternalEvent(name, key, payload, event_id), at)

    @property
    def statuses(self) -> dict[str, str]:
        return dict(zip(self.program.ids, map(str, self.run.statuses), strict=True))

    def outputs(self, node: str) -> Any:
        return self.fact("NODE_COMPLETED", node)["body"]["outputs"]

    def fact(self, kind: str, node: str | None = None) -> Any:
        (found,) = [fact for fact in self.facts if fact["type"] == kind and fact.get("nodeId") == node]
        return found

    def kinds(self, node: str | None) -> list[str]:
        return [fact["type"] for fact in self.facts if fact.get("nodeId") == node]


# -- timers ------------------------------------------------------------------------------------------------------------


def test_a_timer_fires_when_its_time_has_come() -> None:
    """It begins without the driver, waits with an alarm, and ends with the time at which it fired."""
    run = Clock([timer("t", "90s"), {"nodeId": "after", "type": "noop"}], edge("t", "after"))
    assert run.statuses == {"t": "RUNNING", "after": "PENDING"}
    assert run.started == []
    assert run.fact("NODE_WAITING", "t")["data"] == {
        "status": "RUNNING",
        "waitsFor": "timer",
        "until": "2026-11-22T12:01:30.000Z",
    }
    assert run.ring() == 90
    assert run.outputs("t") == {"firedAt": "2026-11-22T12:01:30.000Z"}
    assert run.started == ["after"]
    assert run.run.next_alarm is None


def test_a_timer_may_name_its_time() -> None:
    """``until`` is a time with an offset, an expression if wanted; one that has passed fires at once."""
    run = Clock(
        [timer("t", until="${inputs.when}"), timer("past", until="2026-11-22T12:59:59+01:00")],
        run_inputs={"when": "2026-11-22T14:00:00+01:00"},
    )
    assert run.kinds("past") == ["NODE_STARTED", "NODE_COMPLETED"]
    assert run.ring() == 3600
    assert run.run.status is RunStatus.COMPLETED


@pytest.mark.parametrize(
    "inputs",
    [
        {"duration": "${inputs.x}"},
        {"until": "${inputs.x}"},
        {"until": "2028-01-01T00:00:00Z"},
        {"duration": "1s", "until": "2026-12-24T18:00:00Z"},
    ],
)
def test_a_timer_whose_time_is_of_no_use_fails(inputs: dict[str, Any]) -> None:
    """What no validation could see - an expression's value, a year away - is a VALIDATION_ERROR of the node."""
    run = Clock([{"nodeId": "t", "type": "timer", "inputs": inputs}], run_inputs={"x": 5})
    assert run.statuses == {"t": "FAILED"}
    assert run.fact("NODE_FAILED", "t")["data"]["errorType"] == "VALIDATION_ERROR"


def test_timers_fire_while_the_run_is_paused() -> None:
    """A pause holds what would start, not the time: the timer fires and what follows it waits for the resume."""
    run = Clock([timer("t"), {"nodeId": "after", "type": "noop"}], edge("t", "after")).do(PauseRequested())
    run.ring()
    assert (run.statuses["t"], run.started) == ("SUCCESS", [])
    assert run.do(ResumeRequested(), 60).started == ["after"]


def test_waits_hold_no_slot_unless_the_plan_counts() -> None:
    """Activities start beside any number of waits; with maxInFlight in the plan every RUNNING node counts."""
    nodes = [timer("t"), event("e"), {"nodeId": "a", "type": "noop"}]
    assert Clock(nodes).started == ["a"]
    assert Clock(nodes, maxInFlight=2).started == []


# -- events ------------------------------------------------------------------------------------------------------------


def test_an_event_ends_the_node_that_waits_for_it() -> None:
    """The payload's keys are outputs, and so ports; name and key have to be those that the node waits for."""
    run = Clock(
        [event("e", key="${inputs.order}"), {"nodeId": "after", "type": "noop"}],
        edge("e", "after", sourcePort="amount"),
        run_inputs={"order": 42},
    )
    run.hear(key="43", amount=1).hear("unpaid", "42", amount=2)
    assert run.statuses["e"] == "RUNNING"
    run.hear(key="42", at=5, amount=3, event_id="e-1")
    assert run.outputs("e") == {"amount": 3, "receivedAt": "2026-11-22T12:00:05.000Z"}
    assert run.fact("NODE_COMPLETED", "e")["data"] == {"status": "SUCCESS", "eventId": "e-1"}
    assert run.started == ["after"]
    assert [fact["data"]["event"] for fact in run.facts if fact["type"] == "EVENT_RECEIVED"] == ["paid", "unpaid"]


def test_an_event_that_comes_early_is_kept() -> None:
    """It ends the node as soon as that begins to wait, with the time at which it came."""
    run = Clock([{"nodeId": "a", "type": "noop"}, event("e")], edge("a", "e"))
    run.hear(at=1, n=1).do(NodeSucceeded("a", {}), 60)
    assert run.kinds("e") == ["NODE_STARTED", "NODE_COMPLETED"]
    assert run.outputs("e") == {"n": 1, "receivedAt": "2026-11-22T12:00:01.000Z"}


def test_each_event_goes_to_one_node() -> None:
    """Nodes of one name and key take events in the order in which they began to wait, whatever came first."""
    run = Clock([event("a"), event("b"), event("c")], edge("a", "c"))
    run.hear(n=1)
    assert run.statuses == {"a": "SUCCESS", "b": "RUNNING", "c": "RUNNING"}
    run.hear(n=2).hear(n=3)
    assert [run.outputs(node)["n"] for node in "abc"] == [1, 2, 3]
    early = Clock([{"nodeId": "g", "type": "noop"}, event("a"), event("b")], edge("g", "a"), edge("g", "b"))
    early.hear(n=1).hear(n=2).do(NodeSucceeded("g", {}))
    assert [early.outputs(node)["n"] for node in "ab"] == [1, 2]


def test_an_event_heard_twice_counts_once() -> None:
    """An eventId that came before changes nothing, whether its event was taken or is still kept."""
    run = Clock([event("a"), event("b")])
    run.hear(n=1, event_id="x").hear(n=1, event_id="x")
    assert run.statuses == {"a": "SUCCESS", "b": "RUNNING"}
    assert run.hear(n=2, event_id="y").statuses["b"] == "SUCCESS"


def test_an_event_that_does_not_come_is_a_timeout() -> None:
    """After ``timeout`` the node fails with TIMEOUT, which its error edges take like any failure."""
    run = Clock([event("e", timeout="1m"), {"nodeId": "late", "type": "noop"}], edge("e", "late", sourcePort="error"))
    assert run.fact("NODE_WAITING", "e")["data"]["until"] == "2026-11-22T12:01:00.000Z"
    assert run.ring() == 60
    assert run.statuses == {"e": "ERROR", "late": "RUNNING"}
    assert run.fact("NODE_ERROR", "e")["body"]["error"]["type"] == "TIMEOUT"
    assert run.hear(at=61).fact("EVENT_RECEIVED")  # nobody waits for it any more


def test_an_event_before_the_alarm_rang_is_in_time() -> None:
    """Both may be due in one workflow task, after a worker was away: what came counts."""
    run = Clock([event("e", timeout="1m")]).hear(at=61)
    assert run.statuses == {"e": "SUCCESS"}
    assert run.run.next_alarm is None


def test_a_wait_that_timed_out_can_be_retried() -> None:
    """Under the policy pause an operator lets the node wait again; the same event then ends it."""
    run = Clock([event("e", timeout="1m")], failurePolicy="pause")
    run.ring()
    assert run.run.status is RunStatus.PAUSED
    run.do(RetryRequested("e"), 100)
    assert run.statuses == {"e": "RUNNING"}
    assert run.run.next_alarm == NOON + 160 * SECOND
    assert run.hear(at=101).run.status is RunStatus.COMPLETED


def test_an_operator_may_skip_a_wait() -> None:
    """What will not come can be handed in, or given up."""
    run = Clock([event("e", timeout="1m"), {"nodeId": "after", "type": "noop"}], edge("e", "after"))
    run.do(SkipRequested("e", {"amount": 9}))
    assert (run.statuses["e"], run.started, run.run.next_alarm) == ("SKIPPED", ["after"], None)
    assert Clock([timer("t")]).do(SkipRequested("t")).run.status is RunStatus.COMPLETED


def test_the_end_of_a_run_cancels_its_waits() -> None:
    """Nobody outside is told to stop: the run is over at once, and no alarm is left."""
    run = Clock([timer("t"), event("e", timeout="1m")]).do(CancelRequested())
    assert run.statuses == {"t": "CANCELLED", "e": "CANCELLED"}
    assert (run.run.status, run.run.next_alarm) == (RunStatus.CANCELLED, None)
    with pytest.raises(ImpossibleMove, match="the run is CANCELLED"):
        run.hear()
    failing = Clock([timer("t"), {"nodeId": "a", "type": "noop"}])
    assert failing.do(NodeFailed("a", {"type": "TOOL_ERROR"})).run.status is RunStatus.FAILED


def test_no_worker_can_end_a_wait() -> None:
    """An answer for a node that nobody was asked about is refused."""
    with pytest.raises(ImpossibleMove, match="waiting for what no worker does"):
        Clock([timer("t")]).do(NodeSucceeded("t", {}))


def test_waits_in_finally_nodes_end_as_elsewhere() -> None:
    """A finally node may wait for an event that came long before."""
    run = Clock([timer("t")], **{"finally": [event("e", timeout="1m")]}).hear(n=1)
    run.ring()
    assert run.run.status is RunStatus.COMPLETED


def test_no_more_is_kept_than_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is given up, which is a fact; the newest is kept even when it alone is too large."""
    monkeypatch.setattr(hearing, "MAX_KEPT_EVENTS", 2)
    monkeypatch.setattr(hearing, "MAX_KEPT_BYTES", 100)
    monkeypatch.setattr(hearing, "MAX_HEARD", 2)
    run = Clock([timer("t")])
    for number in range(3):
        run.hear(event_id=f"e{number}")
    assert [fact["data"]["eventId"] for fact in run.facts if fact["type"] == "EVENT_DROPPED"] == ["e0"]
    run.hear(text="x" * 200)
    assert [kept[2] for kept in run.run.kept] == [{"text": "x" * 200}]
    assert list(run.run.heard) == ["e1", "e2"]


# -- properties --------------------------------------------------------------------------------------------------------


class Listener:
    """What has to come out, by the order of waits and events alone: a queue for each name and key."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, tuple[str, str]]] = []
        self.kept: list[tuple[tuple[str, str], int]] = []
        self.heard: set[str] = set()
        self.taken: dict[str, int] = {}

    def wait(self, node: str, pair: tuple[str, str]) -> None:
        for number, (kept, value) in enumerate(self.kept):
            if kept == pair:
                del self.kept[number]
                self.taken[node] = value
                return
        self.waiting.append((node, pair))

    def hear(self, pair: tuple[str, str], value: int, event_id: str) -> None:
        if event_id in self.heard:
            return
        self.heard.add(event_id)
        for number, (node, wanted) in enumerate(self.waiting):
            if wanted == pair:
                del self.waiting[number]
                self.taken[node] = value
                return
        self.kept.append((pair, value))


@settings(max_examples=tries(60), derandomize=True, database=None, deadline=None)
@given(st.randoms(use_true_random=False))
def test_events_meet_waits_whatever_comes_first(rnd: Random) -> None:
    """Early, late and repeated events, gates, alarms, and a snapshot after every step: each wait takes its event."""
    count = rnd.randint(1, 6)
    pairs = [(rnd.choice(["paid", "sent"]), rnd.choice(["", "1", "2"])) for _ in range(count)]
    nodes, edges = [], []
    timeouts = [rnd.choice([None, None, 40]) for _ in range(count)]
    for number, (name, key) in enumerate(pairs):
        limit = {} if timeouts[number] is None else {"timeout": f"{timeouts[number]}s"}
        nodes += [{"nodeId": f"g{number}", "type": "noop"}, event(f"e{number}", name, key, **limit)]
        edges.append(edge(f"g{number}", f"e{number}"))
    run, model = Clock(nodes, *edges, failurePolicy="continue"), Listener()
    closed = [f"g{number}" for number in range(count)]
    since: dict[str, int] = {}
    sent: list[tuple[tuple[str, str], int, str]] = []
    late: set[str] = set()
    for at in range(1, 60):
        if run.run.status in RUN_ENDS:
            break
        choice = rnd.random()
        if closed and choice < 0.3:
            gate = closed.pop(rnd.randrange(len(closed)))
            run.do(NodeSucceeded(gate, {}), at)
            node = "e" + gate[1:]
            model.wait(node, pairs[int(gate[1:])])
            since[node] = at
        elif sent and choice < 0.5:
            again = rnd.choice(sent)
            run.do(ExternalEvent(again[0][0], again[0][1], {"n": again[1]}, again[2]), at)
        elif choice < 0.9:
            one = (rnd.choice([*pairs, ("other", "")]), at, f"id{at}")
            sent.append(one)
            run.do(ExternalEvent(one[0][0], one[0][1], {"n": at}, one[2]), at)
            model.hear(*one)
        if run.run.next_alarm is not None and run.run.next_alarm <= NOON + at * SECOND:
            run.do(AlarmRang(), at)
            overdue = {
                node for node, _ in model.waiting if (limit := timeouts[int(node[1:])]) and since[node] + limit <= at
            }
            late |= overdue
            model.waiting = [one for one in model.waiting if one[0] not in overdue]
        assert {node: run.outputs(node)["n"] for node in model.taken} == model.taken
        assert {node for node, _ in model.waiting} == {run.program.ids[node] for node in run.run.waits}
        assert [kept[2]["n"] for kept in run.run.kept] == [value for _, value in model.kept]
        failed = {node for node, status in run.statuses.items() if status == "FAILED"}
        assert failed == late
        check_indexes(run.run)


def check_indexes(run: Run) -> None:
    """What is derived from waits and kept events is what their definitions give."""
    listening: dict[tuple[str, str], list[int]] = {}
    for node, wait in run.waits.items():
        if wait["waitsFor"] == "event":
            listening.setdefault((wait["event"], wait["key"]), []).append(node)
    assert {pair: list(nodes) for pair, nodes in run._listening.items()} == listening
    assert run._kept_bytes == sum(len(json.dumps(kept[2], separators=(",", ":"))) for kept in run.kept)
    assert {alarm[2] for alarm in run._alarms} <= set(run.waits)


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-22T12:00:00.5Z", NOON + 500),
        ("2026-11-22t14:00:00.123456789+02:00", NOON + 123),
    ],
)
def test_times_are_read(text: str, ms: int) -> None:
    """RFC 3339 with an offset; parts of a millisecond are cut off."""
    assert parse_instant(text) == ms
    assert parse_instant(format_instant(ms)) == ms


@pytest.mark.parametrize(
    "value", ["2026-11-22", "2026-11-22T12:00:00", "2026-02-30T12:00:00Z", "1969-12-31T23:59:59Z", "x", 5, None]
)
def test_no_times(value: Any) -> None:
    """What has no offset, or is no time, is refused."""
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_instant(value)


def test_a_payload_is_not_changed() -> None:
    """The event's own mapping stays as it came."""
    payload: Mapping[str, Any] = {"receivedAt": "mine"}
    run = Clock([event("e")]).do(ExternalEvent("paid", "", payload))
    assert payload == {"receivedAt": "mine"}
    assert run.outputs("e") == {"receivedAt": format_instant(NOON)}
