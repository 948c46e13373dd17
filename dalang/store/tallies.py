"""How many runs and human tasks ended how, and when, without counting them: that would take longer with every run.

Theory of operation. Triggers add a row to ``tallies`` for whatever ends, changes afterwards or is deleted, in its own
transaction; such rows are new and nobody else's, so nobody waits for a counter. Every few seconds :func:`fold` adds new
rows to two others, that of the hour and that of all time. What the table says is right at any moment, folded or not:
readers add what is new to what is folded, in one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

FOLDED_AT_ONCE = 10_000
HOURS_KEPT_DAYS = 40
"""Single hours of a longer time ago are forgotten; what ended in them stays counted."""


@dataclass(frozen=True)
class Ended:
    """What runs with one status came to in all; ``what``: run, or child for one that is below a node of another."""

    what: str
    status: str
    count: int
    milliseconds: int
    nodes: int
    retries: int


async def count_by_status(conn: AsyncConnection, what: str, tenant_id: str | None) -> Sequence[tuple[str, str, int]]:
    """How many runs that are below no node (``run``), or human tasks (``task``), of whom have which status?

    None: of all tenants. Statuses that nothing has are left out.
    """
    of_tenant = "TRUE" if tenant_id is None else "tenant_id = :tenant"
    query = _BY_STATUS.replace("{open}", _OPEN[what]).replace("{of_tenant}", of_tenant)
    values = {"what": what} if tenant_id is None else {"what": what, "tenant": tenant_id}
    return [(row[0], row[1], row[2]) for row in await conn.execute(text(query), values)]


async def ended_in_all(conn: AsyncConnection, tenant_id: str) -> list[Ended]:
    """What did the runs of a tenant that ended come to, by status?"""
    return [Ended(*row) for row in await conn.execute(_IN_ALL, {"tenant": tenant_id})]


async def ended_by_hour(
    conn: AsyncConnection, tenant_id: str, since: datetime, until: datetime
) -> Sequence[tuple[datetime, str, int]]:
    """How many runs, without those below nodes, ended in which hour with which status?"""
    values = {"tenant": tenant_id, "since": since, "until": until}
    return [(row[0], row[1], row[2]) for row in await conn.execute(_BY_HOUR, values)]


async def fold(conn: AsyncConnection, limit: int = FOLDED_AT_ONCE) -> int:
    """Add new rows to those of their hour and of all time; return how many. Nothing while another process does."""
    if not (await conn.execute(_IS_OURS)).scalar_one():
        return 0
    return int((await conn.execute(_FOLD, {"limit": limit})).scalar_one())


async def forget_hours(conn: AsyncConnection) -> int:
    """Delete single hours of long ago."""
    return int((await conn.execute(_FORGET, {"days": HOURS_KEPT_DAYS})).rowcount)


_OPEN = {
    "run": "execution_runs WHERE completed_at IS NULL AND parent_run_id IS NULL",
    "task": "human_tasks WHERE completed_at IS NULL",
}
# Two branches, so that each has its partial index.
_BY_STATUS = """
    SELECT tenant_id, status, sum(count)::bigint FROM (
      SELECT tenant_id, status, count FROM tallies WHERE folded AND hour IS NULL AND what = :what AND {of_tenant}
      UNION ALL SELECT tenant_id, status, count FROM tallies WHERE NOT folded AND what = :what AND {of_tenant}
      UNION ALL SELECT tenant_id, status, count(*) FROM {open} AND {of_tenant} GROUP BY 1, 2
    ) AS found GROUP BY 1, 2 HAVING sum(count) <> 0
"""
_IN_ALL = text(
    """
    SELECT what, status, sum(count)::bigint, sum(milliseconds)::bigint, sum(nodes)::bigint, sum(retries)::bigint FROM (
      SELECT * FROM tallies WHERE folded AND hour IS NULL AND tenant_id = :tenant
      UNION ALL SELECT * FROM tallies WHERE NOT folded AND tenant_id = :tenant
    ) AS found WHERE what <> 'task' GROUP BY 1, 2
    """
)
_BY_HOUR = text(
    """
    SELECT hour, status, sum(count)::bigint FROM (
      SELECT hour, status, count FROM tallies
      WHERE folded AND tenant_id = :tenant AND what = 'run' AND hour >= :since AND hour < :until
      UNION ALL SELECT hour, status, count FROM tallies
      WHERE NOT folded AND tenant_id = :tenant AND what = 'run' AND hour >= :since AND hour < :until
    ) AS found GROUP BY 1, 2
    """
)
_IS_OURS = text("SELECT pg_try_advisory_xact_lock(hashtextextended('dalang tallies', 0))")
_FOLD = text(
    """
    WITH gone AS (
      DELETE FROM tallies WHERE number IN (SELECT number FROM tallies WHERE NOT folded LIMIT :limit) RETURNING *
    ), sums AS (
      SELECT tenant_id, what, status, hour, sum(count) AS count, sum(milliseconds) AS milliseconds,
        sum(nodes) AS nodes, sum(retries) AS retries
      FROM gone GROUP BY GROUPING SETS ((tenant_id, what, status, hour), (tenant_id, what, status))
    ), kept AS (
      INSERT INTO tallies AS t (tenant_id, what, status, hour, count, milliseconds, nodes, retries, folded)
      SELECT *, true FROM sums
      ON CONFLICT (tenant_id, what, status, hour) WHERE folded DO UPDATE SET count = t.count + excluded.count,
        milliseconds = t.milliseconds + excluded.milliseconds, nodes = t.nodes + excluded.nodes,
        retries = t.retries + excluded.retries
    )
    SELECT count(*) FROM gone
    """
)
_FORGET = text("DELETE FROM tallies WHERE folded AND hour < now() - make_interval(days => :days)")
