"""Ending a run by force, when nothing else helps."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import Field

from dalang.api.auth import Operator
from dalang.api.bodies import body_schema, small_body
from dalang.api.runs import found_run
from dalang.api.schemas import ControlResponse, RequestModel, Text
from dalang.api.services import Service
from dalang.statuses import RunStatus

router = APIRouter(prefix="/orchestrator", tags=["runs"])


class TerminateRequest(RequestModel):
    """Why; ``operator`` is accepted as in the seeds, recorded is the token's subject."""

    reason: Text | None = None
    operator: Text | None = None


class TerminateResponse(ControlResponse):
    """What became of it, and which run undoes what the terminated one did."""

    undone_by: UUID | None = Field(description="null: there was nothing to undo.")


Body = Annotated[TerminateRequest, Depends(small_body(TerminateRequest, optional=True))]


@router.post(
    "/runs/{runId}/terminate",
    openapi_extra=body_schema("application/json", model=TerminateRequest, required=False),
)
async def terminate(who: Operator, runId: UUID, body: Body, it: Service) -> TerminateResponse:
    """End a run by force, without its help: the last resort when a cancel is not taken. Another run undoes it."""
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId)
    undone_by = await it.reaper.terminate(run, who.subject, body.reason)
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId)
    message = "Execution terminated"
    if undone_by is not None:
        message += f"; run {undone_by} undoes what it did"
    return TerminateResponse(run_id=runId, status=RunStatus(run.status), message=message, undone_by=undone_by)
