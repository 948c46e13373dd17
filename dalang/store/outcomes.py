"""What the nodes of a run have come to, as a redrive reads it: statuses of all, values of some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Integer, any_, bindparam, func, or_, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from dalang.authority import claimed
from dalang.canonical import body_reference, compact_json
from dalang.errors import Conflict
from dalang.redaction import is_withheld
from dalang.statuses import NodeStatus
from dalang.store.bulk import arguments, insert_all
from dalang.store.chain import REFUSED
from dalang.store.projection import body_part
from dalang.store.references import get_bodies, references, replaced
from dalang.store.runs import RunSummary
from dalang.store.tables import bodies, execution_runs, node_executions, run_events
from dalang.store.told_bodies import body_at, told, told_events
from dalang.wire import EventType

_nodes = node_executions.c
UNDONE = (NodeStatus.COMPENSATING, NodeStatus.COMPENSATED, NodeStatus.COMPENSATION_FAILED)
Place = tuple[int, int]
"""Epoch and number of the event whose body holds a value."""

_PARTS = {"inputs": "input", "outputs": "output", "error": "error"}
_HANDS = (
    EventType.HITL_TASK_VOTED,
    EventType.HITL_TASK_COMPLETED,
    EventType.NODE_RETRY_REQUESTED,
    EventType.NODE_SKIPPED,
    EventType.NODE_ERROR,
    EventType.NODE_KEPT,
)
"""Events that name somebody who had a hand in their node."""
INLINE_BYTES = 256
"""Values that are taken over travel through the workflow of the new run; larger ones by reference."""


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """What a node has come to; ``places`` says where its ``inputs``, ``outputs`` and ``error`` are."""

    node_id: str
    status: str
    generation: int
    skip_reason: str | None
    revision: int
    places: Mapping[str, Place]

    @property
    def started(self) -> bool:
        """Whether it was begun at least once, here or in the run before."""
        return "inputs" in self.places


async def list_outcomes(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> list[StoredOutcome]:
    """What has every node come to that something has happened to?"""
    places = [_nodes[f"{part}_{column}"] for part in _PARTS.values() for column in ("epoch", "seq")]
    about = (_nodes.node_id, _nodes.status, _nodes.generation, _nodes.skip_reason, _nodes.revision)
    query = select(*about, *places).where(_nodes.tenant_id == tenant_id, _nodes.run_id == run_id)
    found = []
    for node_id, status, generation, skip_reason, revision, *numbers in await conn.execute(query):
        pairs = zip(_PARTS, zip(numbers[::2], numbers[1::2], strict=True), strict=True)
        known = {part: place for part, place in pairs if place[1] is not None}
        found.append(StoredOutcome(node_id, status, generation, skip_reason, revision, known))
    return found


async def raw_values(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, nodes: Sequence[StoredOutcome]
) -> dict[str, dict[str, Any]]:
    """What went into these nodes and came out, by node id; large values as references.

    Raises:
        Conflict: something was erased, or could never be stored.
    """
    places = sorted({place for one in nodes for place in one.places.values()})
    wanted = func.unnest(
        bindparam("epochs", [epoch for epoch, _ in places], ARRAY(Integer)),
        bindparam("seqs", [seq for _, seq in places], ARRAY(BigInteger)),
    )
    given = wanted.table_valued("epoch", "seq", name="given").render_derived()
    stored = body_at(run_id, given.c.epoch, given.c.seq)
    query = select(given.c.epoch, given.c.seq, stored.c.body).select_from(given.join(stored, true()))
    rows = await conn.execute(query.where(stored.c.tenant_id == tenant_id))
    found = {(epoch, seq): body for epoch, seq, body in rows}
    values: dict[str, dict[str, Any]] = {}
    for one in nodes:
        own = values[one.node_id] = {}
        for part, place in one.places.items():
            if place not in found:
                raise Conflict(f"The {part} of node {one.node_id} were erased; what it came to cannot be taken over.")
            own[part] = body_part(found[place], part)
            if isinstance(own[part], Mapping) and REFUSED in own[part]:
                raise Conflict(f"The {part} of node {one.node_id} could not be stored; run that node again.")
    return values


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of a node, with its body; large values are references."""

    node_id: str
    type: str
    data: dict[str, Any]
    body: dict[str, Any]


async def list_told(conn: AsyncConnection, tenant_id: str, run_id: UUID, node_ids: Sequence[str]) -> list[StoredEvent]:
    """What has been told of these nodes, in order, as far as it is a part of what the run has come to?

    Raises:
        Conflict: something was erased.
    """
    events, stored = run_events.c, told.c
    wanted = events.node_id == any_(bindparam("nodes", sorted(node_ids), ARRAY(Text)))
    columns = (events.node_id, events.type, events.data, events.body_digest, stored.body)
    query = select(*columns).select_from(told_events)
    query = query.where(events.tenant_id == tenant_id, events.run_id == run_id, wanted, ~events.superseded)
    found = []
    for node_id, kind, data, digest, body in await conn.execute(query.order_by(events.seq)):
        if digest is not None and body is None:
            raise Conflict(f"What went into node {node_id} and came out was erased; it cannot be taken over.")
        found.append(StoredEvent(node_id, kind, data, body or {}))
    return found


async def current_plan_digest(conn: AsyncConnection, run: RunSummary) -> str:
    """Which plan did the run go by in the end? That of its last revision."""
    events = run_events.c
    query = select(events.data["plan"].as_string()).where(
        events.tenant_id == run.tenant_id,
        events.run_id == run.run_id,
        events.type == EventType.PLAN_REVISED.value,
        ~events.superseded,
    )
    last = (await conn.execute(query.order_by(events.seq.desc()).limit(1))).scalar()
    return run.plan_digest if last is None else str(last)


