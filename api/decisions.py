"""What operators decide about single nodes: run a failed one again, or skip one."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends

from dalang import wire
from dalang.api.auth import Operator, Principal
from dalang.api.bodies import body_schema, small_body
from dalang.api.runs import found_run
from dalang.api.schemas import ControlResponse, RetryNodeRequest, SkipNodeRequest
from dalang.api.services import Service, Services
from dalang.errors import Conflict, NotFound
from dalang.statuses import RunStatus

router = APIRouter(prefix="/orchestrator/runs/{runId}/nodes", tags=["nodes"])

RetryBody = Annotated[RetryNodeRequest, Depends(small_body(RetryNodeRequest, optional=True))]
SkipBody = Annotated[SkipNodeRequest, Depends(small_body(SkipNodeRequest, optional=True))]


def _body(model: type[Any]) -> dict[str, Any]:
    return body_schema("application/json", model=model, required=False)


@router.post("/{nodeId:path}/retry", openapi_extra=_body(RetryNodeRequest))
async def retry_node(who: Operator, runId: UUID, nodeId: str, body: RetryBody, it: Service) -> ControlResponse:
    """Run a failed node again that waits for a decision; ``inputs`` replace its inputs key by key."""
    values = {} if body.inputs is None else {"inputs": body.inputs}
    return await _decide(wire.UPDATE_RETRY_NODE, "runs again", who, runId, nodeId, values, body.reason, it)


@router.post("/{nodeId:path}/skip", openapi_extra=_body(SkipNodeRequest))
async def skip_node(who: Operator, runId: UUID, nodeId: str, body: SkipBody, it: Service) -> ControlResponse:
    """Skip a node that has not started, or that failed and waits; with ``outputs`` what follows goes on as after it."""
    values = {} if body.outputs is None else {"outputs": body.outputs}
    return await _decide(wire.UPDATE_SKIP_NODE, "is skipped", who, runId, nodeId, values, body.reason, it)


async def _decide(
    decision: str,
    done: str,
    who: Principal,
    run_id: UUID,
    node_id: str,
    values: dict[str, Any],
    reason: str | None,
    it: Services,
) -> ControlResponse:
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, run_id)
    payload = {"nodeId": node_id, **values, "operator": who.subject, "reason": reason}
    try:
        outcome = await it.controls.decide(run, decision, payload)
    except Conflict:
        if not await _has_node(who, run_id, node_id, it):
            raise NotFound(f"Run {run_id} has no node {node_id!r}.") from None
        raise
    return ControlResponse(run_id=run_id, status=RunStatus(outcome.status), message=f"Node {node_id} {done}")


async def _has_node(who: Principal, run_id: UUID, node_id: str, it: Services) -> bool:
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, run_id)  # again: its plan may be another one by now
        index = await it.indexes.get(conn, who.tenant_id, run.plan_digest, run.elements)
    return index.node(node_id) is not None
