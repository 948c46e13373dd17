"""Failures that wait for an operator: the policy pause, handlers that want a person, retry, skip, fallback outputs."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError

from tests.engine.kit import Engine, Started, body_of, node_events

FAST = {"initialDelayMs": 10}


def _plan(**more: Any) -> dict[str, Any]:
    return {
        "failurePolicy": "pause",
        "nodes": [
            {"nodeId": "a", "type": "t-value", "inputs": {"x": 1}},
            {"nodeId": "b", "type": "t-needs", "inputs": {"x": "${nodes.a.outputs.x}"}, "retryPolicy": FAST},
            {"nodeId": "c", "type": "t-value"},
        ],
        "edges": [{"sourceNodeId": "a", "targetNodeId": "b"}, {"sourceNodeId": "b", "targetNodeId": "c"}],
        **more,
    }


async def _paused(engine: Engine, plan: dict[str, Any]) -> Started:
    started = await engine.start(plan)
    await started.until("PLAN_PAUSED")
    return started


async def _refused(started: Started, update: str, payload: Any) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await started.handle.execute_update(update, payload)
    return str(refusal.value.cause)


async def test_a_failed_node_is_retried_with_other_inputs(shared_engine: Engine) -> None:
    """Under pause a failure holds the run; with changed inputs the node runs again under a new key and the run ends."""
    started = await _paused(shared_engine, _plan())
    held = await started.stored()
    assert held["run"]["status"] == "PAUSED"
    assert held["nodes"]["b"]["status"] == "FAILED"
    assert (await started.handle.query("status"))["awaiting"] == ["b"]
    answer = await started.handle.execute_update(
        "retry_node", {"nodeId": "b", "inputs": {"x": 2}, "operator": "ann", "reason": "typo"}
    )
    assert answer["status"] == "RUNNING"
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert node_events(end, "b") == [
        "NODE_STARTED",
        "NODE_FAILED",
        "NODE_RETRY_REQUESTED",
        "NODE_STARTED",
        "NODE_COMPLETED",
    ]
    starts = [row["body"]["inputs"] for row in end["events"] if row["type"] == "NODE_STARTED" and row["node_id"] == "b"]
    assert starts == [{"x": 1}, {"x": 2}]
    assert body_of(end, "NODE_COMPLETED", "b")["outputs"]["key"].endswith(":b:0:1")
    assert end["nodes"]["b"]["generation"] == 1
    assert await shared_engine.chain_problem(started.run_id) is None


async def test_a_plain_retry_keeps_the_idempotency_key(shared_engine: Engine) -> None:
    """Without changes it is the same work, so the key stays; failing again holds the run again."""
    started = await _paused(shared_engine, _plan())
    await started.handle.execute_update("retry_node", {"nodeId": "b"})
    await _until_count(started, "NODE_FAILED", 2)
    await started.handle.execute_update("skip_node", {"nodeId": "b", "outputs": {"x": 5}})
    end = await started.end()
    assert end["nodes"]["b"]["status"] == "SKIPPED"
    assert end["nodes"]["b"]["generation"] == 0
    assert body_of(end, "NODE_COMPLETED", "c") == {"outputs": {"x": 5}}
    assert end["run"]["status"] == "COMPLETED"


async def _until_count(started: Started, kind: str, count: int) -> None:
    while sum(row["type"] == kind for row in (await started.stored())["events"]) < count:
        await started.until(kind)


async def test_a_skip_without_outputs_skips_what_follows(shared_engine: Engine) -> None:
    """Skipped without outputs a failed node's edges are dead; nothing failed any more, so the run completes."""
    started = await _paused(shared_engine, _plan())
    await started.handle.execute_update("skip_node", {"nodeId": "b"})
    end = await started.end()
    assert {node: row["status"] for node, row in end["nodes"].items()} == {
        "a": "SUCCESS",
        "b": "SKIPPED",
        "c": "SKIPPED",
    }
    assert end["run"]["status"] == "COMPLETED"


async def test_cancel_is_the_other_way_out(shared_engine: Engine) -> None:
    """A run that waits for a decision can be cancelled; finally nodes run."""
    started = await _paused(shared_engine, _plan(**{"finally": [{"nodeId": "f", "type": "noop"}]}))
    await started.handle.execute_update("cancel", {"reason": "no use"})
    end = await started.end()
    assert end["run"]["status"] == "CANCELLED"
    assert end["nodes"]["f"]["status"] == "SUCCESS"
    assert end["nodes"]["b"]["status"] == "FAILED"


