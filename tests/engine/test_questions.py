"""Handlers that ask a person, on the real engine."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from dalang.store.engine import transaction
from tests.engine.handlers import calls
from tests.engine.kit import TENANT, Engine, Started, body_of, node_events
from tests.replay.agent_acts import register_asking
from tests.replay.plans import PLANS


def _plan(**fields: Any) -> dict[str, Any]:
    retry = {"maxAttempts": 3, "initialDelayMs": 10, "retryOn": ["NETWORK_ERROR"]}
    return {"nodes": [{"nodeId": "a", "type": "t-asks", "retryPolicy": retry, **fields}]}


async def _answer(started: Started, **decision: Any) -> dict[str, Any]:
    await started.until("HITL_TASK_CREATED")
    task: dict[str, Any] = (await started.handle.query("tasks"))["tasks"][0]
    request = {"taskId": task["taskId"], "action": "answer", "operator": "ann", **decision}
    await started.handle.execute_update("complete_human_task", request)
    return task


async def test_a_handler_goes_on_with_what_a_person_answered(shared_engine: Engine) -> None:
    """Same key, its checkpoint, and the attempt it was at; the read model shows node, run and task meanwhile."""
    started = await shared_engine.start(_plan(inputs={"failures": 1}))
    await started.until("PLAN_AWAITING_HITL")
    stored = await started.stored()
    assert (stored["run"]["status"], stored["nodes"]["a"]["status"]) == ("AWAITING_HITL", "AWAITING_HITL")
    task = await _answer(started, values={"region": "eu"}, notes="room")
    assert (task["kind"], task["title"], task["actions"]) == ("input", "Which region?", ["answer", "reject"])
    end = await started.end()
    outputs = body_of(end, "NODE_COMPLETED")["outputs"]
    key = outputs.pop("key")
    assert outputs == {"region": "eu", "by": "ann", "attempt": 2, "left": {"asked": 2}}
    assert calls[key] == 3
    assert [one["attempt"] for one in end["attempts"] if one["error"]] == [1]
    assert node_events(end, "a")[1:4] == ["HITL_TASK_CREATED", "HITL_TASK_COMPLETED", "NODE_DEQUEUED"]
    asked = next(row for row in end["events"] if row["type"] == "HITL_TASK_CREATED")
    assert asked["data"]["usage"] == {"tokens": 3}
    assert asked["body"]["context"] == {"try": 2}
    async with transaction(shared_engine.db, TENANT) as conn:
        query = text("select kind, status, completed_by from human_tasks where task_id = :t")
        assert tuple((await conn.execute(query, {"t": task["taskId"]})).one()) == ("input", "COMPLETED", "ann")
    assert await shared_engine.chain_problem(started.run_id) is None


async def test_a_form_that_is_no_schema_fails_the_node(shared_engine: Engine) -> None:
    """VALIDATION_ERROR, and nobody is asked."""
    started = await shared_engine.start(_plan(inputs={"form": {"type": "nonsense"}}))
    end = await started.end()
    assert body_of(end, "NODE_FAILED")["error"]["type"] == "VALIDATION_ERROR"
    assert "HITL_TASK_CREATED" not in node_events(end, "a")


async def test_a_worker_of_others_asks_with_an_error(shared_engine: Engine) -> None:
    """On its own task queue, in any language; it is given the answer, and what is no question is a failure."""
    recorded = PLANS["questions-elsewhere"]
    await register_asking(shared_engine)
    started = await shared_engine.start(recorded.plan, **recorded.state)
    await recorded.act(started)
    end = await started.end()
    assert body_of(end, "NODE_COMPLETED", "asks")["outputs"]["said"] == {"region": "eu"}
    assert body_of(end, "NODE_FAILED", "odd")["error"]["type"] == "UNKNOWN_ERROR"
    assert [one["data"].get("agent") for one in end["events"] if one["type"] == "NODE_STARTED"] == ["h-inquires"] * 3
