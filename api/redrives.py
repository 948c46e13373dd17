"""Redrive: start a finished run again, keeping what has gone well."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from dalang.api.auth import Operator
from dalang.api.bodies import body_schema, small_body
from dalang.api.runs import IdempotencyKey, checked_key
from dalang.api.schemas import ExecutePlanResponse, RequestModel, Text
from dalang.api.services import Service
from dalang.redriving import RedriveRequest as Wanted
from dalang.statuses import RunStatus

router = APIRouter(prefix="/orchestrator", tags=["runs"])

MAX_NODES = 10_000


class RedriveRequest(RequestModel):
    """What runs again and why; without anything the failed nodes do, and all that comes after them."""

    from_: list[str] | None = Field(
        None, alias="from", min_length=1, max_length=MAX_NODES, description="Node ids. Default: the failed ones."
    )
    inputs: dict[str, dict[str, object]] | None = Field(
        None, description="By node id: what replaces inputs of a node that runs again, key by key."
    )
    checkpoint: str | None = Field(
        None, max_length=100, description="Of the run: what came to its end after it runs again, too."
    )
    reason: Text | None = None
    operator: Text | None = Field(None, description="As in the seeds; recorded is the token's subject.")


RedriveBody = Annotated[RedriveRequest, Depends(small_body(RedriveRequest, optional=True))]


@router.post(
    "/runs/{runId}/redrive",
    status_code=202,
    openapi_extra=body_schema("application/json", model=RedriveRequest, required=False),
)
async def redrive(
    who: Operator,
    runId: UUID,
    body: RedriveBody,
    response: Response,
    it: Service,
    idempotency_key: IdempotencyKey = None,
) -> ExecutePlanResponse:
    """Start a finished run again as a new run: failed or chosen nodes and what follows them run, all else is kept."""
    key = checked_key(idempotency_key)
    wanted = Wanted(who.subject, body.from_, body.inputs, body.checkpoint, body.reason, key, who.roles)
    run = await it.redrives.redrive(who.tenant_id, runId, wanted)
    response.headers["Location"] = f"/orchestrator/runs/{run.run_id}"
    message = f"Run {runId} is redriven by run {run.run_id}"
    return ExecutePlanResponse(run_id=run.run_id, status=RunStatus(run.status), message=message)
