"""Subscriptions: who is told of events, of which, and how it goes. What tells them is ``publications.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import RowMapping, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.errors import Conflict, NotFound
from dalang.store.engine import across_tenants
from dalang.store.subscription_tables import event_dead_letters, event_feed, event_publications, event_subscriptions

CHANNEL = "dalang_subscription"
"""What is notified when there may be something else to do for a subscription, with its id as payload."""
MAX_SUBSCRIPTIONS = 100
"""Of one tenant."""
MAX_COUNTED = 10_000
"""Waiting events of a subscription are counted so far."""
WEBHOOK, KAFKA, NATS = "webhook", "kafka", "nats"

_subscriptions = event_subscriptions.c
_publications = event_publications.c
_dead = event_dead_letters.c


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a subscription is made of. Durations are milliseconds; ``target`` is {url, format}, {topic} or {subject}."""

    name: str
    kind: str
    target: dict[str, Any]
    all_tenants: bool = False
    description: str = ""
    types: Sequence[str] = ()
    plans: Sequence[str] = ()
    filter: str | None = None
    payloads: bool = False
    max_attempts: int = 25
    initial_delay_ms: int = 1_000
    max_delay_ms: int = 600_000
    give_up_ms: int = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Subscription(Wanted):
    """A stored subscription. ``secrets`` are those its webhooks are signed with, the newest first."""

    subscription_id: UUID
    tenant_id: str
    since: datetime
    active_since: datetime
    paused_at: datetime | None
    paused_by: str | None
    paused_reason: str | None
    secrets: list[dict[str, Any]] = field(repr=False)
    ping: dict[str, Any] | None
    delivered: int
    failures: int
    last_delivered_at: datetime | None
    last_error_at: datetime | None
    last_error: str | None
    last_error_event: str | None
    created_by: str
    created_at: datetime
    updated_by: str
    updated_at: datetime


@dataclass(frozen=True)
class Progress:
    """How a subscription keeps up. ``waiting_events`` counts to ``MAX_COUNTED``; ``failing_runs`` are held up."""

    waiting_runs: int = 0
    waiting_events: int = 0
    waiting_since: datetime | None = None
    failing_runs: int = 0
    next_attempt_at: datetime | None = None
    dead_letters: int = 0


COLUMNS = [_subscriptions[one.name] for one in fields(Subscription)]
_WANTED = tuple(one.name for one in fields(Wanted))


def subscription_of(row: RowMapping) -> Subscription:
    """Return the subscription of a row."""
    return Subscription(**{one.name: row[one.name] for one in fields(Subscription)})


async def create_subscription(
    conn: AsyncConnection, tenant_id: str, wanted: Wanted, by: str, *, since: datetime | None, secret: str | None
) -> Subscription:
    """Make a subscription; it is told of what is recorded from now on, or was since ``since``.

    Raises:
        Conflict: there is one of this name, or there are too many.
    """
    await _start_feed(conn)
    of_tenant = select(func.count()).where(_subscriptions.tenant_id == tenant_id)
    if (await conn.execute(of_tenant)).scalar_one() >= MAX_SUBSCRIPTIONS:
        raise Conflict(f"A tenant has at most {MAX_SUBSCRIPTIONS} subscriptions.")
    values = {
        **{name: getattr(wanted, name) for name in _WANTED},
        "subscription_id": uuid4(),
        "tenant_id": tenant_id,
        "secrets": [] if secret is None else [{"secret": secret}],
        "created_by": by,
        "updated_by": by,
        **({} if since is None else {"since": since}),
    }
    statement = insert(event_subscriptions).values(values).on_conflict_do_nothing().returning(*COLUMNS)
    row = (await conn.execute(statement)).mappings().first()
    if row is None:
        raise Conflict(f"There is a subscription {wanted.name!r} already.")
    made = subscription_of(row)
    if since is not None:
        await _mark_past(conn, made)
    await notify(conn, made.subscription_id)
    return made


async def update_subscription(
    conn: AsyncConnection, tenant_id: str, subscription_id: UUID, wanted: Wanted, by: str
) -> Subscription:
    """Change what a subscription is told of and where; it holds for all that was not told yet.

    Raises:
        NotFound, Conflict: there is none; its kind is another; the name is taken.
    """
    found = await get_subscription(conn, tenant_id, subscription_id, lock=True)
    if found.kind != wanted.kind:
        raise Conflict(f"It is of kind {found.kind}, which stays so.")
    same_name = (_subscriptions.tenant_id == tenant_id) & (_subscriptions.name == wanted.name)
    taken = select(1).where(same_name, _subscriptions.subscription_id != subscription_id)
    if (await conn.execute(taken)).first() is not None:
        raise Conflict(f"There is a subscription {wanted.name!r} already.")
    return await _changed(conn, subscription_id, by, **{name: getattr(wanted, name) for name in _WANTED})


