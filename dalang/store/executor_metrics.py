"""What a tenant's runs came to in all, as Axon's executor counts it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.statuses import RunStatus
from dalang.store.tallies import ended_in_all


@dataclass(frozen=True)
class ExecutorMetrics:
    """Axon's ``MetricsSnapshot``, by its names; runs below nodes of others are no workflows of their own."""

    workflows_executed: int
    """Runs that ended."""
    workflows_succeeded: int
    workflows_failed: int
    """Those that FAILED; of the rest somebody asked for the end."""
    total_execution_time: int
    """Milliseconds from the start to the end of them, together."""
    avg_workflow_duration_ms: float
    tasks_executed: int
    """Nodes that did something: not those that were skipped or cancelled."""
    tasks_retried: int
    """Attempts of nodes after their first."""


async def executor_metrics(conn: AsyncConnection, tenant_id: str) -> ExecutorMetrics:
    """How many runs of a tenant ended, how, after how long, and how many nodes did they start and try again?"""
    ended = await ended_in_all(conn, tenant_id)
    nodes, retries = (await conn.execute(_GOING_ON, {"tenant": tenant_id})).one()
    runs = Counter[str]()
    total = 0
    for one in ended:
        if one.what == "run":
            runs[one.status] += one.count
            total += one.milliseconds
    return ExecutorMetrics(
        workflows_executed=runs.total(),
        workflows_succeeded=runs[RunStatus.COMPLETED],
        workflows_failed=runs[RunStatus.FAILED],
        total_execution_time=total,
        avg_workflow_duration_ms=total / runs.total() if runs.total() else 0.0,
        tasks_executed=nodes + sum(one.nodes for one in ended),
        tasks_retried=retries + sum(one.retries for one in ended),
    )


_GOING_ON = text(  # the same nodes that the triggers of tallies count of those that ended
    """
    SELECT coalesce(sum((
      SELECT sum(value::bigint) FROM jsonb_each_text(node_status_counts)
      WHERE key NOT IN ('PENDING', 'QUEUED', 'SKIPPED', 'CANCELLED')
    )), 0)::bigint, coalesce(sum(retry_count), 0)::bigint
    FROM execution_runs WHERE tenant_id = :tenant AND completed_at IS NULL
    """
)
