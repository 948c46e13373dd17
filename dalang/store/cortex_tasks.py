"""Which runs a Cortex is to be told of, and what it was told (``mirroring.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.cortex_tables import cortex_tasks
from dalang.store.tables import execution_runs, node_executions

HELD_SECONDS = 60.0
"""For so long nobody else tells of a run whose teller may have died."""
LATE_SECONDS = 86_400.0
"""So long after its end a run is told of, if the Cortex was away."""
NEW_SECONDS = 600.0
"""A run that ended before anybody told of it is passed over after so long: it was there before the Cortex was."""
RUN = ""
_c, _runs, _nodes = cortex_tasks.c, execution_runs.c, node_executions.c


@dataclass(frozen=True)
class ToldRun:
    """A run as a Cortex is told of it."""

    run_id: UUID
    tenant_id: str
    plan_name: str
    plan_digest: str
    status: str
    started_at: datetime | None
    completed_at: datetime | None
    total_nodes: int
    elements: int | None
    node_status_counts: dict[str, int]
    error_message: str | None
    parent_run_id: UUID | None
    parent_node_id: str | None
    head_epoch: int
    head_seq: int


@dataclass(frozen=True)
class ToldNode:
    """A node as a Cortex is told of it."""

    node_id: str
    status: str
    started_at: datetime | None
    completed_at: datetime | None


_RUN = [_runs[one.name] for one in fields(ToldRun)]


def _ago(seconds: float) -> Any:
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)


async def take_runs(conn: AsyncConnection, limit: int) -> list[ToldRun]:
    """Which runs have news for the Cortex? Nobody else is answered them for a while."""
    of_run = and_(_c.run_id == _runs.run_id, _c.node_id == RUN)
    news = tuple_(_c.head_epoch, _c.head_seq) != tuple_(_runs.head_epoch, _runs.head_seq)
    known = and_(_c.run_id.is_not(None), _c.ended_at.is_(None), news, _c.again_at <= func.now())
    recent = or_(_runs.completed_at.is_(None), _runs.completed_at > _ago(NEW_SECONDS))
    late = or_(_runs.completed_at.is_(None), _runs.completed_at > _ago(LATE_SECONDS))
    query = (
        select(*_RUN)
        .select_from(execution_runs.outerjoin(cortex_tasks, of_run))
        .where(_runs.head_seq > 0, late, or_(known, and_(_c.run_id.is_(None), recent)))
        .order_by(_runs.created_at)
        .limit(limit)
    )
    taken = []
    for run in [ToldRun(*row) for row in await conn.execute(query)]:
        until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, HELD_SECONDS)
        values = {"tenant_id": run.tenant_id, "run_id": run.run_id, "node_id": RUN, "again_at": until}
        statement = insert(cortex_tasks).values(values)
        mine = statement.on_conflict_do_update(
            index_elements=["run_id", "node_id"], set_={"again_at": until}, where=_c.again_at <= func.now()
        )
        if (await conn.execute(mine.returning(_c.run_id))).first() is not None:
            taken.append(run)
    return taken


async def tasks_of(conn: AsyncConnection, run_id: UUID) -> dict[str, tuple[str | None, str]]:
    """Which tasks stand for a run and its nodes, and what were they told last? By node id, the run's is empty."""
    rows = await conn.execute(select(_c.node_id, _c.task_id, _c.told).where(_c.run_id == run_id))
    return {row.node_id: (row.task_id, row.told) for row in rows}


async def task_of(conn: AsyncConnection, run_id: UUID, node_id: str) -> str | None:
    """Which task stands for this node?"""
    query = select(_c.task_id).where(_c.run_id == run_id, _c.node_id == node_id)
    found: str | None = (await conn.execute(query)).scalar()
    return found


async def nodes_of(conn: AsyncConnection, run_id: UUID, limit: int) -> dict[str, ToldNode]:
    """How do the nodes stand that something has happened to?"""
    columns = [_nodes[one.name] for one in fields(ToldNode)]
    rows = await conn.execute(select(*columns).where(_nodes.run_id == run_id).limit(limit))
    return {row.node_id: ToldNode(*row) for row in rows}


async def keep_task(conn: AsyncConnection, run: ToldRun, node_id: str, task_id: str) -> None:
    """Keep which task stands for a run or its node."""
    values = {"tenant_id": run.tenant_id, "run_id": run.run_id, "node_id": node_id, "task_id": task_id}
    statement = insert(cortex_tasks).values(values)
    await conn.execute(statement.on_conflict_do_update(index_elements=["run_id", "node_id"], set_={"task_id": task_id}))


async def keep_told(conn: AsyncConnection, run_id: UUID, told: Mapping[str, str]) -> None:
    """Keep what the Cortex was told, by node id."""
    for node_id, what in told.items():
        is_meant = (_c.run_id == run_id) & (_c.node_id == node_id)
        await conn.execute(update(cortex_tasks).where(is_meant).values(told=what))


async def keep_run(conn: AsyncConnection, run: ToldRun) -> None:
    """All that happened up to the run's head has been told."""
    values: dict[str, Any] = {"head_epoch": run.head_epoch, "head_seq": run.head_seq, "failures": 0}
    values |= {"again_at": func.now(), "ended_at": None if run.completed_at is None else func.now()}
    await conn.execute(update(cortex_tasks).where(_c.run_id == run.run_id, _c.node_id == RUN).values(values))


async def put_off(conn: AsyncConnection, run_id: UUID, seconds: float | None) -> None:
    """The Cortex did not take it; try again after so many seconds, or after longer and longer."""
    longer = func.least(func.power(2, func.least(_c.failures, 10)), 300.0)
    wait: Any = longer if seconds is None else seconds
    values = {"failures": _c.failures + 1, "again_at": func.now() + func.make_interval(0, 0, 0, 0, 0, 0, wait)}
    await conn.execute(update(cortex_tasks).where(_c.run_id == run_id, _c.node_id == RUN).values(values))
