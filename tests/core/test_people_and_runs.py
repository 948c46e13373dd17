"""What human tasks do to the run around them, and tasks about failures."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dalang.events import (
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    TimedOut,
)
from dalang.human_task import task_id
from dalang.run import Run
from tests.core.driven import edge, node, program
from tests.core.human_runs import ABOUT, HOUR, Asked, human, review

# -- the run -------------------------------------------------------------------------------------------------------


def test_parallel_tasks_let_the_others_go_on() -> None:
    """The run awaits people only when nothing else moves; a decision starts nothing again."""
    asked = Asked([human("h1"), human("h2"), node("a"), node("b")], [edge("a", "b"), edge("h1", "b")])
    assert asked.end == "RUNNING"
    asked.do(NodeSucceeded("a", {}))
    assert asked.end == "AWAITING_HITL"
    asked.decide("approve", node_id="h1")
    assert asked.end == "RUNNING"
    assert asked.types("a") == ["NODE_STARTED", "NODE_COMPLETED"]
    asked.do(NodeSucceeded("b", {}))
    assert asked.end == "AWAITING_HITL"
    asked.decide("approve", node_id="h2")
    assert asked.end == "COMPLETED"


def test_people_hold_no_slot() -> None:
    """Not even where the plan is sequential."""
    asked = Asked([human("h1"), human("h2"), node("a"), node("b")], maxInFlight=1)
    assert (len(asked.run.tasks), list(asked.inputs)) == (2, ["a"])


def test_pause_and_resume_while_people_are_asked() -> None:
    """Tasks may be decided while the run is paused; resume never decides one."""
    asked = review().do(PauseRequested())
    assert asked.end == "PAUSED"
    asked.do(ResumeRequested())
    assert asked.end == "AWAITING_HITL"
    assert "is AWAITING_HITL" in asked.refusal(ResumeRequested())
    asked.do(PauseRequested()).decide("approve")
    assert (asked.end, asked.status("deploy")) == ("PAUSED", "PENDING")
    asked.do(ResumeRequested())
    assert "deploy" in asked.inputs


@pytest.mark.parametrize("end", [CancelRequested("op", "enough"), TimedOut()])
def test_the_end_cancels_open_tasks(end: Event) -> None:
    """A cancel and the run's timeout close tasks before the end, and finally nodes run."""
    asked = Asked([human("h1"), human("h2", due="1h")], **{"finally": [node("f")]})
    asked.do(end)
    kinds = [fact["type"] for fact in asked.facts]
    assert kinds.count("HITL_TASK_CANCELLED") == 2
    assert asked.run.tasks == {}
    assert asked.run.next_alarm is None
    asked.do(NodeSucceeded("f", {}))
    assert asked.end == "CANCELLED"
    assert [fact["type"] for fact in asked.facts][-1] == "PLAN_CANCELLED"


def test_a_failure_elsewhere_cancels_open_tasks() -> None:
    """Under failFast nobody is asked about a run that has failed."""
    asked = Asked([human(), node("a")]).do(NodeFailed("a", {"type": "TOOL_ERROR"}))
    assert (asked.status(), asked.end) == ("CANCELLED", "FAILED")
    assert asked.types("h")[-2:] == ["HITL_TASK_CANCELLED", "NODE_CANCELLED"]


def test_people_in_finally_nodes() -> None:
    """A human node among them is waited for, and knows who had a hand in the rest."""
    asked = Asked([human()], **{"finally": [human("f", fourEyes=True)]}).decide("approve")
    assert (asked.end, asked.task("f").excluded) == ("AWAITING_HITL", ["sue", "ann"])
    asked.decide("approve", "bob", "f")
    assert asked.end == "COMPLETED"


# -- failures ------------------------------------------------------------------------------------------------------

FAILED = {"type": "TOOL_ERROR", "message": "out of paper", "attempt": 3}


def escalating(**more: Any) -> Asked:
    """a -> b, c beside; ``a`` has failed."""
    plan = {"failurePolicy": "escalate", **more}
    return Asked([node("a", inputs={"x": 1}), node("b"), node("c")], [edge("a", "b")], **plan).do(
        NodeFailed("a", FAILED)
    )


