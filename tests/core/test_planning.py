"""Automatic revisions, by example: evaluators, failures that suggest AUTO_FIX, and planners that fail."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.events import (
    CancelRequested,
    MakePlan,
    NodeFailed,
    NodeSucceeded,
    PauseRequested,
    PlanRevised,
    ReplanFailed,
    ResumeRequested,
    RetryRequested,
)
from dalang.run import Run
from dalang.statuses import ImpossibleMove, RunStatus
from tests.core.test_revising import Story

FIX = {"type": "TOOL_ERROR", "message": "m", "suggestedAction": "AUTO_FIX"}
AGAIN = {"verdict": "replan", "reason": "too short"}


def _node(node_id: str, **more: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "noop", **more}


class Planned(Story):
    """a -> judge -> z, where judge is an evaluator, with a planner; told step by step."""

    def __init__(self, **plan: Any) -> None:
        plan.setdefault("planner", {})
        plan.setdefault("nodes", [_node("a"), _node("judge", evaluator=True), _node("z")])
        plan.setdefault("edges", [{"sourceNodeId": s, "targetNodeId": t} for s, t in (("a", "judge"), ("judge", "z"))])
        super().__init__(**plan)

    def to_judge(self) -> None:
        self.due()
        self.happen(NodeSucceeded("a", {"words": 1}))
        self.due()

    def asked(self) -> MakePlan:
        steps = [step for step in self.run.due(self.at) if isinstance(step, MakePlan)]
        assert len(steps) == 1
        assert not [step for step in self.run.due(self.at) if isinstance(step, MakePlan)], "once"
        return steps[0]

    def answer(self, number: int, patch: Any, known: Any = None) -> None:
        event = self.event(patch, known)
        values = {name: getattr(event, name) for name in event.__slots__}
        self.happen(PlanRevised(**{**values, "planning": number}))
        self.document = self.revised

    def facts(self, *kinds: str) -> list[str]:
        return [fact["type"] for fact in self.run.facts if fact["type"] in kinds or not kinds]


REWRITE = {
    "removeEdges": ["judge->z"],
    "addNodes": [_node("rewrite"), _node("judge2", evaluator=True)],
    "addEdges": [
        {"sourceNodeId": "judge", "targetNodeId": "rewrite"},
        {"sourceNodeId": "rewrite", "targetNodeId": "judge2"},
        {"sourceNodeId": "judge2", "targetNodeId": "z"},
    ],
}


def test_a_pass_goes_on() -> None:
    """A verdict of pass lights the edges like any success."""
    story = Planned()
    story.to_judge()
    story.happen(NodeSucceeded("judge", {"verdict": "pass"}))
    assert set(story.due()) == {"z"}


@pytest.mark.parametrize(
    ("outputs", "words"),
    [({"verdict": "fail", "reason": "it is wrong"}, "it is wrong"), ({}, "no verdict"), ({"verdict": 7}, "no verdict")],
)
def test_a_fail_fails_the_node(outputs: dict[str, Any], words: str) -> None:
    """So does an answer without a verdict."""
    story = Planned()
    story.to_judge()
    story.happen(NodeSucceeded("judge", outputs))
    assert story.status("judge") == "FAILED"
    assert words in (story.run.error or {})["message"]


def test_a_replan_asks_the_planner() -> None:
    """Nothing starts meanwhile; with the answer the evaluator's edges are decided by the new plan."""
    story = Planned()
    story.to_judge()
    story.happen(NodeSucceeded("judge", AGAIN))
    assert (story.run.status, story.status("judge")) == (RunStatus.REPLANNING, "SUCCESS")
    step = story.asked()
    assert step == MakePlan(1, 1, [{"nodeId": "judge", "kind": "verdict", "outputs": AGAIN}], [])
    assert story.due() == {}
    story.answer(1, REWRITE)
    assert story.run.status is RunStatus.RUNNING
    assert dict(story.due()["rewrite"].inputs) == AGAIN
    story.happen(NodeSucceeded("rewrite", {}))
    story.due()
    story.happen(NodeSucceeded("judge2", {"verdict": "pass"}))
    assert set(story.due()) == {"z"}
    assert story.facts("PLAN_REPLANNING", "PLAN_REVISED") == ["PLAN_REPLANNING", "PLAN_REVISED"]


