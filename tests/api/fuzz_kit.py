"""An API served over HTTP, with something of everything in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from fastapi import FastAPI

from tests.api.site import site
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
    files = {"artifacts": str(home / "files"), "egress_allow": ("127.0.0.1",)}
    async with site(servers, superuser, home, "fuzz", **files) as (settings, app):
        made = Fuzzed(settings.public_url, app)
        async with httpx.AsyncClient(base_url=made.url, timeout=60) as client:
            await _fill(Api(client), made)
        yield made


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
