"""An API served over HTTP, with something of everything in it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import uvicorn
from fastapi import FastAPI

from dalang.api.app import create_app
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.stack.postgres import drop_database
from dalang.store.engine import create_engine, system_transaction
from dalang.store.tokens import ensure_token
from dalang.worker import worker
from tests.api import world
from tests.api.world import Api, chain
from tests.harness import Servers

ADMIN = ("acme", "admin")


class Fuzzed:
    """What is attacked: where it is, what it says of itself, and ``known`` values of its path parameters."""

    def __init__(self, url: str, app: FastAPI) -> None:
        self.url = url
        self.app = app
        self.document: dict[str, Any] = app.openapi()
        self.known: dict[str, list[str]] = {}
        self.ended: list[str] = []


@contextlib.asynccontextmanager
async def attacked(servers: Servers, superuser: asyncpg.Connection, home: Path) -> AsyncIterator[Fuzzed]:
    """Serve an API with a worker, and put runs, tasks, agents, pools ... into it."""
    database = await servers.create_database(superuser)
    port = free_port()
    settings = Settings(
        home=home,
        database_url=database.url,
        temporal_address=servers.temporal_address,
        task_queue=f"fuzz-{uuid.uuid4().hex[:8]}",
        artifacts=str(home / "files"),
        public_url=f"http://127.0.0.1:{port}",
        egress_allow=("127.0.0.1",),
    )
    engine = create_engine(settings.database_url, pooled=False)
    async with system_transaction(engine) as conn:
        for (tenant, role), token in world.TOKENS.items():
            await ensure_token(conn, token, tenant, f"{role}@{tenant}", [role])
    await engine.dispose()
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    running = asyncio.create_task(server.serve())
    async with worker(settings):
        while not server.started:
            await asyncio.sleep(0.02)
        made = Fuzzed(settings.public_url, app)
        async with httpx.AsyncClient(base_url=made.url, timeout=60) as client:
            await _fill(Api(client), made)
        yield made
        server.should_exit = True
        await running
    await drop_database(superuser, database.name)


async def _fill(api: Api, made: Fuzzed) -> None:
    async def send(method: str, path: str, body: Any = None, **more: Any) -> Any:
        response = await api(method, f"/orchestrator{path}", json=body, as_=ADMIN, **more)
        assert response.status_code < 300, response.text
        return response.json() if response.content else {}

    plan = await send("POST", "/plans", chain("noop"))
    done = await api.execute(chain("noop"))
    human = {"nodes": [{"nodeId": "n1", "type": "human", "task": {"title": "Well?"}}], "name": "asks"}
    open_ = await api.execute(human)
    await api.ended(done)
    while not (tasks := (await send("GET", "/human-tasks"))["items"]):
        await asyncio.sleep(0.05)
    await send("PUT", "/agents/worker-1", {"capabilities": ["any"]})
    await send("PUT", "/pools/gpu", {"size": 2})
    schedule = await send("POST", "/schedules", SCHEDULE | {"planId": plan["planId"]})
    subscription = await send("POST", "/subscriptions", SUBSCRIPTION)
    artifact = await api(
        "POST", "/orchestrator/artifacts", content=b"text", headers={"Content-Type": "text/plain"}, as_=ADMIN
    )
    made.ended = [done]
    made.known = {
        "runId": [done, open_],
        "taskId": [tasks[0]["taskId"]],
        "planId": [plan["planId"]],
        "agentId": ["worker-1"],
        "name": ["gpu"],
        "nodeId": ["n1"],
        "revision": ["1", "0"],
        "scheduleId": [schedule["scheduleId"]],
        "subscriptionId": [subscription["subscriptionId"]],
        "digest": [artifact.json()["digest"]],
    }


SCHEDULE = {"scheduleId": "never", "spec": {"cron": ["0 0 1 1 *"], "startAt": "2100-01-01T00:00:00Z"}, "paused": True}
SUBSCRIPTION = {"name": "one", "url": "http://127.0.0.1:9/"}
