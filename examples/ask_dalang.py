"""Ask Dalang as an A2A agent: ``python examples/ask_dalang.py "Hello" [--skill a2a-agent]``. Needs ``dalang[a2a]``.

Prints what happens; where the run asks something, the answer is read from standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import uuid
from pathlib import Path

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.types import Message, Part, Role, SendMessageRequest, Task, TaskState


def message(text: str, skill: str | None, task: Task | None) -> Message:
    about = {"task_id": task.id, "context_id": task.context_id} if task else {}
    made = Message(message_id=str(uuid.uuid4()), role=Role.ROLE_USER, parts=[Part(text=text)], **about)
    if skill and not task:
        made.metadata["skill"] = skill
    return made


def arguments() -> argparse.Namespace:
    asked = argparse.ArgumentParser()
    asked.add_argument("text")
    asked.add_argument("--skill", help="a plan's name or id; default: the plan that says it is the default")
    asked.add_argument("--url", help="default: the stack that `dalang up` runs here")
    asked.add_argument("--token", help="default: that of this stack")
    given = asked.parse_args()
    given.url = given.url or json.loads(Path(".dalang/stack.json").read_text())["api_url"]
    given.token = given.token or Path(".dalang/token").read_text().strip()
    return given


async def main(given: argparse.Namespace) -> None:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {given.token}"}, timeout=None) as http:
        client = await ClientFactory(ClientConfig(httpx_client=http)).create_from_url(given.url)
        text, task = given.text, None
        while True:
            state = None
            async for one in client.send_message(SendMessageRequest(message=message(text, given.skill, task))):
                task = one.task if one.HasField("task") else task
                update = one.status_update if one.HasField("status_update") else one.task
                said = "".join(part.text for part in update.status.message.parts)
                state = update.status.state or state
                for part in one.artifact_update.artifact.parts:
                    print("answer:", part.text or part.data)
                if said:
                    print(TaskState.Name(update.status.state).removeprefix("TASK_STATE_").lower() + ":", said)
            if state not in (TaskState.TASK_STATE_INPUT_REQUIRED, TaskState.TASK_STATE_AUTH_REQUIRED):
                break
            text = await asyncio.to_thread(input, "> ")


if __name__ == "__main__":
    asyncio.run(main(arguments()))
