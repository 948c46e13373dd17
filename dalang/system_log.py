"""Recording what happens at the API in the second chain of a tenant (``store/system_events.py``).

A refusal costs its request nothing: it is kept in memory and written within a second or so. The first of a kind is
recorded at once; what the same person is refused again within a minute is counted, and recorded as one event with the
``count``. So neither a loop nor an attack fills the chain. An act of administration is stored before it is answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.signing import Keyring
from dalang.store.engine import is_connection_error, system_transaction, transaction
from dalang.store.system_events import Happening, SystemEventType, append, owners_of, tenants_of

WINDOW_SECONDS = 60.0
WRITE_SECONDS = 1.0
MAX_WINDOWS = 2_000
"""So many different refusals are told apart in a minute; more are counted together."""
MAX_WAITING = 10_000
"""So many events wait for a database that is away; more are lost, and the log says so."""
MAX_LOOKED_UP = 500
ACT_SECONDS = 5.0
OTHERS = "(others)"

logger = logging.getLogger("dalang.audit")


@dataclass(frozen=True)
class Known:
    """Of which tenant an event is, where that is known; else how to find out: a token's hash, or ids of things."""

    tenant_id: str | None = None
    token_hash: str | None = None
    ids: tuple[UUID, ...] = ()


@dataclass
class _Window:
    until: float
    of: Known
    happening: Happening
    again: int = 0


class SystemLog:
    """One per process."""

    def __init__(self, engine: AsyncEngine, keys: Keyring, seconds: float = WRITE_SECONDS) -> None:
        self._engine = engine
        self._keys = keys
        self._seconds = seconds
        self._windows: dict[tuple[Any, ...], _Window] = {}
        self._waiting: list[tuple[Known, Happening]] = []
        self._lost = 0

    def refused(
        self, kind: SystemEventType, of: Known, actor: Mapping[str, Any], data: Mapping[str, Any], what: str
    ) -> None:
        """Note a refusal; the same ``what`` for the same person within a minute only counts."""
        key = (kind, of.tenant_id, of.token_hash, actor.get("id"), what)
        if key not in self._windows and len(self._windows) >= MAX_WINDOWS:
            key = (kind, of.tenant_id, None, OTHERS, OTHERS)
            actor, data = {**actor, "id": OTHERS}, {}
        window = self._windows.get(key)
        if window is not None:
            window.again += 1
            return
        happening = Happening(kind, _now(), "WARN", dict(actor), dict(data))
        self._windows[key] = _Window(monotonic() + WINDOW_SECONDS, of, happening)
        self._wait(of, happening)

    async def acted(self, tenant_id: str, actor: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Record an act of administration; it is stored when this returns, unless the database is away."""
        happening = Happening(SystemEventType.ADMINISTRATION, _now(), "INFO", dict(actor), dict(data))
        try:
            async with asyncio.timeout(ACT_SECONDS), transaction(self._engine, tenant_id) as conn:
                await append(conn, tenant_id, [happening], self._keys)
        except Exception as error:
            if not isinstance(error, TimeoutError) and not is_connection_error(error):
                logger.exception("an act of administration was not recorded")
            self._wait(Known(tenant_id), happening)

    async def write_for_ever(self) -> None:
        """Write what waits, until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(self._seconds)
                await self._try()
        finally:
            self._close_windows(monotonic() + 2 * WINDOW_SECONDS)
            await self._try()

    async def _try(self) -> None:
        try:
            await self.write()
        except Exception as error:
            if not is_connection_error(error):
                logger.exception("events of the API were not recorded")
                self._waiting.clear()  # they would fail for ever

    async def write(self) -> None:
        """Write what waits."""
        self._close_windows(monotonic())
        waiting, self._waiting = self._waiting, []
        if self._lost:
            logger.error("%d events of the API were lost while the database was away", self._lost)
            self._lost = 0
        try:
            by_tenant = await self._by_tenant(waiting)
            for tenant_id in list(by_tenant):
                async with transaction(self._engine, tenant_id) as conn:
                    await append(conn, tenant_id, by_tenant[tenant_id], self._keys)
                waiting = [(of, one) for of, one in waiting if one not in by_tenant[tenant_id]]
        except Exception:
            self._waiting = (waiting + self._waiting)[:MAX_WAITING]
            raise

    async def _by_tenant(self, waiting: list[tuple[Known, Happening]]) -> dict[str, list[Happening]]:
        hashes = [of.token_hash for of, _ in waiting if of.token_hash is not None][:MAX_LOOKED_UP]
        ids = [one for of, _ in waiting for one in of.ids][:MAX_LOOKED_UP]
        owners: dict[str, tuple[str, str]] = {}
        places: dict[UUID, str] = {}
        if hashes or ids:
            async with system_transaction(self._engine) as conn:
                owners = await owners_of(conn, hashes) if hashes else {}
                places = await tenants_of(conn, ids) if ids else {}
        found: dict[str, list[Happening]] = {}
        for of, one in waiting:
            if of.token_hash is not None:
                owner = owners.get(of.token_hash)
                if owner is not None:
                    actor = {**one.actor, "id": owner[1]}
                    found.setdefault(owner[0], []).append(Happening(one.type, one.at, one.level, actor, one.data))
            elif of.ids:
                # Whose thing it is learns of it; who asked must not learn from his own list that it is there.
                for tenant_id in {places[thing] for thing in of.ids if thing in places} - {of.tenant_id}:
                    found.setdefault(tenant_id, []).append(one)
            elif of.tenant_id is not None:
                found.setdefault(of.tenant_id, []).append(one)
        return found

    def _close_windows(self, now: float) -> None:
        for key, window in list(self._windows.items()):
            if window.until > now:
                continue
            del self._windows[key]
            if window.again:
                one = window.happening
                data = {**one.data, "count": window.again}
                self._wait(window.of, Happening(one.type, _now(), one.level, one.actor, data))

    def _wait(self, of: Known, happening: Happening) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
        else:
            self._waiting.append((of, happening))


def _now() -> int:
    return round(time.time() * 1000)
