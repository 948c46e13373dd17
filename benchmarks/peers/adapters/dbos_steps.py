"""DBOS Transact: one workflow, each node a step whose result is one row of PostgreSQL.

Steps run at once are started in one fixed order and awaited together (``asyncio.gather``), as DBOS's tutorial says: a
step is found again by its number in the workflow, so nothing may start in the order in which others happened to end.
That makes the graph go level by level.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dbos import DBOS, SetWorkflowID
from serving import LIMIT, Graph, serve, step


@DBOS.step()
async def node(number: int) -> int:
    return step(number)


@DBOS.workflow()
async def dag(levels: list[list[int]]) -> int:
    done = 0
    for level in levels:
        for begin in range(0, len(level), LIMIT):
            done += len(await asyncio.gather(*(node(number) for number in level[begin : begin + LIMIT])))
    return done


class Dbos:
    """DBOS in this process."""

    async def prepare(self, case: str, graph: Graph) -> None:
        self.levels = graph.levels

    async def run(self, case: str, graph: Graph) -> None:
        self.workflow = uuid.uuid4().hex
        with SetWorkflowID(self.workflow):
            handle = await DBOS.start_workflow_async(dag, self.levels)
        await handle.get_result()

    async def settle(self) -> None:
        pass

    async def stored(self) -> int:
        found = await DBOS.list_workflow_steps_async(self.workflow)
        return len(found)


@asynccontextmanager
async def opened(given: dict[str, Any]) -> AsyncIterator[Dbos]:
    url = given["url"].replace("+asyncpg", "+psycopg")
    DBOS(config={"name": "peers", "system_database_url": url, "sys_db_pool_size": LIMIT, "log_level": "WARNING"})
    DBOS.launch()
    try:
        yield Dbos()
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    serve(opened)
