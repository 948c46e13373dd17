"""What agents do while a history is recorded: one asks for its work, one is a Temporal worker on a queue of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from dalang.store.assignments import end_assignment, take_assignment
from dalang.store.engine import transaction
from tests.engine.agents import register
from tests.engine.kit import TENANT, Engine, Started

QUEUE = "replay-agents"


@activity.defn(name="answer")
async def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Fail once, hang for ever, or answer."""
    if task["nodeId"] == "hangs":
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.1)
    if task.get("attempt", 1) == 1:
        raise ApplicationError("not yet", type="NETWORK_ERROR")
    return {"outputs": {"key": task["key"]}, "usage": {"tokens": 5}}


async def agents_at_work(started: Started) -> None:
    """Do both nodes, at the second attempt each, and cancel the run while the third is under way."""
    running = started.engine
    endpoint = {"taskQueue": QUEUE, "activity": "answer", "heartbeatMs": 2000}
    await register(running, "h-asks", capabilities={"h-asks": 1})
    await register(running, "h-queue", "taskQueue", endpoint=endpoint, capabilities={"h-queue": 1})
    client = await Client.connect(running.settings.temporal_address)
    async with Worker(client, task_queue=QUEUE, activities=[answer]):
        await _end(started, "FAILED", {"error": {"type": "NETWORK_ERROR", "retryable": True}})
        await _end(started, "COMPLETED", {"outputs": {"by": "h-asks"}})
        await started.until("NODE_STARTED", "hangs")
        await started.handle.execute_update("cancel", {"operator": "ann"})
        await started.until("PLAN_CANCELLED")


async def _end(started: Started, state: str, outcome: dict[str, Any]) -> None:
    async with asyncio.timeout(60):
        while True:
            async with transaction(started.engine.db, TENANT) as conn:
                taken = await take_assignment(conn, TENANT, "h-asks")
                if taken is not None:
                    await end_assignment(conn, taken[0].assignment_id, taken[1], state, outcome)
                    return
            await asyncio.sleep(0.1)


@activity.defn(name="remember")
async def remember(task: dict[str, Any]) -> dict[str, Any]:
    """Answer what is remembered."""
    return {"outputs": {"memory": task["memory"]}}


async def agent_that_remembers(started: Started) -> None:
    """Be there for a node that is given episodes, and for one with a session, which is refused."""
    endpoint = {"taskQueue": f"{QUEUE}-memory", "activity": "remember"}
    await register(
        started.engine,
        "h-remembers",
        "taskQueue",
        endpoint=endpoint,
        capabilities={"h-remembers": 1},
        max_concurrent_tasks=2,
    )
    client = await Client.connect(started.engine.settings.temporal_address)
    async with Worker(client, task_queue=endpoint["taskQueue"], activities=[remember]):
        await started.until("PLAN_FAILED")


@activity.defn(name="inquire")
async def inquire(task: dict[str, Any]) -> dict[str, Any]:
    """Ask a person, as a worker in another language would, and put out the answer; one node asks nonsense."""
    if "answer" not in task:
        question = {"text": "Which region?"} if task["nodeId"] == "asks" else {"text": 5}
        raise ApplicationError("it asks a person", {"question": question}, type="ASKS_PERSON", non_retryable=True)
    return {"outputs": {"said": task["answer"]["values"], "key": task["key"]}}


async def register_asking(running: Engine) -> None:
    """Register the agent of :func:`agent_that_asks`: what nobody in the registry offers is no limit of a node."""
    endpoint = {"taskQueue": f"{QUEUE}-asking", "activity": "inquire", "heartbeatMs": 2000}
    await register(running, "h-inquires", "taskQueue", endpoint=endpoint, capabilities={"h-inquires": 1})


async def agent_that_asks(started: Started) -> None:
    """Answer what the agent of the first node asks; what that of the second asks is no question."""
    await register_asking(started.engine)
    client = await Client.connect(started.engine.settings.temporal_address)
    async with Worker(client, task_queue=f"{QUEUE}-asking", activities=[inquire]):
        await started.until("HITL_TASK_CREATED", "asks")
        (task,) = (await started.handle.query("tasks"))["tasks"]
        decision = {"taskId": task["taskId"], "operator": "kim", "action": "answer", "values": {"region": "eu"}}
        await started.handle.execute_update("complete_human_task", decision)
        await started.until("NODE_COMPLETED", "asks")
        await started.until("PLAN_FAILED")
