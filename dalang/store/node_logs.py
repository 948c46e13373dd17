"""What handlers logged: kept by workers a batch at a time, read by whoever wants to know what a node did.

Lines of a run are numbered in the order in which they are committed, so whoever reads on from the last one he has seen
misses none: workers that write lines of one run at the same time wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, any_, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Uuid

from dalang.store.bulk import insert_rows
from dalang.store.log_tables import node_logs
from dalang.store.tables import execution_runs

_logs, _runs = node_logs.c, execution_runs.c
_LOCK = 0x6C6F67
"""Sets these advisory locks apart from others: "log" in ASCII."""


@dataclass(frozen=True)
class LogLine:
    """One line that a handler, or a library it used, logged; ``error`` is the stack of an exception."""

    run_id: UUID
    node_id: str
    generation: int
    attempt: int
    at: datetime
    level: str
    logger: str
    message: str
    error: str | None


_LINE = tuple(field.name for field in fields(LogLine))


async def keep_lines(conn: AsyncConnection, tenant_id: str, lines: Sequence[LogLine]) -> list[LogLine]:
    """Keep lines of a tenant's runs; return those whose run is not there (yet: of a run below a node)."""
    concerned = sorted({line.run_id for line in lines})
    is_concerned = _runs.run_id == any_(bindparam("runs", concerned, ARRAY(Uuid())))
    found = select(_runs.run_id).where(_runs.tenant_id == tenant_id, is_concerned)
    known = set((await conn.execute(found)).scalars())
    for run_id in sorted(known):  # in one order, so that no two wait for each other
        await conn.execute(select(func.pg_advisory_xact_lock(_LOCK, run_id.int % 2**31)))
    kept = [{"tenant_id": tenant_id, **asdict(line)} for line in lines if line.run_id in known]
    if kept:
        await insert_rows(conn, node_logs, kept)
    return [line for line in lines if line.run_id not in known]


async def list_lines(
    conn: AsyncConnection,
    tenant_id: str,
    run_id: UUID,
    *,
    node_id: str | None = None,
    after: int | None = None,
    before: int | None = None,
    newest: bool = False,
    limit: int = 200,
) -> list[tuple[int, LogLine]]:
    """Which lines did handlers of a run, or of one node, log between two places? In order, each with its place.

    Of more than ``limit`` the first are answered, or the ``newest``.
    """
    terms = [_logs.tenant_id == tenant_id, _logs.run_id == run_id]
    if node_id is not None:
        terms.append(_logs.node_id == node_id)
    if after is not None:
        terms.append(_logs.position > after)
    if before is not None:
        terms.append(_logs.position < before)
    order = _logs.position.desc() if newest else _logs.position
    query = select(_logs.position, *(_logs[name] for name in _LINE)).where(and_(*terms)).order_by(order).limit(limit)
    found = [(row[0], LogLine(*row[1:])) for row in await conn.execute(query)]
    return found[::-1] if newest else found


async def erase_lines(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Delete all lines of a run: what handlers say of values is gone with them."""
    await conn.execute(delete(node_logs).where(_logs.tenant_id == tenant_id, _logs.run_id == run_id))
