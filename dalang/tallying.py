"""New tallies are added up every few seconds, by whichever worker comes first (``store/tallies.py``)."""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.tallies import FOLDED_AT_ONCE, fold, forget_hours

EVERY_SECONDS = 10.0
FORGET_SECONDS = 3600.0

logger = logging.getLogger("dalang.tallying")


class Tallying:
    """Adds them up."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._forgot = time.monotonic()

    async def fold_for_ever(self) -> None:
        """Fold until cancelled; a database that is away is waited for, and loses nothing meanwhile."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.step()
            except Exception as error:
                if not is_connection_error(error):
                    logger.exception("adding up tallies failed")

    async def step(self) -> None:
        """Fold what is new, and forget old hours from time to time."""
        folded = FOLDED_AT_ONCE
        while folded == FOLDED_AT_ONCE:
            async with system_transaction(self._engine) as conn:
                folded = await fold(conn)
        if time.monotonic() - self._forgot >= FORGET_SECONDS:
            async with system_transaction(self._engine) as conn:
                await forget_hours(conn)
            self._forgot = time.monotonic()