def test_escalate_asks_and_goes_on() -> None:
    """The task shows inputs and error; the run is not held, and awaits people when the rest has ended."""
    asked = escalating()
    created = asked.fact("HITL_TASK_CREATED")
    assert created["data"]["actions"] == ["retry", "skip", "abort"]
    assert "status" not in created["data"]
    assert created["body"] == {
        "title": "a failed",
        "description": "out of paper",
        "context": {"x": 1},
        "error": FAILED,
        "excluded": [],
    }
    assert asked.end == "RUNNING"
    asked.do(NodeSucceeded("c", {}))
    assert asked.end == "AWAITING_HITL"


def test_deciding_to_retry() -> None:
    """With inputs it is other work; the run completes, and nobody is asked any more."""
    asked = escalating().decide("retry", node_id="a", inputs={"x": 2}, notes="typo")
    assert asked.inputs["a"] == {"x": 2}
    assert asked.types("a")[-3:] == ["HITL_TASK_COMPLETED", "NODE_RETRY_REQUESTED", "NODE_STARTED"]
    asked.do(NodeSucceeded("a", {}), NodeSucceeded("b", {}), NodeSucceeded("c", {}))
    assert asked.end == "COMPLETED"


def test_deciding_to_skip() -> None:
    """With outputs the edges light; what the ports require has to be there."""
    ports = {"outputs": [{"name": "y", "required": True}]}
    asked = Asked([node("a", descriptor=ports), node("b")], [edge("a", "b")], failurePolicy="escalate").do(
        NodeFailed("a", FAILED)
    )
    assert "the required output y is missing" in asked.refused("skip", node_id="a", outputs={"x": 1})
    assert "skip takes no inputs" in asked.refused("skip", node_id="a", inputs={})
    asked.decide("skip", node_id="a", outputs={"y": 1})
    assert asked.inputs["b"] == {"y": 1}


def test_deciding_to_abort() -> None:
    """It is what failFast would have done, with the error that was asked about."""
    asked = escalating().decide("abort", node_id="a")
    assert [asked.status(name) for name in "ab"] == ["FAILED", "SKIPPED"]
    assert asked.run.error == FAILED
    assert str(asked.run.ending) == "FAILED"


@pytest.mark.parametrize("event", [RetryRequested("a", None, "ann"), SkipRequested("a", None, "ann")])
def test_operators_decide_such_failures_as_well(event: Event) -> None:
    """retry_node and skip_node close the task with their action."""
    asked = escalating().do(event)
    data = asked.fact("HITL_TASK_COMPLETED")["data"]
    assert (data["action"], data["completedBy"]) == ("retry" if isinstance(event, RetryRequested) else "skip", "ann")
    assert asked.run.tasks == {}


@pytest.mark.parametrize("action", ["HUMAN_REVIEW", "ESCALATE"])
@pytest.mark.parametrize("policy", ["failFast", "continue", "pause", "escalate"])
def test_a_handler_that_wants_a_person_asks_one(action: str, policy: str) -> None:
    """Whatever the policy, and without holding the run."""
    asked = Asked([node("a"), node("b")], failurePolicy=policy)
    asked.do(NodeFailed("a", {**FAILED, "suggestedAction": action}))
    assert (asked.end, len(asked.run.tasks)) == ("RUNNING", 1)


def test_runs_of_the_first_engine_version_are_held_instead() -> None:
    """What a history was made with is what it is replayed with."""
    asked = Asked([node("a"), node("b")], engine=1)
    asked.do(NodeFailed("a", {**FAILED, "suggestedAction": "ESCALATE"}))
    assert (asked.end, asked.run.tasks) == ("PAUSED", {})


def test_pause_and_a_task_at_once() -> None:
    """A failure that holds the run is decided by an operator, one that is asked about by its task; each by itself."""
    asked = Asked([node("a"), node("b"), node("c")], failurePolicy="pause")
    asked.do(NodeFailed("a", {**FAILED, "suggestedAction": "ESCALATE"}), NodeFailed("b", FAILED))
    assert asked.end == "PAUSED"
    assert "retries or skips b" in asked.refusal(ResumeRequested())
    asked.do(SkipRequested("b"))
    assert asked.end == "RUNNING"
    asked.do(PauseRequested(), ResumeRequested())
    asked.decide("skip", node_id="a").do(NodeSucceeded("c", {}))
    assert asked.end == "COMPLETED"


