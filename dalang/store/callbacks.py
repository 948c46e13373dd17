"""Callbacks: addresses that services call when their work is done, and the answers on their way to runs.

The token of an address is shown to nobody but the service; the database knows its SHA-256. Each attempt of a node has
an address of its own, and an answer at any of them answers the work: it closes all there are by then, so that a second
one is refused.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import and_, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.errors import Conflict, Gone, NotFound
from dalang.statuses import NODE_ENDS
from dalang.store.external_events import BATCH, CHANNEL
from dalang.store.inbound_tables import callbacks
from dalang.store.tables import execution_runs, node_executions

PREFIX = "dalang_cb_"
"""Every token begins with it, so that scanners find leaked ones."""
MAX_TOKEN = 200

_callbacks, _runs, _nodes = callbacks.c, execution_runs.c, node_executions.c


@dataclass(frozen=True)
class Asked:
    """Whose answer an address takes."""

    tenant_id: str
    run_id: UUID
    node_id: str
    generation: int
    attempt: int


@dataclass(frozen=True)
class Answer:
    """An answer on its way to a run: ``{outputs}`` or ``{error}``."""

    token_hash: str
    callback_id: UUID
    run_id: UUID
    node_id: str
    generation: int
    answer: Mapping[str, Any]
    workflow_id: str | None = None


def new_token() -> str:
    """Return an unguessable token."""
    return PREFIX + secrets.token_urlsafe(32)


async def create_callback(conn: AsyncConnection, asked: Asked, token: str) -> None:
    """Keep an address; the same token again changes nothing."""
    values = {"token_hash": _hash(token), "callback_id": uuid4(), **vars(asked)}
    await conn.execute(insert(callbacks).values(values).on_conflict_do_nothing())


async def answer_callback(conn: AsyncConnection, token: str, answer: Mapping[str, Any]) -> Answer:
    """Keep an answer, ``{outputs}`` or ``{error}``, for its run.

    Raises:
        NotFound: there is no such token.
        Conflict: the work was answered before, or its node has ended without.
        Gone: the run has ended.
    """
    token_hash = _hash(token)
    work = (_callbacks.tenant_id, _callbacks.run_id, _callbacks.node_id, _callbacks.generation)
    asked = (await conn.execute(select(*work).where(_callbacks.token_hash == token_hash))).first()
    if asked is None:
        raise NotFound("There is no such callback.")
    of_work = and_(*(column == value for column, value in zip(work, asked, strict=True)))
    # All of the work's rows in one order, so that calls at two addresses of it do not lock each other out.
    locked = select(_callbacks.token_hash, _callbacks.callback_id, _callbacks.closed_at).where(of_work)
    rows = (await conn.execute(locked.order_by(_callbacks.token_hash).with_for_update())).all()
    own = next(row for row in rows if row.token_hash == token_hash)
    await _refuse(conn, asked.tenant_id, asked.run_id, asked.node_id, asked.generation, own.closed_at is not None)
    await conn.execute(
        update(callbacks)
        .where(_callbacks.token_hash == token_hash)
        .values(called_at=func.now(), closed_at=func.now(), answer=dict(answer))
    )
    still_open = (_callbacks.closed_at.is_(None)) & (_callbacks.token_hash != token_hash)
    await conn.execute(update(callbacks).where(of_work, still_open).values(closed_at=func.now()))
    await conn.execute(select(func.pg_notify(CHANNEL, "")))
    return Answer(token_hash, own.callback_id, asked.run_id, asked.node_id, asked.generation, dict(answer))


async def _refuse(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, node_id: str, generation: int, closed: bool
) -> None:
    of_run = (_runs.tenant_id == tenant_id) & (_runs.run_id == run_id)
    ended = (await conn.execute(select(_runs.status).where(of_run, _runs.completed_at.is_not(None)))).scalar()
    if closed:
        raise Conflict("This work was answered before.")
    if ended is not None:
        raise Gone(f"The run that asked has ended: it is {ended}.")
    query = select(_nodes.status, _nodes.generation).where(_nodes.run_id == run_id, _nodes.node_id == node_id)
    node = (await conn.execute(query)).first()
    if node is None or node.generation < generation:
        return  # what happened to it is not stored yet
    if node.generation > generation:
        raise Conflict("The node asks for other work by now.")
    if node.status in NODE_ENDS:
        raise Conflict(f"The node has ended: it is {node.status}.")


async def lock_answers(conn: AsyncConnection, limit: int = BATCH) -> list[Answer]:
    """Which answers are to be sent, the oldest first? They stay locked until the transaction ends."""
    columns = [(_runs if one.name == "workflow_id" else _callbacks)[one.name] for one in fields(Answer)]
    of_run = (_runs.tenant_id == _callbacks.tenant_id) & (_runs.run_id == _callbacks.run_id)
    query = (
        select(*columns)
        .select_from(callbacks.join(execution_runs, of_run))
        .where(_callbacks.called_at.is_not(None), _callbacks.delivered_at.is_(None))
        .order_by(_callbacks.called_at)
        .limit(limit)
        .with_for_update(of=callbacks, skip_locked=True)
    )
    return [Answer(*row) for row in await conn.execute(query)]


async def mark_answers(conn: AsyncConnection, sent: Sequence[Answer]) -> None:
    """Note that Temporal has taken them."""
    if sent:
        hashes = [one.token_hash for one in sent]
        await conn.execute(update(callbacks).where(_callbacks.token_hash.in_(hashes)).values(delivered_at=func.now()))


async def erase_callbacks(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Erase what services answered about a run."""
    of_run = (_callbacks.tenant_id == tenant_id) & (_callbacks.run_id == run_id)
    await conn.execute(update(callbacks).where(of_run, _callbacks.called_at.is_not(None)).values(answer={}))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
