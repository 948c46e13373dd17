"""Where A2A clients want to be told of a task, and how far each was told.

A row is due when its run has an event that was not told, or has ended. Who claims it moves ``due_at`` ahead, so that
nobody else tells it meanwhile and somebody does when the claimant dies: an update may come twice, and none is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.a2a_tables import a2a_push_configs
from dalang.store.tables import execution_runs

_configs, _runs = a2a_push_configs.c, execution_runs.c


@dataclass(frozen=True)
class PushConfig:
    """One receiver of a task's updates; ``sent_epoch`` and ``sent_seq`` are the last event that it was told."""

    tenant_id: str
    run_id: UUID
    config_id: str
    url: str
    token: str | None
    scheme: str | None
    credentials: str | None = field(repr=False)
    created_by: str
    sent_epoch: int = 0
    sent_seq: int = 0
    attempts: int = 0


_COLUMNS = [_configs[one.name] for one in fields(PushConfig)]


async def put_config(conn: AsyncConnection, config: PushConfig) -> None:
    """Make a receiver, or change it; it is told what comes after the event that it names."""
    values = {one.name: getattr(config, one.name) for one in fields(PushConfig)} | {"due_at": func.now()}
    statement = insert(a2a_push_configs).values(values)
    await conn.execute(
        statement.on_conflict_do_update(index_elements=["tenant_id", "run_id", "config_id"], set_=values)
    )


async def list_configs(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> list[PushConfig]:
    """Who is told of a run, the oldest first?"""
    query = select(*_COLUMNS).where(_configs.tenant_id == tenant_id, _configs.run_id == run_id)
    rows = await conn.execute(query.order_by(_configs.created_at, _configs.config_id))
    return [PushConfig(*row) for row in rows]


async def delete_config(conn: AsyncConnection, tenant_id: str, run_id: UUID, config_id: str) -> None:
    """Tell it nothing more; that there is none is fine."""
    await conn.execute(delete(a2a_push_configs).where(_is(tenant_id, run_id, config_id)))


async def is_open(conn: AsyncConnection) -> bool:
    """Is there anybody to tell of anything, of all tenants, now or later?"""
    return (await conn.execute(select(1).where(_configs.due_at.is_not(None)).limit(1))).first() is not None


async def claim(conn: AsyncConnection, limit: int, seconds: float) -> Sequence[PushConfig]:
    """Whom to tell now, of all tenants, the one that has waited longest first? Each is the caller's for so long."""
    rows = (await conn.execute(_CLAIM, {"limit": limit, "seconds": seconds})).mappings()
    return [PushConfig(**{one.name: row[one.name] for one in fields(PushConfig)}) for row in rows]


async def moved(conn: AsyncConnection, config: PushConfig, epoch: int, seq: int, seconds: float) -> bool:
    """Note that it was told all up to this event; False when there is no such receiver any more."""
    ahead = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    values = {"sent_epoch": epoch, "sent_seq": seq, "attempts": 0, "last_error": None, "due_at": ahead}
    return await _change(conn, config, values)


async def settled(conn: AsyncConnection, config: PushConfig, *, ended: bool) -> None:
    """Give a claim back; ``ended``: there is nothing more to tell."""
    await _change(conn, config, {"due_at": None if ended else func.now()})


async def failed(conn: AsyncConnection, config: PushConfig, error: str, again_in: float | None) -> None:
    """Note a failure, and when to try again; None: not any more."""
    at = None if again_in is None else func.now() + func.make_interval(0, 0, 0, 0, 0, 0, again_in)
    await _change(conn, config, {"attempts": _configs.attempts + 1, "last_error": error, "due_at": at})


async def _change(conn: AsyncConnection, config: PushConfig, values: Mapping[str, object]) -> bool:
    mine = _is(config.tenant_id, config.run_id, config.config_id) & (_configs.url == config.url)
    return bool((await conn.execute(update(a2a_push_configs).where(mine).values(values))).rowcount)


def _is(tenant_id: str, run_id: UUID, config_id: str) -> ColumnElement[bool]:
    wanted = tuple_(_configs.tenant_id, _configs.run_id, _configs.config_id)
    return wanted == tuple_(tenant_id, run_id, config_id)


_CLAIM = text(
    """
    UPDATE a2a_push_configs c SET due_at = now() + make_interval(secs => :seconds)
    FROM (
        SELECT c.tenant_id, c.run_id, c.config_id FROM a2a_push_configs c
        JOIN execution_runs r ON r.tenant_id = c.tenant_id AND r.run_id = c.run_id
        WHERE c.due_at <= now()
          AND ((r.head_epoch, r.head_seq) > (c.sent_epoch, c.sent_seq) OR r.completed_at IS NOT NULL)
        ORDER BY c.due_at LIMIT :limit FOR UPDATE OF c SKIP LOCKED
    ) AS chosen
    WHERE c.tenant_id = chosen.tenant_id AND c.run_id = chosen.run_id AND c.config_id = chosen.config_id
    RETURNING c.*
    """
)
