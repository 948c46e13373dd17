"""The bars of a run's timeline: what its nodes did when.

Of a small run all are told at once. Of a large one nobody looks at more than some, so that they are asked for by
windows: rows in the order that is looked at, from the first that is seen on. Only what these need is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from dalang.api.auth import Reader
from dalang.api.runs import found_run
from dalang.api.services import Service, Services
from dalang.api.ui.run_data import ms
from dalang.api.ui.run_drawing import looks
from dalang.api.ui.run_scenes import Scene, apart, coded, is_large, scene_of
from dalang.canonical import compact_json
from dalang.plan_outline import Outline
from dalang.run_times import Doing, Failed, Happened, spans
from dalang.statuses import NodeStatus
from dalang.store.nodes import Attempt, list_attempts
from dalang.store.run_history import Change, Progress, RowOrder, list_rows, node_progress, status_changes
from dalang.store.runs import Run
from dalang.store.standings import NEVER, timed_nodes, to_ms

router = APIRouter(prefix="/ui/runs/{runId}", include_in_schema=False)

MAX_CHANGES = 200_000
"""Events that a timeline is made of: 50,000 nodes or more."""
MAX_ATTEMPTS = 20_000
WINDOW = 200
"""Rows of a window."""
MAX_FOUND = 5_000
"""So many of the nodes whose names have a text are listed."""
MANY_SOURCES = 5_000
"""When so many nodes ended is read of all at once."""


@router.get("/bars")
async def get_bars(
    who: Reader,
    runId: UUID,
    it: Service,
    first: Annotated[int, Query(ge=0, lt=2**31, description="Of a large run: the first row.")] = 0,
    order: RowOrder = RowOrder.START,
    q: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Return what nodes did when; times are milliseconds after ``start``, null where a node is still doing it."""
    async with it.transaction(who.tenant_id, seconds=60) as conn:
        run = await found_run(conn, who, runId)
        if is_large(run):
            body = await _window(conn, run, await scene_of(it.scenes, conn, run), first, order, q.strip().casefold())
        else:
            body = await it.answers.get(run, "bars", lambda: _all_bars(conn, run, it))
    return Response(body, media_type="application/json")


@dataclass(frozen=True)
class _Read:
    """What bars are made of."""

    nodes: Mapping[str, Progress]
    changes: Sequence[Change]
    attempts: Sequence[Attempt]
    sources: Mapping[int, Sequence[int]]
    """By place, the nodes whose end each waits for."""
    ended: Mapping[str, int] = field(default_factory=dict)
    """When other nodes ended that these wait for."""


async def _all_bars(conn: AsyncConnection, run: Run, it: Services) -> bytes:
    scene = await scene_of(it.scenes, conn, run)
    read = _Read(
        nodes=await node_progress(conn, run.tenant_id, run.run_id),
        changes=await status_changes(conn, run.tenant_id, run.run_id, limit=MAX_CHANGES),
        attempts=await list_attempts(conn, run.tenant_id, run.run_id, limit=MAX_ATTEMPTS),
        sources=scene.outline.edges_into(range(len(scene.ids))),
    )

    def made() -> bytes:
        rows = _rows(run, scene.outline, read)
        rows.sort(key=lambda row: row[4][0][1] if row[4] else 2**62)
        return compact_json(_told(run, rows, untouched=len(scene.ids) - len(rows)))

    return await apart(run, made)


async def _window(conn: AsyncConnection, run: Run, scene: Scene, first: int, order: RowOrder, text: str) -> bytes:
    outline, among = scene.outline, None
    if text:
        named = (one for at, one in enumerate(outline.ids) if text in f"{one}\n{outline.name(at)}".casefold())
        among = list(islice(named, MAX_FOUND))
    ids, total = await list_rows(conn, run.tenant_id, run.run_id, order, among=among, first=first, limit=WINDOW)
    if among is None:
        total = sum(run.node_status_counts.values())
    sources = outline.edges_into(outline.places[one] for one in ids if one in outline.places)
    read = _Read(
        nodes=await node_progress(conn, run.tenant_id, run.run_id, ids),
        changes=await status_changes(conn, run.tenant_id, run.run_id, among=ids, limit=MAX_CHANGES),
        attempts=await list_attempts(conn, run.tenant_id, run.run_id, among=ids, limit=MAX_ATTEMPTS),
        sources=sources,
        ended=await _ends(conn, run, {outline.ids[one] for some in sources.values() for one in some}.difference(ids)),
    )
    rows = {row[0]: row for row in _rows(run, outline, read)}
    listed = [rows[one] for one in ids if one in rows]
    untouched = 0 if text else len(scene.ids) - total
    return compact_json({**_told(run, listed, untouched=untouched), "first": first, "part": WINDOW, "total": total})


async def _ends(conn: AsyncConnection, run: Run, nodes: Iterable[str]) -> dict[str, int]:
    """Return when nodes ended that have."""
    wanted = frozenset(nodes)
    if len(wanted) < MANY_SOURCES:
        found = await node_progress(conn, run.tenant_id, run.run_id, wanted) if wanted else {}
        return {node: ms(one.completed_at) for node, one in found.items() if one.completed_at is not None}
    timed = await timed_nodes(conn, run.tenant_id, run.run_id)
    ends = (pair for some in timed for pair in zip(some.ids, some.ended, strict=True))
    return {node: to_ms(at) for node, at in ends if at != NEVER and node in wanted}


_DOINGS = tuple(Doing)


def _rows(run: Run, outline: Outline, read: _Read) -> list[Any]:
    """Return for each node that something happened to: id, name, type, status, bars, and failed attempts."""
    failed: dict[str, list[Failed]] = {}
    for one in read.attempts:
        began = None if one.started_at is None else ms(one.started_at)
        failed.setdefault(one.node_id, []).append(Failed(began, ms(one.ended_at)))
    happened = [
        Happened(one.node_id, ms(one.at), one.status, one.type == "NODE_WAITING" and one.status == "RUNNING")
        for one in read.changes
    ]
    start = ms(run.started_at or run.created_at)
    ids, places = outline.ids, outline.places
    began_first = ((one, places.get(one)) for one in dict.fromkeys(one.node_id for one in happened))
    roots = {one for one, at in began_first if at is not None and at < outline.first_final and at not in read.sources}
    sources = {ids[target]: [ids[source] for source in some] for target, some in read.sources.items()}
    began = start if run.started_at else None
    lives = spans(happened, began=began, roots=roots, sources=sources, failed=failed, ended=read.ended)
    rows: list[Any] = []
    for node, life in lives.items():
        bars = [
            (_DOINGS.index(span.doing), span.start - start, None if span.end is None else span.end - start)
            for span in life
        ]
        marks = [one.ended - start for one in failed.get(node, ())]
        place = places.get(node)
        name, kind = (node, "") if place is None else (outline.name(place), outline.type(place))
        status = read.nodes[node].status if node in read.nodes else NodeStatus.PENDING
        rows.append([node, name, kind, coded([status]), bars, marks])
    return rows


def _told(run: Run, rows: Sequence[Any], *, untouched: int) -> dict[str, Any]:
    start = ms(run.started_at or run.created_at)
    return {
        "start": start,
        "end": None if run.completed_at is None else ms(run.completed_at) - start,
        "now": ms(datetime.now(UTC)) - start,
        "doings": [str(one) for one in _DOINGS],
        "looks": looks(),
        "rows": rows,
        "untouched": untouched,
    }
