"""LangGraph: a ``StateGraph`` with its PostgreSQL checkpointer, over a pool, in each of its durability modes.

Nodes that are ready together are one super-step. ``sync`` writes a checkpoint of the super-step before the next one
begins, ``async`` while the next one runs, ``exit`` only when the graph ends (no durability of nodes: told for
comparison). What each node answered is written too, so that a super-step that failed repeats only what failed.

The checkpointer lets one write at a time through, also over a pool (langchain-ai/langgraph#7259); ``unlocked`` is what
it can do without that lock, as an open change of theirs (#7269) proposes it.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from serving import LIMIT, Graph, serve, step


class State(TypedDict):
    """What nodes pass on: how many are done."""

    done: Annotated[int, operator.add]


def node(number: int) -> Callable[[State], Awaitable[dict[str, int]]]:
    async def work(state: State) -> dict[str, int]:
        step(number)
        return {"done": 1}

    return work


class LangGraph:
    """LangGraph in this process."""

    def __init__(self, saver: AsyncPostgresSaver) -> None:
        self.saver = saver
        self.lock = saver.lock

    async def prepare(self, case: str, graph: Graph) -> None:
        builder = StateGraph(State)
        for number in range(graph.count):
            builder.add_node(f"n{number}", node(number))
        ends = set(range(graph.count)) - {source for source, _ in graph.edges}
        for number, sources in enumerate(graph.sources):
            # A list of sources waits for all of them.
            if len(sources) > 1:
                builder.add_edge([f"n{source}" for source in sources], f"n{number}")
            else:
                builder.add_edge(f"n{sources[0]}" if sources else START, f"n{number}")
            if number in ends:
                builder.add_edge(f"n{number}", END)
        self.graph = builder.compile(checkpointer=self.saver)

    async def run(self, case: str, graph: Graph) -> None:
        self.config: dict[str, Any] = {
            "configurable": {"thread_id": uuid.uuid4().hex},
            "recursion_limit": graph.count + 10,
            "max_concurrency": LIMIT,
        }
        self.saver.lock = nullcontext() if "unlocked" in case else self.lock
        await self.graph.ainvoke({"done": 0}, self.config, durability=case.split(",")[0])

    async def settle(self) -> None:
        pass

    async def stored(self) -> int:
        state = await self.graph.aget_state(self.config)
        return int(state.values["done"])


@asynccontextmanager
async def opened(given: dict[str, Any]) -> AsyncIterator[LangGraph]:
    url = given["url"].replace("+asyncpg", "")
    kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(url, min_size=5, max_size=20, kwargs=kwargs) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        yield LangGraph(saver)


if __name__ == "__main__":
    serve(opened)
