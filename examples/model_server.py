"""Something that answers like a language model, for ``llm.yaml`` and ``llm-review.yaml``: they run without a key.

``python examples/model_server.py [PORT]`` (8600) serves OpenAI's Chat Completions as far as those plans need them. It
understands nothing: it looks for words. ``llm-models.yaml`` says where it is.
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, ClassVar

ANSWER_TOOL = "final_result"
"""The tool by which structured answers are given."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the message that answers a request: a text, or calls of tools."""
    messages = request["messages"]
    prompt = next(one["content"] for one in messages if one["role"] == "user")
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in request.get("tools", ())}
    results = [one["content"] for one in messages if one["role"] == "tool"]
    if "demo-order" in tools and not results:
        return called("demo-order", {"number": number_in(prompt)})
    if ANSWER_TOOL in tools:
        return called(ANSWER_TOOL, structured(tools[ANSWER_TOOL]["properties"], prompt))
    if results:
        days = json.loads(results[-1])["lateDays"]
        return {"content": f"We are sorry: your order is {days} days late. You get your money back."}
    text = "Tea is a drink." if "longer" not in prompt else "Tea is a drink of leaves and hot water. " * 5
    return {"content": text.strip()}


def structured(properties: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Return an answer that has these properties."""
    if "patch" in properties:
        return {"reason": "write more", "patch": revision(prompt)}
    if "verdict" in properties:
        words = len(prompt.split())
        return {"verdict": "replan" if words < 30 else "pass", "reason": f"{words} words"}
    category = "delivery" if "order" in prompt else "other"
    return {"category": category, "urgent": "money" in prompt, "order": number_in(prompt)}


def revision(prompt: str) -> dict[str, Any]:
    """Return a patch: a longer text, and a judge of it, between the node that judged and what follows it."""
    plan = json.loads(prompt.split("## The plan\n")[1].split("\n\n")[0])
    judge = next(node for node in plan["nodes"] if node.get("evaluator"))
    after = [edge for edge in plan["edges"] if edge["sourceNodeId"] == judge["nodeId"]]
    look = "Is this text long enough? ${nodes.rewrite.outputs.text}"
    return {
        "removeEdges": [edge["edgeId"] for edge in after],
        "addNodes": [
            {"nodeId": "rewrite", "type": "llm", "inputs": {**judge["inputs"], "prompt": "Write a longer text."}},
            {**judge, "nodeId": "judge-again", "inputs": {**judge["inputs"], "prompt": look}},
        ],
        "addEdges": [
            {"sourceNodeId": judge["nodeId"], "targetNodeId": "rewrite", "mapping": {"reason": "because"}},
            {"sourceNodeId": "rewrite", "targetNodeId": "judge-again"},
            *({"sourceNodeId": "judge-again", "targetNodeId": edge["targetNodeId"]} for edge in after),
        ],
    }


def called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the message that calls a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"content": None, "tool_calls": [{"id": f"call_{name}", "type": "function", "function": function}]}


def number_in(text: str) -> int:
    """Return the first number of a text."""
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 0


class Model(BaseHTTPRequestHandler):
    """``POST /v1/chat/completions``."""

    protocol_version = "HTTP/1.1"
    numbers: ClassVar[count[int]] = count(1)

    def do_POST(self) -> None:
        """Answer."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send(200, self.completion(request, answer(request)))

    def completion(self, request: dict[str, Any], message: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """Return a message as the provider sends it."""
        asked, said = len(json.dumps(request["messages"])) // 4, len(json.dumps(message)) // 4
        return {
            "id": f"chatcmpl-{next(self.numbers)}",
            "object": "chat.completion",
            "created": 1_795_000_000,
            "model": f"{request['model']}-2026",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish or ("tool_calls" if "tool_calls" in message else "stop"),
                    "message": {"role": "assistant", "content": None, **message},
                }
            ],
            "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
        }

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """Send JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8600
    with ThreadingHTTPServer(("127.0.0.1", port), Model) as server:
        print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
