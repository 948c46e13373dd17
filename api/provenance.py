"""Provenance: where everything in a run came from, as a whole, around one node, and in the forms of others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field

from dalang.api.auth import Reader
from dalang.api.prov_export import PAGE, prov_pieces
from dalang.api.runs import found_run
from dalang.api.schemas import Answer, QueryModel
from dalang.api.services import Service, Services
from dalang.errors import NotFound
from dalang.openlineage import KINDS, lineage_event
from dalang.prov_json import prov_document
from dalang.provenance_reading import Part, Position, Told
from dalang.provenance_walk import around, givers, sources_of
from dalang.store.events import Event, list_events
from dalang.store.paging import read_cursor, write_cursor
from dalang.store.runs import Run, get_run

router = APIRouter(prefix="/orchestrator/runs/{runId}", tags=["provenance"])

READ_SECONDS = 60.0
START = "START"
Execution = dict[str, Any]


class Above(Answer):
    """The node of another run that this one is below."""

    run_id: UUID
    node_id: str
    iteration: int | None


class RunProvenance(Answer):
    """What is known of a run: digests and sources of what went in and came out, and the runs it comes from."""

    run_id: UUID
    plan: str = Field(description="Digest of the plan as it is now.")
    revision: int
    inputs: dict[str, Any]
    outputs: dict[str, Any] | None = Field(description="`digest` and `sources`; null until the run has succeeded.")
    gaps: list[str] = Field(description="Events before which the database had lost others.")
    created_by: str
    parent: Above | None = None
    redrive_of: UUID | None = None
    undo_of: UUID | None = None
    root_run_id: UUID | None = None


class ProvenancePage(RunProvenance):
    """A run with a part of its executions, in the order they began (`docs/provenance.md` has their fields)."""

    total: int | None = Field(description="Of executions; null of a large run, of which only this page was read.")
    executions: Sequence[Execution]
    next: str | None


class NodeProvenance(Answer):
    """The executions of a node, those whose values they were given, directly or not, and those they gave theirs to."""

    run: RunProvenance
    node_id: str
    executions: Sequence[Execution]
    back: Sequence[Execution]
    forward: Sequence[Execution]
    reaches_outputs: bool = Field(description="Whether the outputs of the run are made of them.")
    truncated: bool = Field(description="There are more of them, back or forward, than are told here.")


class LineageEvents(Answer):
    """A run as OpenLineage events, in the order they happened."""

    events: Sequence[dict[str, Any]]
    next: str | None


class PageQuery(QueryModel):
    """Which part of a list."""

    limit: int = Field(100, ge=1, le=5_000)
    cursor: str | None = Field(None, max_length=200)


class LimitQuery(QueryModel):
    """How much of what is around a node."""

    limit: int = Field(500, ge=1, le=5_000, description="Executions back and forward, each.")


@router.get("/provenance")
async def get_provenance(who: Reader, runId: UUID, query: Annotated[PageQuery, Query()], it: Service) -> ProvenancePage:
    """Read where everything in a run came from: each execution with the sources of its inputs, and what made it."""
    after = _position(query.cursor)
    told = await _told(it, who.tenant_id, runId, after, query.limit)
    part = told.after(after, query.limit)
    return ProvenancePage(
        **_about(told),
        total=None if told.part is not None else len(told.provenance.executions),
        executions=part.executions,
        next=None if part.following is None else write_cursor(*part.following),
    )


@router.get(
    "/provenance/prov",
    response_class=Response,
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
)
async def get_prov_document(who: Reader, runId: UUID, it: Service) -> Response:
    """Read it as W3C PROV-JSON; that of a large run comes as it is read."""
    told = await _told(it, who.tenant_id, runId, None, PAGE)
    times = {"startedAt": told.run.started_at, "completedAt": told.run.completed_at}
    about = RunProvenance(**_about(told)).model_dump(mode="json", by_alias=True)
    about |= {name: at.isoformat() for name, at in times.items() if at is not None}
    about["planName"] = told.run.plan_name
    if told.part is None:
        return JSONResponse(await asyncio.to_thread(prov_document, about, told.provenance.executions))

    async def next_page(after: Position) -> Part:
        return (await _told(it, who.tenant_id, runId, after, PAGE)).after(after, PAGE)

    return StreamingResponse(prov_pieces(about, told.part, next_page), media_type="application/json")


@router.get("/provenance/openlineage")
async def get_lineage_events(
    who: Reader, runId: UUID, query: Annotated[PageQuery, Query()], it: Service
) -> LineageEvents:
    """Read it as OpenLineage events: START, COMPLETE, FAIL or ABORT of the run and of each of its nodes."""
    after = _position(query.cursor)
    async with it.transaction(who.tenant_id, seconds=READ_SECONDS, snapshot=True) as conn:
        run = await found_run(conn, who, runId, resolved=True)
        page = await list_events(
            conn, who.tenant_id, runId, after=after, limit=query.limit, superseded=False, bodies=True
        )
        ended = [event.node_id for event in page if event.node_id is not None and KINDS.get(event.type, START) != START]
        executions = await it.near.of_nodes(conn, run, ended)
        if executions is None:
            executions = (await it.provenances.get(conn, who.tenant_id, runId)).provenance.executions
    more = len(page) == query.limit
    following = write_cursor(page[-1].epoch, page[-1].seq) if more else None
    return LineageEvents(events=await asyncio.to_thread(_lineage, run, executions, page), next=following)


@router.get("/nodes/{nodeId:path}/provenance")
async def get_node_provenance(
    who: Reader, runId: UUID, nodeId: str, query: Annotated[LimitQuery, Query()], it: Service
) -> NodeProvenance:
    """Read a node's executions, what fed them back to the run's inputs, and what they fed, forward to its outputs."""
    async with it.transaction(who.tenant_id, seconds=READ_SECONDS, snapshot=True) as conn:
        near = await it.near.get(conn, await found_run(conn, who, runId), nodeId, query.limit)
        told = near.told if near is not None else await it.provenances.get(conn, who.tenant_id, runId)
    executions, outputs = told.provenance.executions, told.provenance.outputs
    if near is None:
        known = nodeId in told.provenance.told.program.index or any(one["nodeId"] == nodeId for one in executions)
        if not known:
            raise NotFound(f"Run {runId} has no node {nodeId!r}.")
        found = await asyncio.to_thread(around, executions, outputs, nodeId, query.limit)
    else:
        found = near.around
    return NodeProvenance(
        run=RunProvenance(**_about(told)),
        node_id=nodeId,
        executions=found.executions,
        back=found.back.executions,
        forward=found.forward.executions,
        reaches_outputs=found.reaches_outputs,
        truncated=found.back.is_full or found.forward.is_full if near is None else near.is_cut,
    )


async def _told(it: Services, tenant_id: str, run_id: UUID, after: Position | None, limit: int) -> Told:
    """Return what is known of the executions that began after an event: of those of a page, or of all of a run."""
    async with it.transaction(tenant_id, seconds=READ_SECONDS, snapshot=True) as conn:
        run = await get_run(conn, tenant_id, run_id)
        part = None if run is None else await it.near.page(conn, run, after, limit)
        return part or await it.provenances.get(conn, tenant_id, run_id)


def _position(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    epoch, seq = read_cursor(cursor, int, int)
    return epoch, seq


def _about(told: Told) -> dict[str, Any]:
    run = told.run
    above = None
    if run.parent_run_id is not None and run.parent_node_id is not None:
        above = Above(run_id=run.parent_run_id, node_id=run.parent_node_id, iteration=run.iteration)
    links = {name: getattr(run, name) for name in ("redrive_of", "undo_of", "root_run_id", "created_by", "run_id")}
    own = {key: value for key, value in told.provenance.wire().items() if key != "runId"}
    return {**own, **links, "parent": above}


def _lineage(run: Run, executions: Sequence[Execution], page: Sequence[Event]) -> list[dict[str, Any]]:
    about: dict[str, Any] = {"runId": str(run.run_id), "tenantId": run.tenant_id, "planName": run.plan_name}
    if run.parent_run_id is not None:
        about["parent"] = {"runId": str(run.parent_run_id), "nodeId": run.parent_node_id}
    fed = {
        one["endedEvent"]: list(dict.fromkeys(giver.rpartition("@")[0] for giver in givers(sources_of(one))))
        for one in executions
        if "endedEvent" in one
    }
    found = (
        lineage_event(
            {
                "id": event.id,
                "type": event.type,
                "nodeId": event.node_id,
                "at": event.at.isoformat(),
                "data": event.data,
                "body": event.body,
            },
            about,
            fed.get(event.id, ()),
        )
        for event in page
        if event.type in KINDS
    )
    return [one for one in found if one is not None]
