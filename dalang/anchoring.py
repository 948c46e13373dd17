"""Anchors are made from time to time, by whichever worker comes first."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.metrics import rounds
from dalang.signing import Keyring
from dalang.store.anchors import due_tenants, make_anchor
from dalang.store.engine import is_connection_error, system_transaction, transaction

LOOK_SECONDS = 60.0
"""Or a quarter of the time between two anchors, if that is longer."""

logger = logging.getLogger("dalang.anchoring")


class Anchoring:
    """Makes an anchor per tenant every ``seconds``; 0, or without a private key: none."""

    def __init__(self, engine: AsyncEngine, keys: Keyring, seconds: float) -> None:
        self._engine = engine
        self._keys = keys
        self._seconds = seconds

    async def anchor_for_ever(self) -> None:
        """Look for what is due until cancelled; a database that is away is waited for."""
        if self._keys.own_id is None or not self._seconds:
            return
        every = min(max(LOOK_SECONDS, self._seconds / 4), self._seconds)
        turns = rounds("anchoring", every)
        while True:
            # Not at the start: a stack that is up for a minute needs no anchor.
            await asyncio.sleep(every)
            try:
                await self.step()
                turns.went()
            except Exception as error:
                turns.failed(error)
                if not is_connection_error(error):
                    logger.exception("anchoring failed")

    async def step(self) -> int:
        """Make the anchors that are due; return how many."""
        async with system_transaction(self._engine) as conn:
            tenants = await due_tenants(conn, self._seconds)
        made = 0
        for tenant_id in tenants:
            while True:
                async with transaction(self._engine, tenant_id) as conn:
                    anchor = await make_anchor(conn, tenant_id, self._keys)
                if anchor is None:
                    break
                made += 1
                # The log is one place more where an anchor is kept, outside of the database.
                logger.info("anchor %d of tenant %s: %s", anchor.number, tenant_id, anchor.digest)
        return made
