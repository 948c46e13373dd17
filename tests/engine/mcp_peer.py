"""An MCP server on stdio that misbehaves, of the standard library only, so that it starts at once.

``python mcp_peer.py <folder>``: what it hears is in ``<folder>/heard.jsonl``, and its pid in ``<folder>/pids``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 1}, "unit": {"enum": ["m", "ft"]}},
    "required": ["count"],
    "additionalProperties": False,
}
TOOLS = [
    {"name": "measure", "inputSchema": {"$schema": "http://json-schema.org/draft-07/schema#", **SCHEMA}},
    {"name": "promise", "inputSchema": {"type": "object"}, "outputSchema": {"type": "object", "required": ["n"]}},
    *(
        {"name": name, "inputSchema": {"type": "object"}}
        for name in (
            "ask",
            "twice",
            "environment",
            "die",
            "rubbish",
            "not-a-result",
            "hang",
            "progress",
            "flaky",
            "log",
            "stubborn",
        )
    ),
]


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answer(request: dict[str, Any], result: dict[str, Any]) -> None:
    send({"id": request["id"], "result": result})


def text(request: dict[str, Any], said: str, **more: Any) -> None:
    answer(request, {"content": [{"type": "text", "text": said}], **more})


def elicit(number: int, question: str, name: str) -> dict[str, Any]:
    form = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
    about = {"mode": "form", "message": question, "requestedSchema": form}
    send({"id": f"ask-{number}", "method": "elicitation/create", "params": about})
    for line in sys.stdin:
        with (FOLDER / "heard.jsonl").open("a") as file:
            file.write(line)
        message = json.loads(line)
        if message.get("id") == f"ask-{number}":
            answer: dict[str, Any] = message.get("result") or {"action": "error"}
            return answer
    sys.exit(0)


def call(request: dict[str, Any]) -> None:
    params = request["params"]
    name, arguments = params["name"], params.get("arguments") or {}
    if name == "measure":
        text(request, f"{arguments['count']} {arguments.get('unit', 'm')}", structuredContent=arguments)
    elif name == "twice":
        text(request, "first")
        text(request, "second")
    elif name == "promise":
        text(request, "{}", structuredContent=arguments)
    elif name == "die":
        sys.stderr.write("out of cheese\n")
        sys.stderr.flush()
        os._exit(3)
    elif name == "rubbish":
        sys.stdout.write("<html>oops</html>\n")
        sys.stdout.flush()
    elif name == "not-a-result":
        answer(request, {"content": "no list"})
    elif name == "flaky":
        if len((FOLDER / "pids").read_text().split()) < 3:
            os._exit(1)
        text(request, "at last")
    elif name == "progress":
        token = params["_meta"]["progressToken"]
        for step in range(1, 4):
            about = {"progressToken": token, "progress": step, "total": 4, "message": f"step {step}"}
            send({"method": "notifications/progress", "params": about})
            time.sleep(0.4)
        if arguments.get("then") != "hang":
            text(request, "done")
    elif name == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        below = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"])
        with (FOLDER / "pids").open("a") as file:
            file.write(f"{below.pid}\n")
        (FOLDER / "stubborn").touch()
        while True:
            time.sleep(600)
    elif name == "ask":
        region, size = elicit(1, "Which region?", "region"), None
        if region["action"] == "accept":
            size = elicit(2, "Which size?", "size")
        text(request, json.dumps([region, size]), isError=region["action"] != "accept")
    elif name == "environment":
        sys.stderr.write(f"started with {os.environ['KEY']}\n")
        sys.stderr.flush()
        if arguments.get("die"):
            os._exit(1)
        text(request, f"the key is {os.environ['KEY']}")
    elif name == "log":
        text(request, "", isError=True)
    # `hang` never answers


def main() -> None:
    with (FOLDER / "pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    for line in sys.stdin:
        with (FOLDER / "heard.jsonl").open("a") as file:
            file.write(line)
        message = json.loads(line)
        method = message.get("method")
        if method == "initialize":
            version = message["params"]["protocolVersion"]
            about = {"name": "peer", "version": "1"}
            answer(message, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about})
        elif method == "server/discover" and "shy" in sys.argv:
            continue
        elif method == "tools/list":
            half = len(TOOLS) // 2
            if (message.get("params") or {}).get("cursor"):
                answer(message, {"tools": TOOLS[half:]})
            else:
                answer(message, {"tools": TOOLS[:half], "nextCursor": "more"})
        elif method == "tools/call":
            call(message)
        elif "id" in message and method is not None:
            send({"id": message["id"], "error": {"code": -32601, "message": f"no method {method}"}})


if __name__ == "__main__":
    main()
