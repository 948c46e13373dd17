"""An agent behind the real a2a-sdk server, which does what a message says: ``python tests/engine/a2a_peer.py PORT``.

It is there four times: under ``/streaming``, under ``/plain`` without streams, under ``/old`` for protocol 0.3, and
under ``/rest`` for the HTTP+JSON binding.
``GET /seen`` tells which messages and cancels came.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from a2a.helpers import new_data_part, new_raw_part, new_text_part, new_url_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Message, Part, Task, TaskState
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

FORM = {"type": "object", "properties": {"seat": {"enum": ["aisle", "window"]}}, "required": ["seat"]}
seen: list[dict[str, Any]] = []


class Doer(AgentExecutor):
    """Does what the first data part of a task's message says: ``do``."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Do it."""
        message = context.message
        assert message is not None
        assert context.task_id is not None
        assert context.context_id is not None
        given = MessageToDict(message)
        data: dict[str, Any] = {}
        for part in given["parts"]:
            data.update(part.get("data") or {})
        seen.append({"message": given, "task": context.task_id})
        is_new = context.current_task is None
        if is_new and data.get("do") == "message":
            await event_queue.enqueue_event(
                Message(message_id="m", role="ROLE_AGENT", parts=[new_text_part("at once"), new_data_part({"n": 1})])
            )
            return
        if is_new:
            task = Task(id=context.task_id, context_id=context.context_id, history=[message])
            task.status.state = TaskState.TASK_STATE_SUBMITTED
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)

        def says(*parts: Part) -> Message:
            return updater.new_agent_message(parts=list(parts))

        def words(text: str) -> Message:
            return says(new_text_part(text))

        if not is_new:
            await updater.add_artifact([new_data_part({"answered": data or given["parts"][0].get("text")})])
            await updater.complete()
            return
        await updater.start_work(words("it is being done"))
        do: str = data.get("do", "add")
        ends: dict[str, Callable[[], Any]] = {
            "ask": lambda: updater.requires_input(
                says(new_text_part("Which seat?"), new_data_part({"form": FORM, "free": 2}))
            ),
            "ask-plainly": lambda: updater.requires_input(words("What else?")),
            "fail": lambda: updater.failed(words("no paper")),
            "reject": lambda: updater.reject(words("not my job")),
            "auth": lambda: updater.requires_auth(words("who are you?")),
        }
        if do in ends:
            await ends[do]()
            return
        await asyncio.sleep(data.get("seconds", 0))
        await updater.add_artifact(
            [
                new_data_part({"sum": data.get("a", 0) + data.get("b", 0), "half": 0.5}),
                new_text_part("added"),
                new_url_part("https://files.example/sum.txt", media_type="text/plain", filename="sum.txt"),
                new_raw_part(b"3", media_type="text/plain"),
            ]
        )
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Stop."""
        assert context.task_id is not None
        assert context.context_id is not None
        seen.append({"cancel": context.task_id})
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def card(address: str, path: str) -> AgentCard:
    """Return the card of one of them."""
    version = "0.3.0" if path == "old" else "1.0"
    binding, end = ("HTTP+JSON", "") if path == "rest" else ("JSONRPC", "/")
    interface = AgentInterface(url=f"{address}/{path}{end}", protocol_binding=binding, protocol_version=version)
    return AgentCard(
        name=f"doer ({path})",
        description="Does what it is told.",
        version="1",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=path != "plain"),
        default_input_modes=["application/json"],
        default_output_modes=["application/json"],
        skills=[AgentSkill(id="do", name="do", description="Does it.", tags=["do"])],
    )


def app(address: str) -> Starlette:
    """Return the application."""
    routes: list[Any] = [Route("/seen", lambda request: JSONResponse(seen))]
    for path in ("streaming", "plain", "old", "rest"):
        known = card(address, path)
        handler = DefaultRequestHandler(agent_executor=Doer(), task_store=InMemoryTaskStore(), agent_card=known)
        routes += create_agent_card_routes(known, card_url=f"/{path}/.well-known/agent-card.json")
        if path == "rest":
            routes += create_rest_routes(handler, path_prefix="/rest")
        else:
            routes += create_jsonrpc_routes(handler, f"/{path}/", enable_v0_3_compat=path == "old")
    return Starlette(routes=routes)


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(app(f"http://127.0.0.1:{port}"), host="127.0.0.1", port=port, log_level="warning")
