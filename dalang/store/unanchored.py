"""Which runs may have come to something that no anchor holds: those with events since one last looked, or all of them.

Theory of operation. Whatever moves a run writes events, which stand in the order of transactions. So whoever has once
looked through all runs, as of :func:`horizon`, later reads only the events since, however many runs there are. Where
one has read to is for the reader to remember, and nothing that stands in the database: who can write there could keep
runs from being anchored by saying that they were read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.store.anchors import is_new
from dalang.store.engine import system_transaction, transaction
from dalang.store.tables import execution_runs

SPAN = 200_000
"""Events that are read at once."""
PAGE = 20_000
"""Runs that are looked through at once."""
_runs = execution_runs.c
_LATER = "transaction_id >= CAST(CAST(:since AS text) AS xid8)"
_EARLIER = "transaction_id < CAST(CAST(:until AS text) AS xid8)"
_HORIZON = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")
_END = text(
    f"SELECT CAST(transaction_id AS text) FROM run_events WHERE {_LATER}"  # noqa: S608 - constants
    " ORDER BY transaction_id, position OFFSET :span LIMIT 1"
)
_MOVED = f"SELECT DISTINCT tenant_id, run_id FROM run_events WHERE {_LATER} AND tenant_id = ANY(:tenants)"  # noqa: S608


async def horizon(conn: AsyncConnection) -> int:
    """Return the oldest transaction that may still write: what older ones wrote can be seen by now."""
    return int((await conn.execute(_HORIZON)).scalar_one())


async def moved(
    engine: AsyncEngine, tenants: Sequence[str], since: int, span: int = SPAN
) -> AsyncIterator[Mapping[str, Sequence[UUID]]]:
    """Which runs of these tenants have events of this transaction, or of later ones? Some events at a time."""
    begin: str | None = str(since)
    while begin is not None:
        found = defaultdict[str, list[UUID]](list)
        async with system_transaction(engine) as conn:
            end = (await conn.execute(_END, {"since": begin, "span": span})).scalar_one_or_none()
            if end == begin:  # one transaction wrote more than that
                end = str(int(begin) + 1)
            query = _MOVED if end is None else f"{_MOVED} AND {_EARLIER}"
            for row in await conn.execute(text(query), {"since": begin, "until": end, "tenants": list(tenants)}):
                found[row.tenant_id].append(row.run_id)
        yield found
        begin = end


async def unanchored(engine: AsyncEngine, tenant_id: str) -> AsyncIterator[Sequence[UUID]]:
    """Which of all runs of a tenant have a head that is in no anchor? Some runs at a time."""
    after: UUID | None = UUID(int=0)
    while after is not None:
        of_tenant = select(_runs.run_id).where(_runs.tenant_id == tenant_id, _runs.run_id > after)
        async with transaction(engine, tenant_id) as conn:
            last = of_tenant.order_by(_runs.run_id).offset(PAGE - 1).limit(1)
            until = (await conn.execute(last)).scalar_one_or_none()
            new = select(_runs.run_id).where(*is_new(tenant_id), _runs.run_id > after)
            if until is not None:
                new = new.where(_runs.run_id <= until)
            found = (await conn.execute(new)).scalars().all()
        yield found
        after = until
