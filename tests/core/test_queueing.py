"""Nodes that need leases: asked for, granted, given back, once each, whatever happens meanwhile."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.compilation import compile_plan
from dalang.events import (
    AlarmRang,
    Ask,
    Begin,
    CancelRequested,
    Event,
    GiveBack,
    LeaseAnswered,
    NodeDeferred,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    SkipRequested,
    Start,
    Step,
    Stop,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.queueing import MAX_ASKED
from dalang.run import Run
from dalang.statuses import RUN_ENDS, NodeStatus, RunStatus
from tests.effort import tries

ABOUT = {"id": "r"}
NETWORK = {"type": "NETWORK_ERROR", "message": "away", "retryable": True}


def program(*nodes: dict[str, Any], edges: list[dict[str, Any]] | None = None, **plan: Any) -> Program:
    document = {"name": "p", "nodes": [{"type": "python", "handler": "f", **node} for node in nodes], **plan}
    return Program(json.loads(json.dumps(compile_plan(Plan.model_validate({**document, "edges": edges or []})))))


def begun(of: Program, *limited: str, inputs: dict[str, Any] | None = None) -> Run:
    run = Run(of, inputs or {}, ABOUT)
    run.limited = frozenset(limited)
    run.apply(Begin(), 0)
    return run


def facts(run: Run, kind: str) -> list[dict[str, Any]]:
    return [dict(fact) for fact in run.facts if fact["type"] == kind]


def test_a_node_that_needs_nothing_limited_starts_as_ever() -> None:
    run = begun(program({"nodeId": "a"}), "gpu", "staging-db")
    assert [type(step) for step in run.due(1)] == [Start]


def test_what_is_asked_for_is_what_counts_here() -> None:
    node = {
        "nodeId": "a",
        "requirements": {
            "resources": {"cpuCores": 4},
            "pools": {"openai-tpm": 800, "staging-db": {"key": "${inputs.region}"}, "other": 1},
            "capabilities": ["code", "law"],
            "sticky": True,
        },
    }
    run = begun(program(node), "cpu", "gpu", "openai-tpm", "staging-db", "capability:code", inputs={"region": "eu"})
    (ask,) = run.due(1)
    assert isinstance(ask, Ask)
    amounts = {"cpu": 4, "openai-tpm": 800, "staging-db/eu": 1}
    assert ask.needs == {"amounts": amounts, "capabilities": ["code"], "sticky": True}
    assert run.statuses == [NodeStatus.QUEUED]


def test_default_sizes_are_those_of_the_seeds() -> None:
    of = program(
        {"nodeId": "a"}, {"nodeId": "b", "type": "llm", "inputs": {"prompt": "x"}}, {"nodeId": "c", "type": "noop"}
    )
    steps = begun(of, "cpu", "memory", "*").due(1)
    assert [step.needs["amounts"] for step in steps if isinstance(step, Ask)] == [
        {"cpu": 1, "memory": 512},
        {"cpu": 2, "memory": 2048},
    ]
    assert [step.node_id for step in steps if isinstance(step, Start)] == ["c"], "a noop uses nothing"


def test_it_starts_with_the_lease_and_gives_it_back_at_its_end() -> None:
    run = begun(program({"nodeId": "a"}), "*")
    run.due(1)
    run.apply(LeaseAnswered("a", 1, "WAITING", short=("pool cpu",)), 2)
    assert facts(run, "NODE_QUEUED")[-1]["data"]["short"] == ["pool cpu"]
    run.apply(LeaseAnswered("a", 1, "GRANTED", "ann"), 3)
    (start,) = run.due(4)
    assert isinstance(start, Start)
    assert (start.lease, start.agent, start.attempt) == (1, "ann", 1)
    run.apply(NodeSucceeded("a", {}), 5)
    assert run.due(6) == [GiveBack("a", 1)]
    assert run.status is RunStatus.COMPLETED


def test_a_failed_attempt_gives_back_waits_and_asks_again() -> None:
    run = begun(program({"nodeId": "a", "retryPolicy": {"maxAttempts": 2, "initialDelay": "5s"}}), "*")
    run.due(1)
    run.apply(LeaseAnswered("a", 1, "GRANTED"), 2)
    run.due(3)
    run.apply(NodeFailed("a", NETWORK), 4)
    assert run.due(5) == [GiveBack("a", 1)]
    assert run.statuses == [NodeStatus.RETRYING]
    assert run.next_alarm == 5004
    run.apply(AlarmRang(), 5004)
    (ask,) = run.due(5005)
    assert isinstance(ask, Ask)
    assert ask.ask == 2
    run.apply(LeaseAnswered("a", 2, "GRANTED"), 5006)
    (start,) = run.due(5007)
    assert isinstance(start, Start)
    assert start.attempt == 2
    run.apply(NodeFailed("a", NETWORK), 5008)
    run.due(5009)
    assert run.status is RunStatus.FAILED


@pytest.mark.parametrize(("asked", "alarm"), [(9_000, 9_004), (10, 5_004), (10**9, 3_600_004), ("soon", 5_004)])
def test_who_asks_to_be_left_alone_is(asked: object, alarm: int) -> None:
    """At least as long as the policy says, and an hour at most."""
    run = begun(program({"nodeId": "a", "retryPolicy": {"maxAttempts": 2, "initialDelay": "5s"}}), "*")
    run.due(1)
    run.apply(LeaseAnswered("a", 1, "GRANTED"), 2)
    run.due(3)
    run.apply(NodeFailed("a", {**NETWORK, "retryAfterMs": asked}), 4)
    assert run.next_alarm == alarm


def test_what_can_never_be_granted_fails_the_node() -> None:
    run = begun(program({"nodeId": "a"}), "*")
    run.due(1)
    run.apply(LeaseAnswered("a", 1, "REFUSED", reason="it needs 2 of pool gpu, which has 1 in all"), 2)
    run.due(3)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error["type"] == "RESOURCE_EXHAUSTED"
    assert "pool gpu" in run.error["message"]


def test_a_pause_withdraws_the_ask_and_a_late_grant_is_given_back() -> None:
    run = begun(program({"nodeId": "a"}), "*")
    run.due(1)
    run.apply(PauseRequested(), 2)
    assert run.due(3) == [GiveBack("a", 1)]
    assert run.statuses == [NodeStatus.PENDING]
    run.apply(LeaseAnswered("a", 1, "GRANTED"), 4)
    assert run.due(5) == [GiveBack("a", 1)]
    run.apply(ResumeRequested(), 6)
    (ask,) = run.due(7)
    assert isinstance(ask, Ask)
    assert ask.ask == 2


def test_being_told_twice_changes_nothing() -> None:
    run = begun(program({"nodeId": "a"}), "*")
    run.due(1)
    for _ in range(2):
        run.apply(LeaseAnswered("a", 1, "GRANTED"), 2)
    assert [type(step) for step in run.due(3)] == [Start]
    run.apply(LeaseAnswered("a", 1, "GRANTED"), 4)
    assert run.due(5) == []


def test_a_queued_node_can_be_skipped() -> None:
    run = begun(program({"nodeId": "a"}), "*")
    run.due(1)
    run.apply(SkipRequested("a", {"x": 1}), 2)
    assert run.due(3) == [GiveBack("a", 1)]
    assert run.status is RunStatus.COMPLETED


def test_a_deferred_attempt_is_none() -> None:
    run = begun(program({"nodeId": "a", "retryPolicy": {"maxAttempts": 1}}))
    run.due(1)
    run.apply(NodeDeferred("a", 500, "breaker http https://example.org is OPEN"), 2)
    assert run.statuses == [NodeStatus.QUEUED]
    assert run.due(3) == []
    run.apply(AlarmRang(), 500)
    (start,) = run.due(501)
    assert isinstance(start, Start)
    run.apply(NodeSucceeded("a", {}), 502)
    run.due(503)
    assert run.status is RunStatus.COMPLETED


def test_queued_nodes_hold_no_slot() -> None:
    nodes = [{"nodeId": f"q{at}"} for at in range(60)] + [{"nodeId": "free", "type": "noop"}]
    steps = begun(program(*nodes), "*").due(1)
    assert [step.node_id for step in steps if isinstance(step, Start)] == ["free"]


def test_so_many_ask_at_once_and_the_rest_after_them() -> None:
    run = begun(program(*[{"nodeId": f"n{at}"} for at in range(MAX_ASKED + 5)]), "*")
    asks = [step for step in run.due(1) if isinstance(step, Ask)]
    assert len(asks) == MAX_ASKED
    for ask in asks[:3]:
        run.apply(LeaseAnswered(ask.node_id, 1, "GRANTED"), 2)
    assert sum(isinstance(step, Start) for step in run.due(3)) == 3
    assert sum(isinstance(step, Ask) for step in run.due(4)) == 3


class Desk:
    """Plays a run whose nodes need leases, against so many places, and keeps the books."""

    def __init__(self, rnd: Random) -> None:
        self.rnd = rnd
        count = rnd.randint(1, 7)
        nodes = [
            {
                "nodeId": f"n{at}",
                "type": rnd.choice(["python", "python", "noop"]),
                "retryPolicy": {"maxAttempts": rnd.randint(1, 3), "jitter": rnd.random() < 0.5},
            }
            for at in range(count)
        ]
        edges = [
            {"sourceNodeId": f"n{rnd.randrange(at)}", "targetNodeId": f"n{at}"}
            for at in range(1, count)
            if rnd.random() < 0.6
        ]
        plan = {"failurePolicy": rnd.choice(["failFast", "continue"])}
        if rnd.random() < 0.3:
            plan["maxInFlight"] = rnd.randint(1, 3)
        if rnd.random() < 0.3:
            plan["finally"] = [{"nodeId": "f", "type": "python", "handler": "f"}]
        self.program = program(*nodes, edges=edges, **plan)
        self.run = begun(self.program, "*")
        self.places = rnd.randint(1, 3)
        self.now = 0
        self.waiting: list[tuple[str, int]] = []
        self.held: set[tuple[str, int]] = set()
        self.flying: dict[str, Start] = {}
        self.attempts: dict[str, int] = {}
        self.made: dict[str, int] = {}
        self.told: set[str] = set()

    def happen(self, event: Event) -> None:
        self.now += 1
        if self.run.refusal(event) is None:
            self.run.apply(event, self.now)

    def due(self) -> None:
        self.now += 1
        if self.rnd.random() < 0.3:  # continue as new, or a worker that died
            snapshot = json.loads(json.dumps(self.run.snapshot()))
            counts = {status: count for status, count in self.run.counts.items() if count}
            busy = list(self.run._busy)
            self.run = Run.restore(self.program, {}, snapshot)
            self.run.limited = frozenset("*")
            assert {status: count for status, count in self.run.counts.items() if count} == counts
            assert self.run._busy == busy
        while steps := self.run.due(self.now):  # what was stopped just now may have left the finally nodes to begin
            for step in steps:
                self.take(step)
            assert {self.run.program.ids[node] for node in self.run.halting} <= self.flying.keys()
        self.run.facts.clear()

    def take(self, step: Step) -> None:
        if isinstance(step, Ask):
            self.waiting.append((step.node_id, step.ask))
        elif isinstance(step, GiveBack):
            key = (step.node_id, step.ask)
            self.held.discard(key)
            if key in self.waiting:
                self.waiting.remove(key)
        elif isinstance(step, Stop):
            self.told.add(step.node_id)
            if self.rnd.random() < 0.5:  # else it takes its time, and may end otherwise meanwhile
                self.stop(step.node_id)
        else:
            assert isinstance(step, Start)
            assert step.node_id not in self.flying
            if step.lease is not None:
                assert (step.node_id, step.lease) in self.held, "it began without its lease"
                self.attempts[step.node_id] = self.attempts.get(step.node_id, 0) + 1
                assert step.attempt == self.attempts[step.node_id]
            else:
                assert step.type == "noop"
                assert step.attempt == self.made.get(step.node_id, 0) + 1
            self.flying[step.node_id] = step

    def move(self) -> None:
        """Let one thing happen."""
        rnd, moves = self.rnd, []
        if self.waiting and len(self.held) < self.places:
            moves += [self.grant] * 4
        if self.flying:
            moves += [self.end] * 4
        if self.run.next_alarm is not None:
            moves.append(self.ring)
        if self.run.status is RunStatus.PAUSED:
            moves += [lambda: self.happen(ResumeRequested())] * 2
        elif rnd.random() < 0.1:
            moves.append(lambda: self.happen(PauseRequested(mode=rnd.choice(("drain", "interrupt")))))
        if rnd.random() < 0.05:
            moves.append(lambda: self.happen(CancelRequested()))
        if rnd.random() < 0.1:
            moves.append(lambda: self.happen(SkipRequested(rnd.choice(self.program.ids), {})))
        if self.held and rnd.random() < 0.2:
            node, ask = rnd.choice(sorted(self.held))
            moves.append(lambda: self.happen(LeaseAnswered(node, ask, "GRANTED")))
        assert moves, f"nothing can happen any more: {self.run.status} {self.run.statuses}"
        rnd.choice(moves)()

    def grant(self) -> None:
        node, ask = self.waiting.pop(self.rnd.randrange(len(self.waiting)))
        self.held.add((node, ask))
        if self.rnd.random() < 0.3:
            self.happen(PauseRequested(mode=self.rnd.choice(("drain", "interrupt"))))  # in the same moment
        self.happen(LeaseAnswered(node, ask, "GRANTED"))

    def end(self) -> None:
        node = self.rnd.choice(sorted(self.flying))
        if node in self.told and self.rnd.random() < 0.5:
            self.stop(node)
            return
        step = self.flying.pop(node)
        self.told.discard(node)
        draw = self.rnd.random()
        if draw < 0.4:
            self.happen(NodeSucceeded(node, {}))
        elif draw < 0.55:
            made = step.attempt - 1
            if step.lease is None:  # Temporal repeats: some attempts may have been made
                retry = self.program.retries[self.program.nodes[step.node]["retry"]]
                made = self.made[node] = self.rnd.randint(made, retry["attempts"] - 1)
            else:
                self.attempts[node] -= 1
            self.happen(NodeDeferred(node, self.now + 3, "breaker", attempts=made))
        else:
            self.happen(NodeFailed(node, {**NETWORK, "retryable": self.rnd.random() < 0.7}))

    def stop(self, node: str) -> None:
        stopped = self.flying.pop(node)
        self.told.discard(node)
        if stopped.lease is not None and not self.run.ending:  # interrupted: that attempt does not count
            self.attempts[node] -= 1
        self.happen(NodeStopped(node))

    def ring(self) -> None:
        assert self.run.next_alarm is not None
        self.now = max(self.now, self.run.next_alarm)
        self.happen(AlarmRang())


@settings(max_examples=tries(150), deadline=None)
@given(st.integers(0, 2**32))
def test_every_lease_is_given_back_and_no_node_works_without(seed: int) -> None:
    desk = Desk(Random(seed))
    desk.due()
    for _ in range(2000):
        if desk.run.status in RUN_ENDS:
            break
        desk.move()
        desk.due()
        assert len(desk.held) <= desk.places
    else:
        raise AssertionError("the run does not end")
    desk.due()
    assert (desk.held, desk.waiting, desk.flying) == (set(), [], {})
    for node, made in desk.attempts.items():
        at = desk.program.index[node]
        assert made <= desk.program.retries[desk.program.nodes[at]["retry"]]["attempts"]
