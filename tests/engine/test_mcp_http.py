"""The node type ``mcp`` against a service by streamable HTTP that misbehaves in every way it can."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dalang.activities.mcp import session
from dalang.activities.mcp.node import Mcp
from dalang.activities.mcp.servers import NamedServers
from dalang.nodes import NodeContext, NodeFailure
from tests.harness import PATIENCE

TOOLS = (
    "fine",
    "twice",
    "cut",
    "drop",
    "hang",
    "html",
    "rubbish",
    "redirect",
    "big",
    "503",
    "429",
    "401",
    "404",
)


class Service(BaseHTTPRequestHandler):
    """Speaks the protocol until a tool is called."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one message."""
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server: Any = self.server
        server.heard.append((message, {name.lower(): value for name, value in self.headers.items()}))
        method = message.get("method")
        if method == "initialize":
            version = message["params"]["protocolVersion"]
            about = {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "s", "version": "1"},
            }
            self.json(message, about, **{"Mcp-Session-Id": "s-1"})
        elif method == "tools/list":
            self.json(message, {"tools": [{"name": one, "inputSchema": {"type": "object"}} for one in TOOLS]})
        elif method == "tools/call":
            self.call(message, message["params"]["name"])
        elif "id" in message:
            self.raw(400, b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32601, "message": "what?"}}')
        else:
            self.raw(202, b"")

    def do_GET(self) -> None:
        """There is no stream for what nobody asked."""
        self.raw(405, b"")

    def do_DELETE(self) -> None:
        """Take note of the end."""
        self.server.ended.set()  # type: ignore[attr-defined]
        self.raw(200, b"")

    def call(self, message: dict[str, Any], name: str) -> None:
        done = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": [{"type": "text", "text": "done"}]}}
        if name == "fine":
            self.raw(200, json.dumps(done).encode())
        elif name == "twice":
            again = {**done, "result": {"content": [{"type": "text", "text": "again"}]}}
            self.stream(done, again)
        elif name == "cut":
            self.stream({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}})
        elif name == "drop":
            self.close_connection = True
        elif name == "hang":
            self.head(200, "text/event-stream")
            self.server.ended.wait(20)  # type: ignore[attr-defined]
        elif name == "html":
            self.raw(200, b"<html>", "text/html")
        elif name == "rubbish":
            self.raw(200, b"{oops")
        elif name == "redirect":
            self.raw(307, b"", Location="http://169.254.169.254/mcp")
        elif name == "big":
            self.raw(200, b" " * 4096)
        else:
            self.raw(int(name), b"no", "text/plain", **({"Retry-After": "7"} if name == "429" else {}))

    def json(self, message: dict[str, Any], result: dict[str, Any], **headers: str) -> None:
        self.raw(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode(), **headers)

    def stream(self, *messages: dict[str, Any]) -> None:
        self.head(200, "text/event-stream")
        for one in messages:
            self.wfile.write(f"event: message\ndata: {json.dumps(one)}\n\n".encode())

    def head(self, status: int, media: str) -> None:
        self.send_response(status)
        self.send_header("content-type", media)
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True

    def raw(self, status: int, body: bytes, media: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", media)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        of: Any = server
        of.daemon_threads = True
        of.heard, of.ended = [], threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        of.ended.set()
        server.shutdown()


async def call(service: Any, folder: Path, tool: str, **inputs: Any) -> dict[str, Any]:
    """Call a tool of the service, which the operator has given a name."""
    url = f"http://127.0.0.1:{service.server_port}/mcp"
    web = {"url": url, "headers": {"X-Extra": "1"}}
    (folder / "servers.json").write_text(json.dumps({"mcpServers": {"web": web}}))
    ctx = NodeContext("n", "n", "mcp", "r", "acme", {"server": "web", "tool": tool, **inputs}, "r:n:0:0")
    return await Mcp(NamedServers(folder / "servers.json"))(ctx)


def heard(service: Any, method: str) -> list[tuple[dict[str, Any], dict[str, str]]]:
    return [(message, headers) for message, headers in service.heard if message.get("method") == method]


@pytest.mark.parametrize("tool", ["fine", "twice"])
async def test_the_first_answer_counts_and_the_session_is_ended(service: Any, tmp_path: Path, tool: str) -> None:
    """As JSON and as a stream; every request carries the configured headers, the call alone the node's key."""
    assert await call(service, tmp_path, tool) == {"text": "done"}
    assert service.ended.is_set()
    assert {headers["x-extra"] for _, headers in service.heard} == {"1"}
    ((message, headers),) = heard(service, "tools/call")
    assert message["params"]["_meta"]["dalang/idempotencyKey"] == "r:n:0:0"
    assert headers["mcp-session-id"] == "s-1"


@pytest.mark.parametrize(
    ("tool", "kind", "retryable"),
    [
        ("cut", "NETWORK_ERROR", True),
        ("drop", "NETWORK_ERROR", True),
        ("hang", "TIMEOUT", True),
        ("html", "TOOL_ERROR", False),
        ("rubbish", "TOOL_ERROR", False),
        ("big", "TOOL_ERROR", False),
        ("redirect", "TOOL_ERROR", False),
        ("503", "NETWORK_ERROR", True),
        ("429", "RESOURCE_EXHAUSTED", True),
        ("404", "NETWORK_ERROR", True),
        ("401", "POLICY_VIOLATION", False),
    ],
)
async def test_what_goes_wrong_has_its_type(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, kind: str, retryable: bool
) -> None:
    """It was called, so it may have done something."""
    monkeypatch.setattr(session, "MAX_BYTES", 2048)
    with pytest.raises(NodeFailure) as caught:
        await call(service, tmp_path, tool, timeout="2s" if tool != "hang" else "300ms")
    failure = caught.value
    assert (failure.type, failure.retryable, failure.no_effect) == (kind, retryable, False), failure.message
    assert failure.retry_after == (7 if tool == "429" else None)
    assert len(heard(service, "tools/call")) == 1


async def test_a_cancel_reaches_the_service(service: Any, tmp_path: Path) -> None:
    """It is told which request nobody wants any more, and the session is ended."""
    work = asyncio.create_task(call(service, tmp_path, "hang"))
    async with asyncio.timeout(PATIENCE):
        while not heard(service, "tools/call"):
            await asyncio.sleep(0.02)
    work.cancel()
    done, _ = await asyncio.wait({work}, timeout=20)  # the tool itself never ends
    assert done
    assert work.cancelled()
    ((message, _),) = heard(service, "tools/call")
    ((told, _),) = heard(service, "notifications/cancelled")
    assert told["params"]["requestId"] == message["id"]
    assert service.ended.is_set()
