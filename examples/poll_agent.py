"""An agent without Temporal: it asks for work by REST, does it, and tells how it goes. Nothing of Dalang is imported.

    python examples/poll_agent.py --token-file .dalang/token --id ada --capability research --capability summarizing

What it does here is count the words of its input `text`, slowly if `seconds` says so. Put your model, your tools or
your robot into `work`.
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from pathlib import Path
from typing import Any

import httpx


class Unwanted(Exception):
    """The work was cancelled, or given to somebody else because nothing was heard of us."""


def work(task: dict[str, Any], wanted: threading.Event) -> dict[str, Any]:
    """Do a node. An effect on the outside carries `task["key"]`, which is the same if it is asked for again."""
    inputs = task["inputs"]
    until = time.monotonic() + float(inputs.get("seconds", 0))
    while time.monotonic() < until:
        if not wanted.is_set():
            raise Unwanted
        time.sleep(0.05)
    return {"words": len(str(inputs.get("text", "")).split()), "key": task["key"]}


class Agent:
    """One agent of the registry."""

    def __init__(self, http: httpx.Client, name: str) -> None:
        self.http = http
        self.name = name
        self.address = f"/orchestrator/agents/{name}"

    def register(self, capabilities: list[str], heartbeat: int) -> None:
        body = {"kind": "poll", "capabilities": capabilities, "heartbeatSeconds": heartbeat}
        self.http.put(self.address, json=body).raise_for_status()

    def run_for_ever(self) -> None:
        while True:
            try:
                answer = self.http.post(f"{self.address}/poll", json={"waitSeconds": 30})
                answer.raise_for_status()
            except httpx.HTTPError as error:
                print("no answer:", error, flush=True)
                time.sleep(1)
                continue
            if answer.status_code == 200:
                self.take(answer.json())

    def take(self, assignment: dict[str, Any]) -> None:
        """Do one assignment: the work in a thread, and a word about it now and then, so that it stays ours."""
        task = assignment["nodeTask"]
        print("took", task["nodeId"], "attempt", task.get("attempt", 1), flush=True)
        wanted, ended = threading.Event(), queue.SimpleQueue[dict[str, Any]]()
        wanted.set()

        def do() -> None:
            try:
                outputs = work(task, wanted)
                ended.put({"outputs": {**outputs, "by": self.name}})
            except Exception as error:
                kind = {"type": "TOOL_ERROR", "message": f"{type(error).__name__}: {error}", "retryable": True}
                ended.put({"error": kind})

        threading.Thread(target=do, daemon=True).start()
        while True:
            try:
                end = ended.get(timeout=assignment["aliveSeconds"] / 3)
            except queue.Empty:
                if self.tell(assignment, "progress", {"message": "working"}):
                    continue
                wanted.clear()
                print("not wanted any more:", task["nodeId"], flush=True)
                return
            self.tell(assignment, "complete" if "outputs" in end else "fail", end)
            print("ended", task["nodeId"], flush=True)
            return

    def tell(self, assignment: dict[str, Any], what: str, body: dict[str, Any]) -> bool:
        """Say it until somebody has heard it; False when it is not wanted any more (404, 409)."""
        address = f"{self.address}/assignments/{assignment['assignmentId']}/{what}"
        while True:
            try:
                answer = self.http.post(address, json={"token": assignment["token"], **body})
                if answer.status_code < 500:
                    return answer.is_success
            except httpx.TransportError as error:
                print("no answer:", error, flush=True)
            time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description="An agent that counts words.")
    parser.add_argument("--api", default="http://127.0.0.1:8400", help="address of Dalang's API")
    parser.add_argument("--token-file", type=Path, required=True, help="a token with the role agent")
    parser.add_argument("--id", required=True, help="the agent's id")
    parser.add_argument("--capability", action="append", default=[], help="what it can do; may be repeated")
    parser.add_argument("--heartbeat", type=int, default=30, help="offline after so many seconds of silence")
    given = parser.parse_args()
    headers = {"Authorization": f"Bearer {given.token_file.read_text().strip()}"}
    with httpx.Client(base_url=given.api, headers=headers, timeout=60) as http:
        agent = Agent(http, given.id)
        agent.register(given.capability, given.heartbeat)
        print("ready", flush=True)
        agent.run_for_ever()


if __name__ == "__main__":
    main()
