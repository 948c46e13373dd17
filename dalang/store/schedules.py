"""Schedules: what each starts and when. Temporal keeps the time; what is wanted stands here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.errors import Conflict
from dalang.store.paging import Page, after, read_cursor, write_cursor
from dalang.store.run_lists import RunFilter, list_runs
from dalang.store.runs import Run, RunSummary
from dalang.store.tables import execution_runs, schedules

_schedules, _runs = schedules.c, execution_runs.c
_CREATOR = "schedule:"


@dataclass(frozen=True)
class NewSchedule:
    """What a schedule is made from; ``timing`` is a ``timetable.Timing`` in wire form.

    ``key`` tells it from another one that had the same id before.
    """

    tenant_id: str
    schedule_id: str
    plan_id: UUID
    plan_version: str | None
    timing: Mapping[str, Any]
    created_by: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None
    note: str = ""
    paused: bool = False
    key: UUID = field(default_factory=uuid4)


@dataclass(frozen=True)
class Schedule:
    """A schedule. ``paused`` is what an operator last asked for: Temporal may have paused it after a failure."""

    tenant_id: str
    schedule_id: str
    key: UUID
    plan_id: UUID
    plan_version: str | None
    inputs: dict[str, Any]
    metadata: dict[str, Any]
    priority: int | None
    timing: dict[str, Any]
    note: str
    paused: bool
    revision: int
    last_error: dict[str, Any] | None
    created_by: str
    created_at: datetime
    updated_by: str
    updated_at: datetime

    @property
    def creator(self) -> str:
        """Who its runs are created by."""
        return creator(self.schedule_id)


_ALL = [_schedules[one.name] for one in fields(Schedule)]


def creator(schedule_id: str) -> str:
    """Return what ``created_by`` holds of a run that the schedule started."""
    return _CREATOR + schedule_id


async def create_schedule(conn: AsyncConnection, new: NewSchedule) -> Schedule:
    """Write the row of a new schedule. Raises :class:`Conflict` when the tenant has one with this id."""
    values = {one.name: getattr(new, one.name) for one in fields(new)} | {"updated_by": new.created_by}
    made = await conn.execute(
        insert(schedules)
        .values(values)
        .on_conflict_do_nothing(index_elements=["tenant_id", "schedule_id"])
        .returning(*_ALL)
    )
    row = made.first()
    if row is None:
        raise Conflict(f"There is a schedule {new.schedule_id!r} already.")
    return Schedule(*row)


async def get_schedule(
    conn: AsyncConnection, tenant_id: str, schedule_id: str, *, locked: bool = False
) -> Schedule | None:
    """Which schedule is this? ``locked``: nobody else changes it until the transaction ends."""
    query = select(*_ALL).where(_is(tenant_id, schedule_id))
    row = (await conn.execute(query.with_for_update() if locked else query)).first()
    return None if row is None else Schedule(*row)


async def get_schedule_of_key(conn: AsyncConnection, tenant_id: str, key: UUID) -> Schedule | None:
    """Which schedule has this key?"""
    query = select(*_ALL).where(_schedules.tenant_id == tenant_id, _schedules.key == key)
    row = (await conn.execute(query)).first()
    return None if row is None else Schedule(*row)


async def list_schedules(
    conn: AsyncConnection,
    tenant_id: str,
    *,
    plan_id: UUID | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[Schedule]:
    """Which schedules are there, by id? Raises :class:`paging.InvalidCursor`."""
    query = select(*_ALL).where(_schedules.tenant_id == tenant_id)
    if plan_id is not None:
        query = query.where(_schedules.plan_id == plan_id)
    if cursor is not None:
        (schedule_id,) = read_cursor(cursor, str)
        query = query.where(after((_schedules.schedule_id, schedule_id)))
    found = [Schedule(*row) for row in await conn.execute(query.order_by(_schedules.schedule_id).limit(limit + 1))]
    return Page(found[:limit], write_cursor(found[limit - 1].schedule_id) if len(found) > limit else None)


async def update_schedule(
    conn: AsyncConnection, tenant_id: str, schedule_id: str, by: str, **changes: Any
) -> Schedule | None:
    """Change a schedule, as its next revision; None when there is no such schedule."""
    values = {**changes, "updated_by": by, "updated_at": func.now(), "revision": _schedules.revision + 1}
    done = update(schedules).where(_is(tenant_id, schedule_id)).values(values).returning(*_ALL)
    row = (await conn.execute(done)).first()
    return None if row is None else Schedule(*row)


async def delete_schedule(conn: AsyncConnection, tenant_id: str, schedule_id: str) -> Schedule | None:
    """Delete a schedule and return what it was; its runs stay."""
    row = (await conn.execute(delete(schedules).where(_is(tenant_id, schedule_id)).returning(*_ALL))).first()
    return None if row is None else Schedule(*row)


async def note_error(conn: AsyncConnection, tenant_id: str, key: UUID, error: Mapping[str, Any] | None) -> None:
    """Keep why the last start made no run; None: it did."""
    of_key = (_schedules.tenant_id == tenant_id) & (_schedules.key == key)
    if error is None:
        of_key &= _schedules.last_error.is_not(None)  # the usual case writes nothing
    value = None if error is None else dict(error)
    await conn.execute(update(schedules).where(of_key).values(last_error=value))


async def find_started(conn: AsyncConnection, tenant_id: str, idempotency_key: str) -> Run | None:
    """Which run was made with this Idempotency-Key?"""
    query = select(*(_runs[one.name] for one in fields(Run)))
    query = query.where(_runs.tenant_id == tenant_id, _runs.idempotency_key == idempotency_key)
    row = (await conn.execute(query)).first()
    return None if row is None else Run(*row)


async def newest_runs(conn: AsyncConnection, tenant_id: str, schedule_id: str, *, limit: int) -> Sequence[RunSummary]:
    """Which runs did this schedule start last, the newest first?"""
    return (
        await list_runs(conn, tenant_id, RunFilter(created_by=creator(schedule_id), children=False), limit=limit)
    ).items


async def newest_run_of_each(
    conn: AsyncConnection, tenant_id: str, schedule_ids: Sequence[str]
) -> dict[str, RunSummary]:
    """Which run did each of these schedules start last? Schedules that started none are left out."""
    columns = [_runs[one.name] for one in fields(RunSummary)]
    query = select(*columns).ext(distinct_on(_runs.created_by)).where(_runs.tenant_id == tenant_id)
    query = query.where(_runs.parent_run_id.is_(None))  # those below nodes have the same creator
    query = query.where(_runs.created_by.in_([creator(one) for one in schedule_ids]))
    query = query.order_by(_runs.created_by, _runs.created_at.desc())
    found = [RunSummary(*row) for row in await conn.execute(query)]
    return {run.created_by.removeprefix(_CREATOR): run for run in found}


async def count_active_of_each(conn: AsyncConnection, tenant_id: str, schedule_ids: Sequence[str]) -> dict[str, int]:
    """How many runs that each of these schedules started have not ended? Schedules without one are left out."""
    query = select(_runs.created_by, func.count()).where(
        _runs.tenant_id == tenant_id,
        _runs.created_by.in_([creator(one) for one in schedule_ids]),
        _runs.completed_at.is_(None),
        _runs.parent_run_id.is_(None),
    )
    found = await conn.execute(query.group_by(_runs.created_by))
    return {by.removeprefix(_CREATOR): count for by, count in found}


def _is(tenant_id: str, schedule_id: str) -> ColumnElement[bool]:
    return (_schedules.tenant_id == tenant_id) & (_schedules.schedule_id == schedule_id)
