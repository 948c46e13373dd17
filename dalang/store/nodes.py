"""Nodes of runs as the read model has them, and their failed attempts (Wayang: NodeStateRepository).

A node has a row from its first event on; nodes of the plan without a row are PENDING.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, and_, any_, bindparam, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.canonical import find_unsafe, safe_text
from dalang.made import made_of
from dalang.statuses import NodeStatus
from dalang.store.projection import body_part
from dalang.store.references import resolve
from dalang.store.tables import event_bodies, execution_runs, node_attempts, node_executions

_nodes, _attempts = node_executions.c, node_attempts.c


@dataclass(frozen=True)
class NodeState:
    """A node as lists show it; ``revision`` is the number of the newest event it shows."""

    run_id: UUID
    node_id: str
    status: str
    attempt: int
    max_attempts: int
    generation: int
    skip_reason: str | None
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    revision_epoch: int
    revision: int
    metadata: dict[str, Any]


@dataclass(frozen=True)
class NodeDetail(NodeState):
    """A node with what went in and what came out; None is what was not, or was erased."""

    inputs: Any
    outputs: Any
    error: Any


@dataclass(frozen=True)
class Attempt:
    """A failed attempt of a node, as the worker that made it reported; ``made`` is what made it (``dalang/made.py``).

    ``starts`` counts the earlier starts of the same work, each of which counts its attempts from 1.
    """

    run_id: UUID
    node_id: str
    generation: int
    starts: int
    attempt: int
    error: dict[str, Any]
    started_at: datetime | None
    ended_at: datetime
    worker: str
    made: dict[str, Any]


_STATE = [_nodes[one.name] for one in fields(NodeState)]
_PARTS = {"inputs": "input", "outputs": "output", "error": "error"}


async def list_nodes(
    conn: AsyncConnection,
    tenant_id: str,
    run_id: UUID,
    *,
    statuses: Sequence[str] = (),
    after: str | None = None,
    limit: int | None = None,
) -> list[NodeState]:
    """Which nodes has something happened to, by node id? ``after`` is the node id that the page before ended with."""
    query = select(*_STATE).where(_of(tenant_id, run_id)).order_by(_nodes.node_id).limit(limit)
    if statuses:
        query = query.where(_nodes.status.in_(statuses))
    if after is not None:
        query = query.where(_nodes.node_id > after)
    return [NodeState(*row) for row in await conn.execute(query)]


async def get_node(conn: AsyncConnection, tenant_id: str, run_id: UUID, node_id: str) -> NodeDetail | None:
    """Which node is this, and what went in and out? Large values are filled in instead of references to them."""
    references = [_nodes[f"{part}_{column}"] for part in _PARTS.values() for column in ("epoch", "seq")]
    query = select(*_STATE, *references).where(_of(tenant_id, run_id), _nodes.node_id == node_id)
    row = (await conn.execute(query)).mappings().first()
    if row is None:
        return None
    wanted = {name: (row[f"{part}_epoch"], row[f"{part}_seq"]) for name, part in _PARTS.items()}
    bodies = event_bodies.c
    places = [and_(bodies.epoch == epoch, bodies.seq == seq) for epoch, seq in wanted.values() if seq is not None]
    found: dict[tuple[int, int], Any] = {}
    if places:
        of_run = (bodies.tenant_id == tenant_id) & (bodies.run_id == run_id)
        rows = await conn.execute(select(bodies.epoch, bodies.seq, bodies.body).where(of_run, or_(*places)))
        found = {(epoch, seq): body for epoch, seq, body in rows}
    values = {name: body_part(found.get(place), name) for name, place in wanted.items()}
    state = {one.name: row[one.name] for one in fields(NodeState)}
    return NodeDetail(**state, **await resolve(conn, tenant_id, values))


async def list_retryable_nodes(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> list[NodeState]:
    """Which nodes failed, handled or not, with attempts left?"""
    failed = _nodes.status.in_((NodeStatus.FAILED, NodeStatus.ERROR)) & (_nodes.attempt < _nodes.max_attempts)
    query = select(*_STATE).where(_of(tenant_id, run_id), failed).order_by(_nodes.node_id)
    return [NodeState(*row) for row in await conn.execute(query)]


async def count_nodes_by_status(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> dict[str, int]:
    """How many nodes have each status? Statuses without nodes are left out, and so are nodes without a row."""
    query = select(_nodes.status, func.count()).where(_of(tenant_id, run_id)).group_by(_nodes.status)
    return {status: count for status, count in await conn.execute(query)}


async def record_attempt(
    conn: AsyncConnection,
    tenant_id: str,
    run_id: UUID,
    node_id: str,
    *,
    generation: int,
    attempt: int,
    error: Mapping[str, Any],
    ended_at: datetime,
    starts: int = 0,
    started_at: datetime | None = None,
    worker: str = "",
    made: Mapping[str, Any] | None = None,
) -> bool:
    """Keep a failed attempt; a second report of it changes nothing. False: its run is not there, or not yet."""
    unsafe = find_unsafe(error)
    stored = dict(error) if unsafe is None else {"message": f"The error could not be stored: {unsafe[0]} {unsafe[1]}"}
    values: dict[str, ColumnElement[Any]] = {
        "run_id": literal(run_id),
        "node_id": literal(node_id),
        "generation": literal(generation),
        "starts": literal(starts),
        "attempt": literal(attempt),
        "tenant_id": literal(tenant_id),
        "error": literal(stored, JSONB),
        "started_at": literal(started_at, _attempts.started_at.type),
        "ended_at": literal(ended_at),
        "worker": literal(safe_text(worker, 500)),
        "made": literal(made_of(made), JSONB),
    }
    runs = execution_runs.c
    is_there = select(runs.run_id).where(runs.tenant_id == tenant_id, runs.run_id == run_id).exists()
    row = select(*list(values.values())).where(is_there)
    kept = await conn.execute(insert(node_attempts).from_select(list(values), row).on_conflict_do_nothing())
    return kept.rowcount > 0 or await has_run(conn, tenant_id, run_id)


async def has_run(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> bool:
    """Is there such a run? That of one below a node comes with its first events."""
    runs = execution_runs.c
    found = await conn.execute(select(runs.run_id).where(runs.tenant_id == tenant_id, runs.run_id == run_id))
    return found.first() is not None


async def list_attempts(
    conn: AsyncConnection,
    tenant_id: str,
    run_id: UUID,
    *,
    node_id: str | None = None,
    among: Collection[str] | None = None,
    limit: int = 1000,
) -> list[Attempt]:
    """Which attempts failed, in one node, in some ``among`` all, or in all, the oldest first?"""
    query = select(*(_attempts[one.name] for one in fields(Attempt)))
    query = query.where(_attempts.tenant_id == tenant_id, _attempts.run_id == run_id)
    if node_id is not None:
        query = query.where(_attempts.node_id == node_id)
    if among is not None:
        query = query.where(_attempts.node_id == any_(bindparam("among", list(among), ARRAY(Text))))
    order = (_attempts.ended_at, _attempts.node_id, _attempts.generation, _attempts.starts, _attempts.attempt)
    return [Attempt(*row) for row in await conn.execute(query.order_by(*order).limit(limit))]


def _of(tenant_id: str, run_id: UUID) -> ColumnElement[bool]:
    return (_nodes.tenant_id == tenant_id) & (_nodes.run_id == run_id)
