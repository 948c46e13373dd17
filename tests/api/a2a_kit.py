"""Shorthands for tests of the A2A agent: a served stack of their own, and the a2a-sdk's client in every dialect."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import yaml
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import AgentInterface, Message, Part, SendMessageConfiguration, SendMessageRequest, StreamResponse, Task
from fastapi import FastAPI
from google.protobuf.json_format import ParseDict

from dalang.api.a2a import pushing
from dalang.api.services import Services
from dalang.settings import Settings
from tests.api import world
from tests.api.site import site
from tests.harness import ROOT, Servers

EXAMPLE = yaml.safe_load((ROOT / "examples/a2a-agent.yaml").read_text(encoding="utf-8").replace("2s", "700ms"))
DIALECTS = [("JSONRPC", "1.0"), ("HTTP+JSON", "1.0"), ("JSONRPC", "0.3"), ("HTTP+JSON", "0.3")]
V1 = {"A2A-Version": "1.0"}


class Served:
    """A stack whose API is served over HTTP."""

    def __init__(self, url: str, settings: Settings, app: FastAPI) -> None:
        self.url = url
        self.settings = settings
        self.services: Services = app.state.services
        self.http = httpx.AsyncClient(base_url=url, timeout=60)

    async def __call__(
        self, method: str, path: str, *, as_: tuple[str, str] | None = ("acme", "operator"), **more: Any
    ) -> httpx.Response:
        headers = {**V1, **(_token(as_) if as_ else {}), **more.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **more)

    async def rpc(self, method: str, params: Any, **more: Any) -> dict[str, Any]:
        """Call by JSON-RPC; return the whole answer."""
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        response = await self("POST", "/a2a", json=body, **more)
        found: dict[str, Any] = response.json()
        assert (found["jsonrpc"], found["id"]) == ("2.0", 7), found
        return found

    async def publish(self, plan: dict[str, Any], *, tenant: str = "acme") -> str:
        """Store a plan; return its id."""
        response = await self("POST", "/orchestrator/plans", json=plan, as_=(tenant, "operator"))
        assert response.status_code in (200, 201), response.text
        return str(response.json()["planId"])

    @contextlib.asynccontextmanager
    async def client(
        self,
        binding: str = "JSONRPC",
        version: str = "1.0",
        *,
        as_: tuple[str, str] = ("acme", "operator"),
        streaming: bool = False,
    ) -> AsyncIterator[Client]:
        """The a2a-sdk's client, with the interface of the public card that speaks this dialect."""
        async with httpx.AsyncClient(headers=_token(as_), timeout=60) as http:
            card = await A2ACardResolver(http, self.url).get_agent_card()
            chosen = [
                one
                for one in card.supported_interfaces
                if (one.protocol_binding, one.protocol_version) == (binding, version)
            ]
            del card.supported_interfaces[:]
            card.supported_interfaces.extend(chosen or [AgentInterface()])
            config = ClientConfig(httpx_client=http, streaming=streaming, supported_protocol_bindings=[binding])
            yield ClientFactory(config).create(card)


def _token(who: tuple[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {world.TOKENS[who]}"}


@contextlib.asynccontextmanager
async def serving(servers: Servers, superuser: asyncpg.Connection, home: Path) -> AsyncIterator[Served]:
    """One database, one worker and one API for all tests of the agent in this process."""
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(pushing, "LOOK_SECONDS", 0.1)
        async with site(servers, superuser, home, "a2a") as (settings, app):
            made = Served(settings.public_url, settings, app)
            await made.publish(EXAMPLE)
            yield made
            await made.http.aclose()


def message(
    text: str | None = "Hello", *, kind: str = "complete", id: str | None = None, **more: Any
) -> dict[str, Any]:
    """A message whose id says what the example does with it."""
    parts = more.pop("parts", [{"text": text}])
    return {"messageId": id or f"tck-{kind}-{uuid.uuid4().hex[:8]}", "role": "ROLE_USER", "parts": parts, **more}


def request(text: str = "Hello", *, at_once: bool = False, **more: Any) -> SendMessageRequest:
    """A request of the SDK with such a message."""
    configuration = SendMessageConfiguration(return_immediately=at_once)
    return SendMessageRequest(message=ParseDict(message(text, **more), Message()), configuration=configuration)


async def sent(client: Client, wanted: SendMessageRequest) -> Task:
    """Send a message and return the task that it is answered with."""
    found: list[StreamResponse] = [one async for one in client.send_message(wanted)]
    assert len(found) == 1
    return found[0].task


def text_of(parts: Any) -> str:
    """The text of parts."""
    return "".join(part.text for part in parts if isinstance(part, Part) and part.text)


def error_of(response: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """Return the error of an HTTP+JSON answer, which is as AIP-193 wants it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == status
    check_info(error["details"], reason)
    return error


def check_info(details: Any, reason: str) -> None:
    """Check the ErrorInfo of an A2A error."""
    [info, *_] = details
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["domain"], info["reason"]) == ("a2a-protocol.org", reason), info
