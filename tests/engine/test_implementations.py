"""Implementations that are functions and services, on the real engine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.engine import handlers
from tests.engine.kit import Engine, body_of


class Scores(BaseHTTPRequestHandler):
    """Answers with the length of ``text`` and the key it was asked with; ``/away`` with 503, ``/nothing`` with 204."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = {"/away": 503, "/nothing": 204}.get(self.path, 200)
        answer = {"score": len(asked.get("text", "")), "key": self.headers["idempotency-key"]}
        content = b"" if status == 204 else json.dumps(answer if self.path != "/list" else [1, 2]).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Scores) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def node(name: str, kind: str, coordinate: str, **more: Any) -> dict[str, Any]:
    implementation = {"type": kind, "coordinate": coordinate}
    if "digest" in more:
        implementation["digest"] = more.pop("digest")
    retry = {"maxAttempts": 2, "initialDelay": "10ms"}
    return {
        "nodeId": name,
        "type": "score",
        "descriptor": {"implementation": implementation},
        "retryPolicy": retry,
        **more,
    }


async def test_a_service_is_a_function(shared_engine: Engine, service: str) -> None:
    """Inputs are the body, outputs the answer; a list is `result`, nothing is nothing, 503 is worth another attempt."""
    plan = {
        "failurePolicy": "continue",
        "nodes": [
            node("score", "http", f"{service}/score", inputs={"text": "hello"}),
            node("list", "http", f"{service}/list"),
            node("nothing", "http", f"{service}/nothing"),
            node("away", "http", f"{service}/away"),
        ],
    }
    started = await shared_engine.start(plan)
    ended = await started.end()
    assert body_of(ended, "NODE_COMPLETED", "score")["outputs"] == {"score": 5, "key": f"{started.run_id}:score:0:0"}
    assert body_of(ended, "NODE_COMPLETED", "list")["outputs"] == {"result": [1, 2]}
    assert body_of(ended, "NODE_COMPLETED", "nothing")["outputs"] == {}
    error = body_of(ended, "NODE_FAILED", "away")["error"]
    assert (error["type"], error["attempt"]) == ("NETWORK_ERROR", 2)


async def test_a_function_by_its_source(shared_engine: Engine) -> None:
    """With the digest of the file it is in; with another one it is not run."""
    digest = hashlib.sha256(Path(handlers.__file__).read_bytes()).hexdigest()
    plan = {
        "failurePolicy": "continue",
        "nodes": [
            node("same", "python", "t-needs", inputs={"x": 2}, digest=f"sha256:{digest}"),
            node("any", "python", "t-needs", inputs={"x": 3}),
            node("other", "python", "t-needs", inputs={"x": 4}, digest="sha256:" + "0" * 64),
        ],
    }
    ended = await (await shared_engine.start(plan)).end()
    assert [body_of(ended, "NODE_COMPLETED", one)["outputs"]["x"] for one in ("same", "any")] == [2, 3]
    error = body_of(ended, "NODE_FAILED", "other")["error"]
    assert (error["type"], error["noEffect"]) == ("POLICY_VIOLATION", True)
    assert digest in error["message"]
