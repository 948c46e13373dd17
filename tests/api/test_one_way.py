"""Whichever way a decision comes, the same function judges it: who may not decide is told the same by all of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from dalang.api.sessions import COOKIE, csrf_of
from dalang.commands import app as dalang
from dalang.stack.ports import free_port
from dalang.store.engine import transaction
from dalang.store.tokens import create_token
from tests.api.test_human_decisions import asked, review
from tests.api.test_human_tasks import TASKS
from tests.api.world import Api

STALE = "0" * 64


@dataclass(frozen=True)
class Try:
    """Somebody's decision, and where it is sent."""

    app: FastAPI
    url: str
    token: str
    run: str
    task: str
    digest: str
    capsys: pytest.CaptureFixture[str]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def address(self) -> str:
        return f"{TASKS}/{self.task}"

    def http(self, **more: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api.test", **more)


async def by_rest(one: Try) -> str:
    async with one.http(headers=one.headers) as client:
        return (await client.post(f"{one.address}/approve", json={"digest": one.digest})).json()["detail"]


async def by_bulk(one: Try) -> str:
    decision = {"taskId": one.task, "action": "approve", "digest": one.digest}
    async with one.http(headers=one.headers) as client:
        answer = (await client.post(f"{TASKS}/bulk", json={"decisions": [decision]})).json()
    return answer["detail"] if "detail" in answer else answer["results"][0]["message"]


async def by_page(one: Try) -> str:
    """With the cookie and the header that the scripts of the pages send."""
    async with one.http(headers={"Sec-Fetch-Site": "same-origin"}) as browser:
        await browser.post("/ui/sign-in", data={"token": one.token})
        headers = {"X-Dalang-CSRF": csrf_of(browser.cookies[COOKIE])}
        body = {"digest": one.digest, "action": "approve"}
        return (await browser.post(f"{one.address}/complete", json=body, headers=headers)).json()["detail"]


async def by_command_line(one: Try) -> str:
    words = ["tasks", "approve", one.task, "--digest", one.digest, "--yes", "--api-url", one.url]
    one.capsys.readouterr()
    assert await asyncio.to_thread(dalang.run, words) != 0
    return " ".join(one.capsys.readouterr().err.split())


async def by_mcp(one: Try) -> str:
    transport = httpx2.ASGITransport(one.app)
    async with (
        httpx2.AsyncClient(transport=transport, headers=one.headers, timeout=60) as http,
        Client(streamable_http_client("http://api.test/mcp", http_client=http), cache=None) as client,
    ):
        given = {"taskId": one.task, "action": "approve", "digest": one.digest}
        return (await client.call_tool("decide_task", given)).content[0].text


async def by_a2a(one: Try) -> str:
    part = {"data": {"humanTask": one.task, "action": "approve", "digest": one.digest}}
    message = {"messageId": str(uuid.uuid4()), "role": "ROLE_USER", "taskId": one.run, "parts": [part]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    async with one.http(headers={**one.headers, "A2A-Version": "1.0"}) as client:
        return (await client.post("/a2a", json=body)).json()["error"]["message"]


async def by_approval_token(one: Try) -> str:
    """Who could not decide gets no token for a signal either."""
    async with one.http(headers=one.headers) as client:
        return (await client.post(f"{one.address}/approval-token", json={"digest": one.digest})).json()["detail"]


WAYS: list[Callable[[Try], Awaitable[str]]] = [
    *(by_rest, by_bulk, by_page, by_command_line, by_mcp, by_a2a, by_approval_token)
]


@pytest.fixture
async def url(app: FastAPI) -> AsyncIterator[str]:
    """Where the command line finds the app."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


@pytest.mark.usefixtures("working")
async def test_every_way_refuses_the_same(
    app: FastAPI, api: Api, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is no candidate, had a hand in it, saw something else, or lacks the role; and the task stays open."""
    run, task = await asked(api, review(candidateGroup="managers", fourEyes=True))
    right = task["digest"]
    people = {
        "reserved to members of managers": ("zoe", "approver", "lawyers", right),
        "Four eyes: the task is closed to operator@acme": ("operator@acme", "operator", "managers", right),
        "has changed since you read it": ("ann", "approver", "managers", STALE),
        "needs one of the roles admin, approver, operator": ("vic", "viewer", "managers", right),
    }
    for sentence, (subject, role, group, digest) in people.items():
        async with transaction(app.state.services.engine, "acme") as conn:
            token, _ = await create_token(conn, "acme", subject, [role], groups=[group])
        monkeypatch.setenv("DALANG_TOKEN", token)
        one = Try(app, url, token, run, task["taskId"], digest, capsys)
        told = {way.__name__: await way(one) for way in WAYS}
        assert {name: sentence in said for name, said in told.items()} == dict.fromkeys(told, True), told
    assert (await api.get(one.address))["status"] == "PENDING"
