"""Events of runs, as the stream and the audit trail read them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from sqlalchemy import Text, and_, any_, bindparam, null, or_, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.event_actors import seen
from dalang.event_types import EventType
from dalang.store.references import resolve
from dalang.store.tables import event_bodies, run_events

_events = run_events.c


@dataclass(frozen=True)
class Event:
    """One event. ``at`` is the workflow's time, ``recorded_at`` the database's.

    ``body`` is None when it was not asked for, was erased, or there is none; ``body_digest`` tells the last two apart.
    ``superseded``: a reset took the run back to before it.
    """

    run_id: UUID
    epoch: int
    seq: int
    type: str
    node_id: str | None
    at: datetime
    data: dict[str, Any]
    body_digest: str | None
    previous_hash: str
    hash: str
    superseded: bool
    recorded_at: datetime
    audit: dict[str, Any] | None
    body: Any

    @cached_property
    def seen(self) -> dict[str, Any]:
        """Who did it, how grave it is, what it belongs to: ``actor``, ``level``, ``tags``, ``context``."""
        return seen(self.type, self.data, self.audit)

    @property
    def id(self) -> str:
        """The event's id in streams: ``epoch.seq``, which only rises within a run."""
        return f"{self.epoch}.{self.seq}"


_COLUMNS = [_events[one.name] for one in fields(Event) if one.name != "body"]
_NAMES = [one.name for one in fields(Event)]
_stored = event_bodies.c
_SAME = (_stored.run_id == _events.run_id) & (_stored.epoch == _events.epoch) & (_stored.seq == _events.seq)


async def list_events(
    conn: AsyncConnection,
    tenant_id: str,
    run_id: UUID,
    *,
    after: tuple[int, int] | None = None,
    until: tuple[int, int] | None = None,
    limit: int = 500,
    node_id: str | None = None,
    types: Collection[str] = (),
    superseded: bool = True,
    bodies: bool = False,
    resolved: bool = False,
) -> list[Event]:
    """What happened in a run after the event (epoch, seq), in order? ``types`` are all by default.

    ``bodies``: with what users put in; ``resolved``: large values filled in instead of references to them.
    """
    if bodies:
        query = select(*_COLUMNS, event_bodies.c.body).select_from(run_events.outerjoin(event_bodies, _SAME))
    else:
        query = select(*_COLUMNS, null())
    query = query.where(_events.tenant_id == tenant_id, _events.run_id == run_id)
    if after is not None:
        query = query.where(tuple_(_events.epoch, _events.seq) > tuple_(*after))
    if until is not None:
        query = query.where(tuple_(_events.epoch, _events.seq) <= tuple_(*until))
    if node_id is not None:
        query = query.where(_events.node_id == node_id)
    if types:
        query = query.where(_events.type == any_(bindparam("types", list(types), ARRAY(Text))))
    if not superseded:
        query = query.where(~_events.superseded)
    rows = await conn.execute(query.order_by(_events.epoch, _events.seq).limit(limit))
    found = [dict(zip(_NAMES, row, strict=True)) for row in rows]
    if bodies and resolved:
        whole = await resolve(conn, tenant_id, [values["body"] for values in found])
        found = [{**values, "body": body} for values, body in zip(found, whole, strict=True)]
    return [Event(**values) for values in found]


async def event_later(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, *, after: tuple[int, int] | None, count: int
) -> tuple[int, int] | None:
    """Which is the event of a run so many after that one, by epoch and seq? None: there are no more than so many."""
    query = select(_events.epoch, _events.seq).where(_events.tenant_id == tenant_id, _events.run_id == run_id)
    if after is not None:
        query = query.where(tuple_(_events.epoch, _events.seq) > tuple_(*after))
    ordered = query.order_by(_events.epoch, _events.seq).offset(count - 1).limit(2)
    rows = [(row.epoch, row.seq) for row in await conn.execute(ordered)]
    return rows[0] if len(rows) == 2 else None


async def list_events_of_nodes(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, nodes: Collection[str], *, types: Collection[str], limit: int
) -> list[Event]:
    """What happened to these nodes, and which of these types to the run itself, in order, and with what users put in?

    Without what a reset took back.
    """
    query = select(*_COLUMNS, _stored.body).select_from(run_events.outerjoin(event_bodies, _SAME))
    query = query.where(_events.tenant_id == tenant_id, _events.run_id == run_id, ~_events.superseded)
    query = query.order_by(_events.epoch, _events.seq).limit(limit)
    of_nodes = query.where(_events.node_id == any_(bindparam("nodes", list(nodes), ARRAY(Text))))
    of_run = query.where(_events.node_id.is_(None), _events.type == any_(bindparam("types", list(types), ARRAY(Text))))
    rows = [*await conn.execute(of_nodes), *await conn.execute(of_run)]
    found = [Event(**dict(zip(_NAMES, row, strict=True))) for row in rows]
    return sorted(found, key=lambda event: (event.epoch, event.seq))[:limit]


_earlier = run_events.alias("earlier")
_ENDS = (EventType.NODE_COMPLETED, EventType.NODE_FAILED, EventType.NODE_ERROR, EventType.NODE_SKIPPED)
_BEGIN = (EventType.NODE_STARTED, EventType.NODE_KEPT, EventType.NODE_COMPENSATING)


async def list_beginnings(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, *, after: tuple[int, int] | None, limit: int
) -> list[tuple[tuple[int, int], str]]:
    """With which events after that one, and of which nodes, may executions have begun, in order? All that did are here.

    Without what a reset took back. An end is one if nothing had started: somebody gave what was never done.
    """
    one = _earlier.c
    before = select(one.type).where(one.run_id == _events.run_id, one.node_id == _events.node_id, ~one.superseded)
    before = before.where(one.type.in_((EventType.NODE_STARTED, EventType.NODE_CANCELLED, *_ENDS)))
    before = before.where(tuple_(one.epoch, one.seq) < tuple_(_events.epoch, _events.seq))
    last = before.order_by(one.epoch.desc(), one.seq.desc()).limit(1).scalar_subquery()
    tells = or_(_events.type != EventType.NODE_SKIPPED, _events.body_digest.is_not(None))
    ends = and_(_events.type.in_(_ENDS), tells, last.is_distinct_from(EventType.NODE_STARTED))
    query = select(_events.epoch, _events.seq, _events.node_id)
    query = query.where(_events.tenant_id == tenant_id, _events.run_id == run_id, ~_events.superseded)
    query = query.where(or_(_events.type.in_(_BEGIN), ends))
    if after is not None:
        query = query.where(tuple_(_events.epoch, _events.seq) > tuple_(*after))
    rows = await conn.execute(query.order_by(_events.epoch, _events.seq).limit(limit))
    return [((epoch, seq), str(node_id)) for epoch, seq, node_id in rows]


async def list_events_of_task(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, task_id: UUID, *, limit: int = 500
) -> list[Event]:
    """What happened to a human task, in order, with what people said? Without what a reset took back."""
    query = select(*_COLUMNS, _stored.body).select_from(run_events.outerjoin(event_bodies, _SAME))
    query = query.where(_events.tenant_id == tenant_id, _events.run_id == run_id, ~_events.superseded)
    query = query.where(_events.data["task"].astext == str(task_id)).order_by(_events.epoch, _events.seq).limit(limit)
    rows = await conn.execute(query)
    return [Event(**dict(zip(_NAMES, row, strict=True))) for row in rows]
