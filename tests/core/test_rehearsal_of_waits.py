"""Waits, people, callbacks and compensations in rehearsals."""

from __future__ import annotations

import pytest

from dalang.rehearsal import load_options, rehearse
from tests.core.rehearsed import once, plan_of, spans


def test_waits_are_rehearsed() -> None:
    """A timer lasts as written; a time and an event last as given or estimated, and an event may come too late."""
    plan = plan_of(
        nodes=[
            {"nodeId": "t", "type": "timer", "inputs": {"duration": "2m"}},
            {"nodeId": "day", "type": "timer", "inputs": {"until": "2026-12-24T18:00:00Z"}},
            {"nodeId": "e", "type": "event", "inputs": {"name": "n"}, "requirements": {"estimatedDuration": "1h"}},
            {"nodeId": "late", "type": "event", "inputs": {"name": "n", "timeout": "1m"}},
            {"nodeId": "handled", "type": "noop"},
        ],
        edges=[{"sourceNodeId": "late", "sourcePort": "error", "targetNodeId": "handled"}],
    )
    scenario, trace = once(plan, nodes={"day": {"duration": "3h"}}, types={"event": {}}, defaultDuration="5m")
    minute = 60_000
    assert spans(scenario, trace) == {
        "t": (0, 2 * minute),
        "day": (0, 180 * minute),
        "e": (0, 60 * minute),
        "late": (0, minute),
        "handled": (minute, minute),
    }
    assert trace.status == "COMPLETED"
    assert [problem.code for problem in scenario.warnings] == ["ASSUMED_DURATION"]


def test_compensations_are_rehearsed() -> None:
    """Which run and how often, how long they take, and the end after them; their inputs are not evaluated."""
    undo = {"compensation": {"type": "known", "inputs": {"id": "${outputs.id}"}}}
    plan = plan_of(
        nodes=[
            {"nodeId": "a", "type": "noop", **undo},
            {"nodeId": "b", "type": "noop", **undo},
            {"nodeId": "c", "type": "noop"},
        ],
        edges=[{"sourceNodeId": "a", "targetNodeId": "b"}, {"sourceNodeId": "b", "targetNodeId": "c"}],
    )
    failing = {"nodes": {"c": {"failures": {"rate": 1, "type": "TOOL_ERROR"}}, "a": {"undo": "7s"}}}
    _, trace = once(plan, **failing)
    assert (trace.status, trace.makespan) == ("FAILED", 8_000)
    assert trace.undone == {1: (0, 1_000), 0: (1_000, 8_000)}
    assert [str(status) for status in trace.statuses] == ["COMPENSATED", "COMPENSATED", "FAILED"]
    failing["nodes"]["c"]["failures"]["rate"] = 0.25  # type: ignore[index]
    summary = rehearse(plan, load_options({"runs": 400, **failing}))
    told = summary.wire()["compensations"]
    assert [one["nodeId"] for one in told] == ["a", "b"]
    assert told[0]["share"] == summary.ends["FAILED"] == pytest.approx(0.25, abs=0.08)
    assert [one["tookMs"] for one in told] == [7_000, 1_000]


def test_people_are_rehearsed() -> None:
    """They approve as often as is given, take as long as is given, and are late as the plan says."""
    plan = plan_of(
        nodes=[
            {"nodeId": "h", "type": "human", "inputs": {"x": 1}, "task": {"due": "1h", "onExpiry": "skip"}},
            {"nodeId": "yes", "type": "noop"},
            {"nodeId": "no", "type": "noop"},
        ],
        edges=[
            {"sourceNodeId": "h", "targetNodeId": "yes", "condition": "outputs.x == 1"},
            {"sourceNodeId": "h", "sourcePort": "rejected", "targetNodeId": "no"},
        ],
    )
    scenario, trace = once(plan, nodes={"h": {"duration": "30m"}})
    assert (trace.makespan, [str(status) for status in trace.statuses]) == (
        1_800_000,
        ["SUCCESS", "SUCCESS", "SKIPPED"],
    )
    assert [problem.code for problem in scenario.warnings] == []
    _, trace = once(plan, nodes={"h": {"duration": "2h"}})
    assert (trace.makespan, [str(status) for status in trace.statuses]) == (3_600_000, ["SKIPPED"] * 3)
    summary = rehearse(plan, load_options({"runs": 400, "nodes": {"h": {"duration": "1m", "approval": 0.25}}}))
    runs = {node.node_id: node.run for node in summary.nodes}
    assert runs["yes"] == pytest.approx(0.25, abs=0.08)
    assert runs["no"] == pytest.approx(0.75, abs=0.08)


def test_a_rejection_without_its_port_fails_and_a_failure_that_asks_ends_the_rehearsal() -> None:
    """As in a run; under escalate nobody decides about the failure."""
    nodes = [{"nodeId": "h", "type": "human"}, {"nodeId": "d", "type": "noop"}]
    edges = [{"sourceNodeId": "h", "targetNodeId": "d"}]
    _, trace = once(plan_of(nodes=nodes, edges=edges), nodes={"h": {"approval": 0}})
    assert trace.status == "FAILED"
    _, trace = once(plan_of(nodes=nodes, edges=edges, failurePolicy="escalate"), nodes={"h": {"approval": 0}})
    assert (trace.status, (trace.error or {})["originNode"]) == ("AWAITING_HITL", "h")


def test_a_callback_is_rehearsed_as_part_of_its_node() -> None:
    """How long the node takes is how long its answer takes; it fails and is repeated as its activity is."""
    node = {"nodeId": "a", "type": "http", "inputs": {"url": "http://x.org"}, "callback": {"timeout": "2h"}}
    scenario, trace = once(plan_of(nodes=[node]), nodes={"a": {"duration": "5m", "outputs": {"n": 1}}})
    assert spans(scenario, trace) == {"a": (0, 300_000)}
    assert trace.status == "COMPLETED"
