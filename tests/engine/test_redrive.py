"""Redrive on the real engine: many kept nodes, resets by Temporal's own tools, continue-as-new."""

from __future__ import annotations

import uuid
from typing import Any
from uuid import UUID

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType as TemporalEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from dalang.launch import Launcher, TemporalLink
from dalang.redriving import RedriveRequest, Redrives
from tests.engine.kit import TENANT, Engine, Started, node_events


def redrives(engine: Engine) -> Redrives:
    link = TemporalLink(engine.settings, engine.db, engine.client)
    return Redrives(engine.db, Launcher(engine.settings, engine.db, link))


async def redrive(engine: Engine, run_id: str, *nodes: str, **inputs: Any) -> Started:
    """Start a finished run again as the API does."""
    wanted = RedriveRequest("ann", nodes or None, inputs or None)
    run = await redrives(engine).redrive(TENANT, UUID(run_id), wanted)
    return Started(engine, str(run.run_id), engine.client.get_workflow_handle(run.workflow))


async def test_thousands_of_kept_nodes(shared_engine: Engine) -> None:
    """One of many failed: it alone runs again, and the new run shows all others as they were."""
    count = 2_000
    nodes: list[dict[str, Any]] = [
        {"nodeId": f"n{at}", "type": "sleep", "inputs": {"seconds": 0}} for at in range(count)
    ]
    nodes[1_000] = {"nodeId": "odd", "type": "t-needs", "inputs": {"x": 1}, "retryPolicy": {"maxAttempts": 1}}
    started = await shared_engine.start({"failurePolicy": "continue", "nodes": nodes})
    old = await started.end(within=240)
    assert old["run"]["status"] == "FAILED"
    new = await redrive(shared_engine, started.run_id, odd={"x": 2})
    end = await new.end(within=240)
    assert end["run"]["status"] == "COMPLETED"
    assert end["run"]["node_status_counts"] == {"SUCCESS": count}
    assert len(end["nodes"]) == count
    assert sum(row["type"] == "NODE_STARTED" for row in end["events"]) == 1
    assert await shared_engine.chain_problem(new.run_id) is None


@pytest.mark.parametrize("limit", [60, 10_000])
async def test_a_redrive_goes_on_over_continue_as_new(shared_engine: Engine, limit: int) -> None:
    """The seed is taken over once, however many executions follow; the key still begins with the first run."""
    shared = shared_engine
    settings = shared.settings.model_copy(update={"history_events_limit": limit})
    engine = Engine(settings, shared.client, shared.db)
    nodes = [{"nodeId": f"n{at}", "type": "t-value", "inputs": {"x": at}} for at in range(12)]
    nodes[2] = {"nodeId": "n2", "type": "t-needs", "inputs": {"x": 1}, "retryPolicy": {"maxAttempts": 1}}
    edges = [{"sourceNodeId": f"n{at}", "targetNodeId": f"n{at + 1}", "mapping": {}} for at in range(11)]
    started = await engine.start({"nodes": nodes, "edges": edges})
    assert (await started.end())["run"]["status"] == "FAILED"
    new = await redrive(engine, started.run_id, n2={"x": 2})
    end = await new.end()
    assert end["run"]["status"] == "COMPLETED"
    kept = [row["node_id"] for row in end["events"] if row["type"] == "NODE_KEPT"]
    assert kept == ["n0", "n1"]
    outputs = next(
        row["body"]["outputs"] for row in end["events"] if row["node_id"] == "n2" and "outputs" in (row["body"] or {})
    )
    assert outputs["key"] == f"{started.run_id}:n2:0:1"
    assert await engine.chain_problem(new.run_id) is None


async def test_a_reset_opens_an_epoch_and_a_redrive_follows_it(shared_engine: Engine) -> None:
    """After `workflow reset` events are neither lost nor doubled, and a redrive keeps what the new epoch came to."""
    plan = {
        "nodes": [
            {"nodeId": "a", "type": "t-value", "inputs": {"x": 1}},
            {"nodeId": "b", "type": "t-value", "inputs": {"x": 2}},
            {"nodeId": "c", "type": "t-needs", "inputs": {"x": 1}, "retryPolicy": {"maxAttempts": 1}},
        ],
        "edges": [
            {"sourceNodeId": "a", "targetNodeId": "b", "mapping": {}},
            {"sourceNodeId": "b", "targetNodeId": "c", "mapping": {}},
        ],
    }
    started = await shared_engine.start(plan)
    before = await started.end()
    await _reset(shared_engine, started, after_node="a")
    again = shared_engine.client.get_workflow_handle(started.handle.id)
    after = await Started(shared_engine, started.run_id, again).end()
    assert after["run"]["status"] == "FAILED"
    assert {row["epoch"] for row in after["events"]} == {0, 1}
    first = [row for row in after["events"] if row["epoch"] == 0]
    assert [row["hash"] for row in first] == [row["hash"] for row in before["events"]]
    current = [row for row in after["events"] if not row["superseded"]]
    assert sorted(row["seq"] for row in current) == list(range(1, len(current) + 1))
    assert [row["type"] for row in current if row["node_id"] == "b"] == ["NODE_STARTED", "NODE_COMPLETED"]
    assert await shared_engine.chain_problem(started.run_id) is None
    new = await redrive(shared_engine, started.run_id, c={"x": 2})
    end = await new.end()
    assert end["run"]["status"] == "COMPLETED"
    assert node_events(end, "b") == ["NODE_KEPT"]
    kept = next(row for row in end["events"] if row["node_id"] == "b")
    assert kept["body"]["outputs"] == next(
        row["body"]["outputs"] for row in current if row["node_id"] == "b" and row["type"] == "NODE_COMPLETED"
    )


async def _reset(engine: Engine, started: Started, after_node: str) -> None:
    """Do what ``temporal workflow reset`` does: back to the first workflow task after a node had ended."""
    scheduled, ended, target = None, None, None
    async for event in started.handle.fetch_history_events():
        if event.event_type == TemporalEvent.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            if event.activity_task_scheduled_event_attributes.activity_id == after_node:
                scheduled = event.event_id
        elif event.event_type == TemporalEvent.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            if event.activity_task_completed_event_attributes.scheduled_event_id == scheduled:
                ended = event.event_id
        elif event.event_type == TemporalEvent.EVENT_TYPE_WORKFLOW_TASK_COMPLETED and ended and target is None:
            target = event.event_id
    assert target is not None
    await engine.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=engine.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=started.handle.id),
            reason="for the test",
            workflow_task_finish_event_id=target,
            request_id=str(uuid.uuid4()),
        )
    )
