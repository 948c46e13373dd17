"""A travel agent behind the A2A protocol, for ``a2a.yaml``.

``python examples/a2a_agent.py [PORT]`` (8501) serves it here.

It books a seat in a train. Which one it asks, if the message does not say it; the task waits for the answer.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from a2a.helpers import new_data_part, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Task, TaskState
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette

SEAT = {"type": "object", "properties": {"seat": {"enum": ["aisle", "window"]}}, "required": ["seat"]}


class TravelAgent(AgentExecutor):
    """Books seats; what a conversation has said so far is in the task's history."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Book, or ask."""
        assert context.message is not None
        assert context.task_id is not None
        assert context.context_id is not None
        task = context.current_task
        if task is None:
            task = Task(id=context.task_id, context_id=context.context_id, history=[context.message])
            task.status.state = TaskState.TASK_STATE_SUBMITTED
            await event_queue.enqueue_event(task)
        known: dict[str, Any] = {}
        for message in (*task.history, context.message):
            for part in message.parts:
                if part.HasField("data"):
                    known.update(MessageToDict(part.data))
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        if "seat" not in known:
            asked = [new_text_part(f"Which seat in the {known['train']}?"), new_data_part({"form": SEAT})]
            await updater.requires_input(updater.new_agent_message(parts=asked))
            return
        await updater.add_artifact([new_data_part({"ticket": f"{known['seat']} seat, {known['train']}"})])
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Book nothing."""
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def main() -> None:
    """Serve it on a port of this machine."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8501
    card = AgentCard(
        name="travel agent",
        description="Books seats in trains.",
        version="1",
        supported_interfaces=[
            AgentInterface(url=f"http://127.0.0.1:{port}/", protocol_binding="JSONRPC", protocol_version="1.0")
        ],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["application/json"],
        default_output_modes=["application/json"],
        skills=[AgentSkill(id="book", name="book", description="Books a seat.", tags=["travel"])],
    )
    handler = DefaultRequestHandler(agent_executor=TravelAgent(), task_store=InMemoryTaskStore(), agent_card=card)
    routes: list[Any] = [*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
