"""Pools, quotas and what is used of them: what operators set and look at. Who is granted what is ``leases.py``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Float, cast, delete, func, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.needs import CAPABILITY, EVERY_NODE
from dalang.store.admission_tables import SHARED, agents, leases, resource_pools, tenant_quotas

_pool, _quota, _lease, _agent = resource_pools.c, tenant_quotas.c, leases.c, agents.c


@dataclass(frozen=True)
class Pool:
    """A pool as it is configured; tenant '' is everybody's."""

    tenant_id: str
    name: str
    size: float | None
    rate: float | None
    burst: float | None
    description: str
    updated_by: str
    updated_at: datetime


@dataclass(frozen=True)
class Quota:
    """What a tenant may use at once; None is as much as there is."""

    tenant_id: str
    max_nodes: int | None
    cpu_cores: float | None
    memory_mb: float | None
    weight: float
    updated_by: str
    updated_at: datetime


@dataclass(frozen=True)
class Use:
    """How much of a pool, or of one key of it, is held, and how many nodes wait that ask for it."""

    name: str
    held: float
    leases: int
    waiting: int


@dataclass(frozen=True)
class Queue:
    """Those of a tenant that wait for a lease."""

    tenant_id: str
    size: int
    oldest: datetime
    active: int


async def put_pool(conn: AsyncConnection, pool: dict[str, Any]) -> Pool:
    """Make or change a pool. What is held stays held: a pool that shrinks grants nothing until it fits again."""
    changes = {name: pool[name] for name in ("size", "rate", "burst", "description", "updated_by")}
    statement = insert(resource_pools).values(pool)
    statement = statement.on_conflict_do_update(
        index_elements=["tenant_id", "name"], set_={**changes, "updated_at": func.now()}
    )
    row = (await conn.execute(statement.returning(*resource_pools.c))).one()
    return _pool_of(row)


async def delete_pool(conn: AsyncConnection, tenant_id: str, name: str) -> bool:
    """Limit it no more; tell whether there was such a pool."""
    gone = await conn.execute(delete(resource_pools).where(_pool.tenant_id == tenant_id, _pool.name == name))
    return gone.rowcount > 0


async def list_pools(conn: AsyncConnection, tenant_id: str) -> list[Pool]:
    """Which pools bind this tenant: its own, and those of everybody."""
    rows = await conn.execute(
        select(resource_pools).where(_pool.tenant_id.in_((tenant_id, SHARED))).order_by(_pool.name, _pool.tenant_id)
    )
    return [_pool_of(row) for row in rows]


async def put_quota(conn: AsyncConnection, quota: dict[str, Any]) -> Quota:
    """Set what a tenant may use at once."""
    changes = {name: quota[name] for name in ("max_nodes", "cpu_cores", "memory_mb", "weight", "updated_by")}
    statement = insert(tenant_quotas).values(quota)
    statement = statement.on_conflict_do_update(
        index_elements=["tenant_id"], set_={**changes, "updated_at": func.now()}
    )
    return Quota(*(await conn.execute(statement.returning(*tenant_quotas.c))).one())


async def get_quota(conn: AsyncConnection, tenant_id: str) -> Quota | None:
    """What may this tenant use at once?"""
    row = (await conn.execute(select(tenant_quotas).where(_quota.tenant_id == tenant_id))).first()
    return None if row is None else Quota(*row)


async def delete_quota(conn: AsyncConnection, tenant_id: str) -> bool:
    """Let a tenant use as much as there is; tell whether it had a quota."""
    return (await conn.execute(delete(tenant_quotas).where(_quota.tenant_id == tenant_id))).rowcount > 0


async def uses(conn: AsyncConnection, tenant_id: str | None = None) -> dict[str, Use]:
    """How much of every pool is held and wanted, by ``name`` or ``name/key``; of one tenant, or of all."""
    amount = func.jsonb_each_text(_lease.amounts).table_valued("key", "value", name="amount").render_derived()
    is_granted = _lease.state == "GRANTED"
    query = (
        select(
            amount.c.key,
            func.coalesce(func.sum(cast(amount.c.value, Float)).filter(is_granted), 0.0),
            func.count().filter(is_granted),
            func.count().filter(_lease.state == "WAITING"),
        )
        .select_from(leases.join(amount, true()))
        .where(_lease.ended_at.is_(None), *(() if tenant_id is None else (_lease.tenant_id == tenant_id,)))
        .group_by(amount.c.key)
    )
    return {row[0]: Use(*row) for row in await conn.execute(query)}


async def queues(conn: AsyncConnection, tenant_id: str | None = None) -> list[Queue]:
    """Who waits, and how many hold a lease, by tenant; of one tenant, or of all."""
    of_tenant = () if tenant_id is None else (_lease.tenant_id == tenant_id,)
    waits = _lease.state == "WAITING"
    rows = await conn.execute(
        select(
            _lease.tenant_id,
            func.count().filter(waits),
            func.coalesce(func.min(_lease.asked_at).filter(waits), func.now()),
            func.count().filter(_lease.state == "GRANTED"),
        )
        .where(_lease.ended_at.is_(None), *of_tenant)
        .group_by(_lease.tenant_id)
        .order_by(_lease.tenant_id)
    )
    return [Queue(*row) for row in rows]


async def limited_names(conn: AsyncConnection, tenant_id: str) -> list[str]:
    """Return the names of all that is limited for this tenant, sorted; ``*`` when each of its nodes needs a lease."""
    scope = (tenant_id, SHARED)
    names = {row.name for row in await conn.execute(select(_pool.name).where(_pool.tenant_id.in_(scope)))}
    for row in await conn.execute(select(_agent.agent_id, _agent.capabilities).where(_agent.tenant_id.in_(scope))):
        names |= {CAPABILITY + name for name in (row.agent_id, *row.capabilities)}
    quota = await get_quota(conn, tenant_id)
    if quota is not None and quota.max_nodes is not None:
        names.add(EVERY_NODE)
    if quota is not None:
        lines = (("cpu", quota.cpu_cores), ("memory", quota.memory_mb))
        names |= {name for name, amount in lines if amount is not None}
    return sorted(names)


def _pool_of(row: Any) -> Pool:
    return Pool(row.tenant_id, row.name, row.size, row.rate, row.burst, row.description, row.updated_by, row.updated_at)
