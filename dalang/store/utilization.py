"""Who holds and waits for what: pools and quotas in use, the queue, active leases. Reads only; ``leases.py`` decides.

Of a shared pool everybody sees how much of it is in use, and nobody whose nodes those are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Float, and_, any_, bindparam, cast, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Integer, Text

from dalang.store.admission_tables import SHARED, leases, pool_buckets, resource_pools
from dalang.store.engine import across_tenants
from dalang.store.leases import service_order
from dalang.store.paging import Page, after, read_cursor, write_cursor
from dalang.store.tables import run_events
from dalang.wire import EventType

_l, _pool = leases.c, resource_pools.c
TURN = "its turn"
"""What those wait for that nobody has looked at yet, or for whom everything is there but kept for others."""


@dataclass(frozen=True)
class Use:
    """How much of a pool, or of one key of it, is held, and how many nodes wait that ask for it; ``own``: of them."""

    tenant_id: str
    """Whose pool it is; '' is everybody's."""
    name: str
    key: str
    held: float
    leases: int
    waiting: int
    own_held: float
    own_leases: int
    own_waiting: int


@dataclass(frozen=True)
class Bucket:
    """What a rate lets through now, of one key: ``tokens``, and more as time goes on."""

    tenant_id: str
    name: str
    key: str
    tokens: float


@dataclass(frozen=True)
class Held:
    """What a tenant holds in all."""

    nodes: int
    cpu: float
    memory: float


@dataclass(frozen=True)
class Waiting:
    """A node that waits for a lease. ``position`` is its place, from 1, among all that wait, of all tenants."""

    run_id: UUID
    node_id: str
    position: int
    short: tuple[str, ...]
    priority: int
    asked_at: datetime


@dataclass(frozen=True)
class QueueStatistics:
    """The queue of a tenant: ``reasons`` counts who waits for what, and who waits for several things at each."""

    size: int
    oldest: datetime | None
    active: int
    everybody: int
    """How many nodes wait, of all tenants."""
    reasons: dict[str, int]


@dataclass(frozen=True)
class Allocation:
    """A lease that is held."""

    lease_id: UUID
    run_id: UUID
    node_id: str
    amounts: dict[str, float]
    agent_id: str | None
    asked_at: datetime
    granted_at: datetime


def _amounts() -> Any:
    return func.jsonb_each_text(_l.amounts).table_valued("key", "value", name="amount").render_derived()


async def pool_uses(conn: AsyncConnection, tenant_id: str) -> list[Use]:
    """How much of each pool that binds this tenant, and of each key of it, is held and waited for?

    Of a shared pool that is the use of all tenants that have no pool of that name themselves.
    """
    amount = _amounts()
    name, key = func.split_part(amount.c.key, "/", 1), func.substr(amount.c.key, func.strpos(amount.c.key, "/") + 1)
    own_pool = resource_pools.alias("own_pool")
    owner = func.coalesce(own_pool.c.tenant_id, SHARED)
    value, is_own = cast(amount.c.value, Float), _l.tenant_id == tenant_id
    granted, waits = _l.state == "GRANTED", _l.state == "WAITING"
    query = (
        select(
            owner,
            name,
            # What has no key stands there by its name alone.
            func.coalesce(func.nullif(key, amount.c.key), ""),
            func.coalesce(func.sum(value).filter(granted), 0.0),
            func.count().filter(granted),
            func.count().filter(waits),
            func.coalesce(func.sum(value).filter(granted, is_own), 0.0),
            func.count().filter(granted, is_own),
            func.count().filter(waits, is_own),
        )
        .select_from(
            leases.join(amount, true()).outerjoin(
                own_pool, and_(own_pool.c.tenant_id == _l.tenant_id, own_pool.c.name == name)
            )
        )
        .where(_l.ended_at.is_(None), owner.in_((tenant_id, SHARED)))
        .group_by(owner, amount.c.key)
        .order_by(amount.c.key)
    )
    async with across_tenants(conn):
        return [Use(*row) for row in await conn.execute(query)]


async def buckets(conn: AsyncConnection, tenant_id: str) -> list[Bucket]:
    """How much do the rates that bind this tenant let through now? Full buckets that nobody used are left out."""
    bucket = pool_buckets.c
    age = func.extract("epoch", func.now() - bucket.at)
    tokens = func.least(_pool.burst, bucket.tokens + _pool.rate * func.greatest(age, 0))
    is_of = and_(_pool.tenant_id == bucket.tenant_id, _pool.name == bucket.name)
    rows = await conn.execute(
        select(bucket.tenant_id, bucket.name, bucket.key, cast(tokens, Float))
        .select_from(pool_buckets.join(resource_pools, is_of))
        .where(bucket.tenant_id.in_((tenant_id, SHARED)), _pool.rate.is_not(None))
    )
    return [Bucket(*row) for row in rows]


