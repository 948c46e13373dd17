"""Runs of many nodes; and what the property tests found once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from dalang.compilation import compile_plan
from dalang.events import (
    Begin,
    CancelRequested,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    SkipRequested,
    Stop,
)
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from dalang.statuses import RunStatus
from tests.core.driven import ABOUT, TOOL_ERROR, Driven, edge, last, node

# -- size ------------------------------------------------------------------------------------------------------------

LONG = 30_000


def chain(
    first: dict[str, Any], nodes: list[dict[str, Any]], edges: list[dict[str, Any]], count: int = LONG
) -> Program:
    """Return a chain whose last node and last edge are repeated until there are ``count`` of them."""
    document = compile_plan(Plan.model_validate({"name": "c", "nodes": [first, *nodes], "edges": edges}))
    *head, link = document["nodes"]
    *head_edges, last = document["edges"]
    document["nodes"] = head + [{**link, "id": f"n{number}"} for number in range(count)]
    document["edges"] = head_edges + [
        [f"e{number}", len(head) - 1 + number, last[2], len(head) + number, *last[4:]] for number in range(count)
    ]
    document["finally"] = len(document["nodes"])
    return Program(document)


@pytest.mark.parametrize("fail", [False, True])
def test_a_long_chain_of_skips(fail: bool) -> None:
    """One failure, or one dead edge, at the head of a long chain skips all of it in one event."""
    edges = [edge("a", "b", condition="false"), edge("b", "c")]
    run = Run(chain(node("a"), [node("b"), node("c")], edges), {}, ABOUT)
    run.apply(Begin(), 0)
    assert [step.node_id for step in run.due(0)] == ["a"]
    run.apply(NodeFailed("a", TOOL_ERROR) if fail else NodeSucceeded("a", {}), 1)
    assert run.counts[run.statuses[-1]] == LONG + 1
    assert {fact["data"].get("skipReason") for fact in run.facts[-LONG - 2 : -1]} == {
        "upstreamFailed" if fail else "condition"
    } | ({None} if fail else set())
    assert run.status is (RunStatus.FAILED if fail else RunStatus.COMPLETED)


def test_a_long_chain_of_conditions_that_raise() -> None:
    """Each node fails by the condition of its predecessor's error edge: one event, no recursion, the run ends."""
    first = edge("a", "b", condition="outputs.gone")
    second = edge("b", "c", sourcePort="error", condition="error.gone")
    run = Run(chain(node("a"), [node("b"), node("c")], [first, second]), {}, ABOUT)
    run.apply(Begin(), 0)
    run.due(0)
    run.apply(NodeSucceeded("a", {}), 1)
    assert run.status is RunStatus.FAILED
    assert run.counts[run.statuses[-1]] == LONG + 1
    assert str(run.statuses[-1]) == "FAILED"


def test_20000_nodes_whose_inputs_raise() -> None:
    """Each fails when it is about to start and its error edge makes the next one ready: one call of ``due``."""
    link = node("b", inputs={"x": "${inputs.gone}"})
    run = Run(chain(node("a"), [link], [edge("a", "b", sourcePort="error")], 20_000), {}, ABOUT)
    run.apply(Begin(), 0)
    run.due(0)
    run.apply(NodeFailed("a", TOOL_ERROR), 1)
    assert run.due(2) == []
    assert run.status is RunStatus.FAILED
    assert str(run.statuses[-2]) == "ERROR"


def test_a_boolean_join_of_many_edges() -> None:
    """A join over hundreds of edges is decided as they come, and read only once."""
    names = [f"s{number}" for number in range(400)]
    nodes = [node(name) for name in names] + [node("d", join=" && ".join(f"{name}d" for name in names))]
    run = Driven(nodes, [edge(name, "d") for name in names], maxInFlight=400)
    for name in names:
        assert "d" not in run.started
        run.ok(name)
    assert run.ok("d").end == "COMPLETED"


# -- what the properties found ---------------------------------------------------------------------------------------


def test_regression_finally_waits_although_its_join_is_decided() -> None:
    """Skipping finally node f with outputs while others run must not start g, which depends on f."""
    run = Driven([node("a")], [edge("f", "g")], **last("f", "g")).do(SkipRequested("f", {"x": 1}))
    assert "g" not in run.started
    assert run.ok("a").started["g"] == {"x": 1}
    assert run.ok("g").end == "COMPLETED"


def test_regression_a_finally_node_that_fails_early_stops_nothing() -> None:
    """A condition that raises into finally node g before its turn fails the run in the end, but cancels no node now."""
    edges = [edge("a", "b"), edge("f", "g", condition="outputs.gone")]
    run = Driven([node("a"), node("b")], edges, **last("f", "g")).do(SkipRequested("f", {}))
    assert run.statuses == {"a": "RUNNING", "b": "PENDING", "f": "SKIPPED", "g": "FAILED"}
    assert run.ok("a").ok("b").end == "FAILED"


def test_regression_a_snapshot_keeps_stops_that_are_due() -> None:
    """A snapshot between a cancel and the next ``due`` must not lose the stops of what is in flight."""
    run = Driven([node("a"), node("b")]).run
    run.apply(CancelRequested(), 0)
    again = Run.restore(run.program, {}, json.loads(json.dumps(run.snapshot())))
    assert again.due(0) == run.due(0) == [Stop("a"), Stop("b")]


def test_regression_only_a_stop_can_be_acknowledged() -> None:
    """A node that nobody told to stop cannot be CANCELLED: the run would end COMPLETED without its work."""
    run = Driven([node("a"), node("b")], [edge("a", "b")])
    refusal = run.run.refusal(NodeStopped("a"))
    assert refusal is not None
    assert refusal.status == "RUNNING and was not told to stop"


def test_regression_nothing_is_skipped_before_the_run_begins() -> None:
    """A skip before Begin would be recorded before the run's own first fact."""
    refusal = Driven([node("a")], begin=False).run.refusal(SkipRequested("a"))
    assert refusal is not None
    assert (refusal.subject, refusal.status) == ("the run", "PENDING")


def test_regression_a_chain_of_raises_holds_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure of a condition keeps neither traceback nor context: each held the failure before it, to the head."""
    seen = []
    original = Run._fail_target

    def fail_target(self: Run, edge: int, failure: Exception) -> None:
        seen.append((failure.__traceback__, failure.__context__))
        original(self, edge, failure)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_fail_target", fail_target)
    edges = [edge("a", "b", condition="outputs.gone"), edge("b", "c", sourcePort="error", condition="error.gone")]
    assert Driven([node("a"), node("b"), node("c")], edges).ok("a").end == "FAILED"
    assert seen == [(None, None)] * 2


def test_notes_become_data_of_the_fact() -> None:
    """What the driver notes about an end stands in the fact, beside status and attempt."""
    run = Driven([node("a")]).do(replace(NodeSucceeded("a", {}, 2), notes={"worker": "w1"}))
    assert run.fact("NODE_COMPLETED", "a")["data"] == {"status": "SUCCESS", "attempt": 2, "worker": "w1"}
