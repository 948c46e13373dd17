"""What tells two states of a list apart, for pages that are live: one cheap row each, by the partial indexes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.people_tables import human_tasks
from dalang.store.tables import execution_runs

_runs, _tasks = execution_runs.c, human_tasks.c


async def version_of_runs(conn: AsyncConnection, tenant_id: str) -> str:
    """Which state are the tenant's runs in? Another text as soon as one begins, moves or ends."""
    newest = select(func.max(_runs.created_at)).where(_runs.tenant_id == tenant_id).scalar_subquery()
    query = select(func.count(), func.max(_runs.last_updated_at), newest)
    active = (_runs.tenant_id == tenant_id, _runs.completed_at.is_(None))
    return _text((await conn.execute(query.where(*active))).one())


async def version_of_tasks(conn: AsyncConnection, tenant_id: str) -> str:
    """Which state are the tenant's open tasks in? Another text as soon as one comes, changes or goes."""
    query = select(func.count(), func.max(_tasks.updated_at), func.max(_tasks.created_at))
    is_open = (_tasks.tenant_id == tenant_id, _tasks.completed_at.is_(None))
    return _text((await conn.execute(query.where(*is_open))).one())


def _text(row: Row[Any]) -> str:
    return "/".join("" if one is None else str(one) for one in row)
