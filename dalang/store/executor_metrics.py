"""What a tenant's runs came to in all, as Axon's executor counts it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.statuses import RunStatus
from dalang.store.tables import execution_runs, node_executions

_runs, _nodes = execution_runs.c, node_executions.c


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
    """Nodes that were started."""
    tasks_retried: int
    """Attempts of nodes after their first."""


async def executor_metrics(conn: AsyncConnection, tenant_id: str) -> ExecutorMetrics:
    """How many runs of a tenant ended, how, after how long, and how many nodes did they start and try again?"""
    lasted = func.extract("epoch", _runs.completed_at - _runs.started_at) * 1000
    runs = select(
        func.count(),
        func.count().filter(_runs.status == RunStatus.COMPLETED),
        func.count().filter(_runs.status == RunStatus.FAILED),
        func.coalesce(func.sum(func.greatest(lasted, 0)), 0),
    ).where(_runs.tenant_id == tenant_id, _runs.completed_at.is_not(None), _runs.parent_run_id.is_(None))
    nodes = select(
        func.count().filter(_nodes.started_at.is_not(None)),
        func.coalesce(func.sum(func.greatest(_nodes.attempt - 1, 0)), 0),
    ).where(_nodes.tenant_id == tenant_id)
    executed, succeeded, failed, total = (await conn.execute(runs)).one()
    started, retried = (await conn.execute(nodes)).one()
    average = float(total) / executed if executed else 0.0
    return ExecutorMetrics(executed, succeeded, failed, round(total), average, started, int(retried))
