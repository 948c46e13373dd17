"""What binds a tenant's runs when they begin, in one look: pools, quotas, agents, and the budget of the day.

Most tenants have set none of it, so one statement tells first whether there is anything to be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, bindparam, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.admission_tables import SHARED, agents, resource_pools, tenant_quotas
from dalang.store.budget_tables import tenant_budgets
from dalang.store.pools import largest_amounts, limited_names
from dalang.store.usage import spent_up

_TENANT: ColumnElement[str] = bindparam("tenant")
_SEEN = (_TENANT, SHARED)
_ANYTHING = select(
    or_(
        exists().where(resource_pools.c.tenant_id.in_(_SEEN)),
        exists().where(agents.c.tenant_id.in_(_SEEN)),
        exists().where(tenant_quotas.c.tenant_id == _TENANT),
    ),
    exists().where(tenant_budgets.c.tenant_id == _TENANT),
)


@dataclass(frozen=True)
class Bounds:
    """``limits`` are the names of what is limited, ``over`` the first measure of the budget that is spent.

    ``most`` is the largest amount of each pool that a node can have, ``pools`` are all there are.
    """

    limits: tuple[str, ...] = ()
    over: Mapping[str, Any] | None = None
    most: Mapping[str, float] = field(default_factory=dict)
    pools: frozenset[str] = frozenset()


async def bounds_of(conn: AsyncConnection, tenant_id: str) -> Bounds:
    """What binds this tenant now?"""
    limited, budgeted = (await conn.execute(_ANYTHING, {"tenant": tenant_id})).one()
    over = await spent_up(conn, tenant_id) if budgeted else None
    if not limited:
        return Bounds(over=over)
    most, pools = await largest_amounts(conn, tenant_id)
    return Bounds(tuple(await limited_names(conn, tenant_id)), over, most, pools)
