"""Temporal: the graph as somebody would write it who needs nothing but it, on the same tuned server as Dalang.

The workflow is that of ``benchmarks/interpreter.py``; worker and client are plain ones, with what makes them fast:
eager activities, no sandbox, no serialisation but JSON.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from interpreter import HandWritten
from serving import Graph, serve, step
from temporal_here import temporal
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker


@activity.defn(name="noop")
async def node(task: dict[str, Any]) -> dict[str, int]:
    return {"node": step(int(task["nodeId"][1:]))}


class ByHand:
    """A client and a worker in this process."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def prepare(self, case: str, graph: Graph) -> None:
        self.given = [graph.count, [list(edge) for edge in graph.edges]]

    async def run(self, case: str, graph: Graph) -> None:
        self.handle = await self.client.start_workflow(
            "HandWritten", args=self.given, id=uuid.uuid4().hex, task_queue="peers"
        )
        await self.handle.result()

    async def settle(self) -> None:
        pass

    async def stored(self) -> int:
        done = EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
        return sum([event.event_type == done async for event in self.handle.fetch_history_events()])


@asynccontextmanager
async def opened(given: dict[str, Any]) -> AsyncIterator[ByHand]:
    async with temporal(Path(given["folder"]), given["sqlite"]) as address:
        client = await Client.connect(address)
        async with Worker(
            client,
            task_queue="peers",
            workflows=[HandWritten],
            activities=[node],
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_concurrent_activities=200,
            max_eager_activity_reservations_per_workflow_task=100,
            max_workflow_task_external_storage_concurrency=1,
        ):
            yield ByHand(client)


if __name__ == "__main__":
    serve(opened)
