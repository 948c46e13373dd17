"""Agents behind A2A that misbehave: they die in the middle, answer late, twice, or rubbish; and Wayang's router."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dalang.activities.a2a import A2A
from dalang.activities.a2a.files import MAX_SENT_BYTES, kept_files, sent_files
from dalang.activities.egress import enforcing
from dalang.activities.secrets import Vault
from dalang.egress import Egress
from dalang.nodes import InvalidInput, NodeContext, ToolError
from tests.engine.kit import Engine, body_of

FAST = {"maxAttempts": 3, "initialDelayMs": 10}
DONE = {"artifacts": [{"artifactId": "a", "parts": [{"data": {"n": 7}}]}]}
RUBBISH: dict[str, Any] = {
    "html": "<html>welcome</html>",
    "list": [1],
    "nothing": {"jsonrpc": "2.0", "id": 1},
    "odd-error": {"jsonrpc": "2.0", "id": 1, "error": "no"},
    "neither": {"jsonrpc": "2.0", "id": 1, "result": {}},
    "odd-state": {"jsonrpc": "2.0", "id": 1, "result": {"task": {"id": "t", "status": {"state": "DANCING"}}}},
    "no-state": {"jsonrpc": "2.0", "id": 1, "result": {"task": {"id": "t"}}},
    "no-id": {"jsonrpc": "2.0", "id": 1, "result": {"task": {"status": {"state": "TASK_STATE_WORKING"}}}},
    "odd-types": {"jsonrpc": "2.0", "id": 1, "result": {"task": {"id": {"a": 1}, "status": []}}},
    "nul": {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"data": {"x": "\u0000"}}]}},
    },
}
CARDS: dict[str, Any] = {"card-html": "<html/>", "card-list": [], "card-empty": {}, "card-odd": {"skills": 5}}


class Misbehaving(BaseHTTPRequestHandler):
    """``/KIND/`` is an agent that misbehaves in a way of its own."""

    counts: Counter[str]
    sent: list[dict[str, Any]]

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        if kind in CARDS:
            self.answer(CARDS[kind])
            return
        self.counts[f"{kind} card"] += 1
        host = f"http://127.0.0.1:{self.server.server_address[1]}"
        interface = {"url": f"{host}/{kind}/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
        streams = kind in ("twice", "broken", "other")
        self.answer({"name": kind, "supportedInterfaces": [interface], "capabilities": {"streaming": streams}})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        kind = self.path.split("/")[1]
        if kind == "router":
            self.route(request)
            return
        method, params = request["method"], request["params"]
        if method in ("SendMessage", "SendStreamingMessage"):
            self.sent.append({"kind": kind, **params["message"]})
        self.counts[f"{kind} {method}"] += 1
        count = self.counts[f"{kind} {method}"]
        if kind in RUBBISH:
            self.answer(RUBBISH[kind])
        elif kind == "closed":
            self.send_response(401)
            self.end_headers()
        elif method == "GetTask":
            self.get(kind, count)
        elif method == "ListTasks":
            self.list(kind, params)
        elif method == "SendMessage":
            self.take(kind, count, params["message"])
        else:
            self.stream(kind)

    def take(self, kind: str, count: int, message: dict[str, Any]) -> None:
        if kind.startswith("lost") and count == 1:
            self.close_connection = True  # it has taken the message, and says nothing
        elif kind == "died":
            self.tell({"task": self.task("WORKING", "t2" if count > 1 else "t1")})
        else:
            self.tell({"task": self.task("WORKING")})

    def get(self, kind: str, count: int) -> None:
        if kind == "away" and count <= 4:
            if count % 2:
                self.close_connection = True
            else:
                self.send_response(503)
                self.end_headers()
        elif kind == "died" and self.counts["died SendMessage"] == 1:
            self.tell_error(-32001, "Task not found")
        elif kind == "broken" and count == 1:
            self.tell(self.task("WORKING"))
        else:
            working = kind == "late" and count <= 3
            task = "t2" if kind == "died" else "t"
            self.tell(self.task("WORKING", task) if working else {**self.task("COMPLETED", task), **DONE})

    def list(self, kind: str, params: dict[str, Any]) -> None:
        if kind == "lost-old":
            self.tell_error(-32601, "Method not found")
            return
        if kind == "lost" and not params.get("pageToken"):
            self.tell({"tasks": [], "nextPageToken": "more", "pageSize": 100, "totalSize": 101})
            return
        history = [{key: value for key, value in one.items() if key != "kind"} for one in self.sent]
        tasks = [{**self.task("COMPLETED"), "history": history}] if history else []
        self.tell({"tasks": tasks, "nextPageToken": "", "pageSize": 100, "totalSize": len(tasks)})

    def stream(self, kind: str) -> None:
        def update(state: str, task: str = "t") -> dict[str, Any]:
            status = {"state": f"TASK_STATE_{state}"}
            return {"statusUpdate": {"taskId": task, "contextId": "c", "status": status}}

        events = {
            "twice": [{"task": self.task("WORKING")}, update("COMPLETED"), update("COMPLETED"), update("FAILED")],
            "broken": [{"task": self.task("WORKING")}],
            "other": [{"task": self.task("WORKING")}, update("COMPLETED", "another")],
        }[kind]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", "100000")  # more than comes: the connection breaks
        self.end_headers()
        for event in events:
            self.wfile.write(f"data: {json.dumps({'jsonrpc': '2.0', 'id': 1, 'result': event})}\n\n".encode())
        self.close_connection = True

    def route(self, request: dict[str, Any]) -> None:
        """Wayang's router."""
        self.sent.append({"kind": "router", "authorization": self.headers["authorization"], **request})
        target, message = request["targetAgentId"], request["messageId"]
        answers: dict[str, Any] = {
            "writer": {"messageId": message, "success": True, "result": {"text": request["payload"]["topic"]}},
            "fails": {"messageId": message, "success": False, "result": None, "error": "no ink"},
            "rubbish": {"success": "yes"},
            "mixed-up": {"messageId": "another", "success": True},
            "html": "<html/>",
        }
        if target == "drops" and self.counts.update([target]) is None and self.counts[target] == 1:
            self.close_connection = True
            return
        self.answer(answers.get(target, answers["writer"]))

    @staticmethod
    def task(state: str, name: str = "t") -> dict[str, Any]:
        return {"id": name, "contextId": "c", "status": {"state": f"TASK_STATE_{state}"}}

    def tell(self, result: Any) -> None:
        self.answer({"jsonrpc": "2.0", "id": 1, "result": result})

    def tell_error(self, code: int, message: str) -> None:
        self.answer({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": message}})

    def answer(self, body: Any) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


class Service:
    """The server, and what it saw."""

    def __init__(self, port: int, counts: Counter[str], sent: list[dict[str, Any]]) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.counts = counts
        self.sent = sent


@pytest.fixture
def service() -> Iterator[Service]:
    counts: Counter[str] = Counter()
    sent: list[dict[str, Any]] = []
    handler = type("Handler", (Misbehaving,), {"counts": counts, "sent": sent})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Service(server.server_address[1], counts, sent)
        server.shutdown()


async def _call(engine: Engine, service: Service, kind: str, **inputs: Any) -> dict[str, Any]:
    given = {"url": f"{service.address}/{kind}", "message": "go", "pollInterval": "20ms", **inputs}
    node = {"nodeId": "call", "type": "a2a", "inputs": given, "retryPolicy": FAST}
    return await (await engine.start({"nodes": [node]})).end()


def _succeeded(end: dict[str, Any], attempt: int) -> None:
    assert body_of(end, "NODE_COMPLETED")["outputs"]["n"] == 7
    assert end["nodes"]["call"]["attempt"] == attempt


async def test_an_agent_that_answers_late_is_waited_for(shared_engine: Engine, service: Service) -> None:
    """Asked again and again, sent to once."""
    _succeeded(await _call(shared_engine, service, "late"), 1)
    assert (service.counts["late SendMessage"], service.counts["late GetTask"]) == (1, 4)


async def test_an_agent_that_is_away_for_a_while_keeps_its_task(shared_engine: Engine, service: Service) -> None:
    """Within the node's patience no attempt fails; without any the next ones go on with the same task."""
    _succeeded(await _call(shared_engine, service, "away"), 1)
    service.counts.clear()
    end = await _call(shared_engine, service, "away", patience="1ms")
    assert service.counts["away SendMessage"] == 1
    assert [one["error"]["type"] for one in end["attempts"] if one["error"]] == ["NETWORK_ERROR"] * 3


async def test_an_agent_that_died_and_knows_nothing_is_sent_it_again(shared_engine: Engine, service: Service) -> None:
    """In another attempt, with the same message id."""
    _succeeded(await _call(shared_engine, service, "died"), 2)
    assert len(service.sent) == 2
    assert len({one["messageId"] for one in service.sent}) == 1


@pytest.mark.parametrize(("kind", "sends"), [("lost", 1), ("lost-old", 2)])
async def test_a_lost_answer_is_no_second_job(shared_engine: Engine, service: Service, kind: str, sends: int) -> None:
    """The task is found by its message; where the agent cannot list tasks it gets the message under the same id."""
    _succeeded(await _call(shared_engine, service, kind), 2)
    assert service.counts[f"{kind} SendMessage"] == sends
    assert len({one["messageId"] for one in service.sent}) == 1


async def test_an_end_that_is_told_twice_counts_once(shared_engine: Engine, service: Service) -> None:
    """And what comes after it not at all."""
    _succeeded(await _call(shared_engine, service, "twice"), 1)


async def test_a_stream_that_breaks_is_followed_by_asking(shared_engine: Engine, service: Service) -> None:
    """What the agent works at goes on without it."""
    _succeeded(await _call(shared_engine, service, "broken"), 1)
    assert service.counts["broken SendStreamingMessage"] == 1


async def test_rubbish_fails_the_node_and_nothing_else(shared_engine: Engine, service: Service) -> None:
    """With a typed error that says who answered it, in one attempt: the same agent would say the same again."""
    kinds = (*RUBBISH, *CARDS, "other", "closed")
    ends = await asyncio.gather(*(_call(shared_engine, service, kind) for kind in kinds))
    for kind, end in zip(kinds, ends, strict=True):
        error = body_of(end, "NODE_FAILED")["error"]
        wanted = {"closed": "POLICY_VIOLATION", "card-empty": "VALIDATION_ERROR"}.get(kind, "TOOL_ERROR")
        assert error["type"] == wanted, (kind, error)
        assert end["nodes"]["call"]["attempt"] == 1, kind


async def test_wayangs_router_delegates(shared_engine: Engine, service: Service) -> None:
    """One request with the seed's fields; an answer that was lost is asked for under the same id."""
    asked = {"protocol": "wayang", "target": "drops", "message": {"topic": "puppets"}}
    end = await _call(shared_engine, service, "router", **asked)
    assert body_of(end, "NODE_COMPLETED")["outputs"] == {"text": "puppets"}
    first, second = service.sent
    assert first == second
    assert set(first) - {"kind", "authorization"} == {"messageId", "runId", "sourceAgentId", "targetAgentId", "payload"}
    assert first["runId"] == str(end["run"]["run_id"])


async def test_what_wayangs_router_answers_wrongly(shared_engine: Engine, service: Service) -> None:
    """TOOL_ERROR, with the agent's words where it has some."""
    targets = ("fails", "rubbish", "mixed-up", "html")
    asked = {"protocol": "wayang", "message": {"topic": "puppets"}}
    ends = await asyncio.gather(*(_call(shared_engine, service, "router", target=one, **asked) for one in targets))
    for target, end in zip(targets, ends, strict=True):
        error = body_of(end, "NODE_FAILED")["error"]
        assert error["type"] == "TOOL_ERROR"
        assert ("no ink" in error["message"]) == (target == "fails")


@pytest.fixture
async def adapter(tmp_path: Path) -> AsyncIterator[A2A]:
    """The adapter without a worker around it, with a secret of the tenant's."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "key").write_text("s3cr3t")
    with enforcing(Egress.of(("127.0.0.1",), (), "")):
        one = A2A(Vault(tmp_path))
    yield one
    await one.close()


def _ctx(**inputs: Any) -> NodeContext:
    return NodeContext("n", "n", "a2a", "r", "acme", inputs, "r:n:0:0")


async def test_headers_of_a_registered_agent_may_be_secrets_of_the_tenant(adapter: A2A, service: Service) -> None:
    """The registry has the reference, the agent gets the value."""
    endpoint = {"url": f"{service.address}/router", "protocol": "wayang", "target": "writer"}
    headers = {"authorization": "Bearer {{secret://key}}"}
    await adapter.for_agent(_ctx(topic="x"), {**endpoint, "headers": headers})
    assert service.sent[0]["authorization"] == "Bearer s3cr3t"
    with pytest.raises(InvalidInput, match="no secret"):
        await adapter.for_agent(_ctx(), {**endpoint, "headers": {"a": "secret://other"}})


async def test_without_the_extra_it_is_said_what_to_install(
    adapter: A2A, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wayang's router needs none."""
    monkeypatch.setitem(sys.modules, "dalang.activities.a2a.peer", None)
    with pytest.raises(InvalidInput, match=r"dalang\[a2a\]"):
        await adapter(_ctx(url=f"{service.address}/late"))
    url = f"{service.address}/router"
    assert await adapter(_ctx(url=url, protocol="wayang", target="writer", topic="x")) == {"text": "x"}


async def test_files_go_out_as_bytes_and_come_in_as_artifacts() -> None:
    """What is too large for a message, or is no base64, is refused."""
    ctx = _ctx()
    reference = ctx.artifacts.put(b"abc")
    (part,) = await sent_files(ctx, [{"url": reference, "mediaType": "text/plain"}])
    assert part == {"raw": "YWJj", "mediaType": "text/plain"}
    large = ctx.artifacts.put(b"x" * (MAX_SENT_BYTES + 1))
    with pytest.raises(InvalidInput, match="bytes"):
        await sent_files(ctx, [{"url": large}])
    kept = await kept_files(ctx, {"n": 1, "files": [{"base64": "YWJj"}, {"url": "https://x/y"}]})
    assert kept == {"n": 1, "files": [{"url": reference}, {"url": "https://x/y"}]}
    with pytest.raises(ToolError, match="base64"):
        await kept_files(ctx, {"files": [{"base64": "?"}]})


async def test_an_agent_that_never_stops_talking_is_not_heard_out(
    adapter: A2A, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer fills a worker's memory."""
    monkeypatch.setattr("dalang.activities.a2a.work.MAX_RESPONSE_BYTES", 10)
    with pytest.raises(ToolError, match="more than this worker reads"):
        await adapter(_ctx(url=f"{service.address}/late"))