async def get_subscription(
    conn: AsyncConnection, tenant_id: str, subscription_id: UUID, *, lock: bool = False
) -> Subscription:
    """Which subscription is that? Raises :class:`NotFound`."""
    query = select(*COLUMNS).where(
        _subscriptions.tenant_id == tenant_id, _subscriptions.subscription_id == subscription_id
    )
    row = (await conn.execute(query.with_for_update() if lock else query)).mappings().first()
    if row is None:
        raise NotFound(f"There is no subscription {subscription_id}.")
    return subscription_of(row)


async def list_subscriptions(conn: AsyncConnection, tenant_id: str) -> list[Subscription]:
    """Which subscriptions are there, by name?"""
    query = select(*COLUMNS).where(_subscriptions.tenant_id == tenant_id).order_by(_subscriptions.name)
    return [subscription_of(row) for row in (await conn.execute(query)).mappings()]


async def delete_subscription(conn: AsyncConnection, tenant_id: str, subscription_id: UUID) -> None:
    """Delete it, with what was not told yet and its dead letters. Raises :class:`NotFound`."""
    gone = await conn.execute(
        delete(event_subscriptions).where(
            _subscriptions.tenant_id == tenant_id, _subscriptions.subscription_id == subscription_id
        )
    )
    if not gone.rowcount:
        raise NotFound(f"There is no subscription {subscription_id}.")


async def pause_subscription(conn: AsyncConnection, subscription_id: UUID, by: str, reason: str | None) -> Subscription:
    """Tell it nothing more until it is resumed; what happens meanwhile waits. Pausing again changes nothing."""
    values = {"paused_at": func.now(), "paused_by": by, "paused_reason": reason}
    running = (_subscriptions.subscription_id == subscription_id) & _subscriptions.paused_at.is_(None)
    await conn.execute(update(event_subscriptions).where(running).values(values))
    return await _read(conn, subscription_id)


async def resume_subscription(conn: AsyncConnection, subscription_id: UUID, by: str) -> Subscription:
    """Tell it what has waited: at once, as if nothing had ever failed."""
    nothing = dict.fromkeys(("paused_at", "paused_by", "paused_reason"))
    made = await _changed(conn, subscription_id, by, **nothing, active_since=func.now())
    failing = (_publications.subscription_id == subscription_id) & (_publications.attempts > 0)
    again = {"attempts": 0, "failing_since": None, "due_at": func.now()}
    async with across_tenants(conn):  # it may be of all of them
        await conn.execute(update(event_publications).where(failing).values(again))
    return made


async def rotate_secret(
    conn: AsyncConnection, subscription_id: UUID, by: str, secret: str, now: datetime, keep: timedelta
) -> Subscription:
    """Sign with ``secret`` from now on, and with those before it for a while too."""
    found = await _read(conn, subscription_id)
    until = (now + keep).isoformat()
    old = [{**one, "until": min(one.get("until", until), until)} for one in valid_secrets(found.secrets, now)]
    kept = [{"secret": secret}, *(old[:3] if keep else [])]
    return await _changed(conn, subscription_id, by, secrets=kept)


