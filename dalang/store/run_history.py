"""What a run looked like at a moment of its past, and when its nodes did what: questions to its events.

Only the chain that counts is asked: what a ``workflow reset`` took back is left out. Its numbers rise from 1 without
gaps but where a restored backup left one, so that ``seq`` is a place in the run's time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, any_, bindparam, func, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.tables import node_executions, run_events, run_revisions

PAGE = 5_000
_events, _revisions, _nodes = run_events.c, run_revisions.c, node_executions.c


@dataclass(frozen=True)
class Moment:
    """One event of a run as a place in its time."""

    epoch: int
    seq: int
    at: datetime
    type: str
    node_id: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How a node stands now."""

    node_id: str
    status: str
    attempt: int
    max_attempts: int
    started_at: datetime | None
    completed_at: datetime | None


class RowOrder(StrEnum):
    """How the nodes of a run are listed that something has happened to."""

    START = "start"
    """As they began."""
    LENGTH = "length"
    """Those that took longest first."""
    NAME = "name"
    """By their ids."""


@dataclass(frozen=True, slots=True)
class Change:
    """That a node came to a status."""

    at: datetime
    type: str
    node_id: str
    status: str


async def node_progress(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, among: Collection[str] | None = None
) -> dict[str, Progress]:
    """How does every node stand that something has happened to, or every one ``among`` these?"""
    query = select(*(_nodes[one.name] for one in fields(Progress)))
    query = query.where(_nodes.tenant_id == tenant_id, _nodes.run_id == run_id)
    if among is not None:
        query = query.where(_nodes.node_id == any_(bindparam("among", list(among), ARRAY(Text))))
    found: dict[str, Progress] = {}
    page = query.order_by(_nodes.node_id).limit(PAGE)
    # By pages, since between two of them others are answered: all of 100,000 nodes take a third of a second to receive.
    while True:
        rows = (await conn.execute(page)).all()
        found |= {row[0]: Progress(*row) for row in rows}
        if len(rows) < PAGE:
            return found
        page = page.where(_nodes.node_id > rows[-1][0])


async def list_rows(
    conn: AsyncConnection,
    tenant_id: str,
    run_id: UUID,
    order: RowOrder,
    *,
    among: Collection[str] | None = None,
    first: int = 0,
    limit: int,
) -> tuple[list[str], int]:
    """Which nodes has something happened to, from the one at place ``first``; and how many are there ``among`` these?

    The number is 0 where it is not asked of some among all.
    """
    of_run = (_nodes.tenant_id == tenant_id) & (_nodes.run_id == run_id)
    if among is not None:
        of_run &= _nodes.node_id == any_(bindparam("nodes", list(among), ARRAY(Text)))
    took = func.coalesce(_nodes.completed_at, func.now()) - _nodes.started_at
    by: dict[RowOrder, list[ColumnElement[Any]]] = {
        RowOrder.START: [_nodes.created_at.asc()],
        RowOrder.LENGTH: [took.desc().nulls_last()],
        RowOrder.NAME: [],
    }
    query = select(_nodes.node_id).where(of_run).order_by(*by[order], _nodes.node_id).offset(first).limit(limit)
    found = list((await conn.execute(query)).scalars())
    if among is None:
        return found, 0
    return found, (await conn.execute(select(func.count()).select_from(node_executions).where(of_run))).scalar_one()


async def nodes_since(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, epoch: int, seq: int, *, limit: int
) -> list[tuple[int, str | None]]:
    """What happened in an epoch of a run after event ``seq``: number and node of each event, in order?"""
    query = select(_events.seq, _events.node_id).where(_of(tenant_id, run_id), _events.epoch == epoch)
    rows = await conn.execute(query.where(_events.seq > seq).order_by(_events.seq).limit(limit))
    return [(row[0], row[1]) for row in rows]


async def moment_at(conn: AsyncConnection, tenant_id: str, run_id: UUID, seq: int) -> Moment | None:
    """What was the newest event when a run had come to this number?"""
    query = select(_events.epoch, _events.seq, _events.at, _events.type, _events.node_id)
    query = query.where(_of(tenant_id, run_id), _events.seq <= seq).order_by(_events.seq.desc()).limit(1)
    row = (await conn.execute(query)).first()
    return None if row is None else Moment(*row)


async def node_statuses_at(conn: AsyncConnection, tenant_id: str, run_id: UUID, seq: int) -> dict[str, str]:
    """Which status had each node when a run had come to this number? Not told of: nodes nothing had happened to."""
    status = _events.data["status"].astext
    query = select(_events.node_id, status).ext(distinct_on(_events.node_id))
    query = query.where(_of(tenant_id, run_id), _events.seq <= seq, _events.node_id.is_not(None), status.is_not(None))
    rows = await conn.execute(query.order_by(_events.node_id, _events.seq.desc()))
    return {node_id: found for node_id, found in rows}


async def run_status_at(conn: AsyncConnection, tenant_id: str, run_id: UUID, seq: int) -> str | None:
    """Which status had a run when it had come to this number?"""
    status = _events.data["status"].astext
    query = select(status).where(_of(tenant_id, run_id), _events.seq <= seq, _events.node_id.is_(None))
    found: str | None = (
        await conn.execute(query.where(status.is_not(None)).order_by(_events.seq.desc()).limit(1))
    ).scalar_one_or_none()
    return found


async def revision_at(conn: AsyncConnection, tenant_id: str, run_id: UUID, seq: int) -> int:
    """At which revision was a run's plan then?"""
    of_run = (_revisions.tenant_id == tenant_id) & (_revisions.run_id == run_id)
    query = select(func.max(_revisions.revision)).where(of_run, _revisions.seq <= seq)
    return (await conn.execute(query)).scalar_one() or 1


async def status_changes(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, *, among: Collection[str] | None = None, limit: int
) -> list[Change]:
    """When did nodes, or those ``among`` all, come to which status, in order?"""
    status = _events.data["status"].astext
    query = select(_events.at, _events.type, _events.node_id, status, _events.epoch, _events.seq)
    query = query.where(_of(tenant_id, run_id), _events.node_id.is_not(None), status.is_not(None))
    if among is not None:
        query = query.where(_events.node_id == any_(bindparam("nodes", list(among), ARRAY(Text))))
    query = query.order_by(_events.epoch, _events.seq)  # in which their numbers rise, too
    found: list[Change] = []
    last = (-1, 0)
    while True:  # by pages, as above
        size = min(limit - len(found), PAGE)
        rows = (await conn.execute(query.where(tuple_(_events.epoch, _events.seq) > tuple_(*last)).limit(size))).all()
        found += [Change(*row[:4]) for row in rows]
        if len(rows) < size or len(found) == limit:
            return found
        last = rows[-1].epoch, rows[-1].seq


def _of(tenant_id: str, run_id: UUID) -> ColumnElement[bool]:
    return (_events.tenant_id == tenant_id) & (_events.run_id == run_id) & ~_events.superseded
