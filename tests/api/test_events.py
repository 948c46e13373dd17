"""Events: the list, and the stream over a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from dalang.api.app import create_app
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.store.engine import create_engine
from tests.api import world
from tests.api.world import TOKENS, Api, chain, problem
from tests.harness import PATIENCE

RUNS = "/orchestrator/runs"


@dataclass
class Sent:
    """One event of a stream as it came over the wire."""

    id: str
    event: str
    data: dict[str, Any]


@pytest.fixture
async def server(app: FastAPI, settings: Settings) -> AsyncIterator[str]:
    """The address of a real server on loopback, with an app of its own on the same database."""
    port = free_port()
    serving = uvicorn.Server(uvicorn.Config(create_app(settings), port=port, log_config=None, lifespan="on"))
    with contextlib.suppress(AttributeError):
        serving.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(serving._serve())
    while not serving.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    serving.should_exit = True
    await task


async def _stream(
    address: str, run_id: str, *, last: str | None = None, take: int | None = None, query: str = ""
) -> list[Sent]:
    """Read a stream to its end, or ``take`` events of it."""
    headers = {"Authorization": f"Bearer {TOKENS['acme', 'viewer']}"}
    if last is not None:
        headers["Last-Event-ID"] = last
    found: list[Sent] = []
    async with (
        asyncio.timeout(PATIENCE),
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream("GET", f"{address}{RUNS}/{run_id}/events/stream{query}", headers=headers) as response,
    ):
        if response.status_code == 204:
            return []
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif not line and fields:
                found.append(Sent(fields["id"], fields["event"], json.loads(fields["data"])))
                fields = {}
                if take is not None and len(found) == take:
                    break
    return found


@pytest.mark.usefixtures("working")
async def test_a_stream_follows_a_run_to_its_end_and_resumes(api: Api, server: str) -> None:
    """Every event once, in order, live; a reader that broke off goes on after its last id, without loss."""
    gate = world.gates["stream"] = threading.Event()
    plan = chain("noop", "api-test-gate", "noop")
    plan["nodes"][1]["inputs"] = {"name": "stream"}
    run_id = await api.execute(plan)
    watching = asyncio.create_task(_stream(server, run_id))
    broken = await _stream(server, run_id, take=4)
    gate.set()
    resumed = await _stream(server, run_id, last=broken[-1].id)
    again = await _stream(server, run_id, query=f"?lastEventId={broken[0].id}")
    whole = await watching
    assert [one.event for one in whole[:3]] == ["PLAN_VALIDATED", "PLAN_STARTED", "NODE_STARTED"]
    assert whole[-1].event == "PLAN_COMPLETED"
    assert [one.id for one in whole] == [f"0.{at}" for at in range(1, len(whole) + 1)]
    assert broken + resumed == whole
    assert whole[:1] + again == whole
    assert "body" not in whole[1].data
    assert await _stream(server, run_id, last=whole[-1].id) == []
    bodies = await _stream(server, run_id, query="?bodies=true")
    assert bodies[1].data["body"] == {"inputs": {}}


@pytest.mark.usefixtures("working")
async def test_a_stream_survives_the_loss_of_the_listening_connection(
    app: FastAPI, api: Api, settings: Settings
) -> None:
    """Whoever cuts it: it is made anew, and streams look by themselves meanwhile."""
    gate = world.gates["cut"] = threading.Event()
    plan = chain("api-test-gate")
    plan["nodes"][0]["inputs"] = {"name": "cut"}
    run_id = await api.execute(plan)
    watching = asyncio.create_task(api("GET", f"{RUNS}/{run_id}/events/stream"))
    await api.reached(run_id, "n1", "RUNNING")
    engine = create_engine(settings.database_url, pooled=False)
    async with engine.begin() as conn:
        mine = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        cut = f"SELECT count(pg_terminate_backend(pid)) FROM ({mine}) AS listeners"
        assert (await conn.exec_driver_sql(cut)).scalar_one() >= 1  # others of the process listen, too
    gate.set()
    assert "event: PLAN_COMPLETED" in (await watching).text
    await asyncio.wait_for(app.state.services.listener.listening.wait(), PATIENCE)
    await engine.dispose()


@pytest.mark.usefixtures("working")
async def test_events_are_listed_in_pages(api: Api) -> None:
    """After an id, of a type, of a node, with bodies; each follows the hash of the one before."""
    run_id = await api.execute(chain("noop", "noop", "noop"))
    await api.ended(run_id)
    address = f"{RUNS}/{run_id}/events"
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = await api.get(address, params={"limit": 4, **({"after": after} if after else {})})
        found += page["items"]
        after = page["next"]
        if after is None:
            break
    assert [one["id"] for one in found] == [f"0.{at}" for at in range(1, len(found) + 1)]
    assert all(one["previousHash"] == before["hash"] for before, one in itertools.pairwise(found))
    ended = await api.get(address, params={"type": ["NODE_COMPLETED", "PLAN_COMPLETED"], "limit": 2})
    rest = await api.get(address, params={"type": ["NODE_COMPLETED", "PLAN_COMPLETED"], "after": ended["next"]})
    assert [one["type"] for one in ended["items"] + rest["items"]] == ["NODE_COMPLETED"] * 3 + ["PLAN_COMPLETED"]
    of_node = await api.get(address, params={"nodeId": "n2", "bodies": "true"})
    assert [one["type"] for one in of_node["items"]] == ["NODE_STARTED", "NODE_COMPLETED"]
    assert of_node["items"][1]["body"] == {"outputs": {}}
    for bad in ("7", "x.y", "0.1.2", "-1.2", "9999999999.1", "0.99999999999999999999"):
        problem(await api("GET", address, params={"after": bad}), 422)
        problem(await api("GET", f"{address}/stream", headers={"Last-Event-ID": bad}), 422)


async def test_streams_are_bounded(app: FastAPI, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has as many as it takes says so."""
    monkeypatch.setattr("dalang.api.feed.MAX_STREAMS", 0)
    run_id = await api.execute(chain("noop"))
    problem(await api("GET", f"{RUNS}/{run_id}/events/stream"), 503)
