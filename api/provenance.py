"""Provenance: where everything in a run came from, as a whole, around one node, and in the forms of others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from dalang.api.auth import Reader
from dalang.api.runs import found_run
from dalang.api.schemas import Answer, QueryModel
from dalang.api.services import Service
from dalang.errors import NotFound
from dalang.openlineage import KINDS, lineage_event
from dalang.prov_json import prov_document
from dalang.provenance_reading import Told
from dalang.provenance_walk import around, givers, sources_of
from dalang.store.events import Event, list_events
from dalang.store.paging import read_cursor, write_cursor

router = APIRouter(prefix="/orchestrator/runs/{runId}", tags=["provenance"])

READ_SECONDS = 60.0
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

    total: int
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

    limit: int = Field(500, ge=1, le=5_000)
    cursor: str | None = Field(None, max_length=200)


class LimitQuery(QueryModel):
    """How much of what is around a node."""

    limit: int = Field(500, ge=1, le=5_000, description="Executions back and forward, each.")


@router.get("/provenance")
async def get_provenance(who: Reader, runId: UUID, query: Annotated[PageQuery, Query()], it: Service) -> ProvenancePage:
    """Read where everything in a run came from: each execution with the sources of its inputs, and what made it."""
    told = await _told(it, who.tenant_id, runId)
    executions = told.provenance.executions
    first = max(read_cursor(query.cursor, int)[0], 0) if query.cursor is not None else 0
    following = first + query.limit
    return ProvenancePage(
        **_about(told),
        total=len(executions),
        executions=executions[first:following],
        next=write_cursor(following) if following < len(executions) else None,
    )


@router.get("/provenance/prov")
async def get_prov_document(who: Reader, runId: UUID, it: Service) -> dict[str, Any]:
    """Read it as W3C PROV-JSON."""
    told = await _told(it, who.tenant_id, runId)
    times = {"startedAt": told.run.started_at, "completedAt": told.run.completed_at}
    about = RunProvenance(**_about(told)).model_dump(mode="json", by_alias=True)
    about |= {name: at.isoformat() for name, at in times.items() if at is not None}
    about["planName"] = told.run.plan_name
    return await asyncio.to_thread(prov_document, about, told.provenance.executions)


@router.get("/provenance/openlineage")
async def get_lineage_events(
    who: Reader, runId: UUID, query: Annotated[PageQuery, Query()], it: Service
) -> LineageEvents:
    """Read it as OpenLineage events: START, COMPLETE, FAIL or ABORT of the run and of each of its nodes."""
    told = await _told(it, who.tenant_id, runId)
    after: tuple[int, int] | None = None
    if query.cursor is not None:
        epoch, seq = read_cursor(query.cursor, int, int)
        after = epoch, seq
    async with it.transaction(who.tenant_id, seconds=READ_SECONDS) as conn:
        page = await list_events(
            conn, who.tenant_id, runId, after=after, limit=query.limit, superseded=False, bodies=True
        )
    more = len(page) == query.limit
    following = write_cursor(page[-1].epoch, page[-1].seq) if more else None
    return LineageEvents(events=await asyncio.to_thread(_lineage, told, page), next=following)


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


async def _told(it: Service, tenant_id: str, run_id: UUID) -> Told:
    async with it.transaction(tenant_id, seconds=READ_SECONDS, snapshot=True) as conn:
        return await it.provenances.get(conn, tenant_id, run_id)


def _about(told: Told) -> dict[str, Any]:
    run = told.run
    above = None
    if run.parent_run_id is not None and run.parent_node_id is not None:
        above = Above(run_id=run.parent_run_id, node_id=run.parent_node_id, iteration=run.iteration)
    links = {name: getattr(run, name) for name in ("redrive_of", "undo_of", "root_run_id", "created_by", "run_id")}
    own = {key: value for key, value in told.provenance.wire().items() if key != "runId"}
    return {**own, **links, "parent": above}


def _lineage(told: Told, page: Sequence[Event]) -> list[dict[str, Any]]:
    run = told.run
    about: dict[str, Any] = {"runId": str(run.run_id), "tenantId": run.tenant_id, "planName": run.plan_name}
    if run.parent_run_id is not None:
        about["parent"] = {"runId": str(run.parent_run_id), "nodeId": run.parent_node_id}
    nodes = {one["id"]: one["nodeId"] for one in told.provenance.executions}
    fed = {
        one["endedEvent"]: list(dict.fromkeys(nodes[giver] for giver in givers(sources_of(one))))
        for one in told.provenance.executions
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
