"""Runs: what was asked for, and where each stands (Wayang: ExecutionStore, ExecutionRunRepository)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Select, bindparam, cast, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.canonical import safe_text
from dalang.errors import Conflict
from dalang.statuses import RunStatus
from dalang.store import tallies
from dalang.store.references import resolve
from dalang.store.tables import execution_runs
from dalang.wire import WORKFLOW_ID_PREFIX

_runs = execution_runs.c


@dataclass(frozen=True)
class NewRun:
    """What a run is made from. ``request_digest`` tells two requests with one ``idempotency_key`` apart.

    A run that begins with what another one came to names it in ``redrive_of`` or ``undo_of``; ``origin`` is what was
    asked for then, ``root_run_id`` the first run of all, with which idempotency keys begin.
    """

    tenant_id: str
    plan_id: UUID
    plan_name: str
    plan_version: str
    plan_digest: str
    created_by: str
    total_nodes: int
    inputs: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    idempotency_key: str | None = None
    request_digest: str | None = None
    root_run_id: UUID | None = None
    redrive_of: UUID | None = None
    undo_of: UUID | None = None
    origin: Mapping[str, Any] | None = None
    workflow_id: str | None = None
    temporal_namespace: str | None = None
    temporal_cluster_id: str | None = None
    run_id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True)
class RunSummary:
    """A run as lists show it."""

    run_id: UUID
    tenant_id: str
    plan_id: UUID
    plan_name: str
    plan_version: str
    plan_digest: str
    status: str
    created_by: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    last_updated_at: datetime
    metadata: dict[str, Any]
    priority: int
    retry_count: int
    reason: str | None
    error_message: str | None
    total_nodes: int
    node_status_counts: dict[str, int]
    workflow_id: str | None
    temporal_run_id: str | None
    temporal_namespace: str | None
    temporal_cluster_id: str | None
    last_event_at: datetime | None
    root_run_id: UUID | None
    redrive_of: UUID | None
    undo_of: UUID | None
    parent_run_id: UUID | None
    parent_node_id: str | None
    top_run_id: UUID | None
    iteration: int | None
    elements: int | None

    @property
    def workflow(self) -> str:
        """The id of the workflow that runs it, or will."""
        return self.workflow_id or f"{WORKFLOW_ID_PREFIX}{self.run_id}"


@dataclass(frozen=True)
class Run(RunSummary):
    """A run with everything: inputs, outputs, error, and the head of its chain of events."""

    inputs: Any
    outputs: Any
    error: Any
    idempotency_key: str | None
    request_digest: str | None
    origin: dict[str, Any] | None
    head_epoch: int
    head_seq: int
    head_hash: str


SUMMARY = [_runs[one.name] for one in fields(RunSummary)]
_ALL = [_runs[one.name] for one in fields(Run)]
_CREATE = insert(execution_runs).on_conflict_do_nothing().returning(*_ALL)


async def create_run(conn: AsyncConnection, new: NewRun) -> tuple[Run, bool]:
    """Write the row of a new run, PENDING; return it and whether it is new.

    The same idempotency key with the same request answers the run that is there; with another request it raises
    :class:`Conflict`, as does a run_id that is taken.
    """
    values = {one.name: getattr(new, one.name) for one in fields(new)}
    values |= {"inputs": dict(new.inputs), "metadata": dict(new.metadata)}
    made = await conn.execute(_CREATE, values)
    row = made.first()
    if row is not None:
        return Run(*row), True
    existing = None
    if new.idempotency_key is not None:
        same_key = _runs.idempotency_key == new.idempotency_key
        existing = (await conn.execute(select(*_ALL).where(_runs.tenant_id == new.tenant_id, same_key))).first()
    if existing is None:
        raise Conflict(await _why_taken(conn, new))
    if existing.request_digest != new.request_digest:
        raise Conflict(
            f"The idempotency key {safe_text(new.idempotency_key or '', 200)!r} was used for another request, "
            f"which made run {existing.run_id}."
        )
    return Run(*existing), False


async def _why_taken(conn: AsyncConnection, new: NewRun) -> str:
    if new.redrive_of is not None:
        first = (await linked_runs(conn, new.tenant_id, new.redrive_of)).redriven_by
        if first is not None:
            return f"Run {new.redrive_of} was redriven before, by run {first}; redrive that one."
    return f"The run id {new.run_id} is taken."


@dataclass(frozen=True)
class LinkedRuns:
    """The runs that began with what a run had come to."""

    redriven_by: UUID | None = None
    undone_by: UUID | None = None


async def linked_runs(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> LinkedRuns:
    """Which runs took over from this one?"""
    after_it = (_runs.redrive_of == run_id) | (_runs.undo_of == run_id)
    query = select(_runs.run_id, _runs.redrive_of).where(_runs.tenant_id == tenant_id, after_it)
    rows = await conn.execute(query)
    return LinkedRuns(**{("redriven_by" if row.redrive_of else "undone_by"): row.run_id for row in rows})


async def get_run(conn: AsyncConnection, tenant_id: str, run_id: UUID, *, resolved: bool = True) -> Run | None:
    """Which run is this? ``resolved``: large inputs and outputs are filled in instead of references to them."""
    row = (await conn.execute(select(*_ALL).where(_is(tenant_id, run_id)))).first()
    if row is None:
        return None
    values = dict(row._mapping)
    if resolved:
        bodies = {name: values[name] for name in ("inputs", "outputs", "error")}
        values |= await resolve(conn, tenant_id, bodies)
    return Run(**values)


async def list_active_runs(conn: AsyncConnection, tenant_id: str, *, limit: int = 1000) -> list[RunSummary]:
    """Which runs have not ended, the oldest first?"""
    return await _summaries(conn, _active(tenant_id).order_by(_runs.created_at).limit(limit))


async def list_long_running(
    conn: AsyncConnection, tenant_id: str | None, started_before: datetime, *, limit: int = 1000
) -> list[RunSummary]:
    """Which runs are RUNNING and were started before this time, the oldest first?"""
    late = (_runs.status == RunStatus.RUNNING) & (_runs.started_at < started_before)
    return await _summaries(conn, _active(tenant_id).where(late).order_by(_runs.started_at).limit(limit))


async def count_by_status(conn: AsyncConnection, tenant_id: str) -> dict[str, int]:
    """How many runs have each status? Statuses without runs are left out, and so are runs below nodes of others."""
    return {status: count for _, status, count in await tallies.count_by_status(conn, "run", tenant_id)}


@dataclass(frozen=True)
class Started:
    """Which execution, of which Temporal, runs a run."""

    run_id: UUID
    workflow_id: str
    temporal_run_id: str
    temporal_namespace: str
    temporal_cluster_id: str | None


async def tenants_with_runs(conn: AsyncConnection) -> list[str]:
    """Whose runs are there? In order; for jobs of the whole system."""
    return list((await conn.execute(_TENANTS)).scalars())


_TENANTS = text(  # from tenant to tenant through the index, however many runs they have
    """
    WITH RECURSIVE tenants (tenant_id) AS (
      (SELECT tenant_id FROM execution_runs ORDER BY tenant_id LIMIT 1)
      UNION ALL
      SELECT (SELECT r.tenant_id FROM execution_runs r WHERE r.tenant_id > t.tenant_id ORDER BY r.tenant_id LIMIT 1)
      FROM tenants t WHERE t.tenant_id IS NOT NULL
    )
    SELECT tenant_id FROM tenants WHERE tenant_id IS NOT NULL
    """
)


async def mark_all_started(conn: AsyncConnection, starts: Sequence[Started]) -> None:
    """Note who runs these runs, of all tenants, where nobody has noted it yet."""
    names = [one.name for one in fields(Started)]
    columns = [cast(bindparam(name, [getattr(one, name) for one in starts]), ARRAY(_runs[name].type)) for name in names]
    given = func.unnest(*columns).table_valued(*names, name="given").render_derived()
    changes: dict[str, Any] = {name: given.c[name] for name in names[1:]}
    # A run's own flush may have come first, from a later execution (continue-as-new): it knows better.
    changes["temporal_run_id"] = func.coalesce(_runs.temporal_run_id, given.c.temporal_run_id)
    unknown = (_runs.run_id == given.c.run_id) & or_(
        _runs.temporal_run_id.is_(None), _runs.temporal_namespace.is_(None)
    )
    await conn.execute(update(execution_runs).where(unknown).values(changes))


async def mark_start_failed(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, error: Mapping[str, Any], *, reason: str = "START_FAILED"
) -> bool:
    """End a run FAILED whose workflow cannot be started for good; False when it has begun, or ended, meanwhile."""
    waiting = (_runs.status == RunStatus.PENDING) & (_runs.head_seq == 0) & _runs.temporal_run_id.is_(None)
    ended = {"completed_at": func.now(), "last_updated_at": func.now()}
    message = safe_text(str(error.get("message", "")))
    done = await conn.execute(
        update(execution_runs)
        .where(_is(tenant_id, run_id), waiting)
        .values(status=RunStatus.FAILED, error=dict(error), error_message=message, reason=reason, **ended)
    )
    return bool(done.rowcount)


async def list_not_started(
    conn: AsyncConnection, older_than_seconds: float, *, tenant_id: str | None = None, limit: int = 100
) -> list[Run]:
    """Which runs were left without a workflow, of all tenants, the oldest first? For the reconciler."""
    query = select(*_ALL).where(
        _runs.status == RunStatus.PENDING,
        _runs.completed_at.is_(None),
        _runs.temporal_run_id.is_(None),
        _runs.created_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, older_than_seconds),
    )
    if tenant_id is not None:
        query = query.where(_runs.tenant_id == tenant_id)
    return [Run(*row) for row in await conn.execute(query.order_by(_runs.created_at).limit(limit))]


def _is(tenant_id: str, run_id: UUID) -> ColumnElement[bool]:
    return (_runs.tenant_id == tenant_id) & (_runs.run_id == run_id)


def _active(tenant_id: str | None) -> Select[Any]:
    query = select(*SUMMARY).where(_runs.completed_at.is_(None))  # what the partial index says
    return query if tenant_id is None else query.where(_runs.tenant_id == tenant_id)


async def _summaries(conn: AsyncConnection, query: Select[Any]) -> list[RunSummary]:
    return [RunSummary(*row) for row in await conn.execute(query)]
