"""A Temporal worker that knows nothing of Dalang: the contract of ``docs/agents.md`` in plain JSON, and nothing else.

``python queue_agent.py ADDRESS QUEUE NAME``
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker


@activity.defn(name="answer")
async def answer(task: dict[str, Any]) -> dict[str, Any]:
    inputs = task["inputs"]
    with Path(inputs["log"]).open("a") as log:
        log.write(f"{sys.argv[3]} {task['key']}\n")
    if inputs.get("fail") and task.get("attempt", 1) == 1:
        raise ApplicationError("not today", {"retryable": True}, type="NETWORK_ERROR")
    if inputs.get("refuse"):
        raise ApplicationError("never", type="TOOL_ERROR", non_retryable=True)
    for _ in range(int(inputs.get("seconds", 0) * 10)):
        activity.heartbeat()
        await asyncio.sleep(0.1)
    text = "x" * inputs.get("size", 1)
    return {"outputs": {"by": sys.argv[3], "text": text, "big": 2**60 if inputs.get("unsafe") else 0}}


async def main() -> None:
    client = await Client.connect(sys.argv[1])
    async with Worker(client, task_queue=sys.argv[2], activities=[answer]):
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
