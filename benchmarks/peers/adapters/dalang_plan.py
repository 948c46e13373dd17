"""Dalang: the graph as a plan, its nodes durable, or light (``execution: local``); the product's own worker, as set up.

Worker and client are in one process, as with the peers. Events are hashed, chained and stored and the read model is
kept; the run's result is there only after they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from serving import Graph, serve, step
from temporal_here import temporal

from dalang.nodes import NodeContext, node
from dalang.plan import Plan, with_derived_ids
from dalang.settings import Settings
from dalang.stack.supervisor import stack
from tests.engine.kit import Engine, engine

CASES = {"durable nodes": "durable", "light nodes": "local"}


@node("peers-step")
async def peers_step(ctx: NodeContext) -> dict[str, int]:
    """Do nothing, and be counted."""
    return {"node": step(int(ctx.node_id[1:]))}


class Dalang:
    """A client and a worker in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def prepare(self, case: str, graph: Graph) -> None:
        document = {
            "name": graph.name,
            "execution": CASES[case],
            "nodes": [{"nodeId": f"n{number}", "type": "peers-step"} for number in range(graph.count)],
            "edges": [{"sourceNodeId": f"n{source}", "targetNodeId": f"n{target}"} for source, target in graph.edges],
        }
        self.plan = with_derived_ids(Plan.model_validate(document))
        self.prepared = await self.engine.prepare(self.plan)  # a plan is stored once, and started many times

    async def run(self, case: str, graph: Graph) -> None:
        self.started = await self.engine.start_prepared(self.plan, self.prepared, {})
        await self.started.handle.result()

    async def settle(self) -> None:
        pass

    async def stored(self) -> int:
        assert await self.engine.chain_problem(self.started.run_id) is None
        stored = await self.started.stored()
        nodes = stored["nodes"]
        return sum(row["status"] == "SUCCESS" for row in nodes.values())


@asynccontextmanager
async def opened(given: dict[str, Any]) -> AsyncIterator[Dalang]:
    folder = Path(given["folder"])
    async with temporal(folder / "server", given["sqlite"]) as address:
        settings = Settings(
            home=folder / "home",
            database_url=given["app_url"],
            migration_database_url=given["owner_url"],
            temporal_address=address,
        )
        async with stack(settings, frozenset()) as prepared, engine(prepared.settings) as started:
            yield Dalang(started)


if __name__ == "__main__":
    serve(opened)
