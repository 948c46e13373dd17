"""Agents of all kinds over real runs: who is away, or dies, is followed by another one, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from dalang.store.agents import drain_agent
from dalang.store.engine import system_transaction
from dalang.workflows.lease_desk import answered
from tests.engine.agents import Client, agents_of, api, outputs, register, start, wants
from tests.engine.kit import TENANT, Engine


@pytest.fixture
async def http(shared_engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with api(shared_engine) as client:
        yield client


async def test_an_agent_asks_for_its_work_and_tells_how_it_goes(shared_engine: Engine, http: httpx.AsyncClient) -> None:
    """It gets what a handler would, and its outputs are the node's."""
    await register(shared_engine, "ada", capabilities={"p-tell": 0.9})
    waiting = asyncio.create_task(Client(http, "ada").poll())
    started = await start(shared_engine, wants("n", "p-tell", inputs={"topic": "tea"}))
    one = await waiting
    assert one["nodeTask"]["inputs"] == {"topic": "tea"}
    assert one["nodeTask"]["key"].startswith(started.run_id)
    ada = Client(http, "ada")
    assert await ada.tell(one, "progress", message="half", fraction=0.5) == 200
    assert await ada.tell(one, "complete", outputs={"answer": 42}) == 200
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert outputs(end, "n") == {"answer": 42}
    assert agents_of(end, "n") == ["ada"]
    assert await ada.tell(one, "complete", outputs={"answer": 42}) == 200
    assert await ada.tell(one, "progress") == 409


async def test_work_of_any_type_goes_to_an_agent_that_asks(shared_engine: Engine, http: httpx.AsyncClient) -> None:
    """No worker knows the type."""
    await register(shared_engine, "tess", capabilities={"p-type": 1})
    started = await start(shared_engine, wants("n", "p-type", "summarize-pdf"))
    one = await Client(http, "tess").poll()
    assert one["nodeTask"]["type"] == "summarize-pdf"
    await Client(http, "tess").tell(one, "complete")
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def test_a_failure_is_repeated_as_the_agent_says(shared_engine: Engine, http: httpx.AsyncClient) -> None:
    """Each attempt has an assignment of its own and the same key."""
    await register(shared_engine, "fay", capabilities={"p-fail": 1})
    started = await start(shared_engine, wants("n", "p-fail"))
    fay, keys = Client(http, "fay"), []
    for error in ({"type": "NETWORK_ERROR", "message": "away", "retryable": True}, {"message": "no"}):
        one = await fay.poll()
        keys.append(one["nodeTask"]["key"])
        assert await fay.tell(one, "fail", error=error) == 200
    end = await started.end()
    assert end["run"]["error"]["type"] == "TOOL_ERROR"
    assert keys[0] == keys[1]
    assert [row["error"]["type"] for row in end["attempts"]] == ["NETWORK_ERROR", "TOOL_ERROR"]


async def test_an_agent_that_falls_silent_is_followed_by_another(
    shared_engine: Engine, http: httpx.AsyncClient
) -> None:
    """With the same key; the late answer of the first is refused."""
    await register(shared_engine, "sue", capabilities={"p-silent": 1}, heartbeat_seconds=2)
    await register(shared_engine, "tom", capabilities={"p-silent": 0.5}, heartbeat_seconds=60)
    sue, tom = Client(http, "sue"), Client(http, "tom")
    asks = asyncio.create_task(sue.poll())  # who asks is there, however slow the machine is
    started = await start(shared_engine, wants("n", "p-silent"))
    first = await asks
    second = await tom.poll()
    assert second["nodeTask"]["key"] == first["nodeTask"]["key"]
    assert await sue.tell(first, "complete", outputs={"by": "sue"}) == 409
    assert await tom.tell(second, "complete", outputs={"by": "tom"}) == 200
    end = await started.end()
    assert outputs(end, "n") == {"by": "tom"}
    assert agents_of(end, "n") == ["sue", "tom"]
    assert [row["error"]["type"] for row in end["attempts"]] == ["NETWORK_ERROR"]


async def test_work_that_nobody_took_goes_to_another_and_is_no_attempt(
    shared_engine: Engine, http: httpx.AsyncClient
) -> None:
    """Its agent went offline, or was drained, before it asked."""
    await register(shared_engine, "una", capabilities={"p-taken": 1}, heartbeat_seconds=2)
    started = await start(shared_engine, wants("n", "p-taken"))
    await started.until("NODE_STARTED", "n")
    await register(shared_engine, "vic", capabilities={"p-taken": 1})
    one = await Client(http, "vic").poll()
    await Client(http, "vic").tell(one, "complete")
    end = await started.end()
    assert agents_of(end, "n") == ["una", "vic"]
    assert end["attempts"] == []
    assert [row["data"]["attempt"] for row in end["events"] if row["type"] == "NODE_STARTED"] == [1, 1]


