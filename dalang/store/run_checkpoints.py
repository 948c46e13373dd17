"""Checkpoints of runs: named points in a run's chain of events (Wayang: CheckpointManager, workflow checkpoints).

Wayang copies the state of every node. Here events never change, so the number of an event is the whole snapshot: what
the nodes had come to then can be told at any later time, as long as the run is there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.errors import Conflict, NotFound
from dalang.store.restart_tables import run_checkpoints
from dalang.store.tables import execution_runs, run_events

_points, _runs, _events = run_checkpoints.c, execution_runs.c, run_events.c

MAX_CHECKPOINTS = 1_000
"""Of one run."""


@dataclass(frozen=True)
class RunCheckpoint:
    """A named point; the counts are those of the run's nodes then."""

    run_id: UUID
    name: str
    epoch: int
    seq: int
    node_status_counts: dict[str, int]
    note: str
    created_by: str
    created_at: datetime


@dataclass(frozen=True)
class CheckpointStatistics:
    """How many checkpoints a run has, since when, and how many bytes they take."""

    count: int
    size_bytes: int
    oldest: datetime | None
    newest: datetime | None


_ALL = [_points[one.name] for one in fields(RunCheckpoint)]


async def create_checkpoint(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, name: str, created_by: str, note: str = ""
) -> RunCheckpoint:
    """Name what the run has come to as far as it is stored.

    Raises:
        NotFound: there is no such run.
        Conflict: it has not begun, has a checkpoint of this name, or has too many.
    """
    mine = (_runs.tenant_id == tenant_id) & (_runs.run_id == run_id)
    columns = (_runs.head_epoch, _runs.head_seq, _runs.node_status_counts)
    run = (await conn.execute(select(*columns).where(mine).with_for_update())).first()
    if run is None:
        raise NotFound(f"There is no run {run_id}.")
    if not run.head_seq:
        raise Conflict("The run has not begun; there is nothing to come back to.")
    if (await checkpoint_statistics(conn, tenant_id, run_id)).count >= MAX_CHECKPOINTS:
        raise Conflict(f"The run has {MAX_CHECKPOINTS} checkpoints; delete some first.")
    values: dict[str, Any] = {
        "run_id": run_id,
        "tenant_id": tenant_id,
        "name": name,
        "epoch": run.head_epoch,
        "seq": run.head_seq,
        "node_status_counts": run.node_status_counts,
        "note": note,
        "created_by": created_by,
    }
    made = await conn.execute(insert(run_checkpoints).values(values).on_conflict_do_nothing().returning(*_ALL))
    row = made.first()
    if row is None:
        raise Conflict(f"The run has a checkpoint {name!r} already.")
    return RunCheckpoint(*row)


async def list_checkpoints(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> list[RunCheckpoint]:
    """Which checkpoints does a run have, the oldest first?"""
    query = select(*_ALL).where(_of(tenant_id, run_id)).order_by(_points.created_at, _points.name)
    return [RunCheckpoint(*row) for row in await conn.execute(query)]


async def get_checkpoint(conn: AsyncConnection, tenant_id: str, run_id: UUID, name: str) -> RunCheckpoint | None:
    """Which checkpoint has this name?"""
    row = (await conn.execute(select(*_ALL).where(_of(tenant_id, run_id), _points.name == name))).first()
    return None if row is None else RunCheckpoint(*row)


async def is_on_current_chain(conn: AsyncConnection, point: RunCheckpoint) -> bool:
    """Is the checkpoint still a part of what the run has come to, or did a reset take the run back to before it?"""
    same = (_events.run_id == point.run_id) & (_events.epoch == point.epoch) & (_events.seq == point.seq)
    return (await conn.execute(select(_events.seq).where(same, ~_events.superseded))).first() is not None


async def delete_checkpoint(conn: AsyncConnection, tenant_id: str, run_id: UUID, name: str) -> bool:
    """Forget a checkpoint; False when there is none of this name."""
    done = await conn.execute(delete(run_checkpoints).where(_of(tenant_id, run_id), _points.name == name))
    return bool(done.rowcount)


async def delete_checkpoints_before(conn: AsyncConnection, tenant_id: str, run_id: UUID, before: datetime) -> int:
    """Forget checkpoints that were made before this time; return how many."""
    done = await conn.execute(delete(run_checkpoints).where(_of(tenant_id, run_id), _points.created_at < before))
    return int(done.rowcount)


async def checkpoint_statistics(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> CheckpointStatistics:
    """How many checkpoints does a run have, and what do they take?"""
    size = func.coalesce(func.sum(func.pg_column_size(text("run_checkpoints.*"))), 0)
    query = select(func.count(), size, func.min(_points.created_at), func.max(_points.created_at))
    row = (await conn.execute(query.select_from(run_checkpoints).where(_of(tenant_id, run_id)))).one()
    return CheckpointStatistics(int(row[0]), int(row[1]), row[2], row[3])


def _of(tenant_id: str, run_id: UUID) -> ColumnElement[bool]:
    return (_points.tenant_id == tenant_id) & (_points.run_id == run_id)
