"""What tests of memory share: nodes that tell what they were given, and waiting until the past can be seen."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.nodes import NodeContext, node
from tests.harness import PATIENCE


@node("m-tell", endpoint="")
async def tell(ctx: NodeContext, **inputs: Any) -> dict[str, Any]:
    """Tell what was given."""
    return {"memory": ctx.memory.wire()}


async def visible(db: AsyncEngine) -> None:
    """Wait until no transaction is open, in any database, that is older than an event."""
    settled = text(
        "SELECT coalesce((SELECT transaction_id FROM run_events ORDER BY transaction_id DESC, position DESC LIMIT 1) "
        "< pg_snapshot_xmin(pg_current_snapshot()), true)"
    )
    async with asyncio.timeout(PATIENCE):
        while True:
            async with db.connect() as conn:
                if (await conn.execute(settled)).scalar_one():
                    return
            await asyncio.sleep(0.02)
