"""Revisions of a run that goes on, by example."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dalang.compilation import compile_plan
from dalang.events import (
    AlarmRang,
    Ask,
    Begin,
    CancelRequested,
    GiveBack,
    LeaseAnswered,
    NodeFailed,
    NodeSucceeded,
    PauseRequested,
    PlanRevised,
    RetryRequested,
    SkipRequested,
    Start,
)
from dalang.loading import load_plan
from dalang.program import Program
from dalang.revision import revise
from dalang.run import Run
from dalang.statuses import ImpossibleMove, RunStatus


class Story:
    """A run of a chain a -> b -> c, or of another plan, told step by step."""

    def __init__(self, **plan: Any) -> None:
        nodes = plan.pop("nodes", [{"nodeId": one, "type": "noop"} for one in "abc"])
        edges = plan.pop("edges", [_edge("a", "b"), _edge("b", "c")])
        loaded = load_plan({"name": "p", "nodes": nodes, "edges": edges, **plan}).require()
        self.document = loaded.wire()
        self.run = Run(Program(compile_plan(loaded)), {}, {"id": "r"})
        self.at = 0
        self.happen(Begin())

    def happen(self, event: Any) -> None:
        self.at += 1
        self.run.apply(event, self.at)

    def due(self) -> dict[str, Start]:
        return {step.node_id: step for step in self.run.due(self.at) if isinstance(step, Start)}

    def event(self, patch: Any, known: Any = None, base: int | None = None) -> PlanRevised:
        revision, problems = revise(self.document, {"patch": patch})
        assert revision is not None, problems
        self.revised = revision.plan.wire()
        program = Program(json.loads(json.dumps(compile_plan(revision.plan))))
        return PlanRevised(
            program, revision.plan.digest(), base or self.run.revision, known=known or {}, operator="ann"
        )

    def revise(self, patch: Any, known: Any = None) -> None:
        self.happen(self.event(patch, known))
        self.document = self.revised

    def refused(self, patch: Any, **more: Any) -> list[dict[str, str]]:
        with pytest.raises(ImpossibleMove) as refusal:
            self.happen(self.event(patch, **more))
        return getattr(refusal.value, "clashes", []) or [{"message": str(refusal.value)}]

    def status(self, node: str) -> str:
        return str(self.run.statuses[self.run.program.index[node]])


def _edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"sourceNodeId": source, "targetNodeId": target, **more}


def _node(node_id: str, **more: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "noop", **more}


def test_a_node_put_between_two_others() -> None:
    """The outputs of what has ended reach what comes now, and what was there before waits for it."""
    story = Story()
    story.due()
    story.happen(NodeSucceeded("a", {"x": 1}))
    story.happen(PauseRequested())
    story.revise({"removeEdges": ["a->b"], "addNodes": [_node("n")], "addEdges": [_edge("a", "n"), _edge("n", "b")]})
    story.run.status = RunStatus.RUNNING
    assert {name: dict(step.inputs) for name, step in story.due().items()} == {"n": {"x": 1}}
    story.happen(NodeSucceeded("n", {"y": 2}))
    assert dict(story.due()["b"].inputs) == {"y": 2}
    revised = next(fact for fact in story.run.facts if fact["type"] == "PLAN_REVISED")
    assert revised["data"]["revision"] == 2
    assert revised["data"]["operator"] == "ann"
    assert "status" not in revised["data"], "the run's status is what it was"


def test_outputs_that_nobody_read_any_more_come_from_the_store() -> None:
    """A new reader of dropped outputs gets them from who made the revision; without them it is refused."""
    story = Story()
    story.due()
    story.happen(NodeSucceeded("a", {"x": 1}))
    story.due()
    assert story.run.outputs == {}, "b has read them"
    patch = {"addNodes": [_node("n")], "addEdges": [_edge("a", "n")]}
    assert "not kept any more" in story.refused(patch)[0]["message"]
    story.revise(patch, {"a": {"outputs": {"x": 1}}})
    assert dict(story.due()["n"].inputs) == {"x": 1}


def test_outputs_are_retained_while_a_revision_is_made() -> None:
    """What ends meanwhile is kept, since nobody knows yet who will read it, and dropped afterwards."""
    story = Story()
    story.due()
    story.run.retain()
    story.happen(NodeSucceeded("a", {"x": 1}))
    story.due()
    assert story.run.outputs == {0: {"x": 1}}
    story.run.release()
    assert story.run.outputs == {}


def test_what_has_started_or_finished_is_immutable() -> None:
    """Every place where the revision meets what has happened is told."""
    story = Story()
    story.due()
    story.happen(NodeSucceeded("a", {}))
    story.due()
    patch = {
        "removeEdges": ["a->b"],
        "replaceNodes": [_node("a", name="other"), _node("b", name="other")],
        "addNodes": [_node("n")],
        "addEdges": [_edge("n", "b")],
    }
    clashes = story.refused(patch)
    assert [one.get("nodeId") or one.get("edgeId") for one in clashes] == ["a", "b", "a->b", "n->b"]
    gone = {"removeEdges": ["a->b", "b->c"], "removeNodes": ["a", "b"]}
    assert [one["nodeId"] for one in story.refused(gone)[:2]] == ["a", "b"]


def test_the_revision_that_was_meant() -> None:
    """Of two replans at once one wins; the other was made for a plan that is no more."""
    story = Story()
    late = story.event({"addNodes": [_node("m")]})
    story.revise({"addNodes": [_node("n")]})
    with pytest.raises(ImpossibleMove, match="at revision 2, not at 1"):
        story.happen(late)


def test_a_run_that_ends_or_has_ended_keeps_its_plan() -> None:
    """Not while it is cancelled, nor when only finally nodes are left, nor afterwards."""
    patch = {"addNodes": [_node("n")]}
    story = Story()
    story.due()
    story.happen(CancelRequested())
    assert "the run is ending" in story.refused(patch)[0]["message"]
    story = Story(nodes=[_node("a")], edges=[], **{"finally": [_node("f")]})
    story.due()
    story.happen(NodeSucceeded("a", {}))
    assert "the run is ending" in story.refused(patch)[0]["message"]
    story.due()
    story.happen(NodeSucceeded("f", {}))
    assert "COMPLETED" in story.refused(patch)[0]["message"]


def test_a_replaced_failed_node_runs_again() -> None:
    """It starts with other inputs under another key, and the run, which was held for it, goes on."""
    story = Story(failurePolicy="pause")
    story.due()
    story.happen(NodeFailed("a", {"type": "TOOL_ERROR", "message": "m"}))
    story.revise({"replaceNodes": [_node("a", inputs={"fixed": True})]})
    assert story.run.status is RunStatus.RUNNING
    again = story.due()["a"]
    assert (dict(again.inputs), again.generation) == ({"fixed": True}, 1)


def test_a_failed_node_that_is_left_alone_still_waits() -> None:
    """A revision of something else decides nothing about it."""
    story = Story(failurePolicy="pause")
    story.due()
    story.happen(NodeFailed("a", {"type": "TOOL_ERROR", "message": "m"}))
    story.revise({"addNodes": [_node("n")]})
    assert story.run.status is RunStatus.PAUSED
    assert [story.run.program.ids[node] for node in story.run.awaiting] == ["a"]
    story.happen(RetryRequested("a"))
    assert set(story.due()) == {"a", "n"}


def test_an_error_edge_that_comes_after_the_failure() -> None:
    """takes it: the node is ERROR, its other edges are dead, and the handler starts."""
    story = Story(failurePolicy="pause")
    story.due()
    error = {"type": "TOOL_ERROR", "message": "m"}
    story.happen(NodeFailed("a", error))
    patch = {"addNodes": [_node("h")], "addEdges": [_edge("a", "h", sourcePort="error")]}
    story.revise(patch, {"a": {"error": error}})
    assert (story.status("a"), story.status("b")) == ("ERROR", "SKIPPED")
    assert dict(story.due()["h"].inputs) == {"error": error}


def test_a_removed_node_that_was_retried_has_started() -> None:
    """A node that waits to be run again stays, though it may be another one."""
    story = Story(failurePolicy="pause")
    story.due()
    story.happen(NodeFailed("a", {"type": "TOOL_ERROR", "message": "m"}))
    story.happen(RetryRequested("a"))
    assert "was started before" in story.refused({"removeEdges": ["a->b"], "removeNodes": ["a"]})[0]["message"]
    story.revise({"replaceNodes": [_node("a", inputs={"z": 1})]})
    assert story.due()["a"].generation == 1


def test_edges_of_a_node_skipped_by_hand_are_dead() -> None:
    """Also later ones, and also where something upstream had failed."""
    story = Story(
        failurePolicy="continue",
        nodes=[_node("a"), _node("b"), _node("c", join="any")],
        edges=[_edge("a", "c"), _edge("b", "c")],
    )
    story.due()
    story.happen(NodeFailed("a", {"type": "TOOL_ERROR", "message": "m"}))
    story.happen(SkipRequested("c"))
    story.revise({"addNodes": [_node("n")], "addEdges": [_edge("c", "n")]})
    skipped = next(fact for fact in story.run.facts if fact.get("nodeId") == "n")
    assert skipped["data"]["skipReason"] == "condition"


def test_plan_settings_follow() -> None:
    """maxInFlight, outputs and failurePolicy of the new plan hold from now on."""
    story = Story(nodes=[_node("a"), _node("b"), _node("c")], edges=[], maxInFlight=1)
    assert set(story.due()) == {"a"}
    story.revise({"set": {"maxInFlight": 2, "outputs": {"x": "${nodes.a.outputs.x}"}, "failurePolicy": "continue"}})
    assert set(story.due()) == {"b"}
    story.happen(NodeFailed("b", {"type": "TOOL_ERROR", "message": "m"}))
    assert set(story.due()) == {"c"}
    story.happen(NodeSucceeded("a", {"x": 1}))
    assert story.run.outputs == {0: {"x": 1}}


def test_a_snapshot_after_a_revision() -> None:
    """It holds the number of the revision and the plan's digest."""
    story = Story()
    story.revise({"addNodes": [_node("n")]})
    snapshot = json.loads(json.dumps(story.run.snapshot()))
    again = Run.restore(story.run.program, {}, snapshot)
    assert (again.revision, again.plan_digest) == (2, story.run.plan_digest)
    assert again.snapshot() == story.run.snapshot()


