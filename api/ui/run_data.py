"""What the scripts of a run's page ask for, as JSON: pictures, statuses now and then, the bars of the timeline.

Statuses go as one letter a node, in plan order: 12,000 nodes are 12 kB, and a slider asks for them at every step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse, Response

from dalang.api.auth import Reader
from dalang.api.live import is_retrying, live_attempts
from dalang.api.runs import found_run, status_without_row
from dalang.api.services import Service, Services
from dalang.api.ui.run_drawing import looks
from dalang.api.ui.run_scenes import Scene, apart, coded, scene_of
from dalang.canonical import compact_json
from dalang.errors import NotFound
from dalang.run_times import Doing, Failed, Happened, Took, decisive, spans
from dalang.statuses import NodeStatus, RunStatus
from dalang.store.nodes import Attempt, list_attempts
from dalang.store.revisions import list_revisions, plan_of_revision
from dalang.store.run_history import (
    Change,
    Progress,
    moment_at,
    node_statuses_at,
    revision_at,
    run_status_at,
    status_changes,
)
from dalang.store.runs import Run

router = APIRouter(prefix="/ui/runs/{runId}", include_in_schema=False)

MAX_CHANGES = 200_000
"""Events that a timeline is made of: 50,000 nodes or more."""
MAX_ATTEMPTS = 20_000
Opened = Annotated[Sequence[str], Query(alias="open", max_length=50)]


@router.get("/picture")
async def get_picture(
    who: Reader, runId: UUID, it: Service, opened: Opened = (), revision: Annotated[int | None, Query(ge=1)] = None
) -> JSONResponse:
    """Return the picture of a run, with groups opened, or of its plan at an earlier revision."""
    async with it.transaction(who.tenant_id, seconds=30) as conn:
        run = await found_run(conn, who, runId)
        digest = None
        if revision is not None:
            digest = await plan_of_revision(conn, who.tenant_id, runId, revision)
            if digest is None:
                raise NotFound(f"The plan of run {runId} has no revision {revision}.")
        scene = await scene_of(it.scenes, conn, run, digest, opened)
        nodes = await it.progresses.get(conn, run)
        number = revision or len(await list_revisions(conn, who.tenant_id, runId)) or 1
    return JSONResponse(await picture_of(it, scene, run, nodes, number))


async def picture_of(
    it: Services, scene: Scene, run: Run, nodes: Mapping[str, Progress], revision: int
) -> dict[str, Any]:
    """Return a picture and what a script has to know of it: which node is in which box, and how all stand."""
    untouched = status_without_row(run)

    def drawn() -> bytes:
        statuses = {node: nodes[node].status if node in nodes else untouched for node in scene.ids}
        return scene.drawing.fragment(statuses).encode()

    svg = await it.answers.get(run, f"picture {scene.key}", lambda: asyncio.to_thread(drawn))
    return {
        "svg": svg.decode(),
        "ids": scene.ids,
        "boxes": scene.boxes,
        "groups": scene.groups(),
        "looks": looks(),
        "down": scene.drawing.down,
        "revision": revision,
        "state": _now(scene, run, nodes, untouched),
    }


def _now(scene: Scene, run: Run, nodes: Mapping[str, Progress], untouched: str) -> dict[str, Any]:
    return {
        "seq": run.head_seq,
        "position": f"{run.head_epoch}.{run.head_seq}" if run.head_seq else "",
        "run": run.status,
        "at": None if run.last_event_at is None else _ms(run.last_event_at),
        "statuses": coded(nodes[node].status if node in nodes else untouched for node in scene.ids),
        "times": _times(scene, nodes),
    }


def _times(scene: Scene, nodes: Mapping[str, Progress]) -> dict[int, tuple[int, int | None, int]]:
    """Return when nodes that have a box of their own began and ended, and their attempts."""
    found = ((at, nodes.get(scene.ids[at])) for at in scene.alone)
    return {
        at: (_ms(one.started_at), None if one.completed_at is None else _ms(one.completed_at), one.attempt)
        for at, one in found
        if one is not None and one.started_at is not None
    }


@router.get("/state")
async def get_state(
    who: Reader,
    runId: UUID,
    it: Service,
    seq: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    live: Annotated[bool, Query(description="With what only Temporal knows: attempts.")] = False,
) -> JSONResponse:
    """Return the statuses of a run's nodes now, or as they were when it had come to event ``seq``."""
    async with it.transaction(who.tenant_id, seconds=30) as conn:
        run = await found_run(conn, who, runId)
        if seq is not None:
            return JSONResponse(await _then(conn, run, it, seq))
        scene = await scene_of(it.scenes, conn, run)
        nodes = await it.progresses.get(conn, run)
    state = _now(scene, run, nodes, status_without_row(run))
    if live:
        place = {node: at for at, node in enumerate(scene.ids)}
        found = await live_attempts(run, it)
        state["retrying"] = {
            place[node]: one.attempt for node, one in found.items() if is_retrying(one) and node in place
        }
    return JSONResponse(state)


