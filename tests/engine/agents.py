"""What tests of agents share: the registry, an agent that asks for work, agents in processes of their own, the API."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import uvicorn

from dalang.api.app import create_app
from dalang.settings import Settings
from dalang.store.agents import AgentKind, NewAgent, register_agent
from dalang.store.engine import system_transaction
from dalang.store.pools import limited_names
from dalang.store.tokens import create_token
from tests.engine.kit import TENANT, Engine, Started, body_of
from tests.harness import PATIENCE

FAST = {"initialDelayMs": 50, "maxDelayMs": 50}


async def register(engine: Engine, agent_id: str, kind: str = "poll", tenant: str = TENANT, **changes: Any) -> None:
    given: dict[str, Any] = {
        "tenant_id": tenant,
        "agent_id": agent_id,
        "kind": kind,
        "name": agent_id,
        "capabilities": {},
        "max_concurrent_tasks": 1,
        "registered_by": "test",
        "labels": {},
        "endpoint": {},
        "heartbeat_seconds": 30 if kind == AgentKind.POLL else None,
    }
    async with system_transaction(engine.db) as conn:
        await register_agent(conn, NewAgent(**{**given, **changes}))


async def start(engine: Engine, *nodes: Mapping[str, Any], **plan: Any) -> Started:
    async with system_transaction(engine.db) as conn:
        limits = await limited_names(conn, TENANT)
    return await engine.start({"nodes": list(nodes), **plan}, limits=limits)


def wants(node: str, capability: str, kind: str = "agent", **more: Any) -> dict[str, Any]:
    return {"nodeId": node, "type": kind, "requirements": {"capabilities": [capability]}, "retryPolicy": FAST, **more}


class Client:
    """An agent without Temporal, as a program of its own would be, on the real API."""

    def __init__(self, http: httpx.AsyncClient, agent_id: str) -> None:
        self._http = http
        self.at = f"/orchestrator/agents/{agent_id}"

    async def poll(self, seconds: float = 20) -> Any:
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = await self._http.post(f"{self.at}/poll", json={"waitSeconds": seconds})
                if answer.status_code != 204:
                    assert answer.status_code == 200, answer.text
                    return answer.json()

    async def tell(self, one: Mapping[str, Any], what: str, **body: Any) -> int:
        address = f"{self.at}/assignments/{one['assignmentId']}/{what}"
        return (await self._http.post(address, json={"token": one["token"], **body})).status_code


@contextlib.asynccontextmanager
async def api(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with system_transaction(engine.db) as conn:
        plain, _ = await create_token(conn, TENANT, "agents", ["agent"])
    app = create_app(engine.settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {plain}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api.test", timeout=60, headers=headers) as client,
    ):
        yield client


def agents_of(end: Mapping[str, Any], node: str) -> list[Any]:
    started = [row for row in end["events"] if row["type"] == "NODE_STARTED" and row["node_id"] == node]
    return [row["data"].get("agent") for row in started]


def outputs(end: Mapping[str, Any], node: str) -> Any:
    return body_of(end, "NODE_COMPLETED", node)["outputs"]


@contextlib.asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[None]:
    """The API on its port, for programs."""
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=settings.api_port, log_level="warning")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    try:
        yield
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def program(*arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python program that has said that it is ready."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, *map(str, arguments), stdout=asyncio.subprocess.PIPE, cwd="/"
    )
    assert child.stdout is not None
    try:
        while b"ready" not in await asyncio.wait_for(child.stdout.readline(), PATIENCE):
            assert child.returncode is None
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def said(child: asyncio.subprocess.Process, what: str) -> None:
    assert child.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while what.encode() not in await child.stdout.readline():
            pass
