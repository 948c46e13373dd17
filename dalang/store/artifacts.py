"""Queries about artifacts: what files there are, whose they are, and when they were used last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.artifact_tables import artifacts
from dalang.store.paging import Page, after, read_cursor, write_cursor
from dalang.store.tables import execution_runs

_own = artifacts.c


@dataclass(frozen=True)
class Artifact:
    """A file: ``size`` in bytes, who brought it, and the node it came from, if it was one."""

    digest: str
    size: int
    media_type: str
    name: str | None
    created_by: str
    run_id: UUID | None
    node_id: str | None
    created_at: datetime
    used_at: datetime


_columns = [_own[name] for name in Artifact.__dataclass_fields__]


async def put_artifact(
    conn: AsyncConnection,
    tenant_id: str,
    *,
    digest: str,
    size: int,
    media_type: str,
    name: str | None,
    created_by: str,
    run_id: UUID | None,
    node_id: str | None,
) -> Artifact:
    """Note a file; of one that is there already, that it was used. The row is locked until the transaction ends."""
    statement = insert(artifacts).values(
        tenant_id=tenant_id,
        digest=digest,
        size=size,
        media_type=media_type,
        name=name,
        created_by=created_by,
        run_id=run_id,
        node_id=node_id,
    )
    statement = statement.on_conflict_do_update(
        index_elements=["tenant_id", "digest"], set_={"used_at": func.clock_timestamp()}
    )
    return Artifact(**(await conn.execute(statement.returning(*_columns))).mappings().one())


async def use_artifact(conn: AsyncConnection, tenant_id: str, digest: str) -> Artifact | None:
    """Return a file of the tenant, noting that it was used."""
    statement = update(artifacts).where(_own.tenant_id == tenant_id, _own.digest == digest)
    row = (await conn.execute(statement.values(used_at=func.now()).returning(*_columns))).mappings().one_or_none()
    return None if row is None else Artifact(**row)


async def get_artifact(conn: AsyncConnection, tenant_id: str, digest: str) -> Artifact | None:
    """Return a file of the tenant."""
    statement = select(*_columns).where(_own.tenant_id == tenant_id, _own.digest == digest)
    row = (await conn.execute(statement)).mappings().one_or_none()
    return None if row is None else Artifact(**row)


async def list_artifacts(
    conn: AsyncConnection,
    tenant_id: str,
    *,
    run_id: UUID | None = None,
    node_id: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[Artifact]:
    """Return files of the tenant, the newest first; of a run, or of a node. Raises InvalidCursor."""
    statement = select(*_columns).where(_own.tenant_id == tenant_id)
    if run_id is not None:
        statement = statement.where(_own.run_id == run_id)
    if node_id is not None:
        statement = statement.where(_own.node_id == node_id)
    if cursor is not None:
        at, digest = read_cursor(cursor, datetime, str)
        statement = statement.where(after((_own.created_at, at), (_own.digest, digest), descending=True))
    statement = statement.order_by(_own.created_at.desc(), _own.digest.desc()).limit(limit + 1)
    found = [Artifact(**row) for row in (await conn.execute(statement)).mappings()]
    items = found[:limit]
    more = write_cursor(items[-1].created_at, items[-1].digest) if len(found) > limit else None
    return Page(items, more)


async def unused_artifacts(conn: AsyncConnection, tenant_id: str, before: datetime, limit: int) -> Sequence[str]:
    """Return digests of files that nobody has used since ``before``, and whose run has ended."""
    runs = execution_runs.c
    under_way = select(runs.run_id).where(
        runs.tenant_id == tenant_id, runs.run_id == _own.run_id, runs.completed_at.is_(None)
    )
    statement = (
        select(_own.digest)
        .where(_own.tenant_id == tenant_id, _own.used_at < before, or_(_own.run_id.is_(None), ~under_way.exists()))
        .order_by(_own.used_at)
        .limit(limit)
    )
    return (await conn.execute(statement)).scalars().all()


async def delete_artifact(
    conn: AsyncConnection, tenant_id: str, digest: str, unused_since: datetime | None = None
) -> bool:
    """Forget a file, unless it was used since; tell whether it was there."""
    statement = delete(artifacts).where(_own.tenant_id == tenant_id, _own.digest == digest)
    if unused_since is not None:
        statement = statement.where(_own.used_at < unused_since)
    return (await conn.execute(statement)).rowcount == 1
