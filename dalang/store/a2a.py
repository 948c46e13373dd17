"""What the A2A agent keeps: which run is whose task in which context, and what was said about it.

A task is a run, of any kind but those below nodes of others; its id is the run's. The context of a run that no A2A
message started is the run itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Uuid, cast, delete, func, literal, literal_column, select, update
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH, distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.a2a_tables import a2a_messages, a2a_tasks
from dalang.store.paging import Page, after, read_cursor, write_cursor
from dalang.store.references import resolve
from dalang.store.runs import Run
from dalang.store.tables import execution_runs, plan_documents, plans

_tasks, _messages, _runs, _plans, _documents = a2a_tasks.c, a2a_messages.c, execution_runs.c, plans.c, plan_documents.c
_RUN = [_runs[one.name] for one in fields(Run)]


@dataclass(frozen=True)
class Skill:
    """A plan as the agent card shows it: its highest version without nodes and edges."""

    plan_id: UUID
    version: str
    name: str
    description: str | None
    inputs: Mapping[str, Any] | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class TaskPage(Page[Run]):
    """A part of the list of tasks, and how many there are in all."""

    total: int


async def put_task(conn: AsyncConnection, tenant_id: str, run_id: UUID, context_id: str, request_digest: str) -> str:
    """Note that a message made this run; return the task's context, which is the first one that was noted."""
    row = {"tenant_id": tenant_id, "run_id": run_id, "context_id": context_id, "request_digest": request_digest}
    await conn.execute(insert(a2a_tasks).values(row).on_conflict_do_nothing())
    return (await contexts(conn, tenant_id, [run_id]))[run_id]


