"""Anchors are made from time to time, by whichever worker comes first.

A worker looks through all runs of a tenant when it makes the first anchor, and once a day; at all other times only at
those that have moved since it last looked, so that what an anchor costs is in keeping with what has happened.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.metrics import rounds
from dalang.signing import Keyring
from dalang.store.anchors import MAX_HEADS, due_tenants, make_anchor
from dalang.store.engine import is_connection_error, system_transaction, transaction
from dalang.store.unanchored import horizon, moved, unanchored

LOOK_SECONDS = 60.0
"""Or a quarter of the time between two anchors, if that is longer."""

WHOLE_SECONDS = 86_400.0
"""After so long all runs are looked through again. Nothing of ours asks for that: it finds what was changed by hand, or
came with a backup while the worker ran."""

logger = logging.getLogger("dalang.anchoring")


@dataclass(frozen=True)
class _Looked:
    """When a worker last looked at the runs of a tenant: the transaction, and the time when it looked at all."""

    horizon: int
    at_all: float


class Anchoring:
    """Makes an anchor per tenant every ``seconds``; 0, or without a private key: none."""

    def __init__(self, engine: AsyncEngine, keys: Keyring, seconds: float) -> None:
        self._engine = engine
        self._keys = keys
        self._seconds = seconds
        self._looked: dict[str, _Looked] = {}

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
        now = time.monotonic()
        async with system_transaction(self._engine) as conn:
            tenants = await due_tenants(conn, self._seconds)
            until = await horizon(conn)
        known = {one: self._looked[one] for one in tenants if self._knows(one, until, now)}
        made = 0
        for tenant_id in tenants:
            if tenant_id not in known:
                made += await self._anchor_all(tenant_id)
                self._looked[tenant_id] = _Looked(until, now)
        if known:
            made += await self._anchor_moved(list(known), min(one.horizon for one in known.values()))
        self._looked.update({tenant_id: _Looked(until, one.at_all) for tenant_id, one in known.items()})
        return made

    def _knows(self, tenant_id: str, until: int, now: float) -> bool:
        """Tell whether what moved since it was last looked at is all there is; not in a database of another past."""
        last = self._looked.get(tenant_id)
        return last is not None and last.horizon <= until and now - last.at_all < WHOLE_SECONDS

    async def _anchor_all(self, tenant_id: str) -> int:
        made, waiting = 0, list[UUID]()
        async for found in unanchored(self._engine, tenant_id):
            waiting += found
            while len(waiting) >= MAX_HEADS:
                made += await self._anchor(tenant_id, waiting[: MAX_HEADS - 1])
                del waiting[: MAX_HEADS - 1]
        return made + await self._anchor(tenant_id, waiting)

    async def _anchor_moved(self, tenants: Sequence[str], since: int) -> int:
        made, still = 0, set(tenants)
        async for found in moved(self._engine, tenants, since):
            for tenant_id, runs in found.items():
                still.discard(tenant_id)
                for first in range(0, len(runs), MAX_HEADS - 1):
                    made += await self._anchor(tenant_id, runs[first : first + MAX_HEADS - 1])
        for tenant_id in sorted(still):
            made += await self._anchor(tenant_id, ())  # there may be system events
        return made

    async def _anchor(self, tenant_id: str, runs: Sequence[UUID]) -> int:
        async with transaction(self._engine, tenant_id) as conn:
            anchor = await make_anchor(conn, tenant_id, self._keys, runs)
        if anchor is None:
            return 0
        # The log is one place more where an anchor is kept, outside of the database.
        logger.info("anchor %d of tenant %s: %s", anchor.number, tenant_id, anchor.digest)
        return 1
