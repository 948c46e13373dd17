"""Human tasks: what people are asked, by whom, until when (Wayang: HumanTaskRepository).

Open is a task that is PENDING or IN_PROGRESS. Rows come from the events of runs (``task_projection.py``) and from
nowhere else: who decides asks the run, which records what came of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, false, func, literal, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.events import Event, list_events_of_task
from dalang.store.paging import Page, after, read_cursor, write_cursor
from dalang.store.people_tables import human_tasks
from dalang.store.references import resolve
from dalang.store.tables import execution_runs
from dalang.store.tallies import count_by_status

_tasks, _runs = human_tasks.c, execution_runs.c


@dataclass(frozen=True)
class TaskSummary:
    """A task as lists show it. ``created_by`` is who started the run, ``plan_name`` the plan it runs."""

    task_id: UUID
    run_id: UUID
    node_id: str
    plan_name: str
    kind: str
    title: str
    status: str
    priority: int
    assigned_to: str | None
    candidate_group: str | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    due_at: datetime | None
    remind_at: datetime | None
    reminded_at: datetime | None
    escalate_at: datetime | None
    escalated_at: datetime | None
    completed_at: datetime | None
    completed_by: str | None
    overdue: bool
    quorum: int
    four_eyes: bool
    votes: list[dict[str, Any]]
    actions: list[str]
    digest: str


@dataclass(frozen=True)
class Task(TaskSummary):
    """A task with everything; None is what was not, or was erased."""

    description: str | None
    context: Any
    form: Any
    error: Any
    candidates: list[str] | None
    excluded: list[str]
    decision: Any
    notes: str | None
    decision_id: str | None
    run_status: str


@dataclass(frozen=True)
class Person:
    """Who looks for work: a name, and the groups that it belongs to."""

    subject: str
    groups: Collection[str] = ()


@dataclass(frozen=True)
class TaskFilter:
    """What a list is narrowed to; None and empty mean: any. ``mine``: open tasks that this person could decide."""

    statuses: Sequence[str] = ()
    kinds: Sequence[str] = ()
    run_id: UUID | None = None
    assignee: str | None = None
    group: str | None = None
    groups: Sequence[str] = ()
    mine: Person | None = None
    open: bool | None = None
    overdue: bool | None = None


@dataclass(frozen=True)
class TaskCounts:
    """How many tasks a tenant has; ``by_group`` and the rest count open ones, of no group under the empty text."""

    by_status: dict[str, int]
    by_group: dict[str, int]
    overdue: int
    unassigned: int
    mine: int


_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
_IS_OPEN = _tasks.completed_at.is_(None)
_IS_OVERDUE = and_(_IS_OPEN, _tasks.due_at < func.now())
_COMPUTED: dict[str, ColumnElement[Any]] = {
    "plan_name": _runs.plan_name,
    "created_by": _runs.created_by,
    "run_status": _runs.status,
    "overdue": func.coalesce(_IS_OVERDUE, false()),
}


def _columns(kind: type[Any]) -> list[ColumnElement[Any]]:
    return [_COMPUTED[one.name] if one.name in _COMPUTED else _tasks[one.name] for one in fields(kind)]


_SUMMARY, _ALL = _columns(TaskSummary), _columns(Task)
_WITH_RUN = human_tasks.join(execution_runs, (_runs.tenant_id == _tasks.tenant_id) & (_runs.run_id == _tasks.run_id))


async def get_task(conn: AsyncConnection, tenant_id: str, task_id: UUID, *, resolved: bool = False) -> Task | None:
    """Which task is this? ``resolved``: large values are filled in instead of references to them."""
    query = select(*_ALL).select_from(_WITH_RUN).where(_tasks.tenant_id == tenant_id, _tasks.task_id == task_id)
    row = (await conn.execute(query)).first()
    if row is None:
        return None
    values = {one.name: value for one, value in zip(fields(Task), row, strict=True)}
    if resolved:
        shown = {name: values[name] for name in ("context", "error", "decision")}
        values |= await resolve(conn, tenant_id, shown)
    return Task(**values)


async def list_tasks(
    conn: AsyncConnection,
    tenant_id: str,
    wanted: TaskFilter = TaskFilter(),
    *,
    newest_first: bool = False,
    by_due: bool = False,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[TaskSummary]:
    """Which tasks are there, the most urgent first: by priority, then by age, or else by when they are due?

    Raises :class:`paging.InvalidCursor`.
    """
    query = select(*_SUMMARY).select_from(_WITH_RUN).where(_tasks.tenant_id == tenant_id, *_conditions(wanted))
    order = _newest if newest_first else _soonest_due if by_due else _most_urgent
    query = order(query, cursor)
    found = [TaskSummary(*row) for row in await conn.execute(query.limit(limit + 1))]
    if len(found) <= limit:
        return Page(found, None)
    last = found[limit - 1]
    if newest_first:
        return Page(found[:limit], write_cursor(last.created_at, last.task_id))
    key = (last.priority, (last.due_at or _NEVER) if by_due else last.created_at, last.task_id)
    return Page(found[:limit], write_cursor(*key))


async def count_tasks(conn: AsyncConnection, tenant_id: str, person: Person) -> TaskCounts:
    """How many tasks of the tenant have each status, how many open ones each group, how many wait for this person?"""
    of_tenant = _tasks.tenant_id == tenant_id
    group = func.coalesce(_tasks.candidate_group, "")
    groups = select(group, func.count()).where(of_tenant, _IS_OPEN).group_by(group)
    now = select(
        func.count().filter(_IS_OVERDUE),
        func.count().filter(_tasks.assigned_to.is_(None)),
        func.count().filter(_could_decide(person)),
    ).where(of_tenant, _IS_OPEN)
    by_status = {status: count for _, status, count in await count_by_status(conn, "task", tenant_id)}
    by_group = {name: count for name, count in await conn.execute(groups)}
    overdue, unassigned, mine = (await conn.execute(now)).one()
    return TaskCounts(by_status, by_group, overdue, unassigned, mine)


async def count_waiting(conn: AsyncConnection, tenant_id: str, person: Person) -> int:
    """How many open tasks could this person decide?"""
    mine = (_tasks.tenant_id == tenant_id, _IS_OPEN, _could_decide(person))
    return int((await conn.execute(select(func.count()).select_from(human_tasks).where(*mine))).scalar_one())


async def history_of_task(conn: AsyncConnection, tenant_id: str, task: Task, *, limit: int = 500) -> list[Event]:
    """What happened to a task, the oldest first? Without what a reset took back."""
    return await list_events_of_task(conn, tenant_id, task.run_id, task.task_id, limit=limit)


def _could_decide(person: Person) -> ColumnElement[bool]:
    """The condition that a task waits for this person: it is theirs, or nobody's and open to them."""
    me = literal([person.subject], JSONB)
    my_vote = literal([{"operator": person.subject}], JSONB)
    free = and_(
        _tasks.assigned_to.is_(None),
        or_(_tasks.candidate_group.is_(None), _tasks.candidate_group.in_(sorted(person.groups))),
    )
    invited = or_(_tasks.candidates.is_(None), _tasks.candidates.contains(me))
    barred = or_(_tasks.excluded.contains(me), _tasks.votes.contains(my_vote))
    return and_(or_(_tasks.assigned_to == person.subject, free), invited, ~barred)