def test_abort_suggested_ends_the_run_under_escalate() -> None:
    """ABORT wants nobody asked."""
    asked = Asked([node("a"), node("b")], failurePolicy="escalate")
    asked.do(NodeFailed("a", {**FAILED, "suggestedAction": "ABORT"}))
    assert str(asked.run.ending) == "FAILED"


def test_cancel_while_failures_are_asked_about() -> None:
    """The task is cancelled and the run keeps the error it was about."""
    asked = escalating().do(CancelRequested("op", "enough"))
    assert asked.types("a")[-1] == "HITL_TASK_CANCELLED"
    assert asked.run.error == FAILED


def test_a_rejected_or_expired_node_is_asked_about_again() -> None:
    """Under escalate its failure raises a task; retrying it asks the first question again, with a new task."""
    asked = Asked(
        [node("a"), human(title="${nodes.a.outputs.t}", due="1h")], [edge("a", "h")], failurePolicy="escalate"
    )
    asked.do(NodeSucceeded("a", {"t": "Look"}))
    first = asked.task().id
    asked.decide("reject")
    assert asked.task().kind == "failure"
    asked.decide("retry")
    task = asked.task()
    assert (task.kind, task.title, task.id) == ("approval", "Look", task_id(ABOUT["id"], "h", 0, 2))
    assert task.id != first
    asked.later(HOUR).decide("retry").decide("approve")
    assert asked.end == "COMPLETED"


def test_skip_and_retry_of_a_node_that_waits_for_a_person_are_refused() -> None:
    """It is in flight; only its task is decided."""
    asked = review()
    assert "is AWAITING_HITL" in asked.refusal(SkipRequested("h"))
    assert "is AWAITING_HITL" in asked.refusal(RetryRequested("h"))
    assert "is AWAITING_HITL" in asked.refusal(NodeSucceeded("h", {}))


def test_what_cannot_be_recorded_is_not_asked() -> None:
    """NaN from a worker of another language would stop the run from ever being stored."""
    asked = Asked([node("a"), human()], [edge("a", "h")]).do(NodeSucceeded("a", {"x": float("nan")}))
    assert asked.fact("NODE_FAILED")["body"]["error"]["details"] == {"code": "NOT_JSON"}
    asked = Asked([node("a")], failurePolicy="escalate").do(NodeFailed("a", {**FAILED, "details": {"x": float("nan")}}))
    assert len(asked.run.tasks) == 1


def test_skip_with_outputs_fills_the_ports() -> None:
    """Skipping with outputs takes ports' defaults, and is refused for what is missing; not so in older runs."""
    ports = {"outputs": [{"name": "x", "required": True}, {"name": "y", "defaultValue": 5}]}
    nodes = [node("b"), node("a", descriptor=ports), node("c")]
    edges = [edge("b", "a"), edge("a", "c")]
    asked = Asked(nodes, edges)
    assert "the required output x is missing" in asked.refusal(SkipRequested("a", {}))
    asked.do(SkipRequested("a", {"x": 1}))
    assert asked.inputs["c"] == {"x": 1, "y": 5}
    old = Asked(nodes, edges, engine=1).do(SkipRequested("a", {}))
    assert old.inputs["c"] == {}


def test_10000_open_tasks_are_cancelled_within_a_workflow_task() -> None:
    """Raised, restored and cancelled in linear time, due dates and reminders included."""
    nodes = [human(f"h{number}", due="2h", reminder="1h") for number in range(10_000)]
    run = Run(program(nodes), {}, ABOUT)
    run.apply(Begin(), 0)
    run.due(0)
    assert (len(run.tasks), str(run.status)) == (10_000, "AWAITING_HITL")
    run = Run.restore(run.program, {}, run.snapshot())
    began = time.process_time()
    run.apply(CancelRequested("op", "enough"), 1)
    assert time.process_time() - began < 5  # it took 36 s with a scan of all alarms for each
    assert str(run.status) == "CANCELLED"
