"""What is deleted, and what stays of it. Bodies and blobs go by ``references.py`` and ``blobs.py``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.errors import Conflict, NotFound
from dalang.store.a2a import erase_messages
from dalang.store.assignments import erase_assignments
from dalang.store.callbacks import erase_callbacks
from dalang.store.checkpoints import erase_checkpoints
from dalang.store.episodes import erase_episodes
from dalang.store.node_logs import erase_lines
from dalang.store.sessions import erase_sessions
from dalang.store.tables import body_references, event_bodies, execution_runs, node_attempts, retired_runs
from dalang.store.task_rows import erase_tasks

_runs = execution_runs.c


@dataclass(frozen=True)
class RetiredRun:
    """What is left of a deleted run: the head of its chain can still be compared with Temporal's or a signed one."""

    run_id: UUID
    tenant_id: str
    plan_name: str
    status: str
    created_at: datetime
    completed_at: datetime
    head_epoch: int
    head_seq: int
    head_hash: str
    retired_at: datetime
    head_signature: str | None = None
    events: int = 0


@dataclass(frozen=True)
class Old:
    """What of a tenant ended ``before``: runs, those below others included, their events, and when the first ended."""

    tenant_id: str
    before: datetime
    runs: int
    events: int
    first: datetime | None


async def old_runs(conn: AsyncConnection, tenant_id: str, before: datetime) -> Old:
    """How much would :func:`delete_finished_runs` delete?"""
    top = execution_runs.alias("top")
    goes_on = select(1).where(
        top.c.tenant_id == _runs.tenant_id, top.c.run_id == _runs.top_run_id, top.c.completed_at.is_(None)
    )
    counts = select(func.count(), func.coalesce(func.sum(_runs.head_seq), 0), func.min(_runs.completed_at))
    row = (
        await conn.execute(counts.where(_runs.tenant_id == tenant_id, _runs.completed_at < before, ~goes_on.exists()))
    ).one()
    return Old(tenant_id, before, row[0], int(row[1]), row[2])


async def delete_finished_runs(
    conn: AsyncConnection, older_than: datetime, *, tenant_id: str | None = None, limit: int = 100
) -> int:
    """Delete runs that ended before this time, with all their events, and keep their heads; return how many.

    It must be longer ago than Temporal keeps histories: a flush of a deleted run is refused, and its idempotency key
    is free again. Call it until it answers 0.
    """
    return int(
        (await conn.execute(select(func.dalang_delete_finished_runs(tenant_id, older_than, limit)))).scalar_one()
    )


async def get_retired_run(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> RetiredRun | None:
    """Was there such a run, and how did it end?"""
    retired = retired_runs.c
    columns = [retired[one.name] for one in fields(RetiredRun)]
    query = select(*columns).where(retired.tenant_id == tenant_id, retired.run_id == run_id)
    row = (await conn.execute(query)).first()
    return None if row is None else RetiredRun(*row)


async def erase_bodies(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> int:
    """Erase what users put into an ended run: inputs, outputs, errors, checkpoints, logs; return how many bodies.

    Events, statuses and times stay, and the chain stays verifiable: it holds salted digests, and the salts go too.
    Large bodies that no other run refers to go with the next ``delete_unreferenced_bodies``.
    Raises :class:`NotFound`, and :class:`Conflict` while the run goes on.
    """
    of_run = (_runs.tenant_id == tenant_id) & (_runs.run_id == run_id)
    row = (await conn.execute(select(_runs.completed_at).where(of_run).with_for_update())).first()
    if row is None:
        raise NotFound(f"There is no run {run_id}.")
    if row.completed_at is None:
        raise Conflict(f"Run {run_id} goes on; what it needs cannot be erased.")
    erased = await conn.execute(
        delete(event_bodies).where(event_bodies.c.tenant_id == tenant_id, event_bodies.c.run_id == run_id)
    )
    await conn.execute(
        delete(body_references).where(body_references.c.tenant_id == tenant_id, body_references.c.run_id == run_id)
    )
    attempts = update(node_attempts).where(node_attempts.c.tenant_id == tenant_id, node_attempts.c.run_id == run_id)
    await conn.execute(attempts.values(error={}))
    await erase_messages(conn, tenant_id, run_id)
    await erase_tasks(conn, tenant_id, run_id)
    await erase_callbacks(conn, tenant_id, run_id)
    await erase_assignments(conn, tenant_id, run_id)
    await erase_checkpoints(conn, tenant_id, run_id)
    await erase_lines(conn, tenant_id, run_id)
    await erase_episodes(conn, tenant_id, run_id)
    await erase_sessions(conn, tenant_id, run_id)
    nothing = dict.fromkeys(("inputs", "outputs", "error", "error_message", "origin"))
    await conn.execute(update(execution_runs).where(of_run).values(**nothing, last_updated_at=func.now()))
    return int(erased.rowcount)
