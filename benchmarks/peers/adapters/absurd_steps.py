"""Absurd: one task, each node a step whose result is a checkpoint in PostgreSQL; level by level.

Steps are found again by their name, so they may begin in any order. Its worker and its client poll: both every 10 ms
here, so that polling is no part of what is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from absurd_sdk import AsyncAbsurd, AsyncTaskContext
from absurdctl import BUNDLED_SCHEMA_SQL
from serving import LIMIT, Graph, serve, step

POLL_SECONDS = 0.01


async def dag(params: dict[str, Any], ctx: AsyncTaskContext) -> int:
    async def node(number: int) -> int:
        async def work() -> int:
            return step(number)

        return await ctx.step(f"n{number}", work)

    done = 0
    for level in params["levels"]:
        for begin in range(0, len(level), LIMIT):
            done += len(await asyncio.gather(*(node(number) for number in level[begin : begin + LIMIT])))
    return done


class Absurd:
    """A client here, a worker beside it in this process."""

    def __init__(self, client: AsyncAbsurd, connection: psycopg.AsyncConnection[Any]) -> None:
        self.client = client
        self.connection = connection

    async def prepare(self, case: str, graph: Graph) -> None:
        self.levels = graph.levels

    async def run(self, case: str, graph: Graph) -> None:
        self.task = (await self.client.spawn("dag", {"levels": self.levels}))["task_id"]
        while (await self._result()).state not in ("completed", "failed", "cancelled"):  # noqa: ASYNC110 - its way
            await asyncio.sleep(POLL_SECONDS)
        assert (await self._result()).state == "completed"

    async def _result(self) -> Any:
        return await self.client.fetch_task_result(self.task)

    async def settle(self) -> None:
        pass

    async def stored(self) -> int:
        found = await self.connection.execute("select count(*) from absurd.c_peers where task_id = %s", [self.task])
        row = await found.fetchone()
        assert row is not None
        return int(row[0])


@asynccontextmanager
async def opened(given: dict[str, Any]) -> AsyncIterator[Absurd]:
    url = given["url"].replace("+asyncpg", "")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        made = await connection.execute("select to_regnamespace('absurd') is not null")
        if (await made.fetchone()) == (False,):
            await connection.execute(BUNDLED_SCHEMA_SQL)
        client, worker = AsyncAbsurd(url, queue_name="peers"), AsyncAbsurd(url, queue_name="peers")
        await client.create_queue()
        worker.register_task("dag")(dag)
        client.register_task("dag")(dag)
        working = asyncio.create_task(worker.start_worker(poll_interval=POLL_SECONDS))
        try:
            yield Absurd(client, connection)
        finally:
            worker.stop_worker()
            await working
            await worker.close()
            await client.close()


if __name__ == "__main__":
    serve(opened)
