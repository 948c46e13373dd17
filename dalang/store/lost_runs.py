"""Runs whose workflow is gone without having told the end: terminated, or given up by Temporal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from sqlalchemy import any_, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from dalang.canonical import safe_text
from dalang.statuses import NODE_ENDS, NodeStatus, RunStatus
from dalang.store.flush_statements import CHANNEL
from dalang.store.runs import RunSummary
from dalang.store.tables import execution_runs, node_executions, run_events
from dalang.store.task_rows import cancel_open_tasks
from dalang.wire import EventType

_runs, _nodes = execution_runs.c, node_executions.c


@dataclass(frozen=True)
class OpenRun:
    """A run that has not ended as far as the database knows."""

    tenant_id: str
    run_id: UUID
    workflow_id: str
    temporal_namespace: str | None
    temporal_cluster_id: str | None
    node_status_counts: dict[str, int]


_OPEN = [_runs[one.name] for one in fields(OpenRun)]


async def list_open_among(conn: AsyncConnection, workflow_ids: Sequence[str]) -> list[OpenRun]:
    """Which runs of these workflows, of all tenants, have not ended?"""
    wanted = _runs.workflow_id == any_(bindparam("workflows", list(workflow_ids), ARRAY(Text)))
    rows = await conn.execute(select(*_OPEN).where(_runs.completed_at.is_(None), wanted))
    return [OpenRun(*row) for row in rows]


async def list_open_workflows(conn: AsyncConnection) -> list[str]:
    """Which workflows, of all tenants, were begun and have not ended as far as the database knows?"""
    begun = _runs.completed_at.is_(None) & _runs.temporal_run_id.is_not(None) & _runs.workflow_id.is_not(None)
    return [str(one) for one in (await conn.execute(select(_runs.workflow_id).where(begun))).scalars()]


async def mark_lost(
    conn: AsyncConnection,
    run: OpenRun,
    error: Mapping[str, Any] | None,
    reason: str,
    status: RunStatus = RunStatus.FAILED,
) -> bool:
    """End a run in the read model, its open nodes and tasks CANCELLED; False when it has ended meanwhile.

    Its chain of events stays as it is: only the workflow writes events, and it is gone.
    """
    counts: dict[str, int] = {}
    for before, count in run.node_status_counts.items():
        end = before if NodeStatus(before) in NODE_ENDS else str(NodeStatus.CANCELLED)
        counts[end] = counts.get(end, 0) + count
    done = await conn.execute(
        update(execution_runs)
        .where(_runs.tenant_id == run.tenant_id, _runs.run_id == run.run_id, _runs.completed_at.is_(None))
        .values(
            status=status,
            error=None if error is None else dict(error),
            error_message=None if error is None else safe_text(str(error.get("message", ""))),
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


async def began_to_end(conn: AsyncConnection, run: RunSummary) -> RunStatus | None:
    """To which end was a run on its way? None when it was not."""
    events = run_events.c
    kinds = (EventType.PLAN_COMPENSATING, EventType.PLAN_CANCEL_REQUESTED, EventType.PLAN_FAILING)
    query = select(events.type, events.data["ending"].as_string()).where(
        events.tenant_id == run.tenant_id,
        events.run_id == run.run_id,
        ~events.superseded,
        events.type.in_([str(kind) for kind in kinds]),
    )
    row = (await conn.execute(query.order_by(events.seq.desc()).limit(1))).first()
    if row is None:
        return None
    kind, ending = row
    if kind == EventType.PLAN_COMPENSATING and ending in RunStatus.__members__:
        return RunStatus(ending)
    return RunStatus.CANCELLED if kind == EventType.PLAN_CANCEL_REQUESTED else RunStatus.FAILED
