"""Runs: start, look at, control, prove."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.auth import Operator, Principal, Reader
from dalang.api.bodies import body_schema, checked, read_json, small_body
from dalang.api.limit_warnings import limit_warnings
from dalang.api.plans import GRAPH_RESPONSES, Format, drawn
from dalang.api.problems import Malformed
from dalang.api.schemas import (
    CancelRequest,
    ControlResponse,
    ExecutePlanRequest,
    ExecutePlanResponse,
    ExecutionStatusResponse,
    Links,
    PauseResumeRequest,
    PauseRunRequest,
    RunCounts,
    RunItem,
    RunPage,
    RunPlan,
    RunQuery,
)
from dalang.api.services import Service, Services
from dalang.api.starting import begin
from dalang.canonical import compact_json
from dalang.errors import NotFound
from dalang.interrupting import PauseMode
from dalang.statuses import RUN_ENDS, NodeStatus, RunStatus
from dalang.store.nodes import list_nodes
from dalang.store.plans import get_document, get_written
from dalang.store.run_lists import RunFilter, list_runs
from dalang.store.runs import (
    Run,
    RunSummary,
    count_by_status,
    get_run,
    linked_runs,
)
from dalang.store.schedules import creator

router = APIRouter(prefix="/orchestrator", tags=["runs"])

MAX_KEY_LENGTH = 255
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="The same key with the same body answers the run made before."),
]


@router.post("/execute", status_code=202, openapi_extra=body_schema("application/json", model=ExecutePlanRequest))
async def execute(
    who: Operator, request: Request, response: Response, it: Service, idempotency_key: IdempotencyKey = None
) -> ExecutePlanResponse:
    """Start a run of a plan: of a stored one by `planId`, or of the `plan` in the body."""
    checked_key(idempotency_key)
    document = await read_json(request, it.settings.max_plan_bytes)
    wanted = checked(ExecutePlanRequest, document)
    digest = await asyncio.to_thread(_digest, document) if idempotency_key is not None else None
    begun = await begin(it, who, wanted, key=idempotency_key, request_digest=digest)
    run = begun.run
    response.headers["Location"] = f"/orchestrator/runs/{run.run_id}"
    if begun.started is None:
        message = "The run is accepted; it starts as soon as Temporal answers."
        return ExecutePlanResponse(run_id=run.run_id, status=RunStatus(run.status), message=message)
    if not begun.started:
        message = "Temporal refuses to start the run; GET it for the error."
        return ExecutePlanResponse(run_id=run.run_id, status=RunStatus.FAILED, message=message)
    warnings = await limit_warnings(it, who.tenant_id, begun.prepared, begun.bounds)
    again = "" if begun.new else " before, with this Idempotency-Key"
    message = f"Execution started successfully{again}"
    return ExecutePlanResponse(run_id=run.run_id, status=RunStatus(run.status), message=message, warnings=warnings)


def is_key(key: str) -> bool:
    """Tell whether a text may be an Idempotency-Key."""
    return 0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()


def checked_key(key: str | None) -> str | None:
    """Return an Idempotency-Key.

    Raises:
        Malformed: it is none.
    """
    if key is not None and not is_key(key):
        raise Malformed(f"An Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable ASCII characters.")
    return key


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(compact_json(document)).hexdigest()


@router.get("/runs")
async def get_runs(who: Reader, query: Annotated[RunQuery, Query()], it: Service) -> RunPage:
    """List runs, the newest first; those below nodes of other runs with `parentRunId`, or `children=true`."""
    statuses = [status for status in query.status or RunStatus if query.active in (None, status not in RUN_ENDS)]
    by = query.created_by if query.schedule_id is None else creator(query.schedule_id)
    if not statuses or query.created_by not in (None, by):
        return RunPage(items=[], next=None)
    wanted = RunFilter(
        statuses=statuses if query.status or query.active is not None else (),
        plan_id=query.plan_id,
        text=query.plan,
        created_by=by,
        created_from=query.from_,
        created_until=query.to,
        parent_run_id=query.parent_run_id,
        parent_node_id=query.parent_node_id,
        children=query.children,
        labels=[label_of(one) for one in query.label],
    )
    async with it.transaction(who.tenant_id) as conn:
        page = await list_runs(conn, who.tenant_id, wanted, limit=query.limit, cursor=query.cursor)
    items = [RunItem.model_validate(_common(run, it)) for run in page.items]
    return RunPage(items=items, next=page.cursor)


def label_of(text: str) -> tuple[str, str]:
    """Return name and value of ``name=value``."""
    name, _, value = text.partition("=")
    return name.strip(), value.strip()


@router.get("/runs/counts")
async def get_counts(who: Reader, it: Service) -> RunCounts:
    """Count runs by status."""
    async with it.transaction(who.tenant_id) as conn:
        counts = await count_by_status(conn, who.tenant_id)
    by_status = {RunStatus(status): count for status, count in counts.items()}
    active = sum(count for status, count in by_status.items() if status not in RUN_ENDS)
    return RunCounts(counts=by_status, active=active, total=sum(counts.values()))


@router.get("/runs/{runId}")
async def get_one_run(who: Reader, runId: UUID, it: Service) -> ExecutionStatusResponse:
    """Read a run."""
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId, resolved=True)
        links = await linked_runs(conn, who.tenant_id, runId)
    return ExecutionStatusResponse(
        **_common(run, it),
        last_event_at=run.last_event_at,
        last_event_id=f"{run.head_epoch}.{run.head_seq}" if run.head_seq else None,
        inputs=run.inputs,
        outputs=run.outputs,
        error=run.error,
        root_run_id=run.root_run_id,
        redriven_by=links.redriven_by,
        undone_by=links.undone_by,
        origin=run.origin,
    )


def _control_body(model: type[Any]) -> dict[str, Any]:
    return body_schema("application/json", model=model, required=False)


_WAITING: dict[int | str, dict[str, Any]] = {
    202: {"model": ControlResponse, "description": "No worker answers; it will be applied when one is back."}
}
PauseBody = Annotated[PauseRunRequest, Depends(small_body(PauseRunRequest, optional=True))]
ResumeBody = Annotated[PauseResumeRequest, Depends(small_body(PauseResumeRequest, optional=True))]
CancelBody = Annotated[CancelRequest, Depends(small_body(CancelRequest, optional=True))]


@router.post("/runs/{runId}/pause", responses=_WAITING, openapi_extra=_control_body(PauseRunRequest))
async def pause(who: Operator, runId: UUID, body: PauseBody, response: Response, it: Service) -> ControlResponse:
    """Pause a run: nothing new starts; what is in flight ends, or is interrupted and starts again at the resume."""
    more = {} if body.mode is PauseMode.DRAIN else {"mode": str(body.mode)}
    return await _control("pause", "paused", who, runId, body.reason, response, it, more)


@router.post("/runs/{runId}/resume", responses=_WAITING, openapi_extra=_control_body(PauseResumeRequest))
async def resume(who: Operator, runId: UUID, body: ResumeBody, response: Response, it: Service) -> ControlResponse:
    """End a pause."""
    return await _control("resume", "resumed", who, runId, body.reason, response, it)


@router.post("/runs/{runId}/cancel", responses=_WAITING, openapi_extra=_control_body(CancelRequest))
async def cancel(who: Operator, runId: UUID, body: CancelBody, response: Response, it: Service) -> ControlResponse:
    """End a run in order: what is in flight is stopped."""
    return await _control("cancel", "cancelled", who, runId, body.reason, response, it)


async def _control(
    control: str,
    done: str,
    who: Principal,
    run_id: UUID,
    reason: str | None,
    response: Response,
    it: Services,
    more: Mapping[str, Any] | None = None,
) -> ControlResponse:
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, run_id)
    outcome = await it.controls.send(run, control, who.subject, reason, more)
    message = f"Execution {done} successfully"
    if not outcome.applied:
        response.status_code = 202
        message = f"No worker answers at the moment; the {control} will be applied when a worker is back."
    return ControlResponse(run_id=run_id, status=RunStatus(outcome.status), message=message)


@router.get("/runs/{runId}/plan", response_model=RunPlan)
async def get_run_plan(who: Reader, runId: UUID, it: Service) -> Response:
    """Read the plan that a run runs."""
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId)
        written = await get_written(conn, who.tenant_id, run.plan_digest)
    if written is None:
        raise NotFound(f"The plan of run {runId} is not stored.")
    # As it is stored: to read and to write 23 MB takes most of a second.
    about = RunPlan(plan_id=run.plan_id, version=run.plan_version, digest=run.plan_digest, plan={})
    head = about.model_dump_json(by_alias=True).removesuffix("{}}")
    return Response("".join((head, written, "}")), media_type="application/json")


@router.get("/runs/{runId}/graph", response_class=Response, responses=GRAPH_RESPONSES)
async def get_run_graph(who: Reader, runId: UUID, it: Service, format: Format = "svg") -> Response:
    """Draw a run: its plan with the status of every node."""
    async with it.transaction(who.tenant_id, seconds=30) as conn:
        run = await found_run(conn, who, runId)
        document = await get_document(conn, who.tenant_id, run.plan_digest)
        index = await it.indexes.get(conn, who.tenant_id, run.plan_digest, run.elements)
        known = {node.node_id: node.status for node in await list_nodes(conn, who.tenant_id, runId)}
    if document is None:
        raise NotFound(f"The plan of run {runId} is not stored.")
    untouched = status_without_row(run)
    if run.elements is not None:  # one picture of what is done for each element, with the status of the whole
        ends = {RunStatus.COMPLETED: NodeStatus.SUCCESS, RunStatus.FAILED: NodeStatus.FAILED}
        ends[RunStatus.CANCELLED] = NodeStatus.CANCELLED
        whole = ends.get(RunStatus(run.status), NodeStatus.RUNNING)
        return await drawn(document, format, {str(document["nodes"][0]["nodeId"]): whole})
    return await drawn(document, format, {one.node_id: known.get(one.node_id, untouched) for one in index.nodes})


async def found_run(conn: AsyncConnection, who: Principal, run_id: UUID, *, resolved: bool = False) -> Run:
    """Return a run of the tenant.

    Raises:
        NotFound: there is none, or it belongs to another tenant.
    """
    run = await get_run(conn, who.tenant_id, run_id, resolved=resolved)
    if run is None:
        raise NotFound(f"There is no run {run_id}.")
    return run


def status_without_row(run: RunSummary) -> NodeStatus:
    """Return the status of a node that nothing has happened to."""
    return NodeStatus.CANCELLED if run.status in RUN_ENDS else NodeStatus.PENDING


def _common(run: RunSummary, it: Services) -> dict[str, Any]:
    names = [name for name in RunItem.model_fields if name not in ("node_status_counts", "links")]
    return {
        **{name: getattr(run, name) for name in names},
        "node_status_counts": node_counts(run),
        "links": Links(
            temporal=temporal_link(run, it),
            parent=None if run.parent_run_id is None else f"/orchestrator/runs/{run.parent_run_id}",
            children=f"/orchestrator/runs?parentRunId={run.run_id}",
        ),
    }


def node_counts(run: RunSummary) -> dict[str, int]:
    """Return how many of all nodes of a run have which status; statuses that none has are left out."""
    counts = {status: count for status, count in run.node_status_counts.items() if count}
    missing = run.total_nodes - sum(counts.values())
    if missing > 0:
        untouched = status_without_row(run)
        counts[untouched] = counts.get(untouched, 0) + missing
    return counts


def temporal_link(run: RunSummary, it: Services) -> str | None:
    """Return the address of a run in Temporal's Web UI; None of one that Temporal does not know yet."""
    if run.workflow_id is None or run.temporal_run_id is None:
        return None
    namespace = quote(run.temporal_namespace or it.settings.temporal_namespace, safe="")
    return f"{it.settings.temporal_ui_url}/namespaces/{namespace}/workflows/{quote(run.workflow_id, safe='')}"
