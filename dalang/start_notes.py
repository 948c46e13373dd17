"""Which execution runs which run, noted for many runs at once.

A run's own first batch of events notes the same. So it is only for runs that no worker takes up soon, of which the
reconciler should know that Temporal has them: it can wait a moment, and most of it is not to be written at all then. A
crash before that costs nothing either, since the reconciler starts such a run again, which changes nothing.
"""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.runs import Started, mark_all_started

logger = logging.getLogger("dalang.launch")

EVERY_SECONDS = 1.0
MOST = 20_000
"""So many are remembered while Postgres is away; the reconciler finds the others."""


class StartNotes:
    """Starts that are not noted yet. While :meth:`write_for_ever` runs, :attr:`kept` says that they will be."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._starts: list[Started] = []
        self.kept = False

    def add(self, started: Started) -> None:
        """Note it soon."""
        if len(self._starts) < MOST:
            self._starts.append(started)

    async def write(self) -> None:
        """Note all there are; they are kept when the database is away."""
        starts, self._starts = self._starts, []
        if not starts:
            return
        try:
            async with system_transaction(self._engine) as conn:
                await mark_all_started(conn, starts)
        except Exception as error:
            if not is_connection_error(error):
                logger.exception("%d starts were not noted; the reconciler will", len(starts))
                return
            self._starts = [*starts, *self._starts][:MOST]

    async def write_for_ever(self) -> None:
        """Write until cancelled, and what is left then."""
        self.kept = True
        try:
            while True:
                await asyncio.sleep(EVERY_SECONDS)
                await self.write()
        finally:
            self.kept = False
            await self.write()