def _limited(*nodes: dict[str, Any], **plan: Any) -> Story:
    """A run whose nodes have asked for a lease of the pool ``db``; nobody has answered."""
    asks = [_needing(node.pop("nodeId"), "db", **node) for node in nodes]
    story = Story(nodes=asks, edges=plan.pop("edges", []), **plan)
    story.run.limited = frozenset({"db", "gpu"})
    assert [step.node_id for step in story.run.due(0) if isinstance(step, Ask)] == [node["nodeId"] for node in asks]
    return story


def _needing(node_id: str, pool: str, **more: Any) -> dict[str, Any]:
    return {"nodeId": node_id, **more, "type": "python", "handler": "f", "requirements": {"pools": {pool: 1}}}


def test_a_node_that_waits_for_a_lease_can_be_changed_and_removed() -> None:
    """Its ask is withdrawn; what it is now asks anew, under another number; what did not change waits on."""
    story = _limited(_node("a"), _node("b"), _node("c"))
    story.revise({"replaceNodes": [_needing("a", "gpu", inputs={"x": 2})], "removeNodes": ["b"]})
    steps = story.run.due(1)
    assert [(step.node_id, step.ask, dict(step.needs["amounts"])) for step in steps if isinstance(step, Ask)] == [
        ("a", 2, {"gpu": 1})
    ]
    assert {(step.node_id, step.ask) for step in steps if isinstance(step, GiveBack)} == {("a", 1), ("b", 1)}
    assert (story.status("a"), story.status("c")) == ("QUEUED", "QUEUED")
    story.happen(LeaseAnswered("a", 1, "GRANTED"))
    assert [step for step in story.run.due(2) if isinstance(step, Start)] == [], "the grant of the old ask"
    story.happen(LeaseAnswered("a", 2, "GRANTED"))
    (step,) = story.due().values()
    assert (dict(step.inputs), step.lease, step.generation) == ({"x": 2}, 2, 0)


