"""The node type ``http`` against a real server that misbehaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.engine.kit import Engine, body_of

FAST = {"initialDelayMs": 10, "maxAttempts": 3}


class Service(BaseHTTPRequestHandler):
    """``/status/N`` answers N, ``/echo`` what it got, ``/slow`` late, ``/drop`` nothing, ``/rubbish`` no JSON."""

    def answer(self) -> None:
        seen: list[dict[str, Any]] = self.server.seen  # type: ignore[attr-defined]
        length = int(self.headers.get("content-length") or 0)
        got = {
            "method": self.command,
            "path": self.path,
            "key": self.headers.get("idempotency-key"),
            "body": self.rfile.read(length).decode(),
            "header": self.headers.get("x-extra"),
        }
        seen.append(got)
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "drop":
            self.connection.close()
            return
        if kind == "slow":
            time.sleep(1)
        text, content_type = json.dumps(got), "application/json; charset=utf-8"
        if kind == "rubbish":
            text, content_type = "{oops", "application/json"
        if kind == "judge":
            text = json.dumps({"verdict": "replan", "reason": "too short"})
        if kind == "planner":
            asked = json.loads(got["body"])
            note = f"{asked['causes'][0]['nodeId']} in revision {asked['revision']}"
            text = json.dumps({"patch": {"changeInputs": {"publish": {"note": note}}}, "reason": "why not"})
        if kind == "text":
            text, content_type = "plain words", "text/plain"
        self.send_response(int(rest) if kind == "status" else 200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        server.seen = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


async def _call(engine: Engine, service: ThreadingHTTPServer, path: str, **inputs: Any) -> dict[str, Any]:
    url = f"http://127.0.0.1:{service.server_port}{path}"
    node = {"nodeId": "call", "type": "http", "inputs": {"url": url, **inputs}, "retryPolicy": FAST}
    return await (await engine.start({"nodes": [node]})).end()


async def test_a_request_carries_what_the_inputs_say_and_the_key(
    shared_engine: Engine, service: ThreadingHTTPServer
) -> None:
    """Method, query, headers and JSON body arrive; the idempotency key is the node's."""
    end = await _call(
        shared_engine, service, "/echo", method="POST", query={"q": "ä b"}, headers={"X-Extra": "1"}, body={"n": 1}
    )
    got = body_of(end, "NODE_COMPLETED", "call")["outputs"]
    assert got["status"] == 200
    assert got["responseHeaders"]["content-type"] == "application/json; charset=utf-8"
    echo = got["response"]
    assert (echo["method"], echo["path"], echo["header"]) == ("POST", "/echo?q=%C3%A4+b", "1")
    assert json.loads(echo["body"]) == {"n": 1}
    assert echo["key"] == f"{end['run']['run_id']}:call:0:0"


@pytest.mark.parametrize(
    ("path", "kind", "attempts"),
    [
        ("/status/404", "TOOL_ERROR", 1),
        ("/status/500", "TOOL_ERROR", 1),
        ("/status/503", "NETWORK_ERROR", 3),
        ("/status/429", "RESOURCE_EXHAUSTED", 1),
        ("/status/408", "TIMEOUT", 3),
        ("/drop", "NETWORK_ERROR", 3),
    ],
)
async def test_what_goes_wrong_has_its_type_and_the_right_number_of_attempts(
    shared_engine: Engine, service: ThreadingHTTPServer, path: str, kind: str, attempts: int
) -> None:
    """By default what the network did is tried again, what the service refused is not; the key stays the same."""
    end = await _call(shared_engine, service, path)
    error = body_of(end, "NODE_FAILED", "call")["error"]
    assert (error["type"], error["attempt"]) == (kind, attempts)
    seen: list[dict[str, Any]] = service.seen  # type: ignore[attr-defined]
    assert len(seen) == attempts
    assert len({one["key"] for one in seen}) == 1


async def test_files_are_kept_and_sent(shared_engine: Engine, service: ThreadingHTTPServer) -> None:
    """The answer of one request is the body of another, and travels as a reference."""
    url = f"http://127.0.0.1:{service.server_port}/echo"
    fetch = {"url": url, "method": "POST", "body": "x" * 3_000_000, "parse": "artifact"}
    send = {"url": url, "method": "PUT", "body": "${nodes.fetch.outputs.response}"}
    nodes = [{"nodeId": "fetch", "type": "http", "inputs": fetch}, {"nodeId": "send", "type": "http", "inputs": send}]
    edges = [{"sourceNodeId": "fetch", "targetNodeId": "send", "mapping": {"status": "s"}}]
    end = await (await shared_engine.start({"nodes": nodes, "edges": edges})).end()
    reference = body_of(end, "NODE_COMPLETED", "fetch")["outputs"]["response"]
    assert reference.startswith("artifact://sha256/")
    seen: list[dict[str, Any]] = service.seen  # type: ignore[attr-defined]
    sent = json.loads(seen[1]["body"])
    assert (sent["method"], sent["body"]) == ("POST", "x" * 3_000_000)


