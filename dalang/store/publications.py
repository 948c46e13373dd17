"""Telling subscriptions of events, as queries: what is new, whose turn it is, and how far it went.

Theory of operation. ``run_events`` is the outbox. Two steps lie between it and a subscriber:

- *Marking* reads the feed of all events once, in the order (transaction_id, position) and only below the oldest
  transaction that is still open: a row that commits late cannot slip in behind the reader. For each subscription that
  an event may concern it marks the run as due (``event_publications``). One process marks at a time; others pass by.
- *Telling* claims one (subscription, run) at a time. Events of a run are stored one flush after the other, under a lock
  of the run's row, so reading them after (epoch, seq) misses none, whatever was marked. A claim lasts for some seconds
  and is prolonged with every step forward; it is no open transaction, which would hold up the feed while a slow
  receiver makes up its mind. Whoever lost its claim can move nothing any more (``claim`` is compared). So events of a
  run are told in order and by one process, and again from the last step forward when that process dies.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.cloud_events import Happened
from dalang.store.subscriptions import COLUMNS, Subscription, subscription_of

MARKED_AT_ONCE = 2_000
"""Events that one transaction marks at most."""


logger = logging.getLogger("dalang.publishing")


@dataclass(frozen=True)
class Marked:
    """What marking came to: events read, runs marked for subscriptions, and whether there may be more at once."""

    events: int
    runs: int
    more: bool


@dataclass(frozen=True)
class Work:
    """A subscription that somebody is to be told for: from ``due_at`` on, or a ping that was asked for."""

    subscription: Subscription
    due_at: datetime | None
    now: datetime
    ping: str | None


@dataclass(frozen=True)
class Claim:
    """One run of one subscription, to tell: after the event (epoch, seq), which is the last one told."""

    claim: UUID
    subscription_id: UUID
    run_id: UUID
    tenant_id: str
    epoch: int
    seq: int
    since: datetime | None
    begun_at: datetime
    marked: int
    attempts: int


async def is_wanted(conn: AsyncConnection) -> bool:
    """Is anybody to be told of anything?"""
    return bool((await conn.execute(_WANTED)).scalar_one())


async def mark(conn: AsyncConnection, limit: int = MARKED_AT_ONCE) -> Marked:
    """Mark what is new in the feed, and move on; nothing while another process does."""
    row = (await conn.execute(_FEED)).first()
    if row is None:
        return Marked(0, 0, False)
    if row.is_foreign:
        logger.warning("the database came from another PostgreSQL: all runs are looked through for what was not told")
        await conn.execute(_MARK_ALL)
        await conn.execute(_BEGIN_HERE)
        return Marked(0, 0, True)
    found = (await conn.execute(_MARK, {"after": row.transaction_id, "position": row.position, "limit": limit})).one()
    if found.events:
        await conn.execute(_MOVE, {"transaction_id": found.transaction_id, "position": found.position})
    return Marked(found.events, found.runs, found.events == limit)


async def open_feed(conn: AsyncConnection) -> bool:
    """Are there events that cannot be read yet, because an older transaction is open?"""
    return bool((await conn.execute(_OPEN)).scalar_one())


async def work(conn: AsyncConnection) -> list[Work]:
    """For which subscriptions is there something to do, now or later? The one that has waited longest comes first."""
    rows = (await conn.execute(_WORK)).mappings()
    return [Work(subscription_of(row), row["due"], row["now"], row["asked"]) for row in rows]


async def claim(conn: AsyncConnection, subscription_id: UUID, limit: int, seconds: float) -> list[Claim]:
    """Claim runs that are due for so many seconds; those that others have claimed are left to them."""
    values = {"subscription": subscription_id, "limit": limit, "seconds": seconds, "claim": uuid4()}
    return [Claim(*row) for row in await conn.execute(_CLAIM, values)]


def after(own: Claim, epoch: int, seq: int) -> Claim:
    """Return the claim as it stands when all up to this event were told."""
    return replace(own, epoch=epoch, seq=seq)


async def next_events(conn: AsyncConnection, own: Claim, types: Sequence[str], limit: int) -> list[Happened]:
    """Which events of the run follow?"""
    after = {"run": own.run_id, "tenant": own.tenant_id, "epoch": own.epoch, "seq": own.seq}
    values = {**after, "types": list(types), "limit": limit}
    if own.since is None or (own.epoch, own.seq) > (0, 0):
        rows = await conn.execute(_NEXT, values)
    else:
        rows = await conn.execute(_FIRST, {**values, "since": own.since})
    return [happened(row) for row in rows.mappings()]


async def told(
    conn: AsyncConnection, own: Claim, epoch: int, seq: int, waiting_since: datetime, seconds: float
) -> bool | None:
    """Note that all up to this event were told, and prolong the claim.

    None: it is lost, and nothing was noted. False: the subscription was paused meanwhile.
    """
    values = {"epoch": epoch, "seq": seq, "waiting_since": waiting_since, "seconds": seconds}
    key = {"subscription": own.subscription_id, "run": own.run_id, "claim": own.claim}
    found = (await conn.execute(_TOLD, {**key, **values})).first()
    return None if found is None else bool(found.active)


async def failed(conn: AsyncConnection, own: Claim, delay: timedelta) -> bool:
    """Note that the next event could not be told, and when it is tried again; False: the claim is lost."""
    return await _moved(conn, _FAILED, own, delay=delay)


async def release(conn: AsyncConnection, own: Claim, *, done: bool) -> bool:
    """Give the claim back; ``done``: all was told, unless there was something new meanwhile."""
    return await _moved(conn, _RELEASED, own, done=done, marked=own.marked)


async def count(
    conn: AsyncConnection, subscription_id: UUID, *, delivered: int, error: str | None = None, event: str | None = None
) -> None:
    """Count what was told to a subscription, and note what went wrong last."""
    values = {"subscription": subscription_id, "delivered": delivered, "error": error, "event": event}
    await conn.execute(_COUNTED, values)


async def take_ping(conn: AsyncConnection, subscription_id: UUID, ping_id: str) -> bool:
    """Take it upon oneself to send this ping; False: somebody else does."""
    return bool((await conn.execute(_TAKE_PING, {"subscription": subscription_id, "id": ping_id})).rowcount)


async def answer_ping(conn: AsyncConnection, subscription_id: UUID, answer: dict[str, Any]) -> None:
    """Note what came of a ping."""
    values = {"subscription": subscription_id, "id": answer["id"], "error": answer["error"], "ms": answer["ms"]}
    await conn.execute(_ANSWER_PING, values)


async def _moved(conn: AsyncConnection, statement: Any, own: Claim, **values: Any) -> bool:
    key = {"subscription": own.subscription_id, "run": own.run_id, "claim": own.claim}
    return bool((await conn.execute(statement, {**key, **values})).rowcount)


def happened(row: RowMapping) -> Happened:
    """Return the event of a row of :data:`SELECT_EVENTS`."""
    return Happened(**{name: row[name] for name in Happened.__slots__})


_WANTED = text("SELECT EXISTS (SELECT 1 FROM event_subscriptions)")
_FEED = text(
    """
    SELECT transaction_id::text AS transaction_id, position,
      transaction_id > pg_snapshot_xmax(pg_current_snapshot()) AS is_foreign
    FROM event_feed FOR UPDATE SKIP LOCKED
    """
)
_MARK_ALL = text(
    """
    INSERT INTO event_publications AS p (subscription_id, run_id, tenant_id, since, due_at, waiting_since)
    SELECT s.subscription_id, r.run_id, r.tenant_id, s.since, now(), now()
    FROM event_subscriptions s JOIN execution_runs r ON r.tenant_id = s.tenant_id OR s.all_tenants
    WHERE r.last_updated_at >= s.since AND r.head_seq > 0
      AND (s.plans = '{}' OR r.plan_name = ANY (s.plans) OR r.plan_id::text = ANY (s.plans))
    ORDER BY 1, 2
    ON CONFLICT (subscription_id, run_id) DO UPDATE SET marked = p.marked + 1, due_at = coalesce(p.due_at, now())
    """
)
_BEGIN_HERE = text("UPDATE event_feed SET transaction_id = pg_snapshot_xmin(pg_current_snapshot()), position = 0")
_MARK = text(
    """
    WITH batch AS MATERIALIZED (
      SELECT run_id, tenant_id, type, recorded_at, transaction_id, position FROM run_events
      WHERE (transaction_id, position) > (CAST(CAST(:after AS text) AS xid8), CAST(:position AS bigint))
        AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
      ORDER BY transaction_id, position LIMIT :limit
    ), marks AS (
      INSERT INTO event_publications AS p (subscription_id, run_id, tenant_id, since, due_at, waiting_since)
      SELECT s.subscription_id, b.run_id, b.tenant_id, s.since, now(), min(b.recorded_at)
      FROM batch b
      JOIN execution_runs r ON r.run_id = b.run_id
      JOIN event_subscriptions s ON (s.tenant_id = b.tenant_id OR s.all_tenants) AND b.recorded_at >= s.since
        AND (s.types = '{}' OR b.type = ANY (s.types))
        AND (s.plans = '{}' OR r.plan_name = ANY (s.plans) OR r.plan_id::text = ANY (s.plans))
      GROUP BY 1, 2, 3, 4 ORDER BY 1, 2
      ON CONFLICT (subscription_id, run_id) DO UPDATE SET marked = p.marked + 1,
        due_at = coalesce(p.due_at, now()), waiting_since = coalesce(p.waiting_since, excluded.waiting_since)
      RETURNING 1
    ), last AS (
      SELECT transaction_id, position FROM batch ORDER BY transaction_id DESC, position DESC LIMIT 1
    )
    SELECT (SELECT count(*) FROM batch) AS events, (SELECT count(*) FROM marks) AS runs,
           (SELECT transaction_id::text FROM last) AS transaction_id, (SELECT position FROM last) AS position
    """
)
_MOVE = text(
    "UPDATE event_feed SET transaction_id = CAST(CAST(:transaction_id AS text) AS xid8), "
    "position = :position, moved_at = now()"
)
_OPEN = text(  # in this form it reads one entry of the index; a join with the feed, or EXISTS, may read all events
    """
    SELECT (
      SELECT position FROM run_events
      WHERE (transaction_id, position) > ((SELECT transaction_id FROM event_feed), (SELECT position FROM event_feed))
        AND transaction_id < pg_snapshot_xmax(pg_current_snapshot())
      ORDER BY transaction_id, position LIMIT 1
    ) IS NOT NULL
    """
)
_NAMES = ", ".join(f"s.{column.name}" for column in COLUMNS)
_WORK = text(
    f"""
    SELECT * FROM (
      SELECT {_NAMES}, now() AS now, CASE WHEN s.ping ->> 'state' = 'asked' THEN s.ping ->> 'id' END AS asked,
        CASE WHEN s.paused_at IS NULL THEN coalesce((
          SELECT p.due_at FROM event_publications p
          WHERE p.subscription_id = s.subscription_id AND p.due_at IS NOT NULL
            AND (p.claimed_until IS NULL OR p.claimed_until <= now())
          ORDER BY p.due_at LIMIT 1
        ), (
          SELECT min(p.claimed_until) FROM event_publications p
          WHERE p.subscription_id = s.subscription_id AND p.due_at IS NOT NULL
        )) END AS due
      FROM event_subscriptions s
    ) AS found WHERE due IS NOT NULL OR asked IS NOT NULL ORDER BY due NULLS FIRST
    """  # noqa: S608 - names of this file's columns
)
_CLAIM = text(
    """
    WITH due AS (
      SELECT subscription_id, run_id FROM event_publications
      WHERE subscription_id = :subscription AND due_at <= now() AND (claimed_until IS NULL OR claimed_until <= now())
      ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE event_publications p SET claim = :claim, claimed_until = now() + make_interval(secs => :seconds)
    FROM due WHERE p.subscription_id = due.subscription_id AND p.run_id = due.run_id
    RETURNING p.claim, p.subscription_id, p.run_id, p.tenant_id, p.sent_epoch, p.sent_seq, p.since, p.begun_at,
              p.marked, p.attempts
    """
)
SELECT_EVENTS = """
    SELECT e.run_id, e.tenant_id, e.epoch, e.seq, e.type, e.node_id, e.at, e.recorded_at, e.data, e.superseded,
           b.body AS payload, e.body_digest IS NOT NULL AS has_payload, r.plan_id, r.plan_name, r.plan_version
    FROM run_events e JOIN execution_runs r ON r.run_id = e.run_id
    LEFT JOIN LATERAL (
      SELECT body FROM event_bodies WHERE run_id = e.run_id AND epoch = e.epoch AND seq = e.seq OFFSET 0
    ) b ON true  -- as in told_bodies.py
"""
_AFTER = """
    WHERE e.run_id = :run AND e.tenant_id = :tenant AND (e.epoch, e.seq) > (:epoch, :seq)
      AND (CAST(:types AS text[]) = '{}' OR e.type = ANY (CAST(:types AS text[])))
"""
_ORDER = "ORDER BY e.epoch, e.seq LIMIT :limit"
_NEXT = text(f"{SELECT_EVENTS} {_AFTER} {_ORDER}")
_FIRST = text(
    f"""{SELECT_EVENTS} {_AFTER} AND (e.epoch, e.seq) >= (
      SELECT epoch, seq FROM run_events WHERE run_id = :run AND recorded_at >= :since ORDER BY epoch, seq LIMIT 1
    ) {_ORDER}"""  # noqa: S608 - constants of this file
)
_OWN = "WHERE subscription_id = :subscription AND run_id = :run AND claim = :claim"
_TOLD = text(
    f"""
    UPDATE event_publications SET sent_epoch = :epoch, sent_seq = :seq, attempts = 0, failing_since = NULL,
      waiting_since = :waiting_since, claimed_until = now() + make_interval(secs => :seconds) {_OWN}
    RETURNING (SELECT paused_at IS NULL FROM event_subscriptions s WHERE s.subscription_id = :subscription) AS active
    """  # noqa: S608 - constants of this file
)
_FAILED = text(
    f"""
    UPDATE event_publications SET attempts = attempts + 1, failing_since = coalesce(failing_since, now()),
      due_at = now() + CAST(:delay AS interval), claim = NULL, claimed_until = NULL {_OWN}
    """  # noqa: S608 - constants of this file
)
_RELEASED = text(
    f"""
    UPDATE event_publications SET claim = NULL, claimed_until = NULL,
      due_at = CASE WHEN :done AND marked = :marked THEN NULL ELSE now() END,
      waiting_since = CASE WHEN :done AND marked = :marked THEN NULL ELSE waiting_since END {_OWN}
    """  # noqa: S608 - constants of this file
)
_COUNTED = text(
    """
    UPDATE event_subscriptions SET delivered = delivered + :delivered,
      last_delivered_at = CASE WHEN :delivered > 0 THEN now() ELSE last_delivered_at END,
      failures = failures + CASE WHEN CAST(:error AS text) IS NULL THEN 0 ELSE 1 END,
      last_error = coalesce(:error, last_error), last_error_event = coalesce(:event, last_error_event),
      last_error_at = CASE WHEN CAST(:error AS text) IS NULL THEN last_error_at ELSE now() END
    WHERE subscription_id = :subscription
    """
)
_TAKE_PING = text(
    """
    UPDATE event_subscriptions SET ping = jsonb_set(ping, '{state}', '"taken"')
    WHERE subscription_id = :subscription AND ping ->> 'id' = :id AND ping ->> 'state' = 'asked'
    """
)
_ANSWER_PING = text(
    """
    UPDATE event_subscriptions SET ping = ping || jsonb_build_object('state', 'answered', 'error', CAST(:error AS text),
      'ms', CAST(:ms AS integer), 'at', now())
    WHERE subscription_id = :subscription AND ping ->> 'id' = :id
    """
)