def test_a_node_that_waits_for_a_lease_can_be_given_something_to_wait_for() -> None:
    story = _limited(_node("a"))
    story.revise({"addNodes": [_node("n")], "addEdges": [_edge("n", "a")]})
    assert set(story.due()) == {"n"}
    assert story.status("a") == "PENDING"
    story.happen(NodeSucceeded("n", {"y": 1}))
    assert [(step.node_id, step.ask) for step in story.run.due(3) if isinstance(step, Ask)] == [("a", 2)]


def test_a_node_that_waits_for_the_lease_of_its_next_attempt() -> None:
    """It has begun before: it stays in the plan, and is other work when it is replaced."""
    retry = {"retryPolicy": {"maxAttempts": 3, "jitter": False}}
    story = _limited(_node("a", **retry))
    story.happen(LeaseAnswered("a", 1, "GRANTED"))
    story.due()
    story.happen(NodeFailed("a", {"type": "NETWORK_ERROR", "message": "away", "retryable": True}))
    story.at = 10_000
    story.happen(AlarmRang())
    assert [step.ask for step in story.run.due(story.at) if isinstance(step, Ask)] == [2]
    assert "cannot be removed" in story.refused({"removeNodes": ["a"], "addNodes": [_node("n")]})[0]["message"]
    story.revise({"replaceNodes": [_needing("a", "gpu", **retry)]})
    assert [step.ask for step in story.run.due(story.at) if isinstance(step, Ask)] == [3]
    story.happen(LeaseAnswered("a", 3, "GRANTED"))
    assert story.due()["a"].generation == 1
