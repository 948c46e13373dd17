"""The field ``memory`` of a node: what its handler is given of the past, and the session that it works in.

What was done before comes from the Cortex, if there is one and it answers, else from our own store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.activities.execution import MAX_OUTPUT_BYTES, Handler, checked_outputs, goes_on_elsewhere
from dalang.activities.sessions import Held, Sessions
from dalang.activities.worktrees import Worktrees
from dalang.canonical import compact_json, find_unsafe
from dalang.cortex import Cortex, CortexError
from dalang.nodes import AskPerson, InvalidInput, Memory, NetworkError, NodeContext
from dalang.settings import Settings
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

    def __init__(self, engine: AsyncEngine, sessions: Sessions, cortex: Cortex | None) -> None:
        self._engine = engine
        self._sessions = sessions
        self._cortex = cortex
        self._indexes = PlanIndexes()
        self._beside = True

    @classmethod
    def of(cls, settings: Settings, engine: AsyncEngine, cortex: Cortex | None) -> Self:
        """Return what a worker with these settings has."""
        repositories = Path(settings.repositories_dir) if settings.repositories_dir else None
        found = cls(engine, Sessions(engine, Worktrees(repositories, settings.home / "sessions"), cortex), cortex)
        found._beside = repositories is not None or cortex is not None
        return found

    async def look_after_for_ever(self) -> None:
        """Close the sessions that killed workers left, until cancelled; where there can be none, nothing is done."""
        if self._beside:
            await self._sessions.sweep_for_ever()

    def around(self, task: NodeTask, handler: Handler) -> Handler:
        """Return ``handler`` with what the node's field ``memory`` gives; without that field itself."""
        spec = task.get("memory")
        if spec is None:
            return handler

        async def remembering(ctx: NodeContext) -> Any:
            if "session" not in spec:
                ctx.memory = Memory(await self._episodes(task, spec))
                return await handler(ctx)
            done = await self._sessions.finished(task)
            if done is not None:
                return done
            episodes = await self._episodes(task, spec)
            held = await self._sessions.begin(task, spec, ctx.attempt)
            ctx.memory = Memory(episodes, None if held is None else held.session)
            return await (handler(ctx) if held is None else self._apart(ctx, task, handler, held))

        return remembering

    async def _apart(self, ctx: NodeContext, task: NodeTask, handler: Handler, held: Held) -> Any:
        """Let the handler work in its session; merge what it did if it succeeds, close whatever happens."""
        try:
            # Before anything is merged: what cannot be carried is a failure. And they are kept with the session.
            outputs = ctx._mask(checked_outputs(await handler(ctx)))
            if len(compact_json(outputs)) > MAX_OUTPUT_BYTES:
                raise InvalidInput(f"the outputs are larger than the {MAX_OUTPUT_BYTES:,} bytes that are carried")
        except AskPerson:
            await self._sessions.leave(held)
            raise
        except BaseException as error:
            # Also when it is cancelled: whoever waits for this one's end does so for a moment only, the rest goes on.
            goes_on = isinstance(error, asyncio.CancelledError) and goes_on_elsewhere()
            await asyncio.shield(self._sessions.abandon(held, task, goes_on))
            raise
        # They are stored before the wrapper sees them.
        return await asyncio.shield(self._sessions.finish(held, ctx._mask(outputs)))

    async def _episodes(self, task: NodeTask, spec: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
        if not spec["episodes"]:
            return ()
        tenant_id, words = task["tenantId"], str(spec.get("query") or task.get("name") or task["nodeId"])
        # Help may not cost a node its time.
        seconds = min(LOOK_UP_SECONDS, task["startToCloseMs"] / 4000)
        if self._cortex is not None and (spec.get("required") or not self._cortex.away):
            try:
                like = await self._cortex.in_time(seconds, self._cortex.search_episodes(words, spec["episodes"]))
                return tuple(_remote(one) for one in like)
            except CortexError as error:
                if spec.get("required"):
                    raise NetworkError(str(error), details={"status": error.status}, no_effect=True) from None
                logger.warning("node %s is given episodes of our own: %s", task["nodeId"], error)
        try:
            async with asyncio.timeout(seconds):
                await remember(self._engine, self._indexes, tenant_id, seconds / 2)
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


def _remote(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return an episode of the Cortex as handlers get it: as ours, and with all that it tells."""
    unsafe = find_unsafe(one)
    told = {} if unsafe is not None else {key: _cut(value) for key, value in one.items() if key != "embedding"}
    outcome = str(one.get("outcome", "")).upper()
    return {
        "source": "cortex",
        "name": str(told.get("task_description", ""))[:500],
        "outcome": {"FAILURE": "FAILED", "ABANDONED": "FAILED"}.get(outcome, outcome),
        "summary": told.get("solution_summary"),
        "score": told.get("similarity_score"),
        "episode": told,
    }


def _cut(value: Any) -> Any:
    encoded = compact_json(value)
    if len(encoded) <= MAX_VALUE_BYTES:
        return value
    return {"excerpt": encoded.decode()[:EXCERPT], "size": len(encoded)}