async def test_cancelled_work_is_withdrawn_and_the_agent_is_told(
    shared_engine: Engine, http: httpx.AsyncClient
) -> None:
    await register(shared_engine, "will", capabilities={"p-cancel": 1})
    started = await start(shared_engine, wants("n", "p-cancel"))
    one = await Client(http, "will").poll()
    await started.handle.execute_update("cancel", {})
    assert (await started.end())["run"]["status"] == "CANCELLED"
    assert await Client(http, "will").tell(one, "progress") == 409
    assert await Client(http, "will").tell(one, "complete") == 409


async def test_time_is_up_for_an_agent_as_for_a_handler(shared_engine: Engine, http: httpx.AsyncClient) -> None:
    await register(shared_engine, "xi", capabilities={"p-late": 1})
    once = {"maxAttempts": 1}
    started = await start(shared_engine, wants("n", "p-late", timeouts={"startToClose": "1s"}, retryPolicy=once))
    one = await Client(http, "xi").poll()
    end = await started.end()
    assert end["run"]["error"]["type"] == "TIMEOUT"
    assert await Client(http, "xi").tell(one, "complete") == 409


async def test_an_agent_waits_for_a_drained_one_no_longer(shared_engine: Engine, http: httpx.AsyncClient) -> None:
    """A node waits until somebody with its capability is there, and is woken by his first word."""
    await register(shared_engine, "yan", capabilities={"p-back": 1})
    async with system_transaction(shared_engine.db) as conn:
        await conn.execute(text("UPDATE agents SET heartbeat_at = now() - interval '1 hour' WHERE agent_id = 'yan'"))
    started = await start(shared_engine, wants("n", "p-back"))
    await started.until("NODE_QUEUED", "n")
    one = await Client(http, "yan").poll()
    await Client(http, "yan").tell(one, "complete")
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def test_a_local_agent_is_the_function_of_its_name(shared_engine: Engine) -> None:
    """With its places; a type of its own keeps its handler."""
    await register(shared_engine, "c1", "local", name="t-coder", capabilities={"l-code": 1})
    end = await (
        await start(shared_engine, wants("a", "l-code"), wants("b", "l-code", "t-value", inputs={"x": 1}))
    ).end()
    assert outputs(end, "a") == {"by": "t-coder"}
    assert outputs(end, "b") == {"x": 1}
    assert agents_of(end, "a") == agents_of(end, "b") == ["c1"]


async def test_only_agents_of_the_worker_are_given_secrets(
    shared_engine: Engine, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for work gets the reference, and the worker that waits need not even have the value."""
    monkeypatch.setenv("DALANG_SECRET_SHOP_KEY", "a-key-of-18-signs!")
    await register(shared_engine, "keyed", "local", name="t-keyed", capabilities={"s-local": 1})
    await register(shared_engine, "stranger", capabilities={"s-poll": 1})
    local = wants("a", "s-local", inputs={"key": "secret://shop-key"})
    typed = wants("b", "s-local", "t-value", inputs={"x": "is {{secret://shop-key}}"})
    polled = wants("c", "s-poll", inputs={"key": "secret://of-the-stranger"})
    started = await start(shared_engine, local, typed, polled)
    one = await Client(http, "stranger").poll()
    assert one["nodeTask"]["inputs"] == {"key": "secret://of-the-stranger"}
    assert await Client(http, "stranger").tell(one, "complete", outputs={"ok": True}) == 200
    end = await started.end()
    assert outputs(end, "a") == {"length": 18, "key": "***"}
    assert outputs(end, "b") == {"x": "is ***"}
    assert outputs(end, "c") == {"ok": True}


async def test_a_drained_agent_ends_what_it_has_and_gets_nothing_new(
    shared_engine: Engine, http: httpx.AsyncClient
) -> None:
    await register(shared_engine, "zoe", capabilities={"p-drain": 1}, max_concurrent_tasks=5)
    first = await start(shared_engine, wants("n", "p-drain"))
    one = await Client(http, "zoe").poll()
    async with system_transaction(shared_engine.db) as conn:
        await drain_agent(conn, TENANT, "zoe")
    second = await start(shared_engine, wants("n", "p-drain"))
    await second.until("NODE_QUEUED", "n")
    await Client(http, "zoe").tell(one, "complete")
    assert (await first.end())["run"]["status"] == "COMPLETED"
    assert agents_of(await second.stored(), "n") == []
    await second.handle.execute_update("cancel", {})
    await second.end()


@pytest.mark.parametrize(
    "route",
    [5, [], {"queue": "x"}, {"taskQueue": ""}, {"taskQueue": "x" * 201}, {"heartbeatMs": True}, {"maxBytes": 0}],
)
def test_a_route_that_is_none_is_refused(route: Any) -> None:
    """A signal may bring anything; the run records that and goes on."""
    lease = {"nodeId": "n", "ask": 1, "state": "GRANTED", "agent": "a", "route": route}
    with pytest.raises(ValueError, match="route"):
        answered({"leases": [lease]})
