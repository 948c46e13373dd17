"""States that handlers left with ``ctx.checkpoint``: the last one of each work, for whoever goes on with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, delete, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.nodes import has_run
from dalang.store.restart_tables import node_checkpoints
from dalang.store.tables import execution_runs

_kept = node_checkpoints.c


@dataclass(frozen=True)
class Work:
    """What attempts work on: a node of a run, in one iteration and generation."""

    run_id: UUID
    node_id: str
    iteration: int
    generation: int


@dataclass(frozen=True)
class CheckpointInfo:
    """When a state was left and by whom; (begun, number) orders those of one work. ``size`` is in bytes of JSON."""

    begun: datetime
    attempt: int
    number: int
    saved_at: datetime
    size: int


@dataclass(frozen=True)
class StoredCheckpoint(CheckpointInfo):
    """A state, as JSON."""

    state: str


async def put_checkpoint(conn: AsyncConnection, tenant_id: str, work: Work, new: StoredCheckpoint) -> bool:
    """Keep a state in place of an older one; that of an attempt that was replaced meanwhile changes nothing.

    Earlier iterations and generations are over, so what they left goes. False: the run is not there, or not yet.
    """
    values = {"tenant_id": tenant_id, **asdict(work), **asdict(new)}
    runs = execution_runs.c
    is_there = select(runs.run_id).where(runs.tenant_id == tenant_id, runs.run_id == work.run_id).exists()
    row = select(*(literal(value, _kept[name].type) for name, value in values.items())).where(is_there)
    statement = insert(node_checkpoints).from_select(list(values), row)
    excluded = statement.excluded
    is_newer = tuple_(_kept.begun, _kept.number) < tuple_(excluded.begun, excluded.number)
    changed = {name: excluded[name] for name in asdict(new)}
    key = ["run_id", "node_id", "iteration", "generation"]
    kept = await conn.execute(statement.on_conflict_do_update(index_elements=key, set_=changed, where=is_newer))
    over = tuple_(_kept.iteration, _kept.generation) < tuple_(literal(work.iteration), literal(work.generation))
    await conn.execute(delete(node_checkpoints).where(_of_node(tenant_id, work.run_id, work.node_id), over))
    return kept.rowcount > 0 or await has_run(conn, tenant_id, work.run_id)


async def get_checkpoint(conn: AsyncConnection, tenant_id: str, work: Work) -> StoredCheckpoint | None:
    """Which state was left for this work last?"""
    of_work = (_kept.iteration == work.iteration) & (_kept.generation == work.generation)
    query = select(*(_kept[one.name] for one in fields(StoredCheckpoint)))
    row = (await conn.execute(query.where(_of_node(tenant_id, work.run_id, work.node_id), of_work))).first()
    return None if row is None else StoredCheckpoint(*row)


async def last_checkpoint(conn: AsyncConnection, tenant_id: str, run_id: UUID, node_id: str) -> CheckpointInfo | None:
    """When was a state left for this node last, and how large is it?"""
    query = select(*(_kept[one.name] for one in fields(CheckpointInfo))).where(_of_node(tenant_id, run_id, node_id))
    newest = query.order_by(_kept.iteration.desc(), _kept.generation.desc()).limit(1)
    row = (await conn.execute(newest)).first()
    return None if row is None else CheckpointInfo(*row)


async def erase_checkpoints(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Delete all states that were left in a run."""
    await conn.execute(delete(node_checkpoints).where(_kept.tenant_id == tenant_id, _kept.run_id == run_id))


def _of_node(tenant_id: str, run_id: UUID, node_id: str) -> ColumnElement[bool]:
    return (_kept.tenant_id == tenant_id) & (_kept.run_id == run_id) & (_kept.node_id == node_id)