def _conditions(wanted: TaskFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.statuses:
        conditions.append(_tasks.status.in_(wanted.statuses))
    if wanted.kinds:
        conditions.append(_tasks.kind.in_(wanted.kinds))
    if wanted.run_id is not None:
        conditions.append(_tasks.run_id == wanted.run_id)
    if wanted.assignee is not None:
        conditions.append(_tasks.assigned_to == wanted.assignee)
    if wanted.group is not None:
        conditions.append(_tasks.candidate_group == wanted.group)
    if wanted.groups:
        conditions.append(_tasks.candidate_group.in_(wanted.groups))
    if wanted.mine is not None:
        conditions += [_IS_OPEN, _could_decide(wanted.mine)]
    if wanted.open is not None:
        conditions.append(_IS_OPEN if wanted.open else ~_IS_OPEN)
    if wanted.overdue is not None:
        conditions.append(_IS_OVERDUE if wanted.overdue else ~func.coalesce(_IS_OVERDUE, false()))
    return conditions


def _newest(query: Select[Any], cursor: str | None) -> Select[Any]:
    if cursor is not None:
        created_at, task_id = read_cursor(cursor, datetime, UUID)
        query = query.where(after((_tasks.created_at, created_at), (_tasks.task_id, task_id), descending=True))
    return query.order_by(_tasks.created_at.desc(), _tasks.task_id.desc())


def _most_urgent(query: Select[Any], cursor: str | None) -> Select[Any]:
    if cursor is not None:
        priority, created_at, task_id = read_cursor(cursor, int, datetime, UUID)
        later = after((_tasks.created_at, created_at), (_tasks.task_id, task_id))
        # A row comparison cannot mix directions; the first condition is the one that the index answers.
        query = query.where(_tasks.priority <= priority, or_(_tasks.priority < priority, later))
    return query.order_by(_tasks.priority.desc(), _tasks.created_at, _tasks.task_id)


def _soonest_due(query: Select[Any], cursor: str | None) -> Select[Any]:
    due = func.coalesce(_tasks.due_at, _NEVER)
    if cursor is not None:
        priority, due_at, task_id = read_cursor(cursor, int, datetime, UUID)
        later = after((due, due_at), (_tasks.task_id, task_id))
        query = query.where(_tasks.priority <= priority, or_(_tasks.priority < priority, later))
    return query.order_by(_tasks.priority.desc(), due, _tasks.task_id)
