"""Segments: what one worker does of connected nodes comes out as if each had been begun and ended on its own."""

from __future__ import annotations

import contextlib
import itertools
import json
from random import Random
from typing import Any

import pytest

from dalang.compilation import compile_plan
from dalang.events import (
    AlarmRang,
    Begin,
    CancelRequested,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    RunSegment,
    SegmentEnded,
    SegmentEntry,
    SkipRequested,
    Start,
    Step,
    Stop,
    StopSegment,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.segments import Ahead
from dalang.statuses import NODE_ENDS, RUN_ENDS, ImpossibleMove, RunStatus
from tests.core.driven import edge, node
from tests.core.random_runs import chance, random_outputs, random_plan
from tests.effort import tries

INPUTS = {"flag": True, "zero": 0}
ABOUT = {"id": "r1"}
RAISING = ("outputs.x > 1", "1 / inputs.zero == 1", "inputs.zero", "error.code == 7")


class World:
    """Handlers whose outcomes are a matter of the node and the attempt alone."""

    def __init__(self, rnd: Random, plan: Plan) -> None:
        self.outputs = {one.node_id: random_outputs(rnd) for one in plan.all_nodes()}
        self.failures = {one.node_id: self._failure(rnd) for one in plan.all_nodes()}
        self.calls: list[tuple[str, int, str]] = []

    @staticmethod
    def _failure(rnd: Random) -> tuple[int, dict[str, Any]]:
        """How many attempts fail, and with what."""
        kind = rnd.choice(("TIMEOUT", "TOOL_ERROR"))
        error = {"type": kind, "message": "m", "retryable": kind == "TIMEOUT"}
        return (rnd.randint(1, 4) if chance(rnd, 25) else 0), error

    def attempt(self, start: Start, number: int) -> dict[str, Any] | None:
        """Make an attempt; return its error."""
        self.calls.append((start.node_id, number, json.dumps(start.inputs, sort_keys=True)))
        failing, error = self.failures[start.node_id]
        return {**error, "attempt": number, "maxAttempts": 3} if number <= failing else None

    def whole(self, start: Start) -> NodeSucceeded | NodeFailed:
        """Make all the attempts of an activity."""
        for number in range(start.attempt, 4):
            error = self.attempt(start, number)
            if error is None:
                return NodeSucceeded(start.node_id, self.outputs[start.node_id], number)
            if not error["retryable"]:
                break
        return NodeFailed(start.node_id, error)

    def segment(self, rnd: Random, step: RunSegment, at: int) -> SegmentEnded:
        """Be the worker of a segment, which may stop anywhere."""
        ahead = Ahead(json.loads(json.dumps(step.part)))
        entries: list[SegmentEntry] = []
        alone: list[str] = []
        if chance(rnd, 5):
            return SegmentEnded(step.number, lost=True)
        while not chance(rnd, 5):
            start = ahead.next(at)
            if start is None:
                break
            if chance(rnd, 5):  # it wants a person
                alone.append(start.node_id)
                ahead.leave(start.node)
                continue
            error = self.attempt(start, 1)
            began, at = at + 1, at + 2
            if error is None:
                outputs = self.outputs[start.node_id]
                entries.append(SegmentEntry(began, at, NodeSucceeded(start.node_id, outputs)))
                ahead.succeed(start.node_id, outputs, at)
            else:
                entries.append(SegmentEntry(began, at, NodeFailed(start.node_id, error)))
                ahead.leave(start.node)
        return SegmentEnded(step.number, entries, alone)


class Play:
    """A run that is played to its end, in a random order."""

    def __init__(self, rnd: Random, plan: Plan, *, light: bool, troubles: int = 0) -> None:
        document = compile_plan(plan)
        names = {one.node_id for one in plan.nodes if one.type == "noop" and chance(Random(one.node_id), 80)}
        if light:
            for one in document["nodes"]:
                if one["id"] in names:
                    one["light"] = True
        self.rnd, self.troubles = rnd, troubles
        self.world = World(Random(str(plan.digest())), plan)
        self.run = Run(Program(document), INPUTS, ABOUT)
        self.flying: list[Start | RunSegment] = []
        self.at = 0
        self.segments = 0

    def play(self) -> Run:
        run = self.run
        run.apply(Begin(), self.at)
        for _ in range(10_000):
            self.begin()
            if run.status in RUN_ENDS:
                return run
            if self.troubles and chance(self.rnd, self.troubles):
                self.trouble()
            elif self.flying:
                self.end(self.flying.pop(self.rnd.randrange(len(self.flying))))
            elif run.next_alarm is not None:
                self.at = max(self.at, run.next_alarm)
                run.apply(AlarmRang(), self.at)
            else:
                run.apply(ResumeRequested(), self.at)
        raise AssertionError("it does not end")

    def begin(self) -> None:
        while steps := self.run.due(self.at):
            self.take(steps)
        self.check()

    def take(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Start | RunSegment):
                self.flying.append(step)
                self.segments += isinstance(step, RunSegment)
            elif isinstance(step, Stop):
                (start,) = [one for one in self.flying if isinstance(one, Start) and one.node_id == step.node_id]
                self.flying.remove(start)
                self.run.apply(NodeStopped(step.node_id), self.at)
            else:
                assert isinstance(step, StopSegment)

    def end(self, step: Start | RunSegment) -> None:
        self.at += 10
        if isinstance(step, RunSegment):
            self.run.apply(self.world.segment(self.rnd, step, self.at - 9), self.at)
        else:
            self.run.apply(self.world.whole(step), self.at)

    def trouble(self) -> None:
        """An operator pauses, resumes, cancels or skips."""
        events = (
            PauseRequested(),
            ResumeRequested(),
            CancelRequested(),
            SkipRequested(self.rnd.choice(self.run.program.ids)),
        )
        with contextlib.suppress(ImpossibleMove):
            self.run.apply(self.rnd.choice(events), self.at)

    def check(self) -> None:
        """The indexes are what they are derived from."""
        run = self.run
        busy = [0] * len(run._busy)
        for number, status in enumerate(run.statuses):
            busy[run._slots[number]] += status in run._holds
        busy[-1] += len(run._claimed)
        assert run._busy == busy
        assert run._claimed == {number for claim in run.segments.values() for number in claim.nodes}
        held = {number for heap in run._ready for _, _, number in heap}
        assert not held & run._claimed


def confluent(plan: Plan) -> Plan:
    """Return a plan like this one whose end does not depend on who is faster."""
    document = plan.wire()
    for one in (*document["nodes"], *document.get("finally", ())):
        if one.get("join", "allLive") not in ("all", "allDone"):
            one["join"] = "allLive"
        if "nodes." in json.dumps(one.get("inputs", {})):
            del one["inputs"]
    for one in document.get("edges", ()):
        # Of an edge that fails its target and one that skips it, the first decides.
        if "nodes." in one.get("condition", "") or one.get("condition") in RAISING:
            del one["condition"]
    document.pop("outputs", None)
    return Plan.model_validate({**document, "failurePolicy": "continue", "maxInFlight": None})


@pytest.mark.parametrize("part", range(4))
def test_a_run_ends_the_same_with_and_without_segments(part: int) -> None:
    """Statuses, inputs, outputs, errors, attempts: all of it but the times."""
    segments = 0
    for seed in range(part, tries(150), 4):
        rnd = Random(seed)
        plan = confluent(random_plan(rnd, 16))
        plain, light = Play(rnd, plan, light=False), Play(rnd, plan, light=True)
        one, other = plain.play(), light.play()
        segments += light.segments
        assert (one.status, one.statuses, one.edges) == (other.status, other.statuses, other.edges), seed
        assert ends(one) == ends(other), seed
        # A lost segment, or a person wanted, repeats calls; nothing else is called that was not, or otherwise.
        assert set(plain.world.calls) == set(light.world.calls), seed
    assert segments


@pytest.mark.parametrize("part", range(4))
def test_what_a_worker_did_is_what_is_recorded(part: int) -> None:
    """Whatever operators do meanwhile, and however the plan races: the same inputs, and nothing out of turn."""
    for seed in range(part, tries(240), 4):
        rnd = Random(seed)
        plan = random_plan(rnd, 16)
        play = Play(rnd, plan.model_copy(update={"max_in_flight": None}), light=True, troubles=10)
        run = play.play()
        assert run.status in RUN_ENDS
        assert all(status in NODE_ENDS for status in run.statuses)
        assert not [fact for fact in run.facts if fact["type"] == "REQUEST_REJECTED"], seed
        called = {(name, inputs) for name, _, inputs in play.world.calls}
        begun = [fact for fact in run.facts if fact["type"] == "NODE_STARTED"]
        recorded = {(fact["nodeId"], json.dumps(fact["body"]["inputs"], sort_keys=True)) for fact in begun}
        lost = {name for name, _ in called if name in {run.program.ids[one] for one in run.alone}}
        assert {one for one in called if one[0] not in lost} <= recorded, seed
        assert [fact["seq"] for fact in run.facts] == list(range(1, run.seq + 1))


def ends(run: Run) -> list[Any]:
    """Return how nodes ended, by node."""
    kinds = ("NODE_COMPLETED", "NODE_ERROR", "NODE_FAILED", "NODE_SKIPPED", "NODE_CANCELLED")
    found = [
        (fact["nodeId"], fact["type"], json.dumps([fact["data"], fact.get("body")], sort_keys=True))
        for fact in run.facts
        if fact["type"] in kinds
    ]
    return sorted(found)


def whole(nodes: list[dict[str, Any]], edges: list[dict[str, Any]]) -> Run:
    document = compile_plan(Plan.model_validate({"name": "p", "nodes": nodes, "edges": edges}))
    for one in document["nodes"]:
        one["light"] = True
    run = Run(Program(document), {}, ABOUT)
    run.apply(Begin(), 0)
    return run


def test_a_chain_is_one_segment() -> None:
    """All of it that can be known is run forward at once."""
    names = [f"n{number}" for number in range(20)]
    run = whole([node(name) for name in names], [edge(*pair) for pair in itertools.pairwise(names)])
    (step,) = run.due(0)
    assert isinstance(step, RunSegment)
    assert list(step.nodes) == names
    ahead, entries = Ahead(step.part), []
    while (start := ahead.next(0)) is not None:
        entries.append(SegmentEntry(5, 7, NodeSucceeded(start.node_id, {})))
        ahead.succeed(start.node_id, {}, 0)
    run.apply(SegmentEnded(step.number, entries), 100)
    assert run.status is RunStatus.COMPLETED
    started = [fact for fact in run.facts if fact["type"] == "NODE_STARTED"]
    assert [fact["nodeId"] for fact in started] == names
    assert {fact["at"] for fact in started[1:]} == {7}, "an entry is never before the one that came first"


def test_claimed_nodes_are_nobody_elses() -> None:
    """They are neither skipped nor run twice; a run that is cancelled takes what was done and cancels the rest."""
    run = whole([node("a"), node("b"), node("c")], [edge("a", "b"), edge("b", "c")])
    (step,) = run.due(0)
    assert isinstance(step, RunSegment)
    with pytest.raises(ImpossibleMove, match="run together"):
        run.apply(SkipRequested("b"), 1)
    run.apply(CancelRequested(), 2)
    assert run.due(2) == [StopSegment(step.number)]
    assert run.due(3) == []
    run.apply(SegmentEnded(step.number, [SegmentEntry(1, 2, NodeSucceeded("a", {"x": 1}))]), 4)
    assert [str(status) for status in run.statuses] == ["SUCCESS", "CANCELLED", "CANCELLED"]
    run.due(4)
    assert run.status is RunStatus.CANCELLED


def test_what_was_not_its_turn_is_recorded_and_ignored() -> None:
    """A worker that answers nonsense harms nothing."""
    run = whole([node("a"), node("b"), node("c")], [edge("a", "b")])
    (step,) = run.due(0)
    nonsense = [SegmentEntry(1, 2, NodeSucceeded("b", {})), SegmentEntry(1, 2, NodeSucceeded("nobody", {}))]
    run.apply(SegmentEnded(step.number, nonsense), 4)
    assert len([fact for fact in run.facts if fact["type"] == "REQUEST_REJECTED"]) == 2
    assert [start.node_id for start in run.due(5) if isinstance(start, Start)] == ["a", "c"]
    with pytest.raises(ImpossibleMove, match="segment 1"):
        run.apply(SegmentEnded(step.number), 6)


@pytest.mark.parametrize(("engine", "again"), [(8, RunSegment), (9, Start)])
def test_nodes_of_a_segment_that_brought_nothing_go_alone(engine: int, again: type[Step]) -> None:
    """Given out in the next one, they might be left again, and so on for ever; a run that began before does that."""
    run = whole([node("a"), node("b")], [edge("a", "b")])
    run.engine = engine
    (step,) = run.due(0)
    assert isinstance(step, RunSegment)
    run.apply(SegmentEnded(step.number), 1)
    (then,) = run.due(1)
    assert isinstance(then, again)