@pytest.mark.parametrize("expected", [[404], ["404"], ["4xx"]])
async def test_an_expected_status_is_a_success(
    shared_engine: Engine, service: ThreadingHTTPServer, expected: list[Any]
) -> None:
    """A number, its text, or its class."""
    end = await _call(shared_engine, service, "/status/404", expectedStatuses=expected)
    assert body_of(end, "NODE_COMPLETED", "call")["outputs"]["status"] == 404


@pytest.mark.parametrize(
    ("path", "parse", "response"),
    [("/text", "auto", "plain words"), ("/text", "none", None), ("/rubbish", "text", "{oops")],
)
async def test_answers_are_parsed_as_asked(
    shared_engine: Engine, service: ThreadingHTTPServer, path: str, parse: str, response: Any
) -> None:
    """Text stays text, and nothing is read where nothing is wanted."""
    end = await _call(shared_engine, service, path, parse=parse)
    assert body_of(end, "NODE_COMPLETED", "call")["outputs"]["response"] == response


async def test_rubbish_where_json_is_wanted_fails(shared_engine: Engine, service: ThreadingHTTPServer) -> None:
    """What cannot be parsed is the tool's error."""
    end = await _call(shared_engine, service, "/rubbish", parse="json")
    assert body_of(end, "NODE_FAILED", "call")["error"]["type"] == "TOOL_ERROR"


async def test_a_late_answer_times_out(shared_engine: Engine, service: ThreadingHTTPServer) -> None:
    """The request's own timeout counts for each attempt."""
    end = await _call(shared_engine, service, "/slow", timeout="100ms")
    error = body_of(end, "NODE_FAILED", "call")["error"]
    assert (error["type"], error["attempt"]) == ("TIMEOUT", 3)


@pytest.mark.parametrize(
    "inputs",
    [{"url": "ftp://x"}, {"url": "http://"}, {"method": "BREW"}, {"headers": {"a": 1}}, {"headers": {"a\nb": "c"}}],
)
async def test_wrong_inputs_are_a_validation_error(
    shared_engine: Engine, service: ThreadingHTTPServer, inputs: dict[str, Any]
) -> None:
    """What cannot be sent fails at once."""
    end = await _call(shared_engine, service, "/echo", **inputs)
    error = body_of(end, "NODE_FAILED", "call")["error"]
    assert (error["type"], error["attempt"]) == ("VALIDATION_ERROR", 1)


async def test_one_http_node_after_another_sends_its_own_request(
    shared_engine: Engine, service: ThreadingHTTPServer
) -> None:
    """The first answer does not leak into the second request, unless an expression says so."""
    url = f"http://127.0.0.1:{service.server_port}/echo"
    second = {"url": url, "method": "POST", "body": "${nodes.a.outputs.response.method}"}
    end = await (
        await shared_engine.start(
            {
                "nodes": [
                    {"nodeId": "a", "type": "http", "inputs": {"url": url}},
                    {"nodeId": "b", "type": "http", "inputs": second},
                ],
                "edges": [{"sourceNodeId": "a", "targetNodeId": "b"}],
            }
        )
    ).end()
    assert body_of(end, "NODE_COMPLETED", "b")["outputs"]["response"]["body"] == "GET"


async def test_a_service_judges_and_a_service_plans(shared_engine: Engine, service: ThreadingHTTPServer) -> None:
    """What they say stands in the body of their answers; the planner is sent what planners are told."""
    address = f"http://127.0.0.1:{service.server_port}"
    plan = {
        "planner": {"type": "http", "inputs": {"url": f"{address}/planner"}},
        "nodes": [
            {"nodeId": "judge", "type": "http", "evaluator": True, "inputs": {"url": f"{address}/judge"}},
            {"nodeId": "publish", "type": "noop"},
        ],
        "edges": [{"sourceNodeId": "judge", "targetNodeId": "publish"}],
        "outputs": {"note": "${nodes.publish.outputs.note}", "status": "${nodes.judge.outputs.status}"},
    }
    end = await (await shared_engine.start(plan)).end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error_message"]
    assert end["result"]["outputs"] == {"note": "judge in revision 1", "status": 200}
