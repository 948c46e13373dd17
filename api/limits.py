"""Pools and quotas: what is limited.

A tenant's operators set its own pools. What all tenants share, and what the tenant may use at most, takes an admin.
Of a shared pool a tenant sees how much is in use, never whose nodes use it, nor the keys that only others use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response

from dalang.api.auth import ADMINS, Admin, Operator, Principal, Reader
from dalang.api.bodies import body_schema, small_body
from dalang.api.limit_schemas import (
    POOL_NAME,
    KeyUse,
    OwnUse,
    PoolItem,
    PoolList,
    PoolRequest,
    PoolScope,
    QuotaItem,
    QuotaRequest,
    Resource,
    Utilization,
)
from dalang.api.problems import Forbidden
from dalang.api.services import DATABASE_SECONDS, Service, Services
from dalang.errors import NotFound
from dalang.store import leases
from dalang.store.admission_tables import SHARED
from dalang.store.engine import system_transaction
from dalang.store.pools import (
    Pool,
    Quota,
    delete_pool,
    delete_quota,
    get_quota,
    list_pools,
    put_pool,
    put_quota,
)
from dalang.store.utilization import Held, Use, buckets, held_by, pool_uses

router = APIRouter(prefix="/orchestrator", tags=["limits"])
logger = logging.getLogger("dalang.api")

Name = Annotated[str, Path(pattern=POOL_NAME)]
PoolBody = Annotated[PoolRequest, Depends(small_body(PoolRequest, optional=False))]
QuotaBody = Annotated[QuotaRequest, Depends(small_body(QuotaRequest, optional=False))]
Place = tuple[str, str, str]
"""Tenant, name and key of a pool."""


@router.get("/pools")
async def get_pools(who: Reader, it: Service) -> PoolList:
    """List the pools that bind the tenant, its own and the shared ones, with what of them is in use."""
    return PoolList(items=await _pools(who, it))


@router.get("/pools/{name}")
async def get_pool(who: Reader, name: Name, query: Annotated[PoolScope, Query()], it: Service) -> PoolItem:
    """Read a pool of the tenant, or the shared one of that name."""
    return _named(await _pools(who, it), name, query.shared)


@router.put("/pools/{name}", openapi_extra=body_schema("application/json", model=PoolRequest))
async def set_pool(
    who: Operator, name: Name, query: Annotated[PoolScope, Query()], body: PoolBody, it: Service
) -> PoolItem:
    """Make or change a pool; runs that start from now on ask for it, and who waits gets what is free now."""
    row = {
        **body.model_dump(),
        "burst": None if body.rate is None else body.burst or max(body.rate, 1.0),
        "tenant_id": _owner(who, query),
        "name": name,
        "updated_by": who.subject,
    }
    async with it.owners_transaction(_owner(who, query)) as conn:
        await put_pool(conn, row)
    await _let_go_on(it)
    return _named(await _pools(who, it), name, query.shared)


@router.delete("/pools/{name}", status_code=204, response_class=Response)
async def remove_pool(who: Operator, name: Name, query: Annotated[PoolScope, Query()], it: Service) -> None:
    """Limit it no more; who waits for nothing else goes on."""
    async with it.owners_transaction(_owner(who, query)) as conn:
        if not await delete_pool(conn, _owner(who, query), name):
            raise _no_pool(name, query.shared)
    await _let_go_on(it)


@router.get("/quotas")
async def get_quotas(who: Reader, it: Service) -> QuotaItem:
    """Read what the tenant may use at once, and what it uses."""
    async with it.transaction(who.tenant_id, snapshot=True) as conn:
        return _quota_item(await get_quota(conn, who.tenant_id), await held_by(conn, who.tenant_id))


@router.put("/quotas", openapi_extra=body_schema("application/json", model=QuotaRequest))
async def set_quotas(who: Admin, body: QuotaBody, it: Service) -> QuotaItem:
    """Set what the tenant may use at once, all lines of it; takes an admin."""
    row = {**body.model_dump(), "tenant_id": who.tenant_id, "updated_by": who.subject}
    async with it.transaction(who.tenant_id) as conn:
        quota = await put_quota(conn, row)
        held = await held_by(conn, who.tenant_id)
    await _let_go_on(it)
    return _quota_item(quota, held)


@router.delete("/quotas", status_code=204, response_class=Response)
async def clear_quotas(who: Admin, it: Service) -> None:
    """Let the tenant use as much as there is, with a share like everybody's; takes an admin."""
    async with it.transaction(who.tenant_id) as conn:
        if not await delete_quota(conn, who.tenant_id):
            raise NotFound("The tenant has no quota.")
    await _let_go_on(it)


