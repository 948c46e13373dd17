"""Pauses that interrupt, one by one: what stops, what starts again, and what does neither."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.compilation import compile_plan
from dalang.events import (
    AlarmRang,
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    Start,
    Step,
    Stop,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.statuses import ImpossibleMove, NodeStatus
from dalang.validation import validate
from dalang.wire import Checkpoint
from tests.core.driven import edge, node, program

INTERRUPT = PauseRequested("op", "deploy", "interrupt")
LEFT: Checkpoint = {"begun": 1, "attempt": 1, "number": 2, "at": 3, "size": 7, "state": {"n": 1}}
FAILURE = {"type": "TOOL_ERROR", "message": "broken", "attempt": 1}


def work(node_id: str, **more: Any) -> dict[str, Any]:
    return node(node_id, type="python", handler="f", **more)


class Watched:
    """A run whose steps are all kept."""

    def __init__(self, *nodes: dict[str, Any], edges: list[dict[str, Any]] | None = None, **more: Any) -> None:
        self.program = program(list(nodes), edges, **more)
        self.run = Run(self.program, {}, {"id": "r1"})
        self.at = 0

    def do(self, *events: Event, at: int | None = None) -> list[Step]:
        self.at = self.at if at is None else at
        for event in events:
            self.run.apply(event, self.at)
        return self.run.due(self.at)

    def restored(self) -> Run:
        snapshot = json.loads(json.dumps(self.run.snapshot()))
        return Run.restore(self.program, {}, snapshot)

    def facts(self, kind: str) -> list[dict[str, Any]]:
        return [dict(fact["data"]) for fact in self.run.facts if fact["type"] == kind]


def begun(*nodes: dict[str, Any], **more: Any) -> Watched:
    watched = Watched(*nodes, **more)
    watched.do(Begin())
    return watched


def test_what_is_in_flight_goes_back_and_starts_again_as_the_same_work() -> None:
    """Same inputs, same generation, from its checkpoint; the fact says PENDING."""
    run = begun(work("a", inputs={"x": 1}))
    assert run.do(INTERRUPT) == [Stop("a", interrupt=True)]
    assert run.do(NodeStopped("a", checkpoint=LEFT)) == []
    assert run.run.statuses == [NodeStatus.PENDING]
    assert run.facts("NODE_INTERRUPTED") == [{"status": "PENDING", "checkpointBytes": 7}]
    assert run.facts("PLAN_PAUSED")[0]["mode"] == "interrupt"
    (start,) = run.do(ResumeRequested())
    assert start == Start(0, "a", "python", {"x": 1}, 0, starts=1, checkpoint=LEFT)
    run.do(NodeSucceeded("a", {}))
    assert str(run.run.status) == "COMPLETED"


def test_what_cannot_be_stopped_safely_drains() -> None:
    """http ends by itself and so does what says so; a node may also say that it can be interrupted."""
    http = {"type": "http", "inputs": {"url": "http://x"}}
    run = begun(
        node("h", **http), node("i", **http, interruptible=True), work("d", interruptible=False), work("p"), node("n")
    )
    assert run.do(INTERRUPT) == [Stop("i", interrupt=True), Stop("p", interrupt=True)]


def test_sleeps_keep_their_wake_time() -> None:
    """Nobody tells them anything; they end while the run is paused."""
    run = begun(node("s", type="sleep", inputs={"seconds": 1}), node("t", type="timer", inputs={"duration": "1s"}))
    assert run.do(INTERRUPT) == []
    run.do(NodeSucceeded("s", {}))
    assert run.run.statuses[0] is NodeStatus.SUCCESS


@pytest.mark.parametrize("end", [NodeSucceeded("a", {}), NodeFailed("a", FAILURE)])
def test_a_node_that_ends_in_the_same_moment_has_ended(end: Event) -> None:
    """Its success or failure counts, and it does not start again."""
    run = begun(work("a"), node("b"), edges=[edge("a", "b")], failurePolicy="continue")
    run.do(INTERRUPT)
    run.do(end)
    assert not run.run.halting
    assert [step for step in run.do(ResumeRequested()) if isinstance(step, Start) and step.node_id == "a"] == []


def test_an_attempt_that_the_interrupt_cut_short_is_not_the_end() -> None:
    """Temporal would have repeated it: it starts again with the run."""
    run = begun(work("a"))
    run.do(INTERRUPT)
    run.do(NodeFailed("a", FAILURE, checkpoint=LEFT, cut_short=True))
    (start,) = run.do(ResumeRequested())
    assert isinstance(start, Start)
    assert (start.starts, start.checkpoint) == (1, LEFT)


def test_one_that_is_cut_short_while_the_run_ends_has_failed() -> None:
    """Nothing will repeat it."""
    run = begun(work("a"))
    run.do(INTERRUPT, CancelRequested())
    run.do(NodeFailed("a", FAILURE, cut_short=True))
    assert run.run.statuses == [NodeStatus.FAILED]


def test_nothing_starts_twice_when_the_run_is_resumed_before_all_has_stopped() -> None:
    """The second attempt waits for the end of the first, whatever operators do meanwhile."""
    run = begun(work("a"))
    run.do(INTERRUPT)
    assert run.do(ResumeRequested()) == []
    assert run.do(INTERRUPT) == [], "it is told only once"
    assert run.do(ResumeRequested()) == []
    (start,) = run.do(NodeStopped("a"))
    assert isinstance(start, Start)


def test_a_cancel_while_nodes_are_stopping_ends_them() -> None:
    """They are not told again, and do not start again."""
    run = begun(work("a"), work("b"))
    assert len(run.do(INTERRUPT)) == 2
    run.do(NodeStopped("b", checkpoint=LEFT))
    assert run.do(CancelRequested("op", "enough")) == []
    run.do(NodeStopped("a"))
    assert run.run.statuses == [NodeStatus.CANCELLED, NodeStatus.CANCELLED]
    assert str(run.run.status) == "CANCELLED"
    assert not run.run.checkpoints


def test_a_run_that_drains_can_still_be_interrupted() -> None:
    """A pause that takes too long is asked for again, with interrupt; the other way round it is refused."""
    run = begun(work("a"))
    assert run.do(PauseRequested()) == []
    assert run.do(INTERRUPT) == [Stop("a", interrupt=True)]
    assert [fact.get("mode") for fact in run.facts("PLAN_PAUSED")] == [None, "interrupt"]
    assert run.run.refusal(PauseRequested()) is not None
    assert run.run.pause_mode == "interrupt"
    run.do(ResumeRequested())
    assert run.run.pause_mode is None


def test_a_handler_that_does_not_stop_is_waited_for_until_its_deadline() -> None:
    """Resumed before that, the node starts when nobody can be at work on it any more; also after continue-as-new."""
    run = begun(work("a"))
    run.do(INTERRUPT)
    run.do(NodeStopped("a", until=5_000), at=1_000)
    assert run.do(ResumeRequested()) == []
    assert run.run.next_alarm == 5_000
    restored = run.restored()
    assert restored.due(1_000) == []
    for each in (run.run, restored):
        each.apply(AlarmRang(), 5_000)
        (start,) = each.due(5_000)
        assert isinstance(start, Start)


@pytest.mark.parametrize("event", [CancelRequested(), SkipRequested("a")])
def test_nobody_waits_for_a_deadline_in_vain(event: Event) -> None:
    """A node that ends meanwhile leaves no alarm."""
    run = begun(work("a"))
    run.do(INTERRUPT)
    run.do(NodeStopped("a", until=5_000), at=1_000)
    run.do(event)
    assert run.run.next_alarm is None
    assert not run.run.starts


def test_a_node_that_waits_for_a_decision_keeps_its_checkpoint() -> None:
    """A retry with the same inputs goes on from it; one with others is other work and begins anew."""
    for inputs, expected in ((None, (0, 1, LEFT)), ({"x": 2}, (1, 0, None))):
        run = begun(work("a"), failurePolicy="pause")
        run.do(NodeFailed("a", FAILURE, checkpoint=LEFT))
        (start,) = run.do(RetryRequested("a", inputs))
        assert isinstance(start, Start)
        assert (start.generation, start.starts, start.checkpoint) == expected


def test_a_condition_that_fails_late_does_not_fail_an_interrupted_node() -> None:
    """It has started: as for a node in flight, the record shows it and nothing follows."""
    run = begun(
        work("a"),
        node("b"),
        work("c", join="any"),
        edges=[edge("a", "c", condition="outputs.missing > 1"), edge("b", "c")],
    )
    run.do(NodeSucceeded("b", {}))
    run.do(INTERRUPT)
    run.do(NodeStopped("c"), NodeSucceeded("a", {}))
    assert run.run.statuses[2] is NodeStatus.PENDING
    assert len(run.facts("CONDITION_FAILED")) == 1


def test_nobody_stops_a_node_that_was_not_told() -> None:
    """NodeStopped out of nowhere is refused."""
    run = begun(work("a"))
    with pytest.raises(ImpossibleMove, match="was not told to stop"):
        run.do(NodeStopped("a"))
    run.do(PauseRequested())
    with pytest.raises(ImpossibleMove, match="was not told to stop"):
        run.do(NodeStopped("a"))


@pytest.mark.parametrize("kind", ["sleep", "timer", "event"])
def test_what_only_waits_cannot_be_interruptible(kind: str) -> None:
    """The plan is refused, with the place."""
    inputs = {"sleep": {"seconds": 1}, "timer": {"duration": "1s"}, "event": {"name": "e"}}[kind]
    plan = {"name": "p", "nodes": [{"nodeId": "a", "type": kind, "inputs": inputs, "interruptible": True}]}
    _refused(plan)


def test_who_waits_for_a_callback_is_not_interrupted() -> None:
    """Its question is asked once, whatever asks it; the plan cannot say otherwise."""
    asking = work("a", callback={})
    assert begun(asking).do(INTERRUPT) == []
    _refused({"name": "p", "nodes": [{"nodeId": "a", "type": "agent", "callback": {}, "interruptible": True}]})


def _refused(plan: dict[str, Any]) -> None:
    report = validate(plan)
    assert [(one.code, one.pointer) for one in report.errors] == [("NOT_INTERRUPTIBLE", "/nodes/0/interruptible")]


def test_a_plan_says_whether_its_nodes_can_be_interrupted() -> None:
    """Only what the plan says stands in the program; the rest goes by the type."""
    plan = Plan.model_validate({"name": "p", "nodes": [work("a"), work("b", interruptible=False)]})
    made = Program(compile_plan(plan))
    assert [made.is_interruptible(number) for number in range(2)] == [True, False]
    assert ["interruptible" in document for document in made.nodes] == [False, True]
