"""The revisions of runs' plans: written from the events that tell of them, read by whoever shows or continues a run.

A run whose plan never changed has no row: its one plan is ``execution_runs.plan_digest``. That column is always the
digest of the plan as it is now, so that whoever lists or draws the nodes of a run needs nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, any_, bindparam, delete, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from dalang.canonical import safe_text
from dalang.redaction import is_withheld
from dalang.statuses import NODE_ENDS
from dalang.store.chain import Transition
from dalang.store.projection import body_part
from dalang.store.references import resolve
from dalang.store.runs import RunSummary
from dalang.store.tables import event_bodies, execution_runs, node_executions, plan_documents, run_events, run_revisions
from dalang.wire import EventType

_revisions, _runs, _nodes = run_revisions.c, execution_runs.c, node_executions.c
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RunRevision:
    """One revision of a run's plan; ``changes`` counts what it changed, ``seq`` is its event's number."""

    run_id: UUID
    revision: int
    plan_digest: str
    operator: str | None
    reason: str | None
    changes: dict[str, int]
    at: datetime
    epoch: int | None
    seq: int | None


async def note_revisions(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, epoch: int, events: Sequence[Transition]
) -> None:
    """Write what events tell of revisions; the run's row then names the newest plan."""
    rows = [_row(tenant_id, run_id, epoch, event) for event in events if _is_revision(event)]
    if not rows:
        return
    names = ("tenant_id", "run_id", "revision", "plan_digest", "operator", "at")
    columns = [_runs.tenant_id, _runs.run_id, literal(1), _runs.plan_digest, _runs.created_by, _runs.created_at]
    first = insert(run_revisions).from_select(names, select(*columns).where(_is(tenant_id, run_id)))
    await conn.execute(first.on_conflict_do_nothing())
    statement = insert(run_revisions)
    new = {
        name: statement.excluded[name]
        for name in ("plan_digest", "operator", "reason", "changes", "at", "epoch", "seq")
    }
    keys = ["tenant_id", "run_id", "revision"]
    await conn.execute(statement.on_conflict_do_update(index_elements=keys, set_=new), rows)
    await _name_newest(conn, tenant_id, run_id)


async def drop_superseded_revisions(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """After a ``workflow reset``: forget revisions whose events are superseded."""
    event = run_events.c
    same = (event.run_id == _revisions.run_id) & (event.epoch == _revisions.epoch) & (event.seq == _revisions.seq)
    of_run = (_revisions.tenant_id == tenant_id) & (_revisions.run_id == run_id)
    gone = await conn.execute(delete(run_revisions).where(of_run, exists().where(same, event.superseded)))
    if gone.rowcount:
        await _name_newest(conn, tenant_id, run_id)


async def list_revisions(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> list[RunRevision]:
    """Which revisions has a run's plan had, the first first? None at all when it never changed."""
    of_run = (_revisions.tenant_id == tenant_id) & (_revisions.run_id == run_id)
    query = select(*(_revisions[one.name] for one in fields(RunRevision))).where(of_run)
    return [RunRevision(*row) for row in await conn.execute(query.order_by(_revisions.revision))]


def first_revision(run: RunSummary) -> RunRevision:
    """Return the one revision of a run whose plan never changed."""
    return RunRevision(run.run_id, 1, run.plan_digest, run.created_by, None, {}, run.created_at, None, None)


async def plan_of_revision(conn: AsyncConnection, tenant_id: str, run_id: UUID, revision: int) -> str | None:
    """Which plan, by digest, did a run have at this revision? At the first one it need not have a row."""
    of_run = (_revisions.tenant_id == tenant_id) & (_revisions.run_id == run_id)
    query = select(_revisions.plan_digest).where(of_run, _revisions.revision == revision)
    digest: str | None = (await conn.execute(query)).scalar_one_or_none()
    if digest is None and revision == 1:
        digest = (await conn.execute(select(_runs.plan_digest).where(_is(tenant_id, run_id)))).scalar_one_or_none()
    return digest


async def results_of(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, node_ids: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """What have these nodes put out, those that have ended: ``outputs`` and ``error`` by node id, large ones whole."""
    wanted = bindparam("nodes", list(node_ids), ARRAY(Text))
    query = select(_nodes.node_id, _nodes.output_epoch, _nodes.output_seq, _nodes.error_epoch, _nodes.error_seq).where(
        _nodes.tenant_id == tenant_id,
        _nodes.run_id == run_id,
        _nodes.status.in_(sorted(NODE_ENDS)),
        _nodes.node_id == any_(wanted),
    )
    places: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for node_id, *columns in await conn.execute(query):
        for name, epoch, seq in (("outputs", *columns[:2]), ("error", *columns[2:])):
            if seq is not None:
                places.setdefault((epoch, seq), []).append((node_id, name))
    bodies = event_bodies.c
    of_run = (bodies.tenant_id == tenant_id) & (bodies.run_id == run_id)
    seqs = bindparam("seqs", sorted({seq for _, seq in places}), ARRAY(bodies.seq.type))
    found: dict[str, dict[str, Any]] = {}
    for row in await conn.execute(
        select(bodies.epoch, bodies.seq, bodies.body).where(of_run, bodies.seq == any_(seqs))
    ):
        for node_id, name in places.get((row.epoch, row.seq), ()):
            found.setdefault(node_id, {})[name] = body_part(row.body, name)
    resolved: dict[str, dict[str, Any]] = await resolve(conn, tenant_id, found)
    return {
        node_id: {name: value for name, value in values.items() if _is_whole(value)}
        for node_id, values in resolved.items()
    }


def _is_whole(value: Any) -> bool:
    return isinstance(value, Mapping) and "$ref" not in value and not is_withheld(value)


async def _name_newest(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Let the run's row name the plan of the newest revision, and how many nodes that has."""
    of_run = (_revisions.tenant_id == tenant_id) & (_revisions.run_id == run_id)
    newest = select(_revisions.plan_digest).where(of_run).order_by(_revisions.revision.desc()).limit(1)
    digest = newest.scalar_subquery()
    documents = plan_documents.c
    count = select(documents.node_count).where(documents.tenant_id == tenant_id, documents.digest == digest)
    values: dict[str, Any] = {
        "plan_digest": digest,
        "total_nodes": func.coalesce(count.scalar_subquery(), _runs.total_nodes),
    }
    await conn.execute(update(execution_runs).where(_is(tenant_id, run_id)).values(values))


def _is_revision(event: Transition) -> bool:
    revision, digest = event.data.get("revision"), event.data.get("plan")
    return (
        event.type == EventType.PLAN_REVISED
        and isinstance(revision, int)
        and 1 < revision < 2**31
        and isinstance(digest, str)
        and _DIGEST.fullmatch(digest) is not None
    )


def _row(tenant_id: str, run_id: UUID, epoch: int, event: Transition) -> dict[str, Any]:
    data = event.data
    changes = data.get("changes")
    return {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "revision": data["revision"],
        "plan_digest": data["plan"],
        "operator": _text(data.get("operator")),
        "reason": _text(data.get("reason")),
        "changes": dict(changes) if isinstance(changes, Mapping) else {},
        "at": event.at,
        "epoch": epoch,
        "seq": event.seq,
    }


def _text(value: Any) -> str | None:
    return safe_text(value) if isinstance(value, str) else None


def _is(tenant_id: str, run_id: UUID) -> ColumnElement[bool]:
    return (_runs.tenant_id == tenant_id) & (_runs.run_id == run_id)
