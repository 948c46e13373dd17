"""A provider of language models on loopback that misbehaves on demand: the model's name says how.

Everything that a well-behaved provider sends comes from ``examples/model_server.py``.
"""

from __future__ import annotations

import json
import runpy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.harness import ROOT

_SERVER = runpy.run_path(str(ROOT / "examples" / "model_server.py"))
Model: Any = _SERVER["Model"]
called: Any = _SERVER["called"]
ANSWER_TOOL: str = _SERVER["ANSWER_TOOL"]

ERRORS: dict[str, tuple[int, dict[str, Any], dict[str, str]]] = {
    "rate-limit": (429, {"code": "rate_limit_exceeded", "message": "Slow down."}, {"Retry-After": "1"}),
    "rate-limit-briefly": (429, {"code": "rate_limit_exceeded", "message": "Slow down."}, {"retry-after-ms": "300"}),
    "quota": (429, {"code": "insufficient_quota", "message": "You exceeded your current quota."}, {}),
    "too-long": (400, {"code": "context_length_exceeded", "message": "This model's maximum context length is 8."}, {}),
    "filtered-prompt": (400, {"code": "content_filter", "message": "The prompt was filtered."}, {}),
    "bad-request": (400, {"code": "invalid_value", "message": "There is no such parameter."}, {}),
    "no-such-model": (404, {"code": "model_not_found", "message": "There is no such model."}, {}),
    "wrong-key": (401, {"code": "invalid_api_key", "message": "Incorrect API key provided: KEY."}, {}),
    "error-500": (500, {"code": "server_error", "message": "Something broke."}, {}),
    "error-503": (503, {"message": "We are away."}, {"Retry-After": "0"}),
    "overloaded": (529, {"type": "overloaded_error", "message": "Overloaded."}, {}),
}
"""Models that a provider answers with an error; ``KEY`` stands for the key that was sent."""


class Peer:
    """The provider: ``asked`` are the requests of each model, ``keys`` what they were sent with,
    ``traces`` the traces that they belong to.

    A model that hangs sets ``waiting``, and ``gone`` when whoever asked it has hung up.
    """

    def __init__(self) -> None:
        self.asked: dict[str, list[dict[str, Any]]] = {}
        self.keys: list[str] = []
        self.traces: list[str] = []
        self.released = threading.Event()
        self.waiting = threading.Event()
        self.gone = threading.Event()
        self.address = ""

    def count(self, model: str) -> int:
        """Return how often a model was asked."""
        return len(self.asked.get(model, ()))


