"""What the pools of now say about a plan that is stored or started."""

from __future__ import annotations

import asyncio

from dalang.api.problems import wire
from dalang.api.schemas import ProblemItem
from dalang.api.services import Services
from dalang.feasibility import pool_warnings
from dalang.launch import Prepared
from dalang.store.bounds import Bounds, bounds_of

FEW_NODES = 500
"""Of so many it is said on the spot; a thread would take longer."""


async def limit_warnings(
    it: Services, tenant_id: str, prepared: Prepared, bounds: Bounds | None = None
) -> list[ProblemItem]:
    """Return warnings about what the plan asks of pools in vain; ``bounds`` are the tenant's, if they are known."""
    if bounds is None:
        async with it.transaction(tenant_id) as conn:
            bounds = await bounds_of(conn, tenant_id)
    if prepared.nodes <= FEW_NODES:
        found = pool_warnings(prepared.program, bounds.most, bounds.pools)
    else:
        found = await asyncio.to_thread(pool_warnings, prepared.program, bounds.most, bounds.pools)
    return [ProblemItem.model_validate(wire(one)) for one in found]
