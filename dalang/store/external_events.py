"""Events that are sent to whoever waits for them, and their way to runs.

An event goes to every run that waits for its name and key, now or before it expires. Which pairs there are is said by
three tables together, looked at again and again: an event, a node that waits (whose newest event says so), no delivery.
So whichever comes first, and whatever crashes in between, a pair is found; a delivery without its mark is sent again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.canonical import digest
from dalang.errors import Conflict
from dalang.store.chain import Transition
from dalang.store.inbound_tables import event_deliveries, event_waits, external_events
from dalang.store.tables import execution_runs, node_executions

CHANNEL = "dalang_inbound"
"""What is notified (LISTEN/NOTIFY) when there may be something to deliver."""
KEEP_EXPIRED = timedelta(hours=1)
"""So long after its end an event is kept: a run's wait is stored a little after it began."""
BATCH = 100

_events, _waits, _deliveries = external_events.c, event_waits.c, event_deliveries.c
_nodes, _runs = node_executions.c, execution_runs.c


@dataclass(frozen=True)
class NewEvent:
    """An event as it was sent."""

    tenant_id: str
    event_id: str
    name: str
    correlation_key: str
    payload: Mapping[str, Any]
    created_by: str
    ttl: timedelta


@dataclass(frozen=True)
class StoredEvent:
    """An event; ``deliveries`` are the runs it goes to, with the time at which Temporal had taken it."""

    event_id: str
    name: str
    correlation_key: str
    payload: Any
    created_by: str
    created_at: datetime
    expires_at: datetime
    deliveries: Sequence[tuple[UUID, datetime | None]] = ()


@dataclass(frozen=True)
class Delivery:
    """An event on its way to a run."""

    tenant_id: str
    event_id: str
    run_id: UUID
    epoch: int
    workflow_id: str | None
    name: str
    correlation_key: str
    payload: Any


async def put_event(conn: AsyncConnection, new: NewEvent) -> bool:
    """Keep an event; False when it was sent before.

    Raises:
        Conflict: another one was sent with this id.
    """
    content = digest([new.name, new.correlation_key, dict(new.payload)])
    values = {
        "tenant_id": new.tenant_id,
        "event_id": new.event_id,
        "name": new.name,
        "correlation_key": new.correlation_key,
        "payload": dict(new.payload),
        "digest": content,
        "created_by": new.created_by,
        "expires_at": func.now() + new.ttl,
    }
    made = await conn.execute(insert(external_events).values(values).on_conflict_do_nothing().returning(_events.digest))
    if made.first() is not None:
        await conn.execute(select(func.pg_notify(CHANNEL, "")))
        return True
    of_event = (_events.tenant_id == new.tenant_id) & (_events.event_id == new.event_id)
    known = (await conn.execute(select(_events.digest).where(of_event))).scalar_one_or_none()
    if known not in (None, content):
        raise Conflict(f"The eventId {new.event_id!r} was used for another event.")
    return False


async def get_event(conn: AsyncConnection, tenant_id: str, event_id: str) -> StoredEvent | None:
    """Which event is this, and which runs did it reach?"""
    columns = [_events[one.name] for one in fields(StoredEvent) if one.name != "deliveries"]
    query = select(*columns).where(_events.tenant_id == tenant_id, _events.event_id == event_id)
    row = (await conn.execute(query)).first()
    if row is None:
        return None
    of_event = (_deliveries.tenant_id == tenant_id) & (_deliveries.event_id == event_id)
    reached = select(_deliveries.run_id, func.max(_deliveries.delivered_at)).where(of_event)
    rows = await conn.execute(reached.group_by(_deliveries.run_id).order_by(func.min(_deliveries.created_at)))
    found = StoredEvent(*row)
    return replace(found, deliveries=[(run_id, at) for run_id, at in rows])


async def note_waits(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, epoch: int, events: Sequence[Transition]
) -> None:
    """Note who began to wait for which event, in a flush of these events."""
    rows = {
        event.node_id: {
            "tenant_id": tenant_id,
            "run_id": run_id,
            "node_id": event.node_id,
            "name": event.data["event"],
            "correlation_key": event.data["key"],
            "epoch": epoch,
            "seq": event.seq,
            "since": event.at,
        }
        for event in events
        if event.type == "NODE_WAITING" and isinstance(event.data.get("event"), str) and "key" in event.data
    }
    if not rows:
        return
    statement = insert(event_waits)
    changed = {name: statement.excluded[name] for name in ("name", "correlation_key", "epoch", "seq", "since")}
    key = ["tenant_id", "run_id", "node_id"]
    await conn.execute(statement.on_conflict_do_update(index_elements=key, set_=changed), list(rows.values()))
    await conn.execute(select(func.pg_notify(CHANNEL, "")))