class _Handler(Model):  # type: ignore[misc,valid-type]
    peer: Peer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        model = request["model"]
        name = model.partition("@")[0]
        self.peer.keys.append(key)
        self.peer.traces.append(self.headers.get("traceparent", ""))
        asked = self.peer.asked.setdefault(model, [])
        asked.append(request)
        if name.endswith("-once"):  # misbehaves the first time only
            name = name.removesuffix("-once") if len(asked) == 1 else "good"
        if model.endswith("@away") and len(asked) == 3:
            name = "error-503"
        if name in ERRORS:
            status, error, headers = ERRORS[name]
            error = {"type": "error", **error, "message": error["message"].replace("KEY", key)}
            self.send(status, {"error": error}, headers)
            return
        if self.path.endswith("/responses"):
            self.send(200, _response(name, request))
            return
        behave = getattr(self, "be_" + name.replace("-", "_"), None)
        if behave is not None:
            behave(request, len(asked))
        else:
            self.send(200, self.completion(request, _SERVER["answer"](request)))

    def be_echo(self, request: dict[str, Any], number: int) -> None:
        self.text(request, f"You said: {request['messages'][-1]['content']}")

    def be_refusal(self, request: dict[str, Any], number: int) -> None:
        self.send(200, self.completion(request, {"content": None, "refusal": "I will not do that."}))

    def be_filtered_answer(self, request: dict[str, Any], number: int) -> None:
        self.send(200, self.completion(request, {"content": ""}, "content_filter"))

    def be_half_filtered(self, request: dict[str, Any], number: int) -> None:
        self.send(200, self.completion(request, {"content": "First you"}, "content_filter"))

    def be_cut_short(self, request: dict[str, Any], number: int) -> None:
        self.send(200, self.completion(request, {"content": "Once upon a"}, "length"))

    def be_half_an_answer(self, request: dict[str, Any], number: int) -> None:
        message = called(ANSWER_TOOL, {})
        message["tool_calls"][0]["function"]["arguments"] = '{"colour": "gre'
        self.send(200, self.completion(request, message, "length"))

    def be_truncated(self, request: dict[str, Any], number: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"id": "chatcmpl-1", "choices": [')
        self.close_connection = True

    def be_rubbish(self, request: dict[str, Any], number: int) -> None:
        self.send(200, {"oops": True})

    def be_no_json(self, request: dict[str, Any], number: int) -> None:
        data = b"<html>It works!</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def be_dropped(self, request: dict[str, Any], number: int) -> None:
        self.close_connection = True
        self.connection.close()

    def be_hanging(self, request: dict[str, Any], number: int) -> None:
        """Answer nothing until the other side is gone, or the test is over."""
        self.peer.waiting.set()
        self.connection.settimeout(0.05)
        while not self.peer.released.is_set():
            try:
                if not self.connection.recv(1):
                    self.peer.gone.set()
                    break
            except TimeoutError:
                continue
        self.close_connection = True

    def be_wrong_first(self, request: dict[str, Any], number: int) -> None:
        self.structured(request, {"colour": "green" if number > 1 else "loud"})

    def be_always_wrong(self, request: dict[str, Any], number: int) -> None:
        self.structured(request, {"colour": "loud"})

    def be_smuggling(self, request: dict[str, Any], number: int) -> None:
        self.structured(request, {"colour": "green", **({"tools": ["t-value"]} if number == 1 else {})})

    def be_in_words(self, request: dict[str, Any], number: int) -> None:
        self.text(request, '{"colour": "green"}')

    def be_calling(self, request: dict[str, Any], number: int) -> None:
        """Call each tool that is offered with what the prompt says, then tell what they answered."""
        results = [one["content"] for one in request["messages"] if one["role"] == "tool"]
        prompt = next(one["content"] for one in request["messages"] if one["role"] == "user")
        calls = json.loads(prompt)
        if len(results) < len(calls):
            name, arguments = calls[len(results)]
            message = called(name, arguments)
            message["tool_calls"][0]["id"] = f"call_{len(results)}"
            self.send(200, self.completion(request, message))
        else:
            self.text(request, " | ".join(results))

    def be_twice(self, request: dict[str, Any], number: int) -> None:
        """Ask for the same work twice at once."""
        if any(one["role"] == "tool" for one in request["messages"]):
            self.text(request, "done")
            return
        one, other = called("t-key", {"x": 1}), called("t-key", {"x": 1})
        other["tool_calls"][0]["id"] = "call_2"
        self.send(200, self.completion(request, {**one, "tool_calls": one["tool_calls"] + other["tool_calls"]}))

    def be_planner(self, request: dict[str, Any], number: int) -> None:
        """Answer with a patch of no use first."""
        if number == 1:
            self.structured(request, {"reason": "why not", "patch": {"removeNodes": ["nobody"]}})
        else:
            self.send(200, self.completion(request, _SERVER["answer"](request)))

    def be_redrawing(self, request: dict[str, Any], number: int) -> None:
        """Answer with a whole plan, and with an empty patch, which is none."""
        prompt = next(one["content"] for one in request["messages"] if one["role"] == "user")
        plan = json.loads(prompt.split("## The plan\n")[1].split("\n\n")[0])
        plan["nodes"][-1]["inputs"] = {"note": "judged"}
        self.structured(request, {"reason": "once more", "patch": {}, "plan": plan})

    def text(self, request: dict[str, Any], text: str) -> None:
        self.send(200, self.completion(request, {"content": text}))

    def structured(self, request: dict[str, Any], value: dict[str, Any]) -> None:
        self.send(200, self.completion(request, called(ANSWER_TOOL, value)))

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


def _response(name: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return an answer of OpenAI's Responses API; the model's name says what is wrong with it."""
    content: dict[str, Any] = {"type": "output_text", "text": "from the Responses API", "annotations": []}
    more: dict[str, Any] = {"status": "completed"}
    if name == "refusal":
        content = {"type": "refusal", "refusal": "I will not do that."}
    elif name in ("cut-short", "half-filtered"):
        reason = "max_output_tokens" if name == "cut-short" else "content_filter"
        more = {"status": "incomplete", "incomplete_details": {"reason": reason}}
    elif name == "failed":
        more = {"status": "failed", "error": {"code": "server_error", "message": "Something broke."}}
    output: dict[str, Any] = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    output["content"] = [content]
    if any(tool["name"] == ANSWER_TOOL for tool in request.get("tools", ())):
        output = {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": ANSWER_TOOL,
            "status": "completed",
        }
        output["arguments"] = '{"colour": "green"}'
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_795_000_000,
        "model": request["model"],
        "output": [] if name == "failed" else [output],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 15,
        },
        **more,
    }


def models_file(folder: Path, peer: Peer) -> Path:
    """Write an operator's file that knows the provider."""
    access = {"baseUrl": peer.address, "apiKey": "env:HOME"}
    priced = {"provider": "openai-compatible", "model": "echo", **access, "prices": {"input": 1000, "output": 2000}}
    document = {
        "default": "openai-compatible:echo",
        "models": {"priced": priced, "theirs": {**priced, "apiKey": "secret://model-key", "tenants": ["us", "tests"]}},
        "providers": {"openai-compatible": access, "openai": access},
    }
    path = folder / "models.yaml"
    path.write_text(json.dumps(document))
    return path


@contextmanager
def provider() -> Iterator[Peer]:
    """Serve models for the length of the block."""
    peer = Peer()
    handler = type("Handler", (_Handler,), {"peer": peer})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        peer.address = f"http://127.0.0.1:{server.server_port}/v1"
        yield peer
        peer.released.set()
        server.shutdown()
        thread.join()
