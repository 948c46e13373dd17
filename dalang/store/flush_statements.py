"""What a flush asks of the database: the run's row, locked; the rows of its nodes; and everything it writes, at once.

Theory of operation. Each statement of a transaction is a round trip and costs the worker more than the rows it carries,
so events, their bodies, nodes, what was used and the run's row go in one statement, as ``WITH ... AS (INSERT ...)``
before the ``UPDATE`` of the run. The parts do not see each other's rows and have no need to; foreign keys are checked
at the statement's end. ``recording.py`` says what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Insert, Text, and_, any_, bindparam, cast, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store import projection, usage
from dalang.store.bulk import arguments, insert_all, is_newer
from dalang.store.chain import Transition
from dalang.store.engine import dump_json
from dalang.store.prepared import Prepared
from dalang.store.projection import Row
from dalang.store.tables import event_bodies, execution_runs, node_executions, run_events
from dalang.wire import Head

CHANNEL = "dalang_run"
"""What a flush notifies (LISTEN/NOTIFY), with the runId as payload."""

_runs, _nodes = execution_runs.c, node_executions.c
_FOLDED = tuple(projection.run_before_events(None))
_HEAD = ("head_epoch", "head_seq", "head_hash")
_OF_EVENT = ("run_id", "epoch", "tenant_id")
_EVENT = ("seq", "type", "node_id", "at", "body_digest", "fact_digest", "data", "audit", "previous_hash", "hash")
_BODY = ("seq", "salt", "body")
_NODE = tuple(column.name for column in _nodes)
_JSON = frozenset({"error", "inputs", "outputs"})
KEPT: Row = {}
"""Stands for the inputs of a run that has some: they never change, and can be large."""


async def locked_run(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> Row | None:
    """Lock the run's row and return what events decide of it, who created it, and its head; None when there is none."""
    found = (await _locking().run(conn, of_tenant_id=tenant_id, of_run_id=run_id)).mappings().first()
    if found is None:
        return None
    row = dict(found)
    row["inputs"] = KEPT if row["inputs"] else None
    return row


async def node_rows(conn: AsyncConnection, run_id: UUID, node_ids: Iterable[str]) -> dict[str, Row]:
    """The rows of these nodes, as far as there are any."""
    rows = await _reading_nodes().run(conn, of_run_id=run_id, node_ids=sorted(node_ids))
    return {row["node_id"]: dict(row) for row in rows.mappings()}


async def save_nodes(conn: AsyncConnection, nodes: Iterable[Row]) -> None:
    """Write rows of nodes; a newer one that is there stays."""
    rows = list(nodes)
    if rows:
        await conn.execute(_saving_nodes(""), arguments(node_executions, _NODE, rows))


async def write(
    conn: AsyncConnection,
    tenant_id: str,
    run_id: UUID,
    head: Head,
    events: Sequence[Transition],
    hashes: Sequence[str],
    nodes: Iterable[Row],
    used: usage.Days,
    run: Row,
) -> bool:
    """Write events of the epoch of ``head``, and all that follows from them; tell whether the tenant has a budget.

    ``hashes`` are those of the chain, beginning with the one before the first event; ``run`` has the columns of the
    run's row, and what is added to its ``retry_count``.
    """
    full = [event for event in events if event.body is not None]
    values: Row = {f"event_{name}": [getattr(event, name) for event in events] for name in _EVENT[:6]}
    values["event_data"] = [event.data_json or dump_json(event.data) for event in events]
    values["event_audit"] = [None if event.audit is None else dump_json(event.audit) for event in events]
    values["event_previous_hash"], values["event_hash"] = hashes[:-1], hashes[1:]
    values["body_seq"] = [event.seq for event in full]
    values["body_salt"] = [event.salt for event in full]
    values["body_body"] = [event.body_json or dump_json(event.body) for event in full]
    values |= arguments(node_executions, _NODE, list(nodes), "node_")
    values |= usage.counted(tenant_id, run_id, used, "used_")
    values |= {f"run_{name}": run[name] for name in _RUN}
    for name in _JSON:
        values[f"run_{name}"] = None if run[name] is None or run[name] is KEPT else dump_json(run[name])
    values["run_node_status_counts"] = dump_json(run["node_status_counts"])
    values |= {"of_run_id": run_id, "of_tenant_id": tenant_id, "of_epoch": head["epoch"]}
    written = (await _writing().run(conn, **values, message=str(run_id))).first()
    return written is not None and bool(written.has_budget)


_IDENTITY = ("workflow_id", "temporal_run_id")
_RUN = (*_FOLDED, *_IDENTITY, "node_status_counts", "retry_count", *_HEAD, "head_signature", "last_event_at")
"""The columns of a run that a flush writes; ``retry_count`` is added, the time of the last event stays without one."""


@cache
def _locking() -> Prepared:
    is_there: ColumnElement[Any] = _runs.inputs.is_not(None).label("inputs")
    columns = [is_there if name == "inputs" else _runs[name] for name in (*_FOLDED, "created_by", *_HEAD)]
    return Prepared(select(*columns).where(_is_run()).with_for_update())


@cache
def _reading_nodes() -> Prepared:
    is_wanted = _nodes.node_id == any_(bindparam("node_ids", type_=ARRAY(Text())))
    return Prepared(select(node_executions).where(_nodes.run_id == _of(_runs.run_id), is_wanted))


@cache
def _saving_nodes(prefix: str) -> Insert:
    statement = insert_all(node_executions, _NODE, prefix=prefix)
    new = statement.excluded
    keys = {"run_id", "node_id", "tenant_id", "created_at"}
    changed = {name: new[name] for name in _NODE if name not in keys}
    newer = is_newer(node_executions, new)
    return statement.on_conflict_do_update(index_elements=["run_id", "node_id"], set_=changed, where=newer)


@cache
def _writing() -> Prepared:
    values: Mapping[str, Any] = {
        **{name: _given(_runs[name]) for name in _RUN},
        "inputs": func.coalesce(_runs.inputs, _given(_runs.inputs)),
        "retry_count": _runs.retry_count + _given(_runs.retry_count),
        "last_event_at": func.coalesce(_given(_runs.last_event_at), _runs.last_event_at),
        "last_updated_at": func.now(),
    }
    has_budget = usage.has_budget(_of(_runs.tenant_id)).label("has_budget")
    told = func.pg_notify(CHANNEL, bindparam("message", type_=Text()))
    written = update(execution_runs).where(_is_run()).values(values).returning(told, has_budget)
    parts = {
        "events": insert_all(run_events, _EVENT, _OF_EVENT, "event_"),
        "bodies": insert_all(event_bodies, _BODY, _OF_EVENT, "body_"),
        "nodes": _saving_nodes("node_"),
        "used": usage.counting("used_"),
    }
    return Prepared(written.add_cte(*(part.cte(name) for name, part in parts.items())))


def _given(column: Column[Any]) -> ColumnElement[Any]:
    """The parameter with the new value of a column of the run."""
    if isinstance(column.type, JSONB):
        return cast(bindparam(f"run_{column.name}", type_=Text()), JSONB)
    return bindparam(f"run_{column.name}", type_=column.type)


def _of(column: Column[Any]) -> ColumnElement[Any]:
    return bindparam(f"of_{column.name}", type_=column.type)


def _is_run() -> ColumnElement[bool]:
    return and_(_runs.tenant_id == _of(_runs.tenant_id), _runs.run_id == _of(_runs.run_id))