def test_what_is_in_flight_goes_on() -> None:
    """And what is ready because of it starts when the plan is there."""
    nodes = [_node("a"), _node("judge", evaluator=True), _node("z"), _node("side"), _node("after")]
    edges = [{"sourceNodeId": s, "targetNodeId": t} for s, t in (("a", "judge"), ("judge", "z"), ("side", "after"))]
    story = Planned(nodes=nodes, edges=edges)
    story.to_judge()
    story.happen(NodeSucceeded("judge", AGAIN))
    story.happen(NodeSucceeded("side", {}))
    assert story.due() == {}
    story.answer(story.run.planning["number"] if story.run.planning else 0, {"addNodes": [_node("n")]})
    assert set(story.due()) == {"after", "n", "z"}


def test_a_bad_answer_is_asked_about_again() -> None:
    """Its problems go into the next attempt; after three the run fails, and says why."""
    story = Planned()
    story.to_judge()
    story.happen(NodeSucceeded("judge", AGAIN))
    for attempt in (1, 2, 3):
        step = story.asked()
        assert (step.number, step.attempt) == (1, attempt)
        assert [one["message"] for one in step.problems] == ([] if attempt == 1 else [f"bad {attempt - 1}"])
        story.happen(ReplanFailed(1, {"message": "a cycle"}, [{"message": f"bad {attempt}"}]))
    assert story.run.status is RunStatus.FAILED
    message = (story.run.error or {})["message"]
    assert "too short" in message
    assert "a cycle" in message
    assert story.status("z") == "SKIPPED"
    assert story.facts("PLAN_REPLAN_FAILED") == ["PLAN_REPLAN_FAILED"] * 3


def test_max_replans_bounds_it() -> None:
    """When the planner may not be asked any more, an evaluator that wants another plan fails."""
    story = Planned(maxReplans=1)
    story.to_judge()
    story.happen(NodeSucceeded("judge", AGAIN))
    story.asked()
    story.answer(1, REWRITE)
    story.due()
    story.happen(NodeSucceeded("rewrite", {}))
    story.due()
    story.happen(NodeSucceeded("judge2", AGAIN))
    assert story.status("judge2") == "FAILED"
    assert "no planner can be asked any more" in (story.run.error or {})["message"]


def test_a_plan_without_a_planner() -> None:
    """A verdict of replan fails the node; AUTO_FIX falls through to the failure policy."""
    story = Planned(planner=None)
    story.to_judge()
    story.happen(NodeSucceeded("judge", AGAIN))
    assert "the plan has no planner" in (story.run.error or {})["message"]
    story = Planned(planner=None, failurePolicy="pause")
    story.due()
    story.happen(NodeFailed("a", FIX))
    assert story.run.status is RunStatus.PAUSED


def test_auto_fix_replaces_the_failed_node() -> None:
    """The failure waits for the planner, and the replaced node runs again."""
    story = Planned()
    story.due()
    story.happen(NodeFailed("a", FIX))
    assert (story.run.status, story.status("a")) == (RunStatus.REPLANNING, "FAILED")
    assert story.asked().causes == [{"nodeId": "a", "kind": "failure", "error": FIX}]
    story.answer(1, {"replaceNodes": [_node("a", inputs={"fixed": 1})]})
    again = story.due()["a"]
    assert (dict(again.inputs), again.generation) == ({"fixed": 1}, 1)


@pytest.mark.parametrize(
    ("policy", "status"), [("failFast", RunStatus.FAILED), ("continue", RunStatus.FAILED), ("pause", RunStatus.PAUSED)]
)
@pytest.mark.parametrize("answers", [True, False])
def test_auto_fix_that_fixes_nothing(policy: str, status: RunStatus, answers: bool) -> None:
    """A planner that fails, or leaves the failed node as it is, leaves the failure to the plan's policy."""
    story = Planned(failurePolicy=policy)
    story.due()
    story.happen(NodeFailed("a", FIX))
    story.asked()
    if answers:
        story.answer(1, {"set": {"maxInFlight": 7}})
    else:
        story.happen(ReplanFailed(1, {"message": "no idea"}, final=True))
    assert story.run.status is status
    if status is RunStatus.PAUSED:
        story.happen(RetryRequested("a"))
        assert story.run.status is RunStatus.RUNNING
        assert set(story.due()) == {"a"}
    else:
        assert story.run.error == FIX