async def test_what_cannot_be_decided_is_refused(shared_engine: Engine) -> None:
    """Unknown nodes, other statuses, malformed payloads and a resume without a decision are refused with a reason."""
    started = await _paused(shared_engine, _plan())
    table: list[tuple[str, Any, str]] = [
        ("resume", None, "until somebody retries or skips b"),
        ("retry_node", {"nodeId": "zz"}, "not in the plan"),
        ("retry_node", {"nodeId": "a"}, "node a is SUCCESS"),
        ("retry_node", {"nodeId": "c"}, "node c is PENDING"),
        ("skip_node", {"nodeId": "a"}, "node a is SUCCESS"),
        ("retry_node", {}, "nodeId is missing"),
        ("retry_node", None, "nodeId is missing"),
        ("retry_node", {"nodeId": 5}, "nodeId is a text"),
        ("retry_node", {"nodeId": "b", "inputs": [1]}, "inputs is an object"),
        ("retry_node", {"nodeId": "b", "outputs": {}}, "unknown field 'outputs'"),
        ("skip_node", {"nodeId": "b", "outputs": {"x": "\x00"}}, "U+0000"),
        ("skip_node", {"nodeId": "b", "outputs": {"x": "y" * 300_000}}, "more than"),
    ]
    for update, payload, words in table:
        assert words in await _refused(started, update, payload), (update, payload)
    await started.handle.execute_update("skip_node", {"nodeId": "b"})
    assert (await started.end())["run"]["status"] == "COMPLETED"


@pytest.mark.parametrize("action", ["HUMAN_REVIEW", "ESCALATE"])
async def test_a_handler_that_wants_a_person_holds_an_older_run(shared_engine: Engine, action: str) -> None:
    """In runs of the first engine version it holds the run, whatever the policy; newer ones ask a person."""
    node = {"nodeId": "a", "type": "t-fail", "inputs": {"action": action}}
    started = await shared_engine.start({"failurePolicy": "failFast", "nodes": [node]}, engine=1)
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("skip_node", {"nodeId": "a"})
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def test_fallback_outputs_stand_in_where_the_handler_suggests_it(shared_engine: Engine) -> None:
    """FALLBACK with a fallback makes the node ERROR and lights its edges with those outputs; without one it fails."""
    plan = {
        "nodes": [
            {"nodeId": "a", "type": "t-fail", "inputs": {"action": "FALLBACK"}, "fallback": {"x": 7}},
            {"nodeId": "b", "type": "t-value"},
        ],
        "edges": [{"sourceNodeId": "a", "targetNodeId": "b"}],
    }
    end = await (await shared_engine.start(plan)).end()
    assert (end["nodes"]["a"]["status"], end["run"]["status"]) == ("ERROR", "COMPLETED")
    assert body_of(end, "NODE_COMPLETED", "b") == {"outputs": {"x": 7}}
    del plan["nodes"][0]["fallback"]  # type: ignore[attr-defined]
    end = await (await shared_engine.start(plan)).end()
    assert end["nodes"]["a"]["status"] == "FAILED"


async def test_two_failures_wait_for_two_decisions(shared_engine: Engine) -> None:
    """What is in flight when the run is held may fail, too; the run goes on after the last decision."""
    fail = {"type": "t-fail", "inputs": {}}
    started = await _paused(
        shared_engine,
        {"failurePolicy": "pause", "nodes": [{"nodeId": "a", **fail}, {"nodeId": "b", **fail}]},
    )
    await _until_count(started, "NODE_FAILED", 2)
    assert (await started.handle.execute_update("skip_node", {"nodeId": "a"}))["status"] == "PAUSED"
    await started.handle.execute_update("skip_node", {"nodeId": "b"})
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def test_an_operators_pause_outlives_the_decision(shared_engine: Engine, tmp_path: Any) -> None:
    """A run that an operator paused before the failure stays paused after the decision, until it is resumed."""
    gate = tmp_path / "gate"
    node = {"nodeId": "a", "type": "t-fail-after", "inputs": {"path": str(gate)}}
    started = await shared_engine.start({"failurePolicy": "pause", "nodes": [node, {"nodeId": "b", "type": "noop"}]})
    await started.until("NODE_STARTED", "a")
    await started.handle.execute_update("pause")
    gate.touch()
    await started.until("NODE_FAILED", "a")
    assert (await started.handle.execute_update("skip_node", {"nodeId": "a"}))["status"] == "PAUSED"
    assert (await started.handle.execute_update("resume"))["status"] in ("RUNNING", "COMPLETED")
    assert (await started.end())["run"]["status"] == "COMPLETED"
