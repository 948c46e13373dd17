"""What our own activities do while they wait: say that their worker lives, and outlast a Postgres that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio import activity

from dalang.store.engine import is_connection_error, sql_state, transaction

BEAT_SECONDS = 1.5
AWAY_SECONDS = 1.0
"""Pause before Postgres is asked again that is away."""
RUN_COMES_SECONDS, RUN_COMES_PAUSE = 60.0, 0.25
"""So long what is kept of a run waits for its row, and from one try to the next."""
_FOREIGN_KEY = "23503"
T = TypeVar("T")


@asynccontextmanager
async def beating(seconds: float = BEAT_SECONDS) -> AsyncIterator[None]:
    """Tell Temporal that this worker is alive; without it a killed one is noticed only at the end of the activity."""
    alive = asyncio.create_task(_beat(seconds))
    try:
        yield
    finally:
        alive.cancel()


async def _beat(seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        activity.heartbeat()


async def outlasting(call: Callable[[], Awaitable[T]]) -> T:
    """Return what ``call`` does, called again as long as Postgres is away: that is no failure of a node."""
    while True:
        try:
            return await call()
        except Exception as error:
            if not is_connection_error(error):
                raise
            await asyncio.sleep(AWAY_SECONDS)


async def patiently(
    engine: AsyncEngine,
    tenant_id: str,
    query: Callable[[AsyncConnection], Awaitable[T]],
    *,
    run_may_come: bool = False,
) -> T:
    """Return what ``query`` does in a transaction of its own, waiting while Postgres is away.

    With ``run_may_come`` it also waits for the row of its run: that of a run which another one made comes with its
    first events.
    """

    async def call() -> T:
        async with transaction(engine, tenant_id) as conn:
            return await query(conn)

    while True:
        try:
            return await outlasting(call)
        except IntegrityError as error:
            if not run_may_come or sql_state(error.orig or error) != _FOREIGN_KEY:
                raise
            await asyncio.sleep(AWAY_SECONDS)


async def until_run_comes(keep: Callable[[], Awaitable[bool]]) -> bool:
    """Try to keep what belongs to a run until the run's row is there; a run that was deleted has none ever again.

    A run below a node has none before its first events are stored, which of a short one are stored at its end.
    """
    end = time.monotonic() + RUN_COMES_SECONDS
    while not await keep():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(RUN_COMES_PAUSE)
    return True