def test_pause_and_resume_while_replanning() -> None:
    """A paused run takes the answer and stays paused; resumed before that, it is REPLANNING again."""
    story = Planned()
    story.to_judge()
    story.happen(NodeSucceeded("judge", AGAIN))
    story.asked()
    story.happen(PauseRequested())
    assert story.run.status is RunStatus.PAUSED
    story.happen(ResumeRequested())
    assert story.run.status is RunStatus.REPLANNING
    assert not [step for step in story.run.due(9) if isinstance(step, MakePlan)], "it was asked before"
    story.happen(PauseRequested())
    story.answer(1, REWRITE)
    assert story.run.status is RunStatus.PAUSED
    story.happen(ResumeRequested())
    assert set(story.due()) == {"rewrite"}


def test_a_verdict_while_paused_waits_for_the_resume() -> None:
    """Nobody is asked while an operator holds the run, and the run does not end."""
    story = Planned()
    story.to_judge()
    story.happen(PauseRequested())
    story.happen(NodeSucceeded("judge", AGAIN))
    assert story.run.status is RunStatus.PAUSED
    story.happen(ResumeRequested())
    assert story.run.status is RunStatus.REPLANNING
    assert story.asked().number == 1


def test_cancel_while_replanning() -> None:
    """The run ends, and an answer that comes late is refused."""
    story = Planned()
    story.to_judge()
    story.happen(NodeSucceeded("judge", AGAIN))
    story.asked()
    story.happen(CancelRequested())
    assert story.run.status is RunStatus.CANCELLED
    with pytest.raises(ImpossibleMove, match="not under way"):
        story.happen(ReplanFailed(1, {}))
    with pytest.raises(ImpossibleMove, match="not under way"):
        story.answer(1, REWRITE)


def test_another_failure_while_replanning() -> None:
    """Under failFast it ends the run; under pause it holds it, and the answer is still taken."""
    nodes = [_node("a"), _node("judge", evaluator=True), _node("z"), _node("side")]
    error = {"type": "TOOL_ERROR", "message": "m"}
    for policy, status in (("failFast", RunStatus.FAILED), ("pause", RunStatus.PAUSED)):
        story = Planned(nodes=nodes, failurePolicy=policy)
        story.to_judge()
        story.happen(NodeSucceeded("judge", AGAIN))
        story.asked()
        story.happen(NodeFailed("side", error))
        assert story.run.status is status
        if status is RunStatus.PAUSED:
            story.answer(1, REWRITE)
            story.happen(RetryRequested("side"))
            assert story.run.status is RunStatus.RUNNING
            assert set(story.due()) == {"side", "rewrite"}


def test_two_causes_are_one_request() -> None:
    """What asks before the planner was asked is asked together; what comes later is another request."""
    nodes = [_node("a"), _node("j1", evaluator=True), _node("j2", evaluator=True), _node("j3", evaluator=True)]
    story = Planned(nodes=nodes, edges=[], maxReplans=2)
    story.due()
    story.happen(PauseRequested())
    story.happen(NodeSucceeded("j1", AGAIN))
    story.happen(NodeSucceeded("j2", AGAIN))
    story.happen(ResumeRequested())
    assert [one["nodeId"] for one in story.asked().causes] == ["j1", "j2"]
    story.happen(NodeSucceeded("j3", AGAIN))
    story.answer(1, {"addNodes": [_node("n")]})
    assert story.run.status is RunStatus.REPLANNING
    step = story.asked()
    assert (step.number, [one["nodeId"] for one in step.causes]) == (2, ["j3"])


def test_a_snapshot_while_replanning() -> None:
    """A restored run waits for the same answer, or asks if nobody was asked yet."""
    story = Planned()
    story.to_judge()
    story.happen(NodeSucceeded("judge", AGAIN))
    for ask in (False, True):
        if ask:
            story.asked()
        snapshot = json.loads(json.dumps(story.run.snapshot()))
        again = Run.restore(story.run.program, {}, snapshot)
        assert again.snapshot() == story.run.snapshot()
        assert bool([step for step in again.due(9) if isinstance(step, MakePlan)]) is not ask


def test_an_operator_may_replan_meanwhile() -> None:
    """His revision counts; the planner's answer is one of the plan as it is then."""
    story = Planned()
    story.to_judge()
    story.happen(NodeSucceeded("judge", AGAIN))
    story.asked()
    story.revise({"addNodes": [_node("extra")]})
    assert story.run.status is RunStatus.REPLANNING
    story.answer(1, REWRITE)
    assert set(story.due()) == {"extra", "rewrite"}