def valid_secrets(secrets: Sequence[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Return those that are valid now."""
    return [one for one in secrets if "until" not in one or datetime.fromisoformat(one["until"]) > now]


async def ask_ping(conn: AsyncConnection, subscription_id: UUID) -> str:
    """Have somebody send a test event; return its id, under which ``ping`` will hold the answer."""
    ping_id = str(uuid4())
    asked = {"id": ping_id, "state": "asked"}
    await conn.execute(
        update(event_subscriptions).where(_subscriptions.subscription_id == subscription_id).values(ping=asked)
    )
    await notify(conn, subscription_id)
    return ping_id


async def replay(conn: AsyncConnection, subscription: Subscription, tenant_id: str, run_id: UUID) -> None:
    """Tell all events of a run again, from its first one."""
    values = {
        "subscription_id": subscription.subscription_id,
        "run_id": run_id,
        "tenant_id": tenant_id,
        "due_at": func.now(),
        "waiting_since": func.now(),
    }
    again = {
        "sent_epoch": 0,
        "sent_seq": 0,
        "since": None,
        "begun_at": func.now(),
        "marked": _publications.marked + 1,
        "due_at": func.now(),
        "attempts": 0,
        "failing_since": None,
        "claim": None,  # whoever is at it now finds that it has lost the claim
        "claimed_until": None,
    }
    statement = insert(event_publications).values(values)
    await conn.execute(statement.on_conflict_do_update(index_elements=["subscription_id", "run_id"], set_=again))
    await notify(conn, subscription.subscription_id)


async def progress_of(conn: AsyncConnection, subscription_ids: Sequence[UUID]) -> dict[UUID, Progress]:
    """How do these keep up?"""
    async with across_tenants(conn):  # some may be of all of them
        rows = (await conn.execute(_PROGRESS, {"subscriptions": list(subscription_ids)})).mappings().all()
    return {row["subscription_id"]: Progress(**{one.name: row[one.name] for one in fields(Progress)}) for row in rows}


async def notify(conn: AsyncConnection, subscription_id: UUID) -> None:
    """Wake whoever tells subscriptions of events, when this transaction commits."""
    await conn.execute(select(func.pg_notify(CHANNEL, str(subscription_id))))


async def _read(conn: AsyncConnection, subscription_id: UUID) -> Subscription:
    query = select(*COLUMNS).where(_subscriptions.subscription_id == subscription_id)
    return subscription_of((await conn.execute(query)).mappings().one())


async def _changed(conn: AsyncConnection, subscription_id: UUID, by: str, **values: Any) -> Subscription:
    statement = update(event_subscriptions).where(_subscriptions.subscription_id == subscription_id)
    statement = statement.values(**values, updated_by=by, updated_at=func.now())
    row = (await conn.execute(statement.returning(*COLUMNS))).mappings().first()
    if row is None:
        raise NotFound(f"There is no subscription {subscription_id}.")
    await notify(conn, subscription_id)
    return subscription_of(row)


async def _start_feed(conn: AsyncConnection) -> None:
    """Lock the feed; where nobody has wanted it so far, it begins here: nobody reads what nobody is told."""
    await conn.execute(select(event_feed.c.name).with_for_update())
    async with across_tenants(conn):
        is_first = (await conn.execute(select(_subscriptions.subscription_id).limit(1))).first() is None
    if is_first:
        begin = "UPDATE event_feed SET transaction_id = pg_snapshot_xmin(pg_current_snapshot()), position = 0"
        await conn.execute(text(begin))


async def _mark_past(conn: AsyncConnection, made: Subscription) -> None:
    """Note the runs of which something was recorded before there was the subscription."""
    async with across_tenants(conn):  # it may be of all of them
        await conn.execute(_PAST, {"subscription": made.subscription_id})


_PAST = text(
    """
    INSERT INTO event_publications (subscription_id, run_id, tenant_id, since, due_at, waiting_since)
    SELECT s.subscription_id, r.run_id, r.tenant_id, s.since, now(), now()
    FROM event_subscriptions s JOIN execution_runs r ON r.tenant_id = s.tenant_id OR s.all_tenants
    WHERE s.subscription_id = :subscription AND r.last_updated_at >= s.since AND r.head_seq > 0
      AND (s.plans = '{}' OR r.plan_name = ANY (s.plans) OR r.plan_id::text = ANY (s.plans))
    ORDER BY r.run_id
    ON CONFLICT DO NOTHING
    """
)
_PROGRESS = text(
    f"""
    SELECT s.subscription_id, coalesce(p.waiting_runs, 0) AS waiting_runs, p.waiting_since,
           coalesce(p.failing_runs, 0) AS failing_runs, p.next_attempt_at,
           (SELECT count(*) FROM event_dead_letters d WHERE d.subscription_id = s.subscription_id) AS dead_letters,
           (SELECT count(*) FROM (
              SELECT 1 FROM event_publications w JOIN run_events e ON e.run_id = w.run_id
                AND (e.epoch, e.seq) > (w.sent_epoch, w.sent_seq)
                AND (s.types = '{{}}' OR e.type = ANY (s.types))
                AND (w.since IS NULL OR e.recorded_at >= w.since)
              WHERE w.subscription_id = s.subscription_id AND w.due_at IS NOT NULL LIMIT {MAX_COUNTED}
           ) AS waiting) AS waiting_events
    FROM event_subscriptions s LEFT JOIN (
      SELECT subscription_id, count(*) AS waiting_runs, min(waiting_since) AS waiting_since,
             count(*) FILTER (WHERE attempts > 0) AS failing_runs,
             min(due_at) FILTER (WHERE attempts > 0) AS next_attempt_at
      FROM event_publications WHERE due_at IS NOT NULL AND subscription_id = ANY (:subscriptions) GROUP BY 1
    ) p ON p.subscription_id = s.subscription_id
    WHERE s.subscription_id = ANY (:subscriptions)
    """  # noqa: S608 - a constant of this file
)
