"""Sessions in which nodes work apart: which there are, how they stand, which nobody looks after any more.

Theory of operation
    A session belongs to one attempt of a node and to its idempotency key. It is OPEN while the attempt is at work.
    When the work is done, its outputs are kept with it and it is MERGING; then MERGED. Whoever makes the next attempt
    after a crash finds that, merges if need be - which is idempotent - and answers the outputs: what was merged is
    never done again. Every other end is CLOSED. ``closed_at`` says that nothing is left of it outside of this table;
    without it, whoever looks after sessions closes them when the node is no longer at work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.statuses import NODE_ENDS
from dalang.store.memory_tables import memory_sessions
from dalang.store.tables import execution_runs, node_executions

GRACE_SECONDS = 60.0
"""A node whose row says that it has ended may have begun anew: its row is a little late."""
_NAMES = UUID("1f1d3c1e-52a1-5a51-8d0c-6f6c2d5b7a10")
_s, _runs, _nodes = memory_sessions.c, execution_runs.c, node_executions.c


@dataclass(frozen=True)
class StoredSession:
    """A session as it stands; ``place`` is where it is, as its kind means that."""

    session_id: UUID
    tenant_id: str
    run_id: UUID
    node_id: str
    key: str
    kind: str
    state: str
    attempt: int
    claims: int
    place: dict[str, Any]
    outputs: dict[str, Any] | None
    report: dict[str, Any] | None


_ROW = [_s[one.name] for one in fields(StoredSession)]


def session_id(tenant_id: str, key: str, starts: int, attempt: int) -> UUID:
    """Return the id of the session of one attempt: the same however often it is asked for."""
    return uuid5(_NAMES, f"{tenant_id}\n{key}\n{starts}\n{attempt}")


async def open_session(conn: AsyncConnection, new: StoredSession) -> None:
    """Keep that there is a session, before there is one."""
    values = {one.name: getattr(new, one.name) for one in fields(StoredSession)}
    changes = {"state": "OPEN", "place": values["place"], "ended_at": None, "closed_at": None, "report": None}
    statement = insert(memory_sessions).values(values)
    await conn.execute(statement.on_conflict_do_update(index_elements=["session_id"], set_=changes))


async def sessions_of(conn: AsyncConnection, tenant_id: str, key: str) -> list[StoredSession]:
    """Which sessions has this work had that are not over: still there, or merged?"""
    matters = or_(_s.closed_at.is_(None), _s.state.in_(("MERGING", "MERGED")))
    query = select(*_ROW).where(_s.tenant_id == tenant_id, _s.key == key, matters).order_by(_s.opened_at.desc())
    return [StoredSession(*row) for row in await conn.execute(query)]


async def claim(conn: AsyncConnection, session: UUID, run_id: UUID) -> int | None:
    """Go on with an open session of an earlier attempt; return the number of the claim, None: it is open no more."""
    changes = {"claims": _s.claims + 1, "run_id": run_id}
    query = update(memory_sessions).where(_s.session_id == session, _s.state == "OPEN").values(changes)
    found: int | None = (await conn.execute(query.returning(_s.claims))).scalar()
    return found


async def keep_place(conn: AsyncConnection, session: UUID, place: Mapping[str, Any]) -> None:
    """Keep where a session is."""
    await conn.execute(update(memory_sessions).where(_s.session_id == session).values(place=dict(place)))


async def begin_merge(
    conn: AsyncConnection, session: UUID, claims: int, outputs: Mapping[str, Any], place: Mapping[str, Any]
) -> bool:
    """Keep the node's outputs and begin to merge; False: the session is another attempt's by now, or closed."""
    is_mine = (_s.session_id == session) & (_s.state == "OPEN") & (_s.claims == claims)
    changes = {"state": "MERGING", "outputs": dict(outputs), "place": dict(place)}
    return (await conn.execute(update(memory_sessions).where(is_mine).values(changes))).rowcount > 0


async def end_session(
    conn: AsyncConnection, session: UUID, state: str, report: Mapping[str, Any] | None, place: Mapping[str, Any]
) -> None:
    """Keep how a session ended: MERGED or CLOSED; one that is merged stays so."""
    changes = {"state": state, "ended_at": func.now(), "report": None if report is None else dict(report)}
    goes_on = (_s.session_id == session) & _s.state.in_(("OPEN", "MERGING"))
    await conn.execute(update(memory_sessions).where(goes_on).values({**changes, "place": dict(place)}))


async def mark_closed(conn: AsyncConnection, session: UUID) -> None:
    """Nothing is left of it."""
    is_over = (_s.session_id == session) & _s.ended_at.is_not(None) & _s.closed_at.is_(None)
    await conn.execute(update(memory_sessions).where(is_over).values(closed_at=func.now()))


async def abandoned(
    conn: AsyncConnection, folder: str, cortex: bool, limit: int = 100
) -> list[tuple[StoredSession, bool]]:
    """Which sessions of any tenant are left whose node is at work no more, and did the node succeed?

    Worktrees in ``folder``, and with ``cortex`` sessions of it.
    """
    is_ours = _s.place["path"].astext.startswith(f"{folder}/", autoescape=True)
    if cortex:
        is_ours |= _s.kind == "cortex"
    of_node = and_(_nodes.run_id == _s.run_id, _nodes.node_id == _s.node_id)
    long_ago = _s.opened_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, GRACE_SECONDS)
    node_over = _nodes.status.in_(sorted(map(str, NODE_ENDS))) & long_ago
    over = or_(_runs.completed_at.is_not(None), node_over, _s.ended_at.is_not(None) & long_ago)
    joined = memory_sessions.join(execution_runs, _runs.run_id == _s.run_id).outerjoin(node_executions, of_node)
    query = select(*_ROW, func.coalesce(_nodes.status == "SUCCESS", False)).select_from(joined)
    rows = await conn.execute(query.where(_s.closed_at.is_(None), is_ours, over).order_by(_s.opened_at).limit(limit))
    return [(StoredSession(*row[:-1]), row[-1]) for row in rows]


async def known_among(conn: AsyncConnection, sessions: Sequence[UUID]) -> set[UUID]:
    """Which of these sessions are not closed?"""
    query = select(_s.session_id).where(_s.session_id.in_(sessions), _s.closed_at.is_(None))
    return {row.session_id for row in await conn.execute(query)} if sessions else set()


async def erase_sessions(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Erase what nodes put out in sessions, and what was said of their merges."""
    of_run = (_s.tenant_id == tenant_id) & (_s.run_id == run_id)
    await conn.execute(update(memory_sessions).where(of_run).values(outputs=None, report=None))
