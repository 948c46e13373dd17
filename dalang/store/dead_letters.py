"""Dead letters: events that a subscription could not be told of, and that somebody may have told again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.cloud_events import Happened
from dalang.store.engine import across_tenants
from dalang.store.publications import SELECT_EVENTS, Claim, happened
from dalang.store.subscriptions import notify

EventKey = tuple[UUID, int, int]
MAX_DEAD_LETTERS = 10_000
"""A subscription with more is paused: what follows waits then, instead of being given up."""


@dataclass(frozen=True)
class DeadLetter:
    """An event that a subscription could not be told of."""

    subscription_id: UUID
    run_id: UUID
    epoch: int
    seq: int
    type: str
    attempts: int
    error: str
    dead_at: datetime
    redeliver_at: datetime | None


async def bury(conn: AsyncConnection, own: Claim, event: Happened, attempts: int, error: str) -> int:
    """Make the event a dead letter; return how many the subscription has. The cursor is moved by :func:`told`."""
    values = {
        "subscription": own.subscription_id,
        "run": own.run_id,
        "tenant": own.tenant_id,
        "epoch": event.epoch,
        "seq": event.seq,
        "type": event.type,
        "attempts": attempts,
        "error": error,
    }
    await conn.execute(_BURY, values)
    return int((await conn.execute(_COUNT, {"subscription": own.subscription_id})).scalar_one())


async def wanted_back(conn: AsyncConnection, own: Claim, limit: int) -> list[Happened]:
    """Which dead letters of the run is somebody to be told again, in order?"""
    values = {"subscription": own.subscription_id, "run": own.run_id, "tenant": own.tenant_id, "limit": limit}
    return [happened(row) for row in (await conn.execute(_WANTED_BACK, values)).mappings()]


async def settle_dead_letter(conn: AsyncConnection, own: Claim, event: Happened, error: str | None) -> None:
    """Forget a dead letter that was told at last, or note why it was not."""
    values = {"subscription": own.subscription_id, "run": own.run_id, "epoch": event.epoch, "seq": event.seq}
    if error is None:
        await conn.execute(_RAISED, values)
    else:
        await conn.execute(_STILL_DEAD, {**values, "error": error})


async def list_dead_letters(
    conn: AsyncConnection, subscription_id: UUID, *, after: tuple[datetime, UUID, int, int] | None, limit: int
) -> list[DeadLetter]:
    """Which events could it not be told of, the oldest first?"""
    at, run_id, epoch, seq = after or (None, None, 0, 0)
    values = {"subscription": subscription_id, "at": at, "run": run_id, "epoch": epoch, "seq": seq, "limit": limit}
    async with across_tenants(conn):  # its subscription may be of all of them
        return [DeadLetter(*row) for row in await conn.execute(_DEAD, values)]


async def redeliver(conn: AsyncConnection, subscription_id: UUID, events: Sequence[EventKey] | None) -> int:
    """Have dead letters told again, these or all; return how many. Those of a run come before its next event."""
    values: dict[str, Any] = {"subscription": subscription_id}
    statement = _REDELIVER_ALL
    if events is not None:
        statement, values["keys"] = _REDELIVER, [f"{run}/{epoch}/{seq}" for run, epoch, seq in events]
    async with across_tenants(conn):
        found = (await conn.execute(statement, values)).scalars().all()
        if found:
            await conn.execute(_DUE, {"subscription": subscription_id, "runs": sorted(set(found))})
            await notify(conn, subscription_id)
    return len(found)


async def discard(conn: AsyncConnection, subscription_id: UUID, events: Sequence[EventKey] | None) -> int:
    """Forget dead letters, these or all; return how many."""
    values: dict[str, Any] = {"subscription": subscription_id}
    statement = _DISCARD_ALL
    if events is not None:
        statement, values["keys"] = _DISCARD, [f"{run}/{epoch}/{seq}" for run, epoch, seq in events]
    async with across_tenants(conn):
        return int((await conn.execute(statement, values)).rowcount)


_BURY = text(
    """
    INSERT INTO event_dead_letters (subscription_id, run_id, epoch, seq, tenant_id, type, attempts, error)
    VALUES (:subscription, :run, :epoch, :seq, :tenant, :type, :attempts, :error)
    ON CONFLICT (subscription_id, run_id, epoch, seq)
    DO UPDATE SET attempts = excluded.attempts, error = excluded.error, dead_at = now(), redeliver_at = NULL
    """
)
_COUNT = text("SELECT count(*) FROM event_dead_letters WHERE subscription_id = :subscription")
_WANTED_BACK = text(
    f"""{SELECT_EVENTS} JOIN event_dead_letters d ON d.run_id = e.run_id AND d.epoch = e.epoch AND d.seq = e.seq
    WHERE d.subscription_id = :subscription AND e.run_id = :run AND e.tenant_id = :tenant
      AND d.redeliver_at IS NOT NULL ORDER BY e.epoch, e.seq LIMIT :limit"""
)
_ONE_DEAD = "WHERE subscription_id = :subscription AND run_id = :run AND epoch = :epoch AND seq = :seq"
_RAISED = text(f"DELETE FROM event_dead_letters {_ONE_DEAD}")  # noqa: S608 - constants of this file
_STILL_DEAD = text(
    f"UPDATE event_dead_letters SET attempts = attempts + 1, error = :error, redeliver_at = NULL {_ONE_DEAD}"  # noqa: S608
)
_DEAD = text(
    """
    SELECT subscription_id, run_id, epoch, seq, type, attempts, error, dead_at, redeliver_at FROM event_dead_letters
    WHERE subscription_id = :subscription AND (CAST(:at AS timestamptz) IS NULL
      OR (dead_at, run_id, epoch, seq) > (CAST(:at AS timestamptz), CAST(:run AS uuid), :epoch, :seq))
    ORDER BY dead_at, run_id, epoch, seq LIMIT :limit
    """
)
_KEYS = "run_id || '/' || epoch || '/' || seq = ANY (:keys)"
_REDELIVER_ALL = text(
    "UPDATE event_dead_letters SET redeliver_at = now() WHERE subscription_id = :subscription RETURNING run_id"
)
_REDELIVER = text(
    f"UPDATE event_dead_letters SET redeliver_at = now() WHERE subscription_id = :subscription AND {_KEYS} "  # noqa: S608
    "RETURNING run_id"
)
_DUE = text(
    """
    UPDATE event_publications SET marked = marked + 1, due_at = now()
    WHERE subscription_id = :subscription AND run_id = ANY (:runs)
    """
)
_DISCARD_ALL = text("DELETE FROM event_dead_letters WHERE subscription_id = :subscription")
_DISCARD = text(f"DELETE FROM event_dead_letters WHERE subscription_id = :subscription AND {_KEYS}")  # noqa: S608
