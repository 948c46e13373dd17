"""A Cortex as a small server with the contract of Axon: tasks, sessions, episodes, in the envelope of its answers.

It keeps what it was asked under each idempotency key, and can be told to misbehave.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "cortex-token"

Answer = tuple[int, Any]


class CortexStub:
    """What the server knows. ``wrong`` holds for a method and the beginning of a path what goes wrong there.

    ``away`` closes the connection, ``slow`` after 5 seconds, ``late`` does the work and then closes it, ``rubbish``
    answers no JSON, ``conflict`` is a merge that failed, a number is the status that is answered.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.episodes: list[dict[str, Any]] = []
        self.seen: list[tuple[str, str]] = []
        self.keys: dict[str, Answer] = {}
        self.wrong: dict[str, list[Any]] = {}
        self.url = ""
        self.slow = threading.Event()
        self.lock = threading.Lock()

    def trouble(self, method: str, path: str) -> Any:
        """Return what goes wrong now; a list with one entry goes on for ever."""
        for where, kinds in self.wrong.items():
            if f"{method} {path}".startswith(where) and kinds:
                return kinds.pop(0) if len(kinds) > 1 else kinds[0]
        return None

    def answer(self, method: str, path: str, body: Any, key: str | None) -> Answer:
        """Do what is asked; what was done under this key is answered as it was."""
        with self.lock:
            self.seen.append((method, path))
            if key is not None and key in self.keys:
                return self.keys[key]
            found = self._do(method, path.strip("/").split("/"), body)
            if key is not None and found[0] < 300:
                self.keys[key] = found
            return found

    def _do(self, method: str, parts: list[str], body: Any) -> Answer:
        match (method, *parts):
            case ("POST", "tasks"):
                name = f"task_{len(self.tasks) + 1}"
                self.tasks[name] = {"status": "pending", **body, "updates": []}
                return 201, {"task_id": name}
            case ("PUT", "tasks", name) if name in self.tasks:
                self.tasks[name]["updates"].append(body)
                self.tasks[name].update(body)
                return 200, None
            case ("POST", "sessions"):
                name = f"sess_{len(self.sessions) + 1}"
                self.sessions[name] = {"state": "active", "merges": 0, **body}
                return 201, {"session_id": name, "token": f"st_{name}", "base_version": 42}
            case ("POST", "sessions", name, "merge") if name in self.sessions:
                if self.sessions[name]["state"] != "active":
                    return 404, {"code": "NOT_FOUND", "message": "the session is closed"}
                self.sessions[name]["merges"] += 1
                return 200, {"status": "success", "changes_merged": 3, "conflicts_resolved": 1, "new_version": 43}
            case ("DELETE", "sessions", name) if name in self.sessions:
                self.sessions[name]["state"] = "closed"
                return 200, None
            case ("POST", "memory", "search"):
                words = body["query"].lower().split()
                like = [one for one in self.episodes if any(w in one["task_description"].lower() for w in words)]
                return 200, {"episodes": like[: body["limit"]]}
        return 404, {"code": "RESOURCE_NOT_FOUND", "message": "there is no such thing"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: CortexStub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path = self.path.removeprefix("/v3")
        wrong = self.stub.trouble(self.command, path)
        if wrong == "slow":
            self.stub.slow.wait(5)
            wrong = "away"
        if wrong == "away":
            self.close_connection = True
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say(401, {"code": "UNAUTHORIZED", "message": "who are you?"})
        elif isinstance(wrong, int):
            self._say(wrong, {"code": "WRONG", "message": f"told to answer {wrong}"})
        elif wrong == "rubbish":
            self._send(200, b"<html>")
        elif wrong == "conflict":
            self._say(200, {"status": "conflict", "conflicts": [{"path": "/src/main.rs"}]})
        else:
            status, data = self.stub.answer(self.command, path, body, self.headers.get("X-Idempotency-Key"))
            if wrong == "late":
                self.close_connection = True
                return
            self._say(status, data)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _say(self, status: int, data: Any) -> None:
        good = status < 300
        self._send(status, json.dumps({"success": good, "data" if good else "error": data}).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[CortexStub]:
    """Serve a Cortex on a free port of loopback."""
    stub = CortexStub()
    handler = type("Handler", (_Handler,), {"stub": stub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        stub.url = f"http://127.0.0.1:{server.server_port}/v3"
        yield stub
        server.shutdown()
        thread.join()
