"""The field ``memory`` of a node: what its handler is given of the past, as ``ctx.episodes``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.activities.execution import Handler
from dalang.canonical import compact_json
from dalang.nodes import Memory, NodeContext
from dalang.store.engine import transaction
from dalang.store.episodes import Episode, remember, search_episodes
from dalang.store.plan_index import PlanIndexes
from dalang.wire import NodeTask

LOOK_UP_SECONDS = 10.0
"""A node does not wait longer for what was done before; it works without."""
MAX_VALUE_BYTES = 4_096
"""Larger inputs, outputs and errors of an episode are cut to their beginning."""
EXCERPT = 1_000

logger = logging.getLogger("dalang.activities.memory")


class Memories:
    """Gives nodes what their plan says they are to remember. One per worker process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._indexes = PlanIndexes()

    def around(self, task: NodeTask, handler: Handler) -> Handler:
        """Return ``handler`` with what the node's field ``memory`` gives; without that field itself."""
        spec = task.get("memory")
        if spec is None:
            return handler

        async def remembering(ctx: NodeContext) -> Any:
            ctx.memory = Memory(await self._episodes(task, spec))
            return await handler(ctx)

        return remembering

    async def _episodes(self, task: NodeTask, spec: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
        if not spec["episodes"]:
            return ()
        tenant_id, words = task["tenantId"], str(spec.get("query") or task.get("name") or task["nodeId"])
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                await remember(self._engine, self._indexes, tenant_id)
                async with transaction(self._engine, tenant_id) as conn:
                    found = await search_episodes(
                        conn,
                        tenant_id,
                        words,
                        any_word=True,
                        without=(UUID(task["runId"]), task["nodeId"]),
                        limit=spec["episodes"],
                    )
        except Exception:
            logger.warning("what was done before is not known to node %s", task["nodeId"], exc_info=True)
            return ()
        return tuple(_told(one) for one in found)


async def tell(ctx: NodeContext) -> dict[str, Any]:
    """Return what is given to a node that an agent on a task queue of its own does."""
    return {"memory": ctx.memory.wire()} if ctx.memory != Memory() else {}


def _told(one: Episode) -> dict[str, Any]:
    """Return an episode as handlers get it."""
    return {
        "source": "dalang",
        "runId": str(one.run_id),
        "nodeId": one.node_id,
        "name": one.name,
        "type": one.type,
        "plan": one.plan,
        "outcome": one.outcome,
        "startedAt": None if one.started_at is None else one.started_at.isoformat(),
        "endedAt": one.ended_at.isoformat(),
        "score": round(one.score, 4),
        **{name: _cut(getattr(one, name)) for name in ("inputs", "outputs", "error")},
    }


def _cut(value: Any) -> Any:
    encoded = compact_json(value)
    if len(encoded) <= MAX_VALUE_BYTES:
        return value
    return {"excerpt": encoded.decode()[:EXCERPT], "size": len(encoded)}
