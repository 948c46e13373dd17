"""Dagster: one job, each node an op that waits for its sources, run in this process, its events in PostgreSQL.

Its default is a process for each op (``multiprocess``), which takes seconds for each; ``in process`` is its fastest
way: one op after the other. A run that failed is begun again from where it failed by hand.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dagster import (
    DagsterInstance,
    DependencyDefinition,
    GraphDefinition,
    In,
    JobDefinition,
    MultiDependencyDefinition,
    Nothing,
    OpDefinition,
    Out,
    op,
)
from serving import Graph, serve, step

CONFIG = """\
storage:
  postgres:
    postgres_url: {url}
telemetry:
  enabled: false
"""


def node(number: int, waits: bool) -> OpDefinition:
    @op(name=f"n{number}", ins={"after": In(Nothing)} if waits else {}, out=Out(Nothing))
    def work() -> None:
        step(number)

    return work


class Dagster:
    """Dagster in this process."""

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance

    async def prepare(self, case: str, graph: Graph) -> None:
        sources = graph.sources
        self.job: JobDefinition = GraphDefinition(
            name="dag",
            node_defs=[node(number, bool(waits)) for number, waits in enumerate(sources)],
            dependencies={
                f"n{number}": {"after": MultiDependencyDefinition([DependencyDefinition(f"n{one}") for one in waits])}
                for number, waits in enumerate(sources)
                if waits
            },
        ).to_job()

    async def run(self, case: str, graph: Graph) -> None:
        self.result = await asyncio.to_thread(self.job.execute_in_process, instance=self.instance)

    async def settle(self) -> None:
        pass

    async def stored(self) -> int:
        found = self.instance.get_run_step_stats(self.result.run_id)
        return sum(str(one.status).endswith("SUCCESS") for one in found)


@asynccontextmanager
async def opened(given: dict[str, Any]) -> AsyncIterator[Dagster]:
    home = Path(given["folder"]) / "dagster"
    await asyncio.to_thread(home.mkdir)
    config = CONFIG.format(url=given["url"].replace("+asyncpg", "+psycopg2"))
    await asyncio.to_thread((home / "dagster.yaml").write_text, config)
    os.environ["DAGSTER_HOME"] = str(home)
    with DagsterInstance.get() as instance:
        yield Dagster(instance)


if __name__ == "__main__":
    serve(opened)
