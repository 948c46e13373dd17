"""Runs whose workflow is gone without having told the end: terminated, or given up by Temporal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import any_, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from dalang.canonical import safe_text
from dalang.statuses import NODE_ENDS, NodeStatus, RunStatus
from dalang.store.recording import CHANNEL
from dalang.store.tables import execution_runs, node_executions
from dalang.store.task_rows import cancel_open_tasks

_runs, _nodes = execution_runs.c, node_executions.c


@dataclass(frozen=True)
class OpenRun:
    """A run that has not ended as far as the database knows."""

    tenant_id: str
    run_id: UUID
    workflow_id: str
    temporal_namespace: str | None
    node_status_counts: dict[str, int]


async def list_open_among(conn: AsyncConnection, workflow_ids: Sequence[str]) -> list[OpenRun]:
    """Which runs of these workflows, of all tenants, have not ended?"""
    wanted = _runs.workflow_id == any_(bindparam("workflows", list(workflow_ids), ARRAY(Text)))
    columns = (_runs.tenant_id, _runs.run_id, _runs.workflow_id, _runs.temporal_namespace, _runs.node_status_counts)
    rows = await conn.execute(select(*columns).where(_runs.completed_at.is_(None), wanted))
    return [OpenRun(*row) for row in rows]


async def mark_lost(conn: AsyncConnection, run: OpenRun, error: Mapping[str, Any], reason: str) -> bool:
    """End a run FAILED in the read model, its open nodes and tasks CANCELLED; False when it has ended meanwhile.

    Its chain of events stays as it is: only the workflow writes events, and it is gone.
    """
    counts: dict[str, int] = {}
    for status, count in run.node_status_counts.items():
        end = status if NodeStatus(status) in NODE_ENDS else str(NodeStatus.CANCELLED)
        counts[end] = counts.get(end, 0) + count
    done = await conn.execute(
        update(execution_runs)
        .where(_runs.tenant_id == run.tenant_id, _runs.run_id == run.run_id, _runs.completed_at.is_(None))
        .values(
            status=RunStatus.FAILED,
            error=dict(error),
            error_message=safe_text(str(error.get("message", ""))),
            reason=reason,
            node_status_counts=counts,
            completed_at=func.now(),
            last_updated_at=func.now(),
        )
    )
    if not done.rowcount:
        return False
    await conn.execute(
        update(node_executions)
        .where(_nodes.run_id == run.run_id, _nodes.status.not_in([str(status) for status in NODE_ENDS]))
        .values(status=NodeStatus.CANCELLED, completed_at=func.now(), updated_at=func.now())
    )
    await cancel_open_tasks(conn, run.tenant_id, run.run_id)
    await conn.execute(select(func.pg_notify(CHANNEL, str(run.run_id))))  # who watches it need not wait any more
    return True