async def match_events(conn: AsyncConnection) -> int:
    """Make a delivery for every event and run that have none and belong together; return how many."""
    waits_still = and_(
        _nodes.run_id == _waits.run_id,
        _nodes.node_id == _waits.node_id,
        _nodes.revision_epoch == _waits.epoch,
        _nodes.revision == _waits.seq,
    )
    meets = and_(
        _events.tenant_id == _waits.tenant_id,
        _events.name == _waits.name,
        _events.correlation_key == _waits.correlation_key,
        _events.expires_at >= _waits.since,
    )
    goes_on = and_(_runs.tenant_id == _waits.tenant_id, _runs.run_id == _waits.run_id, _runs.completed_at.is_(None))
    known = select(_deliveries.event_id).where(
        _deliveries.tenant_id == _events.tenant_id,
        _deliveries.event_id == _events.event_id,
        _deliveries.run_id == _waits.run_id,
        _deliveries.epoch == _runs.head_epoch,
    )
    pairs = (
        select(_events.tenant_id, _events.event_id, _waits.run_id, _runs.head_epoch, _events.position)
        .distinct()
        .select_from(
            event_waits.join(external_events, meets).join(node_executions, waits_still).join(execution_runs, goes_on)
        )
        .where(~known.exists())
    )
    names = ["tenant_id", "event_id", "run_id", "epoch", "position"]
    made = await conn.execute(insert(event_deliveries).from_select(names, pairs).on_conflict_do_nothing())
    return int(made.rowcount)


async def lock_deliveries(conn: AsyncConnection, limit: int = BATCH) -> list[Delivery]:
    """Which events are to be sent, the oldest first? They stay locked until the transaction ends."""
    columns = [*(_deliveries[name] for name in ("tenant_id", "event_id", "run_id", "epoch")), _runs.workflow_id]
    columns += [_events.name, _events.correlation_key, _events.payload]
    of_run = (_runs.tenant_id == _deliveries.tenant_id) & (_runs.run_id == _deliveries.run_id)
    of_event = (_events.tenant_id == _deliveries.tenant_id) & (_events.event_id == _deliveries.event_id)
    query = (
        select(*columns)
        .select_from(event_deliveries.join(external_events, of_event).join(execution_runs, of_run))
        .where(_deliveries.delivered_at.is_(None))
        .order_by(_deliveries.position)
        .limit(limit)
        .with_for_update(of=event_deliveries, skip_locked=True)
    )
    return [Delivery(*row) for row in await conn.execute(query)]


async def mark_delivered(conn: AsyncConnection, sent: Sequence[Delivery]) -> None:
    """Note that Temporal has taken them."""
    if sent:
        key = tuple_(_deliveries.tenant_id, _deliveries.event_id, _deliveries.run_id, _deliveries.epoch)
        keys = [(one.tenant_id, one.event_id, one.run_id, one.epoch) for one in sent]
        await conn.execute(update(event_deliveries).where(key.in_(keys)).values(delivered_at=func.now()))


async def delete_expired_events(conn: AsyncConnection, limit: int = 1_000) -> int:
    """Delete events that have expired, and notes of waits that are over; return how many events."""
    old = select(_events.tenant_id, _events.event_id).where(_events.expires_at < func.now() - KEEP_EXPIRED).limit(limit)
    chosen = old.with_for_update(skip_locked=True).cte("chosen")
    gone = (_events.tenant_id == chosen.c.tenant_id) & (_events.event_id == chosen.c.event_id)
    deleted = await conn.execute(delete(external_events).where(gone))
    newer = or_(
        _nodes.revision_epoch > _waits.epoch,
        and_(_nodes.revision_epoch == _waits.epoch, _nodes.revision > _waits.seq),
    )
    is_over = select(_nodes.node_id).where(_nodes.run_id == _waits.run_id, _nodes.node_id == _waits.node_id, newer)
    await conn.execute(delete(event_waits).where(is_over.exists()))
    return int(deleted.rowcount)
