"""``/mcp``: the tools of ``dalang.mcp_server`` by streamable HTTP, with the bearer tokens and roles of REST.

Each tool is a request to this very app with the caller's token, inside the process. There are no sessions: a request
stands for itself, so any of several API servers can answer it. The library is imported at the first one.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import urlsplit

import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from dalang.api.auth import READERS, Tokens, require
from dalang.api.problems import Forbidden, Unauthenticated
from dalang.errors import NotFound
from dalang.mcp_server.rest import Rest

_REFUSED = {"code": -32602, "message": "This is no message of MCP: JSON-RPC 2.0 with a method, or an answer to one."}
_NO_MESSAGE = json.dumps({"jsonrpc": "2.0", "id": None, "error": _REFUSED}).encode()
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class McpEndpoint:
    """The ASGI app at ``/mcp``; ``app`` is the whole API."""

    def __init__(self, app: Any, max_bytes: int, origins: Iterable[str]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._origins = frozenset(map(_host, origins))
        self._starting = asyncio.Lock()
        self._manager: Any = None
        self._running: asyncio.Task[None] | None = None
        self.route = Route("/mcp", endpoint=self, include_in_schema=False)
        """It is in no OpenAPI document: it speaks another protocol."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End what was started, at the end."""
        try:
            yield
        finally:
            if self._running is not None:
                self._running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._running
                self._running = self._manager = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request of somebody with a token.

        Raises:
            Unauthenticated, Forbidden: as for REST.
            NotFound: the library is not installed.
        """
        scope["route"] = self.route  # for the metrics
        self._check_origin(Headers(scope=scope).get("origin"))
        await self._authenticate(scope)
        manager = await self._started()
        await manager.handle_request(scope, receive, _without_exceptions(send))

    def _check_origin(self, origin: str | None) -> None:
        """Refuse pages of others, as the protocol demands: the name of their site may lead to this machine (rebinding).

        Raises:
            Forbidden: the request comes from such a page.
        """
        if origin is None or _host(origin) in self._origins or urlsplit(origin).hostname in LOOPBACK:
            return
        raise Forbidden("Pages of another origin may not ask here.")

    async def _authenticate(self, scope: Scope) -> None:
        """Let in whoever may read; what more each tool needs, its own request is asked."""
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("The request needs a token: Authorization: Bearer <token>.", presented=False)
        tokens: Tokens = Request(scope).app.state.services.tokens
        principal = await tokens.principal(token)
        if principal is None:
            raise Unauthenticated("The token is unknown, expired or revoked.", presented=True)
        require(principal, READERS)

    async def _started(self) -> Any:
        async with self._starting:
            if self._manager is None:
                try:
                    serving = await asyncio.to_thread(importlib.import_module, "dalang.mcp_server.serving")
                    http = importlib.import_module("mcp.server.streamable_http_manager")
                except ModuleNotFoundError as error:
                    if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
                        raise
                    raise NotFound("This API server has no library for MCP: pip install 'dalang[mcp]'.") from None
                client = httpx.AsyncClient(
                    transport=httpx.ASGITransport(self._app, raise_app_exceptions=False), base_url="http://dalang"
                )
                server = serving.make_server(lambda ctx: Rest(client, _token(ctx), key=serving.key_of(ctx)))
                manager = http.StreamableHTTPSessionManager(
                    server, stateless=True, max_request_body_size=self._max_bytes
                )
                ready = asyncio.Event()
                self._running = asyncio.create_task(_run(manager, client, ready), name="mcp")
                await ready.wait()
                self._manager = manager
        return self._manager


def _without_exceptions(send: Send) -> Send:
    """Keep to oneself what the library says of a bad message: the text of an exception, with values and versions."""
    held: Message | None = None

    async def sending(message: Message) -> None:
        nonlocal held
        if message["type"] == "http.response.start" and message["status"] == 400:
            held = message
            return
        if held is not None:
            start, held = held, None
            body = message.get("body", b"")
            if b"validation error" in body.lower():
                body = _NO_MESSAGE
                headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
                start = {**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
                message = {**message, "body": body, "more_body": False}
            await send(start)
        await send(message)

    return sending


def _host(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    return parts.scheme, parts.netloc.lower()


def _token(ctx: Any) -> str | None:
    authorization = ctx.request.headers.get("authorization", "") if ctx.request is not None else ""
    return str(authorization).partition(" ")[2] or None


async def _run(manager: Any, client: httpx.AsyncClient, ready: asyncio.Event) -> None:
    """Hold the task group of all requests, which one task has to enter and leave."""
    async with client, manager.run():
        ready.set()
        await asyncio.Event().wait()