async def mark_answered(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Note that the sender has acted on the task, and so knows of it: his next message is a new one."""
    mine = (_tasks.tenant_id == tenant_id) & (_tasks.run_id == run_id)
    await conn.execute(update(a2a_tasks).where(mine, ~_tasks.answered).values(answered=True))


async def count_answered(conn: AsyncConnection, tenant_id: str, request_digest: str) -> int:
    """How many tasks has this request made on which its sender has acted?"""
    same = (_tasks.tenant_id == tenant_id) & (_tasks.request_digest == request_digest) & _tasks.answered
    return int((await conn.execute(select(func.count()).select_from(a2a_tasks).where(same))).scalar_one())


async def contexts(conn: AsyncConnection, tenant_id: str, run_ids: Iterable[UUID]) -> dict[UUID, str]:
    """In which context is each of these runs?"""
    wanted = list(run_ids)
    query = select(_tasks.run_id, _tasks.context_id).where(_tasks.tenant_id == tenant_id, _tasks.run_id.in_(wanted))
    found: dict[UUID, str] = {row.run_id: row.context_id for row in await conn.execute(query)}
    return {run_id: found.get(run_id, str(run_id)) for run_id in wanted}


async def last_plan(conn: AsyncConnection, tenant_id: str, context_id: str) -> UUID | None:
    """Which plan did the newest task of a context run?"""
    same = (_tasks.tenant_id == _runs.tenant_id) & (_tasks.run_id == _runs.run_id)
    query = select(_runs.plan_id).select_from(a2a_tasks.join(execution_runs, same))
    query = query.where(_tasks.tenant_id == tenant_id, _tasks.context_id == context_id)
    newest = query.order_by(_tasks.created_at.desc(), _tasks.run_id).limit(1)
    plan_id: UUID | None = (await conn.execute(newest)).scalar_one_or_none()
    return plan_id


async def add_message(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, role: str, message: Mapping[str, Any]
) -> None:
    """Keep what was said about a run; a message that is there already stays as it is."""
    row = {"tenant_id": tenant_id, "run_id": run_id, "role": role, "message_id": message["messageId"]}
    await conn.execute(insert(a2a_messages).values({**row, "message": dict(message)}).on_conflict_do_nothing())


async def erase_messages(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Erase what was said about a run."""
    of_run = (_messages.tenant_id == tenant_id) & (_messages.run_id == run_id)
    await conn.execute(delete(a2a_messages).where(of_run))


async def has_message(conn: AsyncConnection, tenant_id: str, run_id: UUID, message_id: str) -> bool:
    """Has the client said this about the run before?"""
    same = (_messages.role == "user") & (_messages.message_id == message_id)
    query = select(_messages.position).where(_messages.tenant_id == tenant_id, _messages.run_id == run_id, same)
    return (await conn.execute(query)).first() is not None


async def last_messages(
    conn: AsyncConnection, tenant_id: str, run_ids: Sequence[UUID], limit: int
) -> dict[UUID, list[dict[str, Any]]]:
    """What was said last about each of these runs, in order?"""
    nth = func.row_number().over(partition_by=_messages.run_id, order_by=_messages.position.desc()).label("nth")
    query = select(_messages.run_id, _messages.position, _messages.message, nth)
    recent = query.where(_messages.tenant_id == tenant_id, _messages.run_id.in_(run_ids)).subquery()
    wanted = select(recent.c.run_id, recent.c.message).where(recent.c.nth <= limit).order_by(recent.c.position)
    found: dict[UUID, list[dict[str, Any]]] = {run_id: [] for run_id in run_ids}
    for run_id, message in await conn.execute(wanted):
        found[run_id].append(message)
    return found


async def list_tasks(
    conn: AsyncConnection,
    tenant_id: str,
    *,
    context_id: str | None = None,
    statuses: Sequence[str] = (),
    updated_after: datetime | None = None,
    outputs: bool = False,
    limit: int = 50,
    cursor: str | None = None,
) -> TaskPage:
    """Which runs are tasks, the one that changed last first? ``outputs``: large ones are filled in.

    Raises :class:`paging.InvalidCursor`.
    """
    conditions = [_runs.tenant_id == tenant_id, _runs.parent_run_id.is_(None)]
    if context_id is not None:
        conditions.append(_in_context(tenant_id, context_id))
    if statuses:
        conditions.append(_runs.status.in_(statuses))
    if updated_after is not None:
        conditions.append(_runs.last_updated_at > updated_after)
    total = (await conn.execute(select(func.count()).select_from(execution_runs).where(*conditions))).scalar_one()
    query = select(*_RUN).where(*conditions)
    if cursor is not None:
        at, run_id = read_cursor(cursor, datetime, UUID)
        query = query.where(after((_runs.last_updated_at, at), (_runs.run_id, run_id), descending=True))
    query = query.order_by(_runs.last_updated_at.desc(), _runs.run_id.desc()).limit(limit + 1)
    rows = [dict(row._mapping) for row in await conn.execute(query)]
    if outputs:
        whole = await resolve(conn, tenant_id, [row["outputs"] for row in rows])
        rows = [{**row, "outputs": one} for row, one in zip(rows, whole, strict=True)]
    found = [Run(**row) for row in rows]
    more = write_cursor(found[limit - 1].last_updated_at, found[limit - 1].run_id) if len(found) > limit else None
    return TaskPage(found[:limit], more, int(total))


def _in_context(tenant_id: str, context_id: str) -> ColumnElement[bool]:
    noted = select(_tasks.run_id).where(_tasks.tenant_id == tenant_id, _tasks.context_id == context_id)
    try:
        itself = UUID(context_id)
    except ValueError:
        return _runs.run_id.in_(noted)
    of_message = select(_tasks.run_id).where(_tasks.tenant_id == tenant_id, _tasks.run_id == itself)
    return _runs.run_id.in_(noted) | ((_runs.run_id == cast(itself, Uuid)) & ~of_message.exists())


async def nodes_with_state(conn: AsyncConnection, tenant_id: str, digest: str, state: str) -> frozenset[str]:
    """Which nodes of this plan say in their metadata that to wait for them is this state of a task?"""
    path = literal_column("'$.nodes[*] ? (@.metadata.a2a.state == $state).nodeId'::jsonpath", JSONPATH)
    wanted = func.jsonb_build_object(literal("state"), literal(state))
    found = func.jsonb_path_query_array(_documents.document, path, wanted, type_=JSONB)
    query = select(found).where(_documents.tenant_id == tenant_id, _documents.digest == digest)
    return frozenset((await conn.execute(query)).scalar_one_or_none() or ())


async def list_skills(conn: AsyncConnection, tenant_id: str, *, limit: int) -> list[Skill]:
    """Which plans are published, each in its highest version, by name?"""
    same = (_documents.tenant_id == _plans.tenant_id) & (_documents.digest == _plans.digest)
    document = _documents.document
    columns = [_plans.plan_id, _plans.version, _plans.name]
    shown = [document["description"].astext.label("description"), document["inputs"].label("inputs")]
    query = select(*columns, *shown, document["metadata"].label("metadata")).select_from(
        plans.join(plan_documents, same)
    )
    query = query.where(_plans.tenant_id == tenant_id).ext(distinct_on(_plans.plan_id))
    highest = query.order_by(_plans.plan_id, _plans.version_order.desc(), _plans.created_at.desc()).subquery()
    rows = await conn.execute(select(highest).order_by(highest.c.name, highest.c.plan_id).limit(limit))
    return [Skill(**{**row._mapping, "metadata": row._mapping["metadata"] or {}}) for row in rows]
