"""Episodes: past executions of nodes, looked up by name, outcome and inputs (Axon: ``search_episodes``).

Theory of operation
    Nothing is paid for episodes where nobody asks: flushes of runs know nothing of them. Whoever asks first catches up:
    :func:`remember` reads the events of the tenant since it last did, in the order (transaction, position) below the
    oldest open transaction, so that none is missed that commits late, and keeps a row with the words of each execution
    that has ended. What went in and out stays in the events and is read for the few that are found, so there is
    nothing more to erase than the words.

    Of what happened before a tenant asked for the first time, the last ``FIRST_EVENTS`` events are looked at.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, Select, any_, bindparam, delete, desc, func, select, text, true, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.types import Text

from dalang.canonical import compact_json
from dalang.store.engine import across_tenants, transaction
from dalang.store.memory_tables import EPISODE_OUTCOMES, episodes
from dalang.store.plan_index import PlanIndexes, PlannedNode
from dalang.store.projection import body_part
from dalang.store.references import resolve
from dalang.store.tables import event_bodies, execution_runs, node_executions
from dalang.store.told_bodies import body_at

MAX_FOUND = 100
FIRST_EVENTS = 200_000
BATCH_EVENTS = 1_000
RANKED = 2_000
"""Of those that fit, the newest so many are put in order."""
MAX_INPUT_WORDS = 4_000
"""Characters of the inputs whose words are kept."""
UNREMEMBERED_TYPES = frozenset({"noop", "sleep", "timer", "event", "plan", "map", "loop"})
"""Node types that do nothing worth remembering: they wait, or what is in them is remembered itself."""
_PARTS = {"inputs": "input", "outputs": "output", "error": "error"}
_OUTCOME_WORDS = {
    "SUCCESS": "success succeeded completed",
    "ERROR": "error failure failed handled",
    "FAILED": "failed failure error",
}
_episodes, _nodes, _runs, _bodies = episodes.c, node_executions.c, execution_runs.c, event_bodies.c


@dataclass(frozen=True)
class Episode:
    """A past execution of a node; ``score`` is how well it fits, 0 where nothing was asked for."""

    run_id: UUID
    node_id: str
    name: str
    type: str
    plan: str
    outcome: str
    started_at: datetime | None
    ended_at: datetime
    score: float
    inputs: Any
    outputs: Any
    error: Any


async def remember(engine: AsyncEngine, indexes: PlanIndexes, tenant_id: str, seconds: float = 5.0) -> int:
    """Catch up with what the tenant's runs have done since this was last called; return how many executions.

    It takes about so many seconds at most; whoever asks next goes on.
    """
    count, end = 0, time.monotonic() + seconds
    while True:
        async with transaction(engine, tenant_id) as conn:
            found, more = await _batch(conn, indexes, tenant_id)
        count += found
        if not more or time.monotonic() > end:
            return count


async def search_episodes(
    conn: AsyncConnection,
    tenant_id: str,
    words: str | None = None,
    *,
    any_word: bool = False,
    outcomes: Sequence[str] = (),
    without: tuple[UUID, str] | None = None,
    limit: int = 5,
) -> list[Episode]:
    """Which executions fit, the best first? Without words: the newest.

    ``words`` are as in a search engine: all of them, "a phrase", or, -not. With ``any_word`` those that have all come
    first, then those that have some. ``without`` is a run and its node that are left out.
    """
    query = select(episodes).where(_episodes.tenant_id == tenant_id)
    if outcomes:
        query = query.where(_episodes.outcome.in_(outcomes))
    if without is not None:
        query = query.where(tuple_(_episodes.run_id, _episodes.node_id) != tuple_(*without))
    rows: list[tuple[RowMapping, float]] = []
    asked = _asked(words, any_word)
    if not asked:
        newest = query.order_by(_episodes.ended_at.desc(), _episodes.run_id, _episodes.node_id).limit(limit)
        rows = [(row, 0.0) for row in (await conn.execute(newest)).mappings()]
    for one in asked:
        if len(rows) < limit:
            seen = [(row["run_id"], row["node_id"]) for row, _ in rows]
            others = query.where(tuple_(_episodes.run_id, _episodes.node_id).not_in(seen)) if seen else query
            rows += await _best(conn, others, one, limit - len(rows))
    values = await _values(conn, tenant_id, [(row["run_id"], row["node_id"]) for row, _ in rows])
    return [_episode(row, score, values) for row, score in rows]


async def erase_episodes(conn: AsyncConnection, tenant_id: str, run_id: UUID) -> None:
    """Forget the words of a run's inputs, and with them its executions."""
    await conn.execute(delete(episodes).where(_episodes.tenant_id == tenant_id, _episodes.run_id == run_id))


def words_of(text_: str) -> str:
    """Return the words of a name or a value: those of ``implement-login``, ``http_node`` and ``BuildPage``, too."""
    return " ".join(re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text_)).split())


def _asked(words: str | None, any_word: bool) -> list[str]:
    """Return what is asked for, one after the other until enough is found: all words, then any of them."""
    if words is None or not words.strip():
        return []
    found = [one for one in words_of(words).split() if one.lower() != "or"]
    if not any_word or not found:
        return [words.replace("\x00", " ")]
    return [" ".join(found), " or ".join(found)]


