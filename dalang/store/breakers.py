"""Circuit breakers: each transition is one short transaction under the lock of its row (``dalang.breaker``).

A breaker that never failed has no row. Whoever keeps breakers in memory is told of each change that matters to him by
NOTIFY, and compares revisions: what he was told may be older than what he has read himself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import ColumnElement, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.breaker import Breaker, BreakerState, Outcome, Thresholds, Trial, Verdict, asked, closed, heard, opened
from dalang.store.breaker_tables import circuit_breakers
from dalang.store.paging import Page, after, read_cursor, write_cursor

CHANNEL = "dalang_breakers"
MAX_KEY = 300
QUIET = timedelta(days=7)
"""So long a CLOSED breaker is remembered that nobody has had trouble with."""
_NAMES = UUID("6f0c1c1e-5a55-5e0e-9a7b-0d5a1d8f2c11")
_breakers = circuit_breakers.c


@dataclass(frozen=True)
class StoredBreaker:
    """A breaker as it stands. ``last_failure`` is the error type of the last failure that counted.

    ``operator`` and ``reason`` say who changed it by hand, until it changes by itself.
    """

    tenant_id: str
    key: str
    breaker_id: UUID
    state: str
    failures: int
    successes: int
    until: datetime | None
    trials: Sequence[Sequence[Any]]
    opened_at: datetime | None
    openings: int
    last_failure_at: datetime | None
    last_failure: str | None
    operator: str | None
    reason: str | None
    changed_at: datetime
    revision: int

    @property
    def breaker(self) -> Breaker:
        """The same for the rules."""
        trials = tuple(Trial(*one) for one in self.trials)
        until, opened_at = _milliseconds(self.until), _milliseconds(self.opened_at)
        return Breaker(BreakerState(self.state), self.failures, self.successes, until, trials, opened_at, self.openings)


_ALL = [_breakers[one.name] for one in fields(StoredBreaker)]


def breaker_id(tenant_id: str, key: str) -> UUID:
    """Return the id under which a breaker is addressed, whatever its key holds."""
    return uuid5(_NAMES, f"{tenant_id}\n{key}")


async def ask(
    conn: AsyncConnection, tenant_id: str, key: str, thresholds: Thresholds, trial_id: str, lasts_ms: int
) -> tuple[Verdict, StoredBreaker | None]:
    """Let somebody pass or tell him until when to wait; a trial place is his for at most ``lasts_ms``."""
    row, at = await _locked(conn, tenant_id, key)
    if row is None:
        return Verdict(), None
    before = row.breaker
    after_, verdict = asked(before, thresholds, Trial(trial_id, at, at + lasts_ms))
    return verdict, await _written(conn, row, before, after_)


async def hear(
    conn: AsyncConnection,
    tenant_id: str,
    key: str,
    thresholds: Thresholds,
    outcome: Outcome,
    trial_id: str | None = None,
    error_type: str | None = None,
) -> StoredBreaker | None:
    """Take note of how an attempt ended, and return the breaker; None: there is none, and all is well."""
    if outcome is Outcome.FAILED:
        new = {"tenant_id": tenant_id, "key": key, "breaker_id": breaker_id(tenant_id, key)}
        await conn.execute(insert(circuit_breakers).values(new).on_conflict_do_nothing())
    row, at = await _locked(conn, tenant_id, key)
    if row is None:
        return None
    before = row.breaker
    failure = {} if outcome is not Outcome.FAILED else {"last_failure": error_type, "last_failure_at": _time(at)}
    return await _written(conn, row, before, heard(before, thresholds, outcome, trial_id, at), failure)


async def force_open(
    conn: AsyncConnection, tenant_id: str, key: str, lasts_ms: int, operator: str, reason: str | None
) -> StoredBreaker:
    """Let nobody pass for so long, whatever happened."""
    new = {"tenant_id": tenant_id, "key": key, "breaker_id": breaker_id(tenant_id, key)}
    await conn.execute(insert(circuit_breakers).values(new).on_conflict_do_nothing())
    row, at = await _locked(conn, tenant_id, key)
    assert row is not None
    by = {"operator": operator, "reason": reason}
    return await _written(conn, row, row.breaker, opened(row.breaker, at, at + lasts_ms), by, by_hand=True)


async def reset(
    conn: AsyncConnection, tenant_id: str, breaker_id: UUID, operator: str, reason: str | None
) -> StoredBreaker | None:
    """Let everybody pass again; None: there is no such breaker."""
    known = await get_breaker(conn, tenant_id, breaker_id)
    row = None if known is None else (await _locked(conn, tenant_id, known.key))[0]
    if row is None:
        return None
    by = {"operator": operator, "reason": reason}
    return await _written(conn, row, row.breaker, closed(row.breaker), by, by_hand=True)


async def get_breaker(conn: AsyncConnection, tenant_id: str, breaker_id: UUID) -> StoredBreaker | None:
    """Which breaker is this?"""
    query = select(*_ALL).where(_breakers.tenant_id == tenant_id, _breakers.breaker_id == breaker_id)
    row = (await conn.execute(query)).first()
    return None if row is None else StoredBreaker(*row)


async def read_breaker(conn: AsyncConnection, tenant_id: str, key: str) -> StoredBreaker | None:
    """How does this breaker stand? Nobody is held up by the question."""
    row = (await conn.execute(select(*_ALL).where(_is(tenant_id, key)))).first()
    return None if row is None else StoredBreaker(*row)


async def list_breakers(
    conn: AsyncConnection,
    tenant_id: str,
    *,
    states: Sequence[str] = (),
    key: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[StoredBreaker]:
    """Which breakers are there, by key? Raises :class:`paging.InvalidCursor`."""
    query = select(*_ALL).where(_breakers.tenant_id == tenant_id)
    if states:
        query = query.where(_breakers.state.in_(states))
    if key is not None:
        query = query.where(_breakers.key == key)
    if cursor is not None:
        (last,) = read_cursor(cursor, str)
        query = query.where(after((_breakers.key, last)))
    found = [StoredBreaker(*row) for row in await conn.execute(query.order_by(_breakers.key).limit(limit + 1))]
    return Page(found[:limit], write_cursor(found[limit - 1].key) if len(found) > limit else None)


async def count_by_state(conn: AsyncConnection, tenant_id: str) -> dict[str, int]:
    """How many breakers of the tenant are in which state?"""
    query = select(_breakers.state, func.count()).where(_breakers.tenant_id == tenant_id).group_by(_breakers.state)
    return {state: count for state, count in await conn.execute(query)}


async def troubled(conn: AsyncConnection) -> list[StoredBreaker]:
    """Which breakers, of all tenants, do more than let everybody pass?"""
    query = select(*_ALL).where((_breakers.state != BreakerState.CLOSED) | (_breakers.failures > 0))
    return [StoredBreaker(*row) for row in await conn.execute(query)]


async def forget_quiet(conn: AsyncConnection) -> int:
    """Delete breakers that nobody has had trouble with for long; return how many."""
    quiet = (_breakers.state == BreakerState.CLOSED) & (_breakers.changed_at < func.now() - QUIET)
    gone: int = (await conn.execute(delete(circuit_breakers).where(quiet))).rowcount
    return gone


async def _locked(conn: AsyncConnection, tenant_id: str, key: str) -> tuple[StoredBreaker | None, int]:
    """Return the row, locked until the transaction ends, and the database's time: workers' clocks differ."""
    query = select(*_ALL, func.clock_timestamp()).where(_is(tenant_id, key)).with_for_update()
    found = (await conn.execute(query)).first()
    if found is None:
        return None, 0
    *row, now = found
    return StoredBreaker(*row), _milliseconds(now) or 0


async def _written(
    conn: AsyncConnection,
    row: StoredBreaker,
    before: Breaker,
    now: Breaker,
    also: dict[str, Any] | None = None,
    *,
    by_hand: bool = False,
) -> StoredBreaker:
    """Write what became of a breaker, and tell everybody whose answers depend on it."""
    if now == before and not also:
        return row
    values: dict[str, Any] = {
        "state": str(now.state),
        "failures": now.failures,
        "successes": now.successes,
        "until": _time(now.until),
        "trials": [list(astuple(one)) for one in now.trials],
        "opened_at": _time(now.opened_at),
        "openings": now.openings,
        "revision": text("DEFAULT"),
        **(also or {}),
    }
    if now != before:
        values["changed_at"] = func.clock_timestamp()
    if now.state is not before.state and not by_hand:
        values |= {"operator": None, "reason": None}
    done = update(circuit_breakers).where(_is(row.tenant_id, row.key)).values(values).returning(*_ALL)
    new = StoredBreaker(*(await conn.execute(done)).one())
    if _for_passers(before) != _for_passers(now):
        await conn.execute(select(func.pg_notify(CHANNEL, news(new))))
    return new


def _for_passers(breaker: Breaker) -> tuple[object, ...]:
    """What somebody who passes has to know."""
    return breaker.state, breaker.until, breaker.failures > 0


def news(row: StoredBreaker) -> str:
    """Return what is told of a changed breaker: tenant, key, state, whether it has failures, until, revision."""
    return json.dumps([row.tenant_id, row.key, row.state, row.failures > 0, _milliseconds(row.until), row.revision])


def _is(tenant_id: str, key: str) -> ColumnElement[bool]:
    return (_breakers.tenant_id == tenant_id) & (_breakers.key == key)


def _milliseconds(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1000)


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
