"""Prefect: one flow, each node a task submitted to the thread pool, waiting for the futures of its sources.

With its own server on PostgreSQL. ``results kept`` is what survives: ``persist_result`` leaves what each task answered
in storage, so that a run of the flow that is tried again skips it. ``states only`` is Prefect's default: states are
recorded, but a flow tried again runs every task again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from serving import LIMIT, Graph, serve, step

SETTLE_SECONDS = 45


class Prefect:
    """Flows in this process, their records with a server beside it."""

    def __init__(self) -> None:
        from prefect import flow, task
        from prefect.futures import wait
        from prefect.runtime import flow_run
        from prefect.task_runners import ThreadPoolTaskRunner

        def node(number: int) -> int:
            return step(number)

        tasks = {
            "results kept": task(node, name="node", persist_result=True),
            "states only": task(node, name="node", persist_result=False),
        }

        @flow(name="dag", task_runner=ThreadPoolTaskRunner(max_workers=LIMIT))
        def dag(case: str, sources: list[list[int]]) -> None:
            self.flow_run = uuid.UUID(flow_run.id)
            futures: list[Any] = []
            for number, waits in enumerate(sources):
                futures.append(tasks[case].submit(number, wait_for=[futures[source] for source in waits]))
            wait(futures)
            for future in futures:
                future.result()

        self.dag = dag

    async def prepare(self, case: str, graph: Graph) -> None:
        self.count = graph.count

    async def run(self, case: str, graph: Graph) -> None:
        await asyncio.to_thread(self.dag, case, graph.sources)

    async def settle(self) -> None:
        """States travel to the server as events that the flow does not wait for."""
        for _ in range(SETTLE_SECONDS):
            if await self.stored() == self.count:
                return
            await asyncio.sleep(1)

    async def stored(self) -> int:
        from prefect import get_client

        asked = {
            "flow_runs": {"id": {"any_": [str(self.flow_run)]}},
            "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        async with get_client() as client:
            return int((await client._client.post("/task_runs/count", json=asked)).json())


@asynccontextmanager
async def opened(given: dict[str, Any]) -> AsyncIterator[Prefect]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    os.environ |= {
        "PREFECT_HOME": str(Path(given["folder"]) / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": given["url"],
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "20",
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW": "20",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    prefect = str(Path(sys.executable).with_name("prefect"))
    server = await asyncio.create_subprocess_exec(
        *(prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)), stdout=2
    )
    try:
        await _answering(f"http://127.0.0.1:{port}/api/health")
        yield Prefect()
    finally:
        server.terminate()
        await server.wait()


async def _answering(url: str) -> None:
    while True:
        try:
            await asyncio.to_thread(urllib.request.urlopen, url, timeout=2)
        except OSError:
            await asyncio.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    serve(opened)
