"""Handlers that ask a person, in the state machine: the same work goes on with the answer, or does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.errors import ErrorType
from dalang.events import (
    AlarmRang,
    Ask,
    Begin,
    CancelRequested,
    Event,
    LeaseAnswered,
    NodeFailed,
    NodeSucceeded,
    PauseRequested,
    PersonAsked,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    Start,
    Stop,
    TaskDecided,
)
from dalang.human_task import OpenTask, checked_question
from dalang.run import Run
from dalang.statuses import ImpossibleMove, NodeStatus, RunStatus, UnacceptableContent
from dalang.wire import Checkpoint, Question
from tests.core.driven import edge, node, program

ABOUT = {"id": "7b0c7f04-3a39-4c87-a3f2-3b1c3f3a0a11", "createdBy": "sue"}
REGION: Question = {
    "text": "Which region?\nThe cheap one is full.",
    "form": {"type": "object", "properties": {"region": {"enum": ["eu", "us"]}, "n": {"default": 2}},
             "required": ["region"]},
    "context": {"seen": ["eu"]},
    "group": "ops",
}  # fmt: skip
LEFT: Checkpoint = {"begun": 1, "attempt": 1, "number": 1, "at": 2, "size": 3, "state": {"task": "t"}}


class Asking:
    """A run of node ``a``, and ``b`` after it, taken down and restored after each event; ``starts`` are of ``a``."""

    def __init__(self, *more: dict[str, Any], **plan: Any) -> None:
        self.run = Run(program([node("a"), node("b"), *more], [edge("a", "b")], **plan), {"x": 1}, ABOUT)
        self.at = 0
        self.starts: list[Start] = []
        self.stops: list[str] = []
        self.facts: list[Any] = []
        self.do(Begin())

    def do(self, *events: Event) -> Asking:
        for event in events:
            self.run.apply(event, self.at)
            for step in self.run.due(self.at):
                if isinstance(step, Start) and step.node_id == "a":
                    self.starts.append(step)
                elif isinstance(step, Stop):
                    self.stops.append(step.node_id)
            self.facts += self.run.facts
            self.run.facts = []
            self.run = Run.restore(self.run.program, {}, json.loads(json.dumps(self.run.snapshot())))
        return self

    @property
    def task(self) -> OpenTask:
        (task,) = self.run.tasks.values()
        return task

    def answer(self, action: str = "answer", **more: Any) -> Asking:
        return self.do(TaskDecided(self.task.id, action, "ann", **more))

    def status(self, name: str = "a") -> NodeStatus:
        return self.run.statuses[self.run.program.index[name]]

    def kinds(self) -> list[str]:
        return [fact["type"] for fact in self.facts if fact.get("nodeId") == "a"]


def test_the_same_work_goes_on_with_the_answer() -> None:
    """The same inputs and generation, the checkpoint and the answer; no attempt is counted, the run awaited people."""
    asking = Asking().do(PersonAsked("a", REGION, 0, LEFT, {"usage": {"tokens": 5}}))
    assert (asking.status(), asking.run.status) == (NodeStatus.AWAITING_HITL, RunStatus.AWAITING_HITL)
    created = next(fact for fact in asking.facts if fact["type"] == "HITL_TASK_CREATED")
    assert created["data"].items() >= {"kind": "input", "group": "ops", "actions": ["answer", "reject"]}.items()
    assert created["data"]["usage"] == {"tokens": 5} == {"tokens": asking.run.spent["tokens"]}
    assert created["body"]["title"] == "Which region?"
    assert created["body"]["context"] == {"seen": ["eu"]}
    asking.answer(values={"region": "eu"}, notes="it has room")
    first, second = asking.starts
    assert second.answer == {"task": created["data"]["task"], "values": {"region": "eu", "n": 2}, "by": "ann",
                             "notes": "it has room"}  # fmt: skip
    assert (second.inputs, second.generation, second.attempt) == (first.inputs, first.generation, 1)
    assert (second.starts, second.checkpoint) == (1, LEFT)
    asking.do(NodeSucceeded("a", {"ok": True}), NodeSucceeded("b", {}))
    assert asking.run.status is RunStatus.COMPLETED
    assert asking.run.replies == {}
    assert asking.kinds() == [
        "NODE_STARTED", "HITL_TASK_CREATED", "HITL_TASK_COMPLETED", "NODE_DEQUEUED", "NODE_STARTED", "NODE_COMPLETED"
    ]  # fmt: skip


def test_failed_attempts_before_a_question_are_counted_on() -> None:
    """The third attempt asked, so the third one goes on."""
    asking = Asking().do(PersonAsked("a", REGION, 2)).answer(values={"region": "us"})
    assert asking.starts[-1].attempt == 3


def test_a_second_question_replaces_the_answer() -> None:
    """Each start finds the answer to the last question, also after a failure that an operator has retried."""
    asking = Asking(failurePolicy="pause").do(PersonAsked("a", REGION)).answer(values={"region": "us"})
    asking.do(PersonAsked("a", {"text": "Sure?"})).answer(values={"sure": True})
    assert asking.starts[-1].answer is not None
    assert asking.starts[-1].answer["values"] == {"sure": True}
    asking.do(NodeFailed("a", {"type": "TOOL_ERROR"}), RetryRequested("a"))
    assert asking.starts[-1].answer is not None
    asking.do(NodeFailed("a", {"type": "TOOL_ERROR"}), RetryRequested("a", {"other": 1}))
    assert asking.starts[-1].answer is None


def test_who_declines_fails_the_node() -> None:
    """POLICY_VIOLATION, not retryable, by whom."""
    asking = Asking().do(PersonAsked("a", REGION)).answer("reject", notes="ask somebody else")
    assert asking.run.error is not None
    assert asking.run.error["type"] == ErrorType.POLICY_VIOLATION
    assert asking.run.error["details"] == {"decidedBy": "ann", "notes": "ask somebody else"}
    assert asking.run.status is RunStatus.FAILED


def test_values_must_fit_the_form() -> None:
    """What the form does not take is refused, and so are other actions and outputs."""
    asking = Asking().do(PersonAsked("a", REGION))
    for event in (
        TaskDecided(asking.task.id, "answer", "ann", values={"region": "moon"}),
        TaskDecided(asking.task.id, "answer", "ann"),
        TaskDecided(asking.task.id, "answer", "ann", values={"region": "eu"}, outputs={}),
        TaskDecided(asking.task.id, "approve", "ann", values={"region": "eu"}),
    ):
        assert isinstance(asking.run.refusal(event, 0), UnacceptableContent)


def test_a_question_is_due() -> None:
    """After its time the node fails with TIMEOUT."""
    asking = Asking().do(PersonAsked("a", {"text": "Now?", "dueMs": 50}))
    assert asking.run.next_alarm == 50
    asking.at = 50
    asking.do(AlarmRang())
    assert asking.run.error is not None
    assert asking.run.error["type"] == ErrorType.TIMEOUT
    assert asking.run.next_alarm is None


def test_cancel_ends_the_question() -> None:
    """Nobody is told to stop, since nobody works on it; a question that comes while the run ends is not asked."""
    asking = Asking().do(PersonAsked("a", REGION), CancelRequested("op"))
    assert (asking.run.status, asking.run.tasks, asking.stops) == (RunStatus.CANCELLED, {}, [])
    late = Asking().do(CancelRequested("op"), PersonAsked("a", REGION))
    assert (late.run.status, late.run.tasks) == (RunStatus.CANCELLED, {})


def test_an_operator_skips_who_waits_for_an_answer() -> None:
    """The task is withdrawn, and the outputs stand in."""
    asking = Asking().do(PersonAsked("a", REGION), SkipRequested("a", {"ok": 1}, "op"))
    assert (asking.status(), asking.status("b")) == (NodeStatus.SKIPPED, NodeStatus.RUNNING)
    assert "HITL_TASK_CANCELLED" in asking.kinds()


def test_a_pause_leaves_it_and_the_answer_waits_for_the_run() -> None:
    """A pause that interrupts stops nobody; answered meanwhile, the node starts when the run goes on."""
    asking = Asking().do(PersonAsked("a", REGION), PauseRequested(mode="interrupt"))
    assert asking.stops == []
    asking.answer(values={"region": "eu"})
    assert len(asking.starts) == 1
    asking.do(ResumeRequested())
    assert asking.starts[-1].answer is not None


def test_who_waits_for_an_answer_holds_no_slot() -> None:
    """With maxInFlight 1 another node works meanwhile."""
    asking = Asking(node("c"), maxInFlight=1)
    assert asking.status("c") is NodeStatus.PENDING
    asking.do(PersonAsked("a", REGION))
    assert asking.status("c") is NodeStatus.RUNNING
    asking.answer(values={"region": "eu"})
    assert asking.status() is NodeStatus.PENDING
    asking.do(NodeSucceeded("c", {}))
    assert asking.status() is NodeStatus.RUNNING


def test_the_answer_goes_to_the_agent_that_asked() -> None:
    """It is asked for by its name; when the attempt that has the answer fails, anybody may try."""
    plan: dict[str, Any] = {"type": "agent", "requirements": {"capabilities": ["x"]}}
    run = Run(program([node("a", **plan)]), {}, ABOUT)
    run.limited = frozenset({"capability:x"})
    asks: list[Ask] = []

    def do(event: Event, at: int = 0) -> None:
        nonlocal run
        run.apply(event, at)
        asks.extend(step for step in run.due(at) if isinstance(step, Ask))
        limited, run = run.limited, Run.restore(run.program, {}, json.loads(json.dumps(run.snapshot())))
        run.limited = limited

    do(Begin())
    do(LeaseAnswered("a", 1, "GRANTED", "ann"))
    do(PersonAsked("a", {"text": "Now?"}))
    do(TaskDecided(next(iter(run.tasks)), "answer", "kim"))
    do(LeaseAnswered("a", 2, "GRANTED", "ann"))
    do(NodeFailed("a", {"type": "NETWORK_ERROR", "retryable": True}))
    do(AlarmRang(), 10_000)
    assert [list(ask.needs["capabilities"]) for ask in asks] == [["x"], ["x", "ann"], ["x"]]


def test_a_handler_that_asks_for_ever_is_stopped() -> None:
    """After 100 tasks it fails with RESOURCE_EXHAUSTED."""
    asking = Asking()
    for _ in range(100):
        asking.do(PersonAsked("a", {"text": "Again?"})).answer()
    asking.do(PersonAsked("a", {"text": "Again?"}))
    assert asking.run.error is not None
    assert asking.run.error["type"] == ErrorType.RESOURCE_EXHAUSTED


def test_a_node_that_is_not_at_work_asks_nothing() -> None:
    """Not twice, and not after its end."""
    asking = Asking().do(PersonAsked("a", REGION))
    for name in ("a", "b", "nobody"):
        with pytest.raises(ImpossibleMove):
            asking.do(PersonAsked(name, REGION))


@pytest.mark.parametrize(
    "value",
    [None, {}, {"text": ""}, {"text": 1}, {"text": "x", "form": []}, {"text": "x", "group": ""}, {"text": "x\ud800"},
     {"text": "x", "dueMs": 0}, {"text": "x", "dueMs": True}, {"text": "x", "context": {"a": "b" * 70_000}}],
)  # fmt: skip
def test_what_is_no_question_is_refused(value: Any) -> None:
    """Whatever a worker of others sends."""
    with pytest.raises(ValueError, match=r"\w"):
        checked_question(value)
