"""Who is there of those who do not say so themselves: functions of workers, and whoever takes work from a queue."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from sqlalchemy import text
from temporalio import activity
from temporalio.worker import Worker

from dalang.leasing import Leasing
from dalang.nodes import registry
from dalang.presence import Presence
from dalang.store.agents import Agent, AgentStatus, get_agent
from dalang.store.engine import system_transaction, transaction
from tests.engine.agents import register
from tests.engine.kit import TENANT, Engine
from tests.harness import PATIENCE


@activity.defn(name="nothing")
async def nothing(task: dict[str, Any]) -> dict[str, Any]:
    return {"outputs": {}}


async def _get(engine: Engine, agent_id: str) -> Agent:
    async with transaction(engine.db, TENANT) as conn:
        found = await get_agent(conn, TENANT, agent_id)
    assert found is not None
    return found


async def _silence(engine: Engine, agent_id: str) -> None:
    statement = text("UPDATE agents SET heartbeat_at = now() - interval '1 hour' WHERE agent_id = :a")
    async with system_transaction(engine.db) as conn:
        await conn.execute(statement, {"a": agent_id})


async def test_a_worker_registers_its_functions_and_keeps_them_there(shared_engine: Engine) -> None:
    """For all tenants, with the places of the setting; without places there are none."""
    function = registry.agent("t-broken")
    assert function is not None
    leasing = Leasing(shared_engine.db)
    presence = Presence(shared_engine.db, shared_engine.client, leasing, 3, [function])
    await presence.register()
    agent = await _get(shared_engine, "t-broken")
    assert (agent.tenant_id, agent.kind, agent.max_concurrent_tasks) == ("", "local", 3)
    assert agent.capabilities == {"t-broken": 1.0}
    await _silence(shared_engine, "t-broken")
    assert (await _get(shared_engine, "t-broken")).status is AgentStatus.OFFLINE
    await presence.watch()
    assert (await _get(shared_engine, "t-broken")).status is AgentStatus.IDLE
    async with system_transaction(shared_engine.db) as conn:
        await conn.execute(text("DELETE FROM agents WHERE agent_id = 't-broken'"))
    await Presence(shared_engine.db, shared_engine.client, leasing, 0, [function]).register()
    async with transaction(shared_engine.db, TENANT) as conn:
        assert await get_agent(conn, TENANT, "t-broken") is None


async def test_an_agent_on_a_queue_is_there_when_somebody_takes_work_from_it(shared_engine: Engine) -> None:
    """Temporal says so; nobody there, and it stays Offline."""
    queue = f"agents-{uuid.uuid4().hex[:8]}"
    endpoint = {"taskQueue": queue}
    await register(shared_engine, "there", "taskQueue", endpoint=endpoint, heartbeat_seconds=90)
    await _silence(shared_engine, "there")
    presence = Presence(shared_engine.db, shared_engine.client, Leasing(shared_engine.db), 0)
    await presence.watch()
    assert (await _get(shared_engine, "there")).status is AgentStatus.OFFLINE
    async with Worker(shared_engine.client, task_queue=queue, activities=[nothing]):
        async with asyncio.timeout(PATIENCE):
            while (await _get(shared_engine, "there")).status is AgentStatus.OFFLINE:
                await presence.watch()
    assert (await _get(shared_engine, "there")).status is AgentStatus.IDLE
