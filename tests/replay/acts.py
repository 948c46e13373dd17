"""What people do to runs whose histories are recorded."""

from __future__ import annotations

import asyncio
import contextlib

from temporalio.client import WorkflowUpdateFailedError

from dalang.authority import Approval, approval_token, signed_request
from dalang.store.breakers import breaker_id, force_open, reset
from dalang.store.engine import transaction
from tests.engine.kit import TENANT, Started
from tests.harness import PATIENCE
from tests.replay.recorded import (
    API_KEYS,
    INTERRUPT,
    LATER,
    edge,
    node,
)


async def pause_and_resume(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.execute_update("pause", {"operator": "ann", "reason": "look"})
    await started.handle.signal("resume", {"operator": "ann"})
    await started.until("PLAN_RESUMED")


async def cancel_by_signal(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.signal("cancel", {"reason": "enough"})


async def cancel_by_temporal(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.cancel()


async def raise_budget(started: Started) -> None:
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("raise_budget", {"tokens": 100, "wallTimeMs": 3_600_000, "operator": "kim"})


async def resume_next_day(started: Started) -> None:
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("resume", {"operator": "kim"})


async def signals_at_once(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    for name in ("pause", "resume", "resume", "pause", "resume"):
        await started.handle.signal(name, {"operator": name})


async def bad_requests(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.signal("pause", args=[1, 2, 3])
    await started.handle.signal("nonsense", "x")
    await started.handle.signal("resume", {"reason": 5})
    await started.handle.signal("cancel", {"typo": "x"})
    await started.until("REQUEST_REJECTED")


async def early_late_repeated(started: Started) -> None:
    await started.handle.signal("external_event", {"name": "x", "payload": {"n": 1}, "eventId": "1"})
    await started.handle.signal("external_event", {"name": "x", "payload": {"n": 1}, "eventId": "1"})
    await started.until("NODE_WAITING", "b")
    await started.handle.execute_update("external_event", {"name": "x", "payload": {"n": 2}})


async def call_back(started: Started) -> None:
    await started.until("NODE_STARTED", "early")
    await started.handle.signal("callback", {"nodeId": "early", "callbackId": "1", "outputs": {"n": 1}})
    for waiting in ("late", "failed"):
        await started.until("NODE_WAITING", waiting)
    await started.handle.signal("callback", {"nodeId": "late", "callbackId": "2", "generation": 3})
    await started.handle.execute_update("callback", {"nodeId": "late", "callbackId": "3", "outputs": {"n": 2}})
    error = {"type": "LLM_ERROR", "message": "no"}
    await started.handle.signal("callback", {"nodeId": "failed", "callbackId": "4", "error": error})


async def retry_then_skip(started: Started) -> None:
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("retry_node", {"nodeId": "a", "inputs": {"x": 0}})
    while sum(row["type"] == "NODE_FAILED" for row in (await started.stored())["events"]) < 2:
        await started.until("NODE_FAILED")
    await started.handle.execute_update("skip_node", {"nodeId": "a", "outputs": {"x": 1}})


async def cancel_twice(started: Started) -> None:
    await started.until("NODE_STARTED", "b")
    await started.handle.signal("cancel", {"reason": "enough"})
    await started.until("NODE_COMPENSATING", "b")
    await started.handle.signal("cancel", {"reason": "again"})
    await started.handle.cancel()


async def interrupt_and_resume(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.execute_update("pause", INTERRUPT)
    await started.until("NODE_INTERRUPTED", "a")
    await started.handle.execute_update("resume", {})


async def interrupt_and_cancel(started: Started) -> None:
    await started.until("NODE_STARTED", "a")
    await started.handle.signal("pause", INTERRUPT)
    await started.handle.signal("cancel", {"reason": "enough"})


async def interrupt_between_attempts(started: Started) -> None:
    while not (await started.stored())["attempts"]:
        await started.until("NODE_STARTED", "a")
    await interrupt_and_resume(started)


async def retry_and_resolve_the_undo(started: Started) -> None:
    for number, more in enumerate(({"action": "retry", "inputs": {"x": 0}}, {"action": "resolve"})):
        tasks: list[str] = []
        while len(tasks) <= number:
            await started.until("HITL_TASK_CREATED", "a")
            rows = (await started.stored())["events"]
            tasks = [row["data"]["task"] for row in rows if row["type"] == "HITL_TASK_CREATED"]
        decision = {"taskId": tasks[number], "operator": "ann", **more}
        await started.handle.execute_update("complete_human_task", decision)


async def tasks(started: Started, count: int = 1) -> list[str]:
    """Return the ids of the open tasks when there are so many."""
    while len(found := (await started.handle.query("tasks"))["tasks"]) < count:
        await asyncio.sleep(0.05)
    return [task["taskId"] for task in found]


async def decide_by_update(started: Started) -> None:
    (task,) = await tasks(started)
    who = {"taskId": task, "operator": "ann"}
    await started.handle.execute_update("claim_human_task", who)
    await started.handle.execute_update("release_human_task", who)
    decision = {**who, "action": "edit", "outputs": {"y": 2}, "decisionId": "d1"}
    await started.handle.execute_update("complete_human_task", decision)


async def answer_questions(started: Started) -> None:
    for number in (1, 2):
        while len(tasks := (await started.handle.query("tasks"))["tasks"]) < 3 - number:
            await asyncio.sleep(0.05)
        decision = {"taskId": tasks[0]["taskId"], "operator": f"p{number}"}
        given = {"action": "answer", "values": {"region": "eu"}} if number == 1 else {"action": "reject"}
        await started.handle.execute_update("complete_human_task", {**decision, **given})


async def vote_by_signal(started: Started) -> None:
    (task,) = await tasks(started)
    for operator in ("ann", "ann", "bob"):
        decision = {"taskId": task, "operator": operator, "action": "approve", "decisionId": operator}
        await started.handle.signal("complete_human_task", decision)
    await started.until("PLAN_RESUMED")
    (task,) = await tasks(started)
    await started.handle.signal("delegate_human_task", {"taskId": task, "operator": "ann", "to": "eve"})
    await started.handle.signal("complete_human_task", {"taskId": task, "operator": "ann", "action": "reject"})
    await started.handle.signal("complete_human_task", {"taskId": task, "operator": "eve", "action": "reject"})


async def ask_about_failures(started: Started) -> None:
    tasks = {task["nodeId"]: task["taskId"] for task in (await all_tasks(started, 2))}
    retry = {"taskId": tasks["a"], "operator": "ann", "action": "retry", "inputs": {"x": 2}}
    await started.handle.execute_update("complete_human_task", retry)
    await started.handle.execute_update("skip_node", {"nodeId": "b", "operator": "ann"})


async def all_tasks(started: Started, count: int) -> list[dict[str, str]]:
    await tasks(started, count)
    found: list[dict[str, str]] = (await started.handle.query("tasks"))["tasks"]
    return found


async def cancel_when_asked(started: Started) -> None:
    await started.until("PLAN_AWAITING_HITL")
    await started.handle.execute_update("pause", {})
    await started.handle.execute_update("cancel", {"reason": "enough"})


async def open_breaker(started: Started) -> None:
    """Open the breaker between the first attempt and the second, which is deferred and begins in another activity."""
    async with asyncio.timeout(PATIENCE):
        while not (await started.stored())["attempts"]:
            await asyncio.sleep(0.02)
    async with transaction(started.engine.db, TENANT) as conn:
        await force_open(conn, TENANT, "t-flaky replay", 3_000, "ann", None)
    await started.until("NODE_QUEUED", "a")
    async with transaction(started.engine.db, TENANT) as conn:
        await reset(conn, TENANT, breaker_id(TENANT, "t-flaky replay"), "ann", None)


async def open_breaker_and_cancel(started: Started) -> None:
    await open_breaker(started)
    await started.handle.execute_update("cancel", {})


async def replan(started: Started) -> None:
    await started.until("NODE_STARTED", "s")
    patch = {"addNodes": [node("n")], "addEdges": [edge("a", "n"), edge("n", "z")], "set": {"timeout": "2h"}}
    await started.handle.execute_update("replan", {"patch": patch, "operator": "ann"})
    for bad in ({"removeNodes": ["nobody"]}, {"changeInputs": {"a": {"x": 1}}}):
        with contextlib.suppress(WorkflowUpdateFailedError):
            await started.handle.execute_update("replan", {"patch": bad})
    await started.handle.signal("replan", {"patch": {"changeInputs": {"z": {"x": 1}}}, "expectedRevision": 2})


async def pause_while_queued(started: Started) -> None:
    await started.until("NODE_STARTED")
    await started.until("NODE_QUEUED", "b")
    await started.handle.execute_update("pause", {"operator": "ann"})
    await started.until("NODE_DEQUEUED", "b")
    await started.handle.signal("leases", {"leases": [{"nodeId": "b", "ask": 1, "state": "GRANTED"}]})
    await started.handle.signal("leases", {"leases": "none"})
    await started.handle.execute_update("resume", {"operator": "ann"})


async def prove_who_decides(started: Started) -> None:
    """Claim a name, which is refused; decide by what the API signs, and by an approval token."""
    handle, run_id = started.handle, started.run_id
    first = (await tasks(started))[0]
    claim = {"taskId": first, "operator": "ann", "action": "approve"}
    await handle.signal("complete_human_task", claim)
    with contextlib.suppress(WorkflowUpdateFailedError):
        await handle.execute_update("skip_node", {"nodeId": "a", "operator": "ann"})
    await handle.execute_update("pause", {"operator": "ann"})
    await handle.execute_update("resume", {})
    signed = signed_request(API_KEYS, TENANT, run_id, "complete_human_task", claim, LATER)
    await handle.signal("complete_human_task", signed)
    while not (task := next(iter((await handle.query("tasks"))["tasks"]), None)) or task["taskId"] == first:
        await asyncio.sleep(0.05)
    approval = Approval(TENANT, run_id, task["taskId"], task["digest"], "ben", ("ops",), LATER)
    token = {"action": "reject", "approvalToken": approval_token(API_KEYS, approval)}
    await handle.signal("complete_human_task", token)
