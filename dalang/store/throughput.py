"""How many runs ended, how, and when: what the overview draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Integer, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.tables import execution_runs
from dalang.store.tallies import ended_by_hour

_runs = execution_runs.c


async def ended_runs(
    conn: AsyncConnection, tenant_id: str, since: datetime, step: timedelta, steps: int
) -> Sequence[Counter[str]]:
    """How many runs ended with which status in each step of time since then? Without runs below nodes of others.

    Steps of whole hours begin at one.
    """
    found: list[Counter[str]] = [Counter() for _ in range(steps)]
    if step % timedelta(hours=1) == timedelta():
        for hour, status, count in await ended_by_hour(conn, tenant_id, since, since + steps * step):
            found[(hour - since) // step][status] += count
        return found
    seconds = func.extract("epoch", _runs.completed_at - since)
    at = cast(func.floor(seconds / step.total_seconds()), Integer)
    ended = (_runs.completed_at >= since, _runs.completed_at < since + steps * step, _runs.parent_run_id.is_(None))
    query = (
        select(at, _runs.status, func.count()).where(_runs.tenant_id == tenant_id, *ended).group_by(at, _runs.status)
    )
    for index, status, count in await conn.execute(query):
        if 0 <= index < steps:
            found[index][status] = count
    return found