async def held_by(conn: AsyncConnection, tenant_id: str) -> Held:
    """How much of its quota does this tenant use?"""
    amount = {name: func.sum(cast(_l.amounts[name].astext, Float)) for name in ("cpu", "memory")}
    row = await conn.execute(
        select(func.count(), func.coalesce(amount["cpu"], 0.0), func.coalesce(amount["memory"], 0.0)).where(
            _l.state == "GRANTED", _l.tenant_id == tenant_id
        )
    )
    return Held(*row.one())


async def waiting(
    conn: AsyncConnection, tenant_id: str, *, run_id: UUID | None = None, node_id: str | None = None, limit: int = 1_000
) -> list[Waiting]:
    """Which nodes of a tenant, or of one of its runs, wait for a lease, at which place, and for what?

    The place is that of priority and age; tenants take turns, so a tenant that holds little is served before its place.
    """
    place = cast(func.row_number().over(order_by=service_order()), Integer).label("place")
    columns = (_l.tenant_id, _l.run_id, _l.node_id, _l.short, _l.priority, _l.asked_at)
    inner = select(*columns, place).where(_l.state == "WAITING").subquery()
    found = inner.c
    query = select(found.run_id, found.node_id, found.place, found.short, found.priority, found.asked_at)
    query = query.where(found.tenant_id == tenant_id).order_by(found.place).limit(limit)
    if run_id is not None:
        query = query.where(found.run_id == run_id)
    if node_id is not None:
        query = query.where(found.node_id == node_id)
    async with across_tenants(conn):
        rows = (await conn.execute(query)).all()
    return [
        Waiting(row.run_id, row.node_id, row.place, tuple(row.short) or (TURN,), row.priority, row.asked_at)
        for row in rows
    ]


async def queue_statistics(conn: AsyncConnection, tenant_id: str) -> QueueStatistics:
    """How long is the queue of a tenant, how old, and what do they wait for?"""
    is_own, waits = _l.tenant_id == tenant_id, _l.state == "WAITING"
    counts = select(
        func.count().filter(waits, is_own).label("size"),
        func.min(_l.asked_at).filter(waits, is_own).label("oldest"),
        func.count().filter(_l.state == "GRANTED", is_own).label("active"),
        func.count().filter(waits).label("everybody"),
    ).where(_l.ended_at.is_(None))
    async with across_tenants(conn):
        row = (await conn.execute(counts)).one()
    rows = await conn.execute(select(_l.short, func.count()).where(waits, is_own).group_by(_l.short))
    reasons: Counter[str] = Counter()
    for short, count in rows:
        reasons.update(dict.fromkeys(short or (TURN,), count))
    return QueueStatistics(row.size, row.oldest, row.active, row.everybody, dict(reasons.most_common()))


async def allocations(
    conn: AsyncConnection, tenant_id: str, *, run_id: UUID | None = None, limit: int = 200, cursor: str | None = None
) -> Page[Allocation]:
    """Which leases are held by this tenant, or by one of its runs, the oldest first?"""
    columns = (_l.lease_id, _l.run_id, _l.node_id, _l.amounts, _l.agent_id, _l.asked_at, _l.granted_at)
    query = select(*columns).where(_l.state == "GRANTED", _l.tenant_id == tenant_id)
    if run_id is not None:
        query = query.where(_l.run_id == run_id)
    if cursor is not None:
        granted_at, lease_id = read_cursor(cursor, datetime, UUID)
        query = query.where(after((_l.granted_at, granted_at), (_l.lease_id, lease_id)))
    rows = await conn.execute(query.order_by(_l.granted_at, _l.lease_id).limit(limit + 1))
    items: Sequence[Allocation] = [Allocation(*row) for row in rows]
    more = len(items) > limit
    items = items[:limit]
    return Page(items, write_cursor(items[-1].granted_at, items[-1].lease_id) if more else None)


async def last_queued(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, node_ids: Sequence[str]
) -> dict[str, tuple[datetime, dict[str, Any]]]:
    """When, and with what data, did each of these nodes last become QUEUED?"""
    if not node_ids:
        return {}
    event = run_events.c
    is_one = event.node_id == any_(bindparam("nodes", list(node_ids), ARRAY(Text)))
    rows = await conn.execute(
        select(event.node_id, event.at, event.data)
        .where(event.tenant_id == tenant_id, event.run_id == run_id, event.type == EventType.NODE_QUEUED, is_one)
        .where(~event.superseded)
        .order_by(event.epoch, event.seq)
    )
    return {row.node_id: (row.at, row.data) for row in rows}