async def _best(conn: AsyncConnection, query: Select[Any], asked: str, limit: int) -> list[tuple[RowMapping, float]]:
    wanted = func.websearch_to_tsquery("english", asked)
    some = query.where(_episodes.search.op("@@")(wanted)).order_by(_episodes.ended_at.desc()).limit(RANKED).subquery()
    score = func.ts_rank(some.c.search, wanted).label("score")
    best = select(some, score).order_by(desc(score), some.c.ended_at.desc(), some.c.run_id, some.c.node_id)
    # The index of words serves no query that a policy is part of. What the found nodes held is read as the tenant.
    async with across_tenants(conn):
        return [(row, float(row["score"])) for row in (await conn.execute(best.limit(limit))).mappings()]


def _episode(row: RowMapping, score: float, values: Mapping[tuple[UUID, str], Mapping[str, Any]]) -> Episode:
    told = {name: row[name] for name in ("run_id", "node_id", "name", "type", "outcome", "started_at", "ended_at")}
    held = values.get((row["run_id"], row["node_id"]), dict.fromkeys(_PARTS))
    return Episode(**told, plan=row["plan_name"], score=score, **held)


async def _values(
    conn: AsyncConnection, tenant_id: str, wanted: Sequence[tuple[UUID, str]]
) -> dict[tuple[UUID, str], dict[str, Any]]:
    """What went in and out of these executions; what was erased is None."""
    if not wanted:
        return {}
    references = [_nodes[f"{part}_{column}"] for part in _PARTS.values() for column in ("epoch", "seq")]
    query = select(_nodes.run_id, _nodes.node_id, *references).where(
        _nodes.tenant_id == tenant_id, tuple_(_nodes.run_id, _nodes.node_id).in_(wanted)
    )
    rows = (await conn.execute(query)).mappings().all()
    places = {(row["run_id"], row[f"{part}_epoch"], row[f"{part}_seq"]) for row in rows for part in _PARTS.values()}
    places = {place for place in places if place[2] is not None}
    found: dict[tuple[UUID, int, int], Any] = {}
    if places:
        of_places = tuple_(_bodies.run_id, _bodies.epoch, _bodies.seq).in_(sorted(places))
        bodies = select(_bodies.run_id, _bodies.epoch, _bodies.seq, _bodies.body)
        for run_id, epoch, seq, body in await conn.execute(bodies.where(_bodies.tenant_id == tenant_id, of_places)):
            found[run_id, epoch, seq] = body
    values = {
        f"{row['run_id']} {row['node_id']}": {
            name: body_part(found.get((row["run_id"], row[f"{part}_epoch"], row[f"{part}_seq"])), name)
            for name, part in _PARTS.items()
        }
        for row in rows
    }
    whole = await resolve(conn, tenant_id, values)
    return {(row["run_id"], row["node_id"]): whole[f"{row['run_id']} {row['node_id']}"] for row in rows}


# -- catching up -------------------------------------------------------------------------------------------------------

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('dalang episodes ' || :tenant, 0))")
_CURSOR = text("SELECT transaction_id::text, position FROM episode_cursors WHERE tenant_id = :tenant")
_FIRST = text(
    "SELECT transaction_id::text, position FROM run_events ORDER BY run_events.transaction_id DESC, "
    "run_events.position DESC OFFSET :most LIMIT 1"
)
_HORIZON = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
_EVENTS = text(
    "SELECT e.transaction_id::text, e.position, e.run_id, e.node_id FROM run_events e "
    "WHERE (e.transaction_id, e.position) > (CAST(:transaction AS text)::xid8, :position) "
    "AND e.transaction_id < CAST(:horizon AS text)::xid8 AND e.tenant_id = :tenant AND e.node_id IS NOT NULL "
    "AND NOT e.superseded AND e.data ->> 'status' = ANY(:outcomes) "
    "ORDER BY e.transaction_id, e.position LIMIT :most"
)
_MOVE = text(
    "INSERT INTO episode_cursors (tenant_id, transaction_id, position) "
    "VALUES (:tenant, CAST(:transaction AS text)::xid8, :position) ON CONFLICT (tenant_id) DO UPDATE "
    "SET transaction_id = EXCLUDED.transaction_id, position = EXCLUDED.position"
)
_KEEP = text(
    "INSERT INTO episodes (tenant_id, run_id, node_id, name, type, plan_name, outcome, started_at, ended_at, search) "
    "VALUES (:tenant_id, :run_id, :node_id, :name, :type, :plan_name, :outcome, :started_at, :ended_at, "
    "setweight(to_tsvector('english', CAST(:name_words AS text)), 'A') || "
    "setweight(to_tsvector('english', CAST(:other_words AS text)), 'B') || "
    "setweight(to_tsvector('english', CAST(:input_words AS text)), 'D')) "
    "ON CONFLICT (run_id, node_id) DO UPDATE SET name = EXCLUDED.name, outcome = EXCLUDED.outcome, "
    "started_at = EXCLUDED.started_at, ended_at = EXCLUDED.ended_at, search = EXCLUDED.search"
)


