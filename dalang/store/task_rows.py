"""Rows of human tasks within a flush: read, folded, saved; and folded again after a reset. See ``recording.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Uuid as UuidType
from sqlalchemy import and_, any_, bindparam, case, delete, func, null, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.statuses import TaskStatus
from dalang.store.bulk import arguments, insert_all, is_newer
from dalang.store.chain import Transition
from dalang.store.people_tables import human_tasks
from dalang.store.projection import Row
from dalang.store.stored_chain import task_events
from dalang.store.task_projection import task_after, task_of

Tasks = dict[UUID, Row]
_tasks = human_tasks.c


async def folded_tasks(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, epoch: int, events: Sequence[Transition], known: Tasks
) -> Tasks:
    """Return the rows of the tasks that ``events`` are about, after them; ``known`` are rows not read again."""
    wanted = {task for task in map(task_of, events) if task is not None}
    if not wanted:
        return {}
    missing = sorted(wanted - known.keys())
    before = {**known, **await _rows(conn, tenant_id, missing)} if missing else known
    return _fold({task: before[task] for task in wanted if task in before}, tenant_id, run_id, epoch, events)


async def save_tasks(conn: AsyncConnection, tasks: Mapping[UUID, Row]) -> None:
    """Write rows; a newer one that is there stays."""
    if not tasks:
        return
    rows = list(tasks.values())
    names = tuple(rows[0])
    statement = insert_all(human_tasks, names)
    new = statement.excluded
    keys = {"tenant_id", "task_id", "run_id", "created_at"}
    statement = statement.on_conflict_do_update(
        index_elements=["tenant_id", "task_id"],
        set_={column.name: new[column.name] for column in _tasks if column.name not in keys},
        where=and_(is_newer(human_tasks, new), _tasks.run_id == new.run_id),
    )
    await conn.execute(statement, arguments(human_tasks, names, rows))


async def fold_tasks_again(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> Tasks:
    """Make the rows of all tasks of a run from its current chain; what was superseded leaves nothing behind."""
    of_run = (_tasks.tenant_id == tenant_id) & (_tasks.run_id == run_id)
    await conn.execute(delete(human_tasks).where(of_run))
    tasks: Tasks = {}
    for epoch, event in await task_events(conn, run_id):
        tasks.update(_fold(tasks, tenant_id, run_id, epoch, [event]))
    await save_tasks(conn, tasks)
    return tasks


async def cancel_open_tasks(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """End what a run still asks of people, since nobody is left who would take the answer."""
    is_open = _tasks.completed_at.is_(None)
    of_run = (_tasks.tenant_id == tenant_id) & (_tasks.run_id == run_id)
    ended = {"status": TaskStatus.CANCELLED, "completed_at": func.now(), "updated_at": func.now()}
    await conn.execute(update(human_tasks).where(of_run, is_open).values(ended))


async def erase_tasks(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Erase what users put into the tasks of a run; who decided what stays."""
    of_run = (_tasks.tenant_id == tenant_id) & (_tasks.run_id == run_id)
    nothing = dict.fromkeys(("description", "form", "context", "error", "candidates", "notes"), null())
    action = func.jsonb_build_object("action", _tasks.decision["action"])
    kept = case((_tasks.decision.is_(None), null()), else_=action)
    erased = {**nothing, "title": _tasks.node_id, "excluded": [], "decision": kept}
    await conn.execute(update(human_tasks).where(of_run).values(erased))


def _fold(before: Tasks, tenant_id: str, run_id: UUID, epoch: int, events: Sequence[Transition]) -> Tasks:
    tasks = dict[UUID, Row]()
    for event in events:
        task = task_of(event)
        if task is not None:
            row = task_after(tasks.get(task) or before.get(task), run_id, tenant_id, epoch, event)
            assert row is not None
            tasks[task] = row
    return tasks


async def _rows(conn: AsyncConnection, tenant_id: str, task_ids: Sequence[UUID]) -> Tasks:
    is_wanted = _tasks.task_id == any_(bindparam("tasks", list(task_ids), ARRAY(UuidType)))
    rows = await conn.execute(select(human_tasks).where(_tasks.tenant_id == tenant_id, is_wanted))
    return {row.task_id: dict(row._mapping) for row in rows}
