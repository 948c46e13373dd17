"""How all nodes of a run stand, in columns that the database puts together: of 100,000 rows each would cost more."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

NEVER = -(2**63)
"""The time of what has not happened."""
_SINCE = 946_684_800_000
"""The year 2000, from which PostgreSQL counts microseconds, in milliseconds since the epoch."""
# Ids are put together as bytes, with one between them that no text of PostgreSQL has.
_STATUSES = text(r"""
    SELECT status, string_agg(convert_to(node_id, 'UTF8'), '\x00') AS ids
    FROM node_executions WHERE tenant_id = :tenant AND run_id = :run AND status <> :but
    GROUP BY status
    """)
_TIMES = text(r"""
    SELECT status, string_agg(convert_to(node_id, 'UTF8'), '\x00') AS ids,
      string_agg(coalesce(timestamptz_send(started_at), '\x8000000000000000'), '') AS began,
      string_agg(coalesce(timestamptz_send(completed_at), '\x8000000000000000'), '') AS ended
    FROM node_executions WHERE tenant_id = :tenant AND run_id = :run
    GROUP BY status
    """)


@dataclass(frozen=True)
class Timed:
    """Nodes with the same status, and when they began and ended: PostgreSQL's microseconds, or NEVER."""

    status: str
    ids: Sequence[str]
    began: array[int]
    ended: array[int]


async def ids_by_status(conn: AsyncConnection, tenant_id: str, run_id: UUID, but: str = "") -> dict[str, list[str]]:
    """Which nodes have which status, ``but`` for those with one; not told of: nodes nothing has happened to."""
    rows = await conn.execute(_STATUSES, {"tenant": tenant_id, "run": run_id, "but": but})
    return {row.status: _ids(row) for row in rows}


async def timed_nodes(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> list[Timed]:
    """When did which nodes begin and end, by their status; not told of: nodes nothing has happened to."""
    rows = await conn.execute(_TIMES, {"tenant": tenant_id, "run": run_id})
    return [Timed(row.status, _ids(row), _times(row.began), _times(row.ended)) for row in rows]


def _ids(row: Row[Any]) -> list[str]:
    return bytes(row.ids).decode().split("\0")


def _times(column: bytes) -> array[int]:
    found = array("q")
    found.frombytes(column)
    if sys.byteorder == "little":  # what is sent is big
        found.byteswap()
    return found


def to_ms(microseconds: int) -> int:
    """Return PostgreSQL's microseconds as milliseconds since the epoch."""
    return (microseconds + 500) // 1000 + _SINCE
