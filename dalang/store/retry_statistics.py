"""How often nodes were tried again, when, and how long was waited before (Wayang: RetryManager).

The attempts of a node with a lease are the state machine's, which tells of each retry by an event. Those of others are
Temporal's: what is known of them are the failed attempts that their workers reported, and the number of the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.nodes import Attempt, list_attempts
from dalang.store.tables import node_executions, run_events
from dalang.wire import EventType

_nodes, _events = node_executions.c, run_events.c
MAX_FAILED = 100_000
"""Failed attempts of a run that are looked at."""
_MAX_RETRIES = 10_000


@dataclass(frozen=True)
class Retry:
    """An ``attempt`` that failed, at ``at``, and was tried again after ``delay_ms``.

    ``at`` is None when its worker was lost, so that nobody reported it; ``delay_ms`` is None also when nobody reported
    when the next one began, because it succeeded or is under way.
    """

    attempt: int
    at: datetime | None
    delay_ms: int | None


async def retries_of(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, node_id: str | None = None
) -> dict[str, list[Retry]]:
    """Which attempts of a node, or of all nodes of a run, were tried again, in order?"""
    found: dict[str, list[Retry]] = {}
    event = (_events.tenant_id == tenant_id, _events.run_id == run_id, _events.type == EventType.NODE_RETRYING)
    own = () if node_id is None else (_events.node_id == node_id,)
    query = select(_events.node_id, _events.at, _events.data).where(*event, *own, ~_events.superseded)
    for row in await conn.execute(query.order_by(_events.epoch, _events.seq)):
        retry = Retry(row.data.get("attempt", 1), row.at, row.data.get("delayMs"))
        found.setdefault(str(row.node_id), []).append(retry)
    works: dict[str, dict[tuple[int, int], dict[int, Attempt]]] = {}
    for one in await list_attempts(conn, tenant_id, run_id, node_id=node_id, limit=MAX_FAILED):
        if one.node_id not in found:
            works.setdefault(one.node_id, {}).setdefault((one.generation, one.starts), {})[one.attempt] = one
    last = await _repeated(conn, tenant_id, run_id, node_id)
    for name in dict.fromkeys([*works, *last]):
        if name not in found:
            found[name] = _in_works(works.get(name, {}), last.get(name))
    return {name: retries for name, retries in found.items() if retries}


async def _repeated(
    conn: AsyncConnection, tenant_id: str, run_id: UUID, node_id: str | None
) -> dict[str, tuple[int, int]]:
    """Return generation and number of the last attempt of nodes that made several."""
    query = select(_nodes.node_id, _nodes.generation, _nodes.attempt)
    query = query.where(_nodes.tenant_id == tenant_id, _nodes.run_id == run_id, _nodes.attempt > 1)
    if node_id is not None:
        query = query.where(_nodes.node_id == node_id)
    return {row.node_id: (row.generation, row.attempt) for row in await conn.execute(query)}


def _in_works(works: Mapping[tuple[int, int], Mapping[int, Attempt]], last: tuple[int, int] | None) -> list[Retry]:
    """Return what was tried again of a node; ``last`` are generation and number of its last attempt."""
    made: dict[tuple[int, int], tuple[Mapping[int, Attempt], int]] = {key: (failed, 0) for key, failed in works.items()}
    if last is not None:
        newest = max((key for key in works if key[0] == last[0]), default=(last[0], 0))
        made[newest] = (works.get(newest, {}), last[1])
    return [retry for failed, number in made.values() for retry in _in_work(failed, number)]


def _in_work(failed: Mapping[int, Attempt], last: int) -> list[Retry]:
    """Return what was tried again of one start of a node: every attempt but the last."""
    made = []
    for number in range(1, min(max([last, *failed]), _MAX_RETRIES)):
        before, then = failed.get(number), failed.get(number + 1)
        delay = None
        if before is not None and then is not None and then.started_at is not None:
            delay = max(round((then.started_at - before.ended_at).total_seconds() * 1000), 0)
        made.append(Retry(number, None if before is None else before.ended_at, delay))
    return made
