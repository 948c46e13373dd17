"""What the stored chain of a run says about a head and a batch: questions of the flush, asked under its lock."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import any_, bindparam, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from dalang.store import chain
from dalang.store.chain import Transition
from dalang.store.tables import execution_runs, run_events
from dalang.store.told_bodies import told, told_events
from dalang.wire import EventType, Head, RecordInput


class Span(NamedTuple):
    """The part of an epoch that belongs to a chain: its events from ``first`` to ``last``."""

    epoch: int
    first: int
    last: int


async def lineage(conn: AsyncConnection, run_id: UUID, head: Head) -> list[Span]:
    """Which events lead to ``head``? As spans of epochs, the newest first."""
    spans: list[Span] = []
    epoch, last = head["epoch"], head["seq"]
    while last > 0:
        events = run_events.alias()
        first = (
            select(events.c.seq, events.c.previous_hash)
            .where(events.c.run_id == run_id, events.c.epoch == epoch)
            .order_by(events.c.seq)
            .limit(1)
            .subquery()
        )
        before = (run_events.c.run_id == run_id) & (run_events.c.hash == first.c.previous_hash)
        columns = (first.c.seq.label("first"), run_events.c.epoch, run_events.c.seq)
        found = (await conn.execute(select(*columns).select_from(first.outerjoin(run_events, before)))).first()
        if found is None:
            break
        spans.append(Span(epoch, found.first, last))
        if found.epoch is None or found.epoch >= epoch:
            break
        epoch, last = found.epoch, found.seq
    return spans


async def head_after(conn: AsyncConnection, run_id: UUID, request: RecordInput) -> Head | None:
    """The head after the batch if the chain holds exactly these facts after exactly that head, else None."""
    claimed, facts = request["head"], request["facts"]
    last = claimed["seq"] + len(facts)
    columns = [run_events.c[name] for name in ("epoch", "seq", "type", "data", "hash", "fact_digest", "body_digest")]
    rows = await conn.execute(
        select(*columns, told.c.salt)
        .select_from(told_events)
        .where(
            run_events.c.run_id == run_id,
            ~run_events.c.superseded,
            run_events.c.seq.between(claimed["seq"], last),
        )
        .order_by(run_events.c.seq)
    )
    found = {row.seq: row for row in rows}
    start = found.get(claimed["seq"])
    if claimed["seq"] > 0:
        # After a gap, a repetition of the batch still believes in the head that was lost.
        gap = start is not None and start.type == EventType.CHAIN_GAP and start.data.get("claimed") == claimed
        if start is None or (start.hash != claimed["hash"] and not gap):
            return None
    for fact in facts:
        row = found.get(fact["seq"])
        erased = row is not None and row.body_digest is not None and row.salt is None
        if row is None or (not erased and row.fact_digest != chain.fact_digest(fact, row.salt or b"")):
            return None
    end = found.get(last)
    return chain.EMPTY_HEAD if end is None else {"epoch": end.epoch, "seq": end.seq, "hash": end.hash}


async def has_event(conn: AsyncConnection, run_id: UUID, head: Head) -> bool:
    """Is there exactly this event, superseded or not? The start of every chain always is."""
    if head["seq"] == 0:
        return True
    same = (
        (run_events.c.epoch == head["epoch"]) & (run_events.c.seq == head["seq"]) & (run_events.c.hash == head["hash"])
    )
    return (await conn.execute(select(run_events.c.seq).where(run_events.c.run_id == run_id, same))).first() is not None


async def head_of(conn: AsyncConnection, run_id: UUID) -> Head | None:
    """The head in the run's row; None: there is no such run."""
    runs = execution_runs.c
    query = select(runs.head_epoch, runs.head_seq, runs.head_hash).where(runs.run_id == run_id)
    row = (await conn.execute(query)).first()
    return None if row is None else {"epoch": row.head_epoch, "seq": row.head_seq, "hash": row.head_hash}


async def is_accounted_for(conn: AsyncConnection, run_id: UUID, head: Head) -> bool:
    """Is this head in the chain, or does a CHAIN_GAP say that it was lost?"""
    if await has_event(conn, run_id, head):
        return True
    events = run_events.c
    told = events.data["claimed"]["hash"].astext == head["hash"]
    query = select(events.seq).where(events.run_id == run_id, events.type == EventType.CHAIN_GAP.value, told)
    return (await conn.execute(query.limit(1))).first() is not None


async def last_before(conn: AsyncConnection, run_id: UUID, seq: int) -> Head:
    """The last event of the current chain with a smaller number than ``seq``."""
    chosen = select(run_events.c.epoch, run_events.c.seq, run_events.c.hash).where(
        run_events.c.run_id == run_id, ~run_events.c.superseded, run_events.c.seq < seq
    )
    row = (await conn.execute(chosen.order_by(run_events.c.seq.desc()).limit(1))).first()
    return chain.EMPTY_HEAD if row is None else {"epoch": row.epoch, "seq": row.seq, "hash": row.hash}


async def chain_of(conn: AsyncConnection, run_id: UUID, node_ids: set[str]) -> list[tuple[int, Transition]]:
    """The current chain's events of the run itself and of these nodes, with epochs, in order."""
    is_wanted = run_events.c.node_id == any_(bindparam("nodes", sorted(node_ids), ARRAY(Text)))
    columns = [run_events.c[name] for name in ("epoch", "seq", "type", "node_id", "at", "data")]
    rows = await conn.execute(
        select(*columns, told.c.body)
        .select_from(told_events)
        .where(run_events.c.run_id == run_id, ~run_events.c.superseded, or_(run_events.c.node_id.is_(None), is_wanted))
        .order_by(run_events.c.seq)
    )
    return [(row.epoch, Transition(row.seq, row.type, row.node_id, row.at, row.data, row.body)) for row in rows]


async def task_events(conn: AsyncConnection, run_id: UUID) -> list[tuple[int, Transition]]:
    """The current chain's events about human tasks, with epochs, in order."""
    columns = [run_events.c[name] for name in ("epoch", "seq", "type", "node_id", "at", "data")]
    rows = await conn.execute(
        select(*columns, told.c.body)
        .select_from(told_events)
        .where(run_events.c.run_id == run_id, ~run_events.c.superseded, run_events.c.data["task"].astext.is_not(None))
        .order_by(run_events.c.seq)
    )
    return [(row.epoch, Transition(row.seq, row.type, row.node_id, row.at, row.data, row.body)) for row in rows]