async def _then(conn: Any, run: Run, it: Any, seq: int) -> dict[str, Any]:
    revision = await revision_at(conn, run.tenant_id, run.run_id, seq)
    digest = await plan_of_revision(conn, run.tenant_id, run.run_id, revision)
    scene = await scene_of(it.scenes, conn, run, digest)
    moment = await moment_at(conn, run.tenant_id, run.run_id, seq)
    known = await node_statuses_at(conn, run.tenant_id, run.run_id, seq)
    status = await run_status_at(conn, run.tenant_id, run.run_id, seq)
    return {
        "seq": seq,
        "revision": revision,
        "run": status or RunStatus.PENDING,
        "at": None if moment is None else _ms(moment.at),
        "type": None if moment is None else moment.type,
        "node": None if moment is None else moment.node_id,
        "statuses": coded(known.get(node, NodeStatus.PENDING) for node in scene.ids),
    }


@router.get("/critical-path")
async def get_critical_path(who: Reader, runId: UUID, it: Service) -> Response:
    """Return the nodes, by their place in the plan, that the length of a run hangs on."""
    async with it.transaction(who.tenant_id, seconds=30) as conn:
        run = await found_run(conn, who, runId)
        body = await it.answers.get(run, "critical path", lambda: _critical_path(conn, run, it))
    return Response(body, media_type="application/json")


async def _critical_path(conn: AsyncConnection, run: Run, it: Services) -> bytes:
    scene = await scene_of(it.scenes, conn, run)
    nodes = await it.progresses.get(conn, run)

    def made() -> bytes:
        path, length = _decisive(scene, nodes)
        place = {node: at for at, node in enumerate(scene.ids)}
        return compact_json({"path": [place[node] for node in path], "ms": round(length)})

    return await apart(run, made)


def _decisive(scene: Scene, nodes: Mapping[str, Progress]) -> tuple[tuple[str, ...], float]:
    finals = {node.node_id for node in scene.plan.finally_}
    took = {}
    for node in scene.plan.nodes:
        one = nodes.get(node.node_id)
        began, ended = (None, None) if one is None else (one.started_at, one.completed_at)
        took[node.node_id] = Took(
            NodeStatus.PENDING if one is None else one.status,
            None if began is None else _ms(began),
            None if ended is None else _ms(ended),
            node.estimate,
        )
    edges = [edge for edge in scene.edges if not finals.intersection(edge)]
    return decisive(took, edges, _ms(datetime.now(UTC)))


@router.get("/bars")
async def get_bars(who: Reader, runId: UUID, it: Service) -> Response:
    """Return what every node did when; times are milliseconds after ``start``, null where it is still doing it."""
    async with it.transaction(who.tenant_id, seconds=60) as conn:
        run = await found_run(conn, who, runId)
        body = await it.answers.get(run, "bars", lambda: _all_bars(conn, run, it))
    return Response(body, media_type="application/json")


async def _all_bars(conn: AsyncConnection, run: Run, it: Services) -> bytes:
    scene = await scene_of(it.scenes, conn, run)
    nodes = await it.progresses.get(conn, run)
    changes = await status_changes(conn, run.tenant_id, run.run_id, limit=MAX_CHANGES)
    attempts = await list_attempts(conn, run.tenant_id, run.run_id, limit=MAX_ATTEMPTS)
    return await apart(run, lambda: compact_json(_bars(scene, run, nodes, changes, attempts)))


_DOINGS = tuple(Doing)


def _bars(
    scene: Scene, run: Run, nodes: Mapping[str, Progress], changes: Sequence[Change], attempts: Sequence[Attempt]
) -> dict[str, Any]:
    sources: dict[str, list[str]] = {}
    for source, target in scene.edges:
        sources.setdefault(target, []).append(source)
    failed: dict[str, list[Failed]] = {}
    for one in attempts:
        began = None if one.started_at is None else _ms(one.started_at)
        failed.setdefault(one.node_id, []).append(Failed(began, _ms(one.ended_at)))
    happened = [
        Happened(one.node_id, _ms(one.at), one.status, one.type == "NODE_WAITING" and one.status == "RUNNING")
        for one in changes
    ]
    start = _ms(run.started_at or run.created_at)
    roots = {node.node_id for node in scene.plan.nodes} - sources.keys()
    lives = spans(happened, began=start if run.started_at else None, roots=roots, sources=sources, failed=failed)
    names = {node.node_id: node for node in scene.plan.all_nodes()}
    letters = {node: coded([one.status]) for node, one in nodes.items()}
    rows: list[Any] = []
    for node, life in lives.items():
        known = names.get(node)
        bars = [
            (_DOINGS.index(span.doing), span.start - start, None if span.end is None else span.end - start)
            for span in life
        ]
        marks = [one.ended - start for one in failed.get(node, ())]
        name, kind = (node, "") if known is None else (known.name or node, known.type)
        rows.append([node, name, kind, letters.get(node, coded([NodeStatus.PENDING])), bars, marks])
    rows.sort(key=lambda row: row[4][0][1] if row[4] else 2**62)
    return {
        "start": start,
        "end": None if run.completed_at is None else _ms(run.completed_at) - start,
        "now": _ms(datetime.now(UTC)) - start,
        "doings": [str(one) for one in _DOINGS],
        "looks": looks(),
        "rows": rows,
        "untouched": len(scene.ids) - len(lives),
    }


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
