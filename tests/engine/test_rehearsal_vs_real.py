"""A rehearsal says what the real engine then does: the same plan goes through both."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.plan import Plan, with_derived_ids
from dalang.rehearsal import Options, Scenario, Trace, load_options, prepare, rehearse_once
from tests.engine.kit import Engine

CERTAIN_MS = 400
"""By so much one thing has to come after another in the rehearsal, so that a real run must keep the order as well."""


def sleeps(*times: tuple[str, int], **fields: Any) -> list[dict[str, Any]]:
    """Return sleep nodes, given as (id, milliseconds)."""
    return [{"nodeId": name, "type": "sleep", "inputs": {"duration": f"{ms}ms"}, **fields} for name, ms in times]


def edges(*pairs: str, **fields: Any) -> list[dict[str, Any]]:
    """Return edges, given as ``a->b``."""
    return [
        {"sourceNodeId": source, "targetNodeId": target, **fields}
        for source, target in (pair.split("->") for pair in pairs)
    ]


ONCE = {"maxAttempts": 1}
TWICE = {"maxAttempts": 2, "initialDelayMs": 500, "maxDelayMs": 500}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a diamond of sleeps": (
        {
            "nodes": sleeps(("a", 600), ("b", 500), ("c", 1200), ("d", 300)),
            "edges": edges("a->b", "a->c", "b->d", "c->d"),
        },
        {},
    ),
    "two slots, priority first, then the longest path": (
        {
            "maxInFlight": 2,
            "nodes": [
                *sleeps(("p", 700), ("q", 1300), ("r", 700)),
                *sleeps(("long", 500), requirements={"estimatedDuration": "1m"}),
                *sleeps(("urgent", 900), priority="high"),
            ],
        },
        {},
    ),
    "the run's timeout": (
        {
            "timeout": "1s",
            "nodes": sleeps(("a", 400), ("b", 60_000), ("c", 100)),
            "edges": edges("a->b", "b->c"),
            "finally": sleeps(("tidy", 600)),
        },
        {},
    ),
    "retries, error edges, joins and a failure that the others outlive": (
        {
            "failurePolicy": "continue",
            "nodes": [
                {"nodeId": "flaky", "type": "t-flaky", "inputs": {"failures": 9}, "retryPolicy": TWICE},
                {"nodeId": "fine", "type": "t-value", "inputs": {"score": 7}},
                {"nodeId": "bad", "type": "t-fail"},
                {"nodeId": "handled", "type": "noop"},
                {"nodeId": "unhandled", "type": "t-fail", "inputs": {"type": "LLM_ERROR"}, "retryPolicy": ONCE},
                {"nodeId": "blocked", "type": "noop"},
                {"nodeId": "high", "type": "noop"},
                {"nodeId": "low", "type": "noop"},
                {"nodeId": "tidy", "type": "noop", "join": "allDone"},
            ],
            "edges": [
                *edges("flaky->handled", "bad->handled", sourcePort="error"),
                *edges("unhandled->blocked", "fine->blocked"),
                *edges("fine->high", condition="outputs.score > 5"),
                *edges("fine->low", condition="outputs.score <= 5"),
                *edges("blocked->tidy", "high->tidy", "low->tidy"),
            ],
        },
        {
            "types": {"t-value": {"outputs": {"score": 7}}, "t-fail": {"failures": {"rate": 1, "type": "TOOL_ERROR"}}},
            "nodes": {"flaky": {"failures": 1}, "unhandled": {"failures": {"rate": 1, "type": "LLM_ERROR"}}},
            "defaultDuration": "1ms",
        },
    ),
    "fail fast stops what hangs": (
        {
            "nodes": [
                {"nodeId": "hang", "type": "t-hang"},
                {"nodeId": "wait", "type": "sleep", "inputs": {"duration": "500ms"}},
                {"nodeId": "fail", "type": "t-fail"},
                {"nodeId": "never", "type": "noop"},
            ],
            "edges": edges("wait->fail", "hang->never"),
            "finally": [{"nodeId": "tidy", "type": "noop"}],
        },
        {
            "types": {"t-fail": {"failures": {"rate": 1, "type": "TOOL_ERROR"}}},
            "nodes": {"hang": {"duration": "1h"}, "fail": {"duration": "1ms"}},
        },
    ),
}


def rehearsed(plan: Plan, options: Options) -> tuple[Scenario, Trace]:
    scenario = prepare(plan, options)
    return scenario, rehearse_once(scenario, 1)


@pytest.mark.parametrize("case", CASES)
async def test_a_real_run_ends_as_it_was_rehearsed(shared_engine: Engine, case: str) -> None:
    """The same end of the run and of every node, the same attempts, the same order, and never less time."""
    fields, assumed = CASES[case]
    plan = with_derived_ids(Plan.model_validate({"name": "test", **fields}))
    scenario, trace = rehearsed(plan, load_options(assumed))
    ids = scenario.program.ids
    real = await (await shared_engine.start_plan(plan, {})).end()

    assert real["run"]["status"] == trace.status
    assert {name: row["status"] for name, row in real["nodes"].items()} == {
        name: str(status) for name, status in zip(ids, trace.statuses, strict=True)
    }
    for node, one in trace.nodes.items():
        if one.work is not None and trace.statuses[node] != "CANCELLED":
            assert real["nodes"][ids[node]]["attempt"] == len(one.work.attempts), ids[node]
    started = {row["node_id"]: row["at"] for row in real["events"] if row["type"] == "NODE_STARTED"}
    ended = {row["node_id"]: row["at"] for row in real["events"] if row["type"] in ENDS}
    assert set(started) == {ids[node] for node in trace.nodes}
    depends = {(edge.source_node_id, edge.target_node_id) for edge in plan.edges}
    for before, first in trace.nodes.items():
        for after, second in trace.nodes.items():
            pair = ids[before], ids[after]
            if second.begun - first.end >= CERTAIN_MS or (pair in depends and second.begun >= first.end):
                assert ended[pair[0]] <= started[pair[1]], pair
    lasted = (real["run"]["completed_at"] - real["run"]["started_at"]).total_seconds() * 1000
    assert trace.makespan - 50 <= lasted


ENDS = {"NODE_COMPLETED", "NODE_FAILED", "NODE_ERROR", "NODE_CANCELLED", "NODE_SKIPPED"}


async def test_a_sequential_run_starts_its_nodes_in_the_rehearsed_order(shared_engine: Engine) -> None:
    """With one slot the order is priority, longest remaining path, plan order: the state machine's, in both."""
    nodes: list[dict[str, Any]] = [{"nodeId": f"n{at}", "type": "noop"} for at in range(8)]
    nodes[5]["priority"] = "critical"
    nodes[6]["requirements"] = {"estimatedDuration": "1h"}
    plan = with_derived_ids(
        Plan.model_validate({"name": "test", "maxInFlight": 1, "nodes": nodes, "edges": edges("n3->n0", "n7->n5")})
    )
    scenario, trace = rehearsed(plan, Options())
    real = await (await shared_engine.start_plan(plan, {})).end()
    order = [row["node_id"] for row in real["events"] if row["type"] == "NODE_STARTED"]
    assert order == [scenario.program.ids[node] for node in trace.nodes]