@router.get("/utilization")
async def get_utilization(who: Reader, it: Service) -> Utilization:
    """Read how much of each pool and of the quota is in use, in percent (Wayang: getUtilization)."""
    items = []
    for pool in await _pools(who, it):
        if not pool.binding or pool.size is None:
            continue
        if pool.used or not pool.keys:
            items.append(_resource(pool.name, pool.size, pool.used))
        items += [_resource(f"{pool.name}/{one.key}", pool.size, one.used) for one in pool.keys]
    quota = await get_quotas(who, it)
    lines = (
        ("nodes", quota.max_nodes, quota.used_nodes),
        ("cpu", quota.cpu_cores, quota.used_cpu_cores),
        ("memory", quota.memory_mb, quota.used_memory_mb),
    )
    items += [_resource(f"quota {line}", total, used) for line, total, used in lines if total is not None]
    return Utilization(items=items)


def _owner(who: Principal, scope: PoolScope) -> str:
    """Return whose pool is changed.

    Raises:
        Forbidden: only an admin changes what all tenants share.
    """
    if scope.shared and not who.roles & ADMINS:
        raise Forbidden("Changing a pool that all tenants share needs the role admin.")
    return SHARED if scope.shared else who.tenant_id


async def _let_go_on(it: Services) -> None:
    """Grant what the change made possible; if this fails, a worker does it some seconds later."""
    try:
        async with asyncio.timeout(DATABASE_SECONDS), system_transaction(it.engine) as conn:
            await leases.grant(conn)
    except Exception as error:
        logger.warning("nothing was granted after a change of limits: %s", type(error).__name__)


def _no_pool(name: str, shared: bool) -> NotFound:
    return NotFound(f"There is no {'shared ' if shared else ''}pool {name!r}.")


def _named(items: list[PoolItem], name: str, shared: bool) -> PoolItem:
    for one in items:
        if (one.name, one.shared) == (name, shared):
            return one
    raise _no_pool(name, shared)


async def _pools(who: Principal, it: Services) -> list[PoolItem]:
    async with it.transaction(who.tenant_id, snapshot=True) as conn:
        pools = await list_pools(conn, who.tenant_id)
        uses = {(use.tenant_id, use.name, use.key): use for use in await pool_uses(conn, who.tenant_id)}
        tokens = {(one.tenant_id, one.name, one.key): one.tokens for one in await buckets(conn, who.tenant_id)}
    own = {pool.name for pool in pools if pool.tenant_id != SHARED}
    return [_item(pool, uses, tokens, pool.tenant_id != SHARED or pool.name not in own) for pool in pools]


def _item(pool: Pool, uses: Mapping[Place, Use], tokens: Mapping[Place, float], binding: bool) -> PoolItem:
    shared = pool.tenant_id == SHARED
    keys = [
        KeyUse(key=key, **_use(pool, use, tokens.get((owner, name, key), pool.burst)))
        for (owner, name, key), use in uses.items()
        if (owner, name) == (pool.tenant_id, pool.name) and key and (not shared or use.own_leases + use.own_waiting)
    ]
    place = (pool.tenant_id, pool.name, "")
    whole = uses.get(place) or Use(*place, 0, 0, 0, 0, 0, 0)
    names = ("name", "size", "rate", "burst", "description", "updated_at")
    return PoolItem(
        **{name: getattr(pool, name) for name in names},
        **_use(pool, whole, tokens.get(place, pool.burst)),
        shared=shared,
        binding=binding,
        updated_by=None if shared else pool.updated_by,
        keys=keys,
    )


def _use(pool: Pool, use: Use, tokens: float | None) -> dict[str, Any]:
    return {
        "total": pool.size,
        "used": use.held,
        "available": None if pool.size is None else max(pool.size - use.held, 0.0),
        "percent": None if pool.size is None else _percent(use.held, pool.size),
        "leases": use.leases,
        "waiting": use.waiting,
        "tokens": tokens,
        "own": OwnUse(used=use.own_held, leases=use.own_leases, waiting=use.own_waiting),
    }


def _percent(used: float, total: float) -> float:
    return round(100 * used / total, 2) if total else 100.0 if used else 0.0


def _resource(name: str, total: float, used: float) -> Resource:
    return Resource(name=name, total=total, used=used, available=max(total - used, 0.0), percent=_percent(used, total))


def _quota_item(quota: Quota | None, held: Held) -> QuotaItem:
    names = ("max_nodes", "cpu_cores", "memory_mb", "weight", "updated_by", "updated_at")
    given = {} if quota is None else {name: getattr(quota, name) for name in names}
    return QuotaItem(**given, used_nodes=held.nodes, used_cpu_cores=held.cpu, used_memory_mb=held.memory)
