"""Other plans for runs that go on: replan, and what the revisions of a run's plan were."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from pydantic import Field, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.auth import Operator, Principal, Reader
from dalang.api.bodies import body_schema, checked, read_json
from dalang.api.runs import found_run
from dalang.api.schemas import Answer, ProblemItem, RequestModel, Text
from dalang.api.services import Service
from dalang.errors import InvalidDocument, NotFound
from dalang.formats import to_plan_document
from dalang.plan_diff import plan_diff
from dalang.statuses import RunStatus
from dalang.store.plans import get_document
from dalang.store.revisions import RunRevision, first_revision, list_revisions
from dalang.store.runs import Run

router = APIRouter(prefix="/orchestrator/runs/{runId}", tags=["runs"])

Number = Annotated[int, Path(ge=1, lt=2**31, description="1 is the plan the run was started with.")]


class ReplanRequest(RequestModel):
    """The next plan of a run: a ``patch`` of the plan it has, or a whole ``plan``."""

    patch: dict[str, Any] | None = Field(None, description="set, removeEdges, removeNodes, replaceNodes, addNodes ...")
    plan: dict[str, Any] | None = Field(None, description="A whole plan, of the same name.")
    expected_revision: int | None = Field(None, ge=1, description="Refused when the plan is at another one by now.")
    dry_run: bool = Field(False, description="Only say whether it could be done, and what it would change.")
    reason: Text | None = None
    operator: Text | None = Field(None, description="As in the seeds; recorded is the token's subject.")

    @model_validator(mode="after")
    def _one_change(self) -> Self:
        if (self.patch is None) == (self.plan is None):
            raise ValueError("give either a patch or a plan")
        return self


class ReplanResponse(Answer):
    """What became of a replan."""

    run_id: UUID
    status: RunStatus
    message: str
    revision: int | None = Field(None, description="The new one; of a dry run, the one it would have been.")
    digest: str | None = Field(None, description="Of the new plan.")
    changes: dict[str, int] = Field(default_factory=dict, description="Counts; the whole is at revisions/{revision}.")
    diff: dict[str, Any] = Field(default_factory=dict, description="Ids of what changed, at most some of each kind.")
    warnings: list[ProblemItem] = Field(default_factory=list)


class RevisionItem(Answer):
    """One revision of a run's plan."""

    revision: int
    digest: str
    operator: str | None
    reason: str | None
    at: datetime
    changes: dict[str, int] = Field(description="Counts: nodesAdded, nodesChanged, edgesRemoved ...")
    event_id: str | None = Field(description="`epoch.seq` of its event; the first one has none.")


class RevisionDetail(RevisionItem):
    """One revision with its plan, and what differs from the revision before."""

    plan: dict[str, Any]
    diff: dict[str, Any] | None = Field(
        description="plan, nodes and edges: added, removed, changed. Null for the first."
    )


class RevisionList(Answer):
    """The revisions of a run's plan, the first first."""

    run_id: UUID
    items: list[RevisionItem]


@router.post(
    "/replan",
    openapi_extra=body_schema("application/json", model=ReplanRequest),
    responses={202: {"model": ReplanResponse, "description": "It is being prepared; its event tells the outcome."}},
)
async def replan(who: Operator, runId: UUID, request: Request, response: Response, it: Service) -> ReplanResponse:
    """Let a run go on with another plan: what has not started may change. 409 says what has, 422 what is wrong."""
    wanted = checked(ReplanRequest, await read_json(request, it.settings.max_plan_bytes))
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId)
    payload: dict[str, Any] = {"operator": who.subject, "reason": wanted.reason, "dryRun": wanted.dry_run}
    if wanted.expected_revision is not None:
        payload["expectedRevision"] = wanted.expected_revision
    if wanted.patch is not None:
        payload["patch"] = wanted.patch
    else:
        payload["plan"] = await asyncio.to_thread(_plan, wanted.plan or {})
    answer = await it.controls.replan(run, payload)
    if answer is None:
        response.status_code = 202
        message = "The revision is being prepared; the event PLAN_REVISED, or REQUEST_REJECTED, tells the outcome."
        return ReplanResponse(run_id=runId, status=RunStatus(run.status), message=message)
    number = answer["revision"]
    done = f"The plan could go on as revision {number}" if wanted.dry_run else f"The plan is at revision {number}"
    return ReplanResponse(
        run_id=runId,
        status=RunStatus(answer["status"]),
        message=done,
        revision=number,
        digest=answer["plan"],
        changes=answer["changes"],
        diff=answer["diff"],
        warnings=[ProblemItem.model_validate(one) for one in answer["warnings"]],
    )


@router.get("/revisions")
async def get_revisions(who: Reader, runId: UUID, it: Service) -> RevisionList:
    """List the revisions of a run's plan; the first is the plan that it was started with."""
    async with it.transaction(who.tenant_id) as conn:
        found = await _revisions(conn, who, runId)
    return RevisionList(run_id=runId, items=[_item(one) for one in found])


@router.get("/revisions/{revision}")
async def get_revision(who: Reader, runId: UUID, revision: Number, it: Service) -> RevisionDetail:
    """Read one revision of a run's plan, with what it changed."""
    async with it.transaction(who.tenant_id) as conn:
        found = {one.revision: one for one in await _revisions(conn, who, runId)}
        if revision not in found:
            raise NotFound(f"The plan of run {runId} has no revision {revision}.")
        document = await get_document(conn, who.tenant_id, found[revision].plan_digest)
        earlier = found.get(revision - 1)
        before = None if earlier is None else await get_document(conn, who.tenant_id, earlier.plan_digest)
    if document is None:
        raise NotFound(f"The plan of run {runId} at revision {revision} is not stored.")
    diff = None if before is None else await asyncio.to_thread(plan_diff, before, document)
    return RevisionDetail(**vars(_item(found[revision])), plan=dict(document), diff=diff)


async def _revisions(conn: AsyncConnection, who: Principal, run_id: UUID) -> list[RunRevision]:
    run: Run = await found_run(conn, who, run_id)
    return await list_revisions(conn, who.tenant_id, run_id) or [first_revision(run)]


def _item(one: RunRevision) -> RevisionItem:
    return RevisionItem(
        revision=one.revision,
        digest=one.plan_digest,
        operator=one.operator,
        reason=one.reason,
        at=one.at,
        changes=one.changes,
        event_id=None if one.seq is None else f"{one.epoch}.{one.seq}",
    )


def _plan(document: dict[str, Any]) -> dict[str, Any]:
    """Return a plan's document in Dalang's form; raises InvalidDocument with pointers into the request."""
    try:
        return dict(to_plan_document(document))
    except InvalidDocument as error:
        below = [one.model_copy(update={"pointer": "/plan" + one.pointer}) for one in error.problems]
        raise InvalidDocument(below) from error
