"""Pools and quotas, as operators set them. What is used: ``utilization.py``; who is granted what: ``leases.py``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, literal, select, true, union
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.errors import Conflict
from dalang.needs import CAPABILITY, CPU, EVERY_NODE, MEMORY
from dalang.store.admission_tables import SHARED, agents, resource_pools, tenant_quotas

_pool, _quota, _agent = resource_pools.c, tenant_quotas.c, agents.c

MAX_POOLS = 1_000
"""Of one tenant, and of all together: each grant pass reads them."""


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


async def put_pool(conn: AsyncConnection, pool: dict[str, Any]) -> Pool:
    """Make or change a pool. What is held stays held: a pool that shrinks grants nothing until it fits again.

    Raises:
        Conflict: there are as many as there may be.
    """
    others = (_pool.tenant_id == pool["tenant_id"], _pool.name != pool["name"])
    if (await conn.execute(select(func.count()).where(*others))).scalar_one() >= MAX_POOLS:
        raise Conflict(f"There are {MAX_POOLS:,} pools, which is as many as there may be.")
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


async def limited_names(conn: AsyncConnection, tenant_id: str) -> list[str]:
    """Return the names of all that is limited for this tenant, sorted; ``*`` when each of its nodes needs a lease."""
    is_seen, is_own = _agent.tenant_id.in_((tenant_id, SHARED)), _quota.tenant_id == tenant_id
    offered = func.jsonb_object_keys(_agent.capabilities).table_valued("name", name="offered").render_derived()
    names = union(
        select(_pool.name.label("name")).where(_pool.tenant_id.in_((tenant_id, SHARED))),
        select(literal(CAPABILITY) + _agent.agent_id).where(is_seen),
        select(literal(CAPABILITY) + offered.c.name).select_from(agents.join(offered, true())).where(is_seen),
        select(literal(EVERY_NODE)).where(is_own, _quota.max_nodes.is_not(None)),
        select(literal(CPU)).where(is_own, _quota.cpu_cores.is_not(None)),
        select(literal(MEMORY)).where(is_own, _quota.memory_mb.is_not(None)),
    )
    return sorted(row.name for row in await conn.execute(names))


def _pool_of(row: Any) -> Pool:
    return Pool(row.tenant_id, row.name, row.size, row.rate, row.burst, row.description, row.updated_by, row.updated_at)


async def largest_amounts(conn: AsyncConnection, tenant_id: str) -> tuple[dict[str, float], frozenset[str]]:
    """How much of each pool can a node of this tenant have at most, by its quota, too; and which pools are there?"""
    pools = {one.name: one for one in sorted(await list_pools(conn, tenant_id), key=lambda one: one.tenant_id)}
    most: dict[str, float] = {}
    for name, pool in pools.items():
        bounds = [bound for bound in (pool.size, pool.burst) if bound is not None]
        most[name] = min(bounds)
    quota = await get_quota(conn, tenant_id)
    lines = ((CPU, quota.cpu_cores), (MEMORY, quota.memory_mb)) if quota is not None else ()
    for name, amount in lines:
        if amount is not None:
            most[name] = min(amount, most.get(name, amount))
    return most, frozenset(pools)