async def _batch(conn: AsyncConnection, indexes: PlanIndexes, tenant_id: str) -> tuple[int, bool]:
    """Remember what the next events tell; return how many executions, and whether there may be more events."""
    await conn.execute(_LOCK, {"tenant": tenant_id})
    # The horizon is taken before the events are read, as a statement of its own: what commits in between is above it.
    horizon = (await conn.execute(_HORIZON)).scalar_one()
    row = (await conn.execute(_CURSOR, {"tenant": tenant_id})).first()
    if row is None:
        async with across_tenants(conn):  # the position is one among the events of all
            row = (await conn.execute(_FIRST, {"most": FIRST_EVENTS})).first()
    since = ("0", 0) if row is None else (row[0], row[1])
    given = {"transaction": since[0], "position": since[1], "horizon": horizon, "tenant": tenant_id}
    events = (await conn.execute(_EVENTS, {**given, "outcomes": list(EPISODE_OUTCOMES), "most": BATCH_EVENTS})).all()
    more = len(events) == BATCH_EVENTS
    reached = (events[-1][0], events[-1][1]) if more else (horizon, 0)
    await conn.execute(_MOVE, {"tenant": tenant_id, "transaction": reached[0], "position": reached[1]})
    ended = dict.fromkeys((event[2], event[3]) for event in events)
    rows = await _rows(conn, indexes, tenant_id, ended) if ended else []
    if rows:
        await conn.execute(_KEEP, rows)
    return len(rows), more


async def _rows(
    conn: AsyncConnection, indexes: PlanIndexes, tenant_id: str, ended: Iterable[tuple[UUID, str]]
) -> list[dict[str, Any]]:
    pairs = list(ended)
    run_ids = list(dict.fromkeys(run_id for run_id, _ in pairs))
    columns = (_runs.run_id, _runs.plan_name, _runs.plan_digest, _runs.elements)
    runs = {
        row.run_id: row
        for row in await conn.execute(select(*columns).where(_runs.tenant_id == tenant_id, _runs.run_id.in_(run_ids)))
    }
    planned: dict[tuple[UUID, str], PlannedNode] = {}
    for run_id, node_id in pairs:
        run = runs.get(run_id)
        if run is None:
            continue
        index = await indexes.get(conn, tenant_id, run.plan_digest)
        # One that a revision of the plan brought is called by its id; elements of a map by what is done to them.
        known = index.node(node_id) if run.elements is None else next(iter(index.nodes), None)
        node = known or PlannedNode(node_id, node_id, "unknown")
        if node.type not in UNREMEMBERED_TYPES:
            planned[run_id, node_id] = node
    found = []
    for row in await _executions(conn, tenant_id, list(planned)):
        node, run = planned[row["run_id"], row["node_id"]], runs[row["run_id"]]
        error = body_part(row["error"], "error")
        trouble = f"{error.get('type', '')} {error.get('message', '')}"[:500] if isinstance(error, Mapping) else ""
        inputs = body_part(row["input"], "inputs")
        name = node.name if node.name != node.node_id else node.node_id
        found.append(
            {
                "tenant_id": tenant_id,
                "run_id": row["run_id"],
                "node_id": row["node_id"],
                "name": name,
                "type": node.type,
                "plan_name": run.plan_name,
                "outcome": row["status"],
                "started_at": row["started_at"],
                "ended_at": row["completed_at"],
                "name_words": words_of(f"{name} {'' if name == node.node_id else node.node_id}"),
                "other_words": words_of(f"{run.plan_name} {node.type} {_OUTCOME_WORDS[row['status']]} {trouble}"),
                "input_words": words_of(_head(inputs)),
            }
        )
    return found


def _head(inputs: Any) -> str:
    """Return the beginning of the inputs as text; of large ones, which are referred to, there are no words."""
    return compact_json(inputs).decode()[:MAX_INPUT_WORDS] if isinstance(inputs, dict) and "$ref" not in inputs else ""


async def _executions(
    conn: AsyncConnection, tenant_id: str, wanted: Sequence[tuple[UUID, str]]
) -> Sequence[RowMapping]:
    """How have these nodes ended? Those that have begun anew since are left out."""
    if not wanted:
        return ()
    given = body_at(_nodes.run_id, _nodes.input_epoch, _nodes.input_seq, "given")
    failed = body_at(_nodes.run_id, _nodes.error_epoch, _nodes.error_seq, "failed")
    query = (
        select(
            _nodes.run_id,
            _nodes.node_id,
            _nodes.status,
            _nodes.started_at,
            _nodes.completed_at,
            given.c.body.label("input"),
            failed.c.body.label("error"),
        )
        .select_from(node_executions.outerjoin(given, true()).outerjoin(failed, true()))
        .where(
            _nodes.tenant_id == tenant_id,
            _nodes.status == any_(bindparam("outcomes", list(EPISODE_OUTCOMES), ARRAY(Text))),
            _nodes.completed_at.is_not(None),
            tuple_(_nodes.run_id, _nodes.node_id).in_(wanted),
        )
    )
    return (await conn.execute(query)).mappings().all()
