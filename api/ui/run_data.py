"""What the scripts of a run's page ask for, as JSON: pictures, statuses now and then, the bars of the timeline.

Statuses go as one letter a node, in plan order: 12,000 nodes are 12 kB, and a slider asks for them at every step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from operator import sub
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse, Response

from dalang.api.auth import Reader
from dalang.api.live import is_retrying, live_attempts
from dalang.api.runs import found_run, status_without_row
from dalang.api.services import Service, Services
from dalang.api.ui.run_progress import Standing
from dalang.api.ui.run_scenes import Scene, apart, coded, scene_of
from dalang.canonical import compact_json
from dalang.errors import NotFound
from dalang.plan_outline import Outline
from dalang.run_times import NEVER_WORKED, decisive, time_taken
from dalang.statuses import NodeStatus, RunStatus
from dalang.store.revisions import list_revisions, plan_of_revision
from dalang.store.run_history import (
    moment_at,
    node_statuses_at,
    revision_at,
    run_status_at,
)
from dalang.store.runs import Run
from dalang.store.standings import NEVER, Timed, timed_nodes, to_ms

router = APIRouter(prefix="/ui/runs/{runId}", include_in_schema=False)

Opened = Annotated[Sequence[str], Query(alias="open", max_length=50)]


@router.get("/picture")
async def get_picture(
    who: Reader, runId: UUID, it: Service, opened: Opened = (), revision: Annotated[int | None, Query(ge=1)] = None
) -> Response:
    """Return the picture of a run, with groups opened, or of its plan at an earlier revision."""
    async with it.transaction(who.tenant_id, seconds=30) as conn:
        run = await found_run(conn, who, runId)
        digest = None
        if revision is not None:
            digest = await plan_of_revision(conn, who.tenant_id, runId, revision)
            if digest is None:
                raise NotFound(f"The plan of run {runId} has no revision {revision}.")
        scene = await scene_of(it.scenes, conn, run, digest, opened)
        standing = await it.standings.get(conn, run, scene)
        number = revision or len(await list_revisions(conn, who.tenant_id, runId)) or 1
    drawn = compact_json(await picture_of(it, scene, run, standing, number))
    return Response(b"%b,%b" % (drawn[:-1], scene.shown_json[1:]), media_type="application/json")


async def picture_of(it: Services, scene: Scene, run: Run, standing: Standing, revision: int) -> dict[str, Any]:
    """Return a picture as it is now; ``scene.shown`` is what else a script has to know of it."""
    state = _now(run, standing)
    letters = standing.statuses(status_without_row(run))

    def drawn() -> bytes:
        return scene.svg(letters).encode()

    svg = await it.answers.get(run, f"picture {scene.key}", lambda: asyncio.to_thread(drawn))
    return {"svg": svg.decode(), "revision": revision, "state": state}


def _now(run: Run, standing: Standing) -> dict[str, Any]:
    return {
        "seq": run.head_seq,
        "position": f"{run.head_epoch}.{run.head_seq}" if run.head_seq else "",
        "run": run.status,
        "at": None if run.last_event_at is None else ms(run.last_event_at),
        "statuses": standing.statuses(status_without_row(run)).decode(),
        "times": _times(standing),
    }


def _times(standing: Standing) -> dict[int, tuple[int, int | None, int]]:
    """Return when nodes that have a box of their own began and ended, and their attempts."""
    return {
        at: (ms(one.started_at), None if one.completed_at is None else ms(one.completed_at), one.attempt)
        for at, one in standing.times.items()
        if one.started_at is not None
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
        standing = await it.standings.get(conn, run, scene)
    state = _now(run, standing)
    if live:
        place = scene.outline.places
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
        "at": None if moment is None else ms(moment.at),
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
    timed = await timed_nodes(conn, run.tenant_id, run.run_id)
    return await apart(run, lambda: compact_json(_decisive(scene.outline, timed)))


def _decisive(outline: Outline, timed: Iterable[Timed]) -> dict[str, Any]:
    """Return the places of the nodes that the length of a run hangs on, without ``finally`` nodes, and that length."""
    count, places, now = outline.first_final, outline.places, ms(datetime.now(UTC))
    took, idle = list(outline.estimates), set()
    for some in timed:
        found = map(places.get, some.ids)
        if NEVER not in some.began and NEVER not in some.ended:  # that of most, and quickly told
            for place, length in zip(found, map(sub, some.ended, some.began), strict=True):
                if place is not None:
                    took[place] = max(length // 1000, 0)
            continue
        for place, *times in zip(found, some.began, some.ended, strict=True):
            if place is not None:
                began, ended = (None if one == NEVER else to_ms(one) for one in times)
                took[place] = time_taken(some.status, began, ended, outline.estimates[place], now)
                if began is None and some.status in NEVER_WORKED:
                    idle.add(place)
    del took[count:]
    ends = [outline.sources, outline.targets]
    if count < len(outline.ids):
        main = [pair for pair in zip(*ends, strict=True) if max(pair) < count]
        ends = [[one for one, _ in main], [one for _, one in main]]
    path, length = decisive(took, *ends)
    return {"path": [one for one in path if not length or one not in idle], "ms": length}


def ms(at: datetime) -> int:
    """Return a time as scripts have it, in milliseconds since the epoch."""
    return round(at.timestamp() * 1000)