async def changed_inputs(conn: AsyncConnection, run: RunSummary) -> dict[str, dict[str, Any]]:
    """Which inputs did operators change when they retried nodes, by node id?"""
    events, stored = run_events.c, told.c
    query = select(events.node_id, stored.body).select_from(run_events.join(told, true()))
    query = query.where(
        events.tenant_id == run.tenant_id,
        events.run_id == run.run_id,
        events.type == EventType.NODE_RETRY_REQUESTED.value,
        ~events.superseded,
    )
    changed: dict[str, dict[str, Any]] = {}
    for node_id, body in await conn.execute(query.order_by(events.seq)):
        changed[node_id] = {**changed.get(node_id, {}), **(body.get("inputs") or {})}
    return await resolved_values(conn, run.tenant_id, changed)


async def who_had_hands_in(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> dict[str, list[str]]:
    """Who decided about each node, or gave its inputs or outputs, in this run or where it took the node over?"""
    events, stored = run_events.c, told.c
    below = (events.type == str(EventType.NODE_COMPLETED)) & events.data.has_key("contributors")  # in a run below it
    said = events.data["operator"], events.data["completedBy"], events.data["contributors"]
    columns = (events.node_id, *said, stored.body["hands"])
    query = select(*columns).select_from(told_events)
    query = query.where(
        events.tenant_id == tenant_id,
        events.run_id == run_id,
        events.type.in_([str(kind) for kind in _HANDS]) | below,
        ~events.superseded,
    )
    hands: dict[str, list[str]] = {}
    for node_id, operator, completed_by, others, before in await conn.execute(query.order_by(events.seq)):
        found = (operator, completed_by, *(others or ()), *(before or ()))
        names = [claimed(name) for name in found if isinstance(name, str)]
        if names:
            hands[node_id] = list(dict.fromkeys([*hands.get(node_id, ()), *names]))
    return hands


async def creators_of(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> list[str]:
    """Who started this run, and those that it began from?"""
    runs = execution_runs.c
    columns = (runs.created_by, runs.redrive_of, runs.undo_of)
    found: list[str] = []
    at: UUID | None = run_id
    while at is not None:
        row = (await conn.execute(select(*columns).where(runs.tenant_id == tenant_id, runs.run_id == at))).first()
        if row is None:
            break
        found.append(row.created_by)
        at = row.redrive_of or row.undo_of
    return list(dict.fromkeys(found))


async def undone_below(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> set[str]:
    """Which nodes have a run below them, at any depth, that has undone something?"""
    runs = execution_runs.c
    columns = (runs.run_id, runs.node_status_counts)
    mine = select(*columns, runs.parent_node_id.label("node_id")).where(
        runs.tenant_id == tenant_id, runs.parent_run_id == run_id
    )
    below = mine.cte("below", recursive=True)
    deeper = select(*columns, below.c.node_id).where(runs.tenant_id == tenant_id, runs.parent_run_id == below.c.run_id)
    below = below.union_all(deeper)
    undone = or_(*(below.c.node_status_counts[str(status)].as_integer() > 0 for status in sorted(UNDONE)))
    return set((await conn.execute(select(below.c.node_id).where(undone).distinct())).scalars())


async def resolved_values(
    conn: AsyncConnection, tenant_id: str, values: Mapping[str, Any], *, lenient: bool = False
) -> dict[str, Any]:
    """Return ``values`` with every reference replaced by what it refers to.

    ``lenient``: where something is gone, the part of the value that refers to it is left out.

    Raises:
        Conflict: a body is gone, or something was redacted.
    """
    wanted = references(dict(values))
    found = await get_bodies(conn, tenant_id, wanted)
    gone = wanted - found.keys()
    if gone and not lenient:
        raise Conflict("A large value of the run was deleted; what its nodes came to cannot be taken over.")
    withheld = [name for name, own in values.items() if is_withheld(own)]
    if withheld and not lenient:
        raise Conflict(
            "Values of the run were redacted; what its nodes came to cannot be taken over: name them in `from`."
        )
    if gone or withheld:
        values = {
            name: {
                part: value
                for part, value in own.items()
                if not references(value) & gone and not (name in withheld and is_withheld(value))
            }
            for name, own in values.items()
        }
    whole: dict[str, Any] = replaced(dict(values), found)
    return whole


async def by_reference(
    conn: AsyncConnection, tenant_id: str, values: Iterable[dict[str, Any]], inline_bytes: int = INLINE_BYTES
) -> list[dict[str, Any]]:
    """Return each of ``values`` with its larger parts stored as bodies and referred to."""
    rows: dict[str, dict[str, Any]] = {}
    made = []
    for own in values:
        short: dict[str, Any] = {}
        for part, value in own.items():
            encoded = compact_json(value)
            if len(encoded) <= inline_bytes:
                short[part] = value
                continue
            short[part] = body_reference(encoded)
            digest = short[part]["$ref"].removeprefix("sha256:")
            rows[digest] = {"tenant_id": tenant_id, "digest": digest, "body": encoded.decode(), "size": len(encoded)}
        made.append(short)
    if rows:
        names = ("tenant_id", "digest", "body", "size")
        ordered = [rows[digest] for digest in sorted(rows)]
        touched = insert_all(bodies, names).on_conflict_do_update(
            index_elements=["tenant_id", "digest"], set_={"touched_at": func.now()}
        )
        await conn.execute(touched, arguments(bodies, names, ordered))
    return made
