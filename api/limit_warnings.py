"""What the pools of now say about a plan that is stored or started."""

from __future__ import annotations

import asyncio

from dalang.api.problems import wire
from dalang.api.schemas import ProblemItem
from dalang.api.services import Services
from dalang.feasibility import pool_warnings
from dalang.launch import Prepared
from dalang.store.pools import largest_amounts


async def limit_warnings(it: Services, tenant_id: str, prepared: Prepared) -> list[ProblemItem]:
    """Return warnings about what the plan asks of pools in vain."""
    async with it.transaction(tenant_id) as conn:
        most, names = await largest_amounts(conn, tenant_id)
    found = await asyncio.to_thread(pool_warnings, prepared.program, most, names)
    return [ProblemItem.model_validate(wire(one)) for one in found]
