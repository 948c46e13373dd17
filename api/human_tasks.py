"""Human tasks: the inbox, and what is asked. What people answer is in ``task_decisions.py``."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.auth import Principal, Reader
from dalang.api.services import Service
from dalang.api.task_schemas import TaskCountsResponse, TaskDetail, TaskHappening, TaskItem, TaskPage, TaskQuery
from dalang.errors import NotFound
from dalang.statuses import TaskStatus
from dalang.store.events import Event
from dalang.store.human_tasks import (
    Person,
    Task,
    TaskFilter,
    count_tasks,
    get_task,
    history_of_task,
    list_tasks,
)

router = APIRouter(prefix="/orchestrator/human-tasks", tags=["human tasks"])

_ITEM = tuple(TaskItem.model_fields)
_DETAIL = tuple(name for name in TaskDetail.model_fields if name != "history")


@router.get("")
async def get_tasks(who: Reader, query: Annotated[TaskQuery, Query()], it: Service) -> TaskPage:
    """List human tasks, the most urgent first."""
    wanted = TaskFilter(
        statuses=query.status,
        kinds=query.kind,
        run_id=query.run_id,
        assignee=query.assignee,
        group=query.group,
        mine=person(who) if query.mine else None,
        open=query.open,
        overdue=query.overdue,
    )
    newest = query.order == "newest"
    async with it.transaction(who.tenant_id) as conn:
        page = await list_tasks(
            conn, who.tenant_id, wanted, newest_first=newest, limit=query.limit, cursor=query.cursor
        )
    items = [TaskItem.model_validate({name: getattr(one, name) for name in _ITEM}) for one in page.items]
    return TaskPage(items=items, next=page.cursor)


@router.get("/counts")
async def get_task_counts(who: Reader, it: Service) -> TaskCountsResponse:
    """Count human tasks by status, and open ones by group."""
    async with it.transaction(who.tenant_id, snapshot=True) as conn:
        found = await count_tasks(conn, who.tenant_id, person(who))
    return TaskCountsResponse(
        counts={TaskStatus(status): count for status, count in found.by_status.items()},
        by_group=found.by_group,
        open=sum(found.by_group.values()),
        overdue=found.overdue,
        unassigned=found.unassigned,
        mine=found.mine,
        total=sum(found.by_status.values()),
    )


@router.get("/{taskId}")
async def get_one_task(who: Reader, taskId: UUID, it: Service) -> TaskDetail:
    """Read a human task: what is shown, its form, what was decided, what happened to it."""
    async with it.transaction(who.tenant_id) as conn:
        task = await found_task(conn, who, taskId, resolved=True)
        history = await history_of_task(conn, who.tenant_id, task)
    shown: dict[str, Any] = {name: getattr(task, name) for name in _DETAIL}
    return TaskDetail.model_validate({**shown, "history": [_happening(one) for one in history]})


def person(who: Principal) -> Person:
    """Return who asks as the queries of the inbox know people."""
    return Person(who.subject, who.groups)


async def found_task(conn: AsyncConnection, who: Principal, task_id: UUID, *, resolved: bool = False) -> Task:
    """Return a task of the tenant.

    Raises:
        NotFound: there is none, or it belongs to another tenant.
    """
    task = await get_task(conn, who.tenant_id, task_id, resolved=resolved)
    if task is None:
        raise NotFound(f"There is no human task {task_id}.")
    return task


def _happening(event: Event) -> TaskHappening:
    data = {key: value for key, value in event.data.items() if key not in ("task", "status")}
    body = event.body if isinstance(event.body, dict) else {}
    return TaskHappening(id=event.id, type=event.type, at=event.at, data=data, decision=body.get("decision"))
