"""Alembic migrations; ``dalang.store.migrate`` runs them.

Which there are and which were run is told here, without Alembic: whether a process is ready is asked by processes that
run none, and its import costs a tenth of a second.
"""

from __future__ import annotations

import functools
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@functools.cache
def newest_revision() -> str:
    """Return the revision that this version of Dalang needs: files of migrations begin with theirs."""
    return max(file.name[:4] for file in (Path(__file__).parent / "versions").glob("[0-9]*.py"))


async def current_revision(conn: AsyncConnection) -> str | None:
    """Which revision is the database at? None before the first migration."""
    if await conn.scalar(text("SELECT to_regclass('alembic_version') IS NULL")):
        return None
    found: str | None = await conn.scalar(text("SELECT version_num FROM alembic_version"))
    return found
