"""Work for agents without Temporal: ask for it, tell how it goes, tell how it ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from dalang.api.agent_schemas import (
    MAX_OUTCOME_BYTES,
    AssignmentResponse,
    CompleteWorkRequest,
    FailRequest,
    PollRequest,
    ProgressRequest,
    TaskAssignment,
)
from dalang.api.agents import AgentId, beat, found_agent, require_kind
from dalang.api.auth import Principal, Worker
from dalang.api.bodies import body_schema, small_body
from dalang.api.services import Service, Services
from dalang.errors import Conflict, NotFound
from dalang.store.agents import Agent, AgentKind
from dalang.store.assignments import (
    ASSIGNED,
    address,
    end_assignment,
    take_assignment,
    tell_progress,
)
from dalang.store.listening import woken

router = APIRouter(prefix="/orchestrator/agents", tags=["agents"])

LOOK_SECONDS = 5.0
"""How late work is found whose notification was lost, and how soon an agent that hung up is not waited for."""
WITHDRAWN = "The work is not wanted any more: stop it. Whatever is said of it from now on counts for nothing."

_POLL = body_schema("application/json", model=PollRequest, required=False)
PollBody = Annotated[PollRequest, Depends(small_body(PollRequest, optional=True))]
ProgressBody = Annotated[ProgressRequest, Depends(small_body(ProgressRequest, optional=False))]
CompleteBody = Annotated[
    CompleteWorkRequest, Depends(small_body(CompleteWorkRequest, optional=False, limit=MAX_OUTCOME_BYTES))
]
FailBody = Annotated[FailRequest, Depends(small_body(FailRequest, optional=False))]


@router.post(
    "/{agentId}/poll",
    openapi_extra=_POLL,
    response_model=TaskAssignment,
    responses={204: {"description": "There is nothing to do; ask again."}},
)
async def poll(who: Worker, agentId: AgentId, body: PollBody, request: Request, it: Service) -> Any:
    """Ask for work and wait for some; this is a sign of life as well. 204: there is none, ask again."""
    agent = await found_agent(who, agentId, it, to_change=True)
    require_kind(agent, AgentKind.POLL)
    loop = asyncio.get_running_loop()
    until = loop.time() + body.wait_seconds
    with it.listener.waiting(ASSIGNED, address(agent.tenant_id, agent.agent_id)) as wake:
        while not await request.is_disconnected():
            wake.clear()
            await beat(agent, it)
            found = await _take(agent, it)
            if found is not None:
                return found
            left = until - loop.time()
            if left <= 0:
                break
            await woken(wake, min(left, LOOK_SECONDS))
    return Response(status_code=204)


async def _take(agent: Agent, it: Services) -> TaskAssignment | None:
    # One that works for all tenants takes what is any tenant's.
    async with it.owners_transaction(agent.tenant_id) as conn:
        taken = await take_assignment(conn, agent.tenant_id, agent.agent_id)
    if taken is None:
        return None
    one, token = taken
    return TaskAssignment(
        assignment_id=one.assignment_id,
        token=token,
        agent_id=one.agent_id,
        alive_seconds=one.alive_seconds,
        node_task=dict(one.task or {}),
    )


@router.post(
    "/{agentId}/assignments/{assignmentId}/progress",
    openapi_extra=body_schema("application/json", model=ProgressRequest),
)
async def progress(
    who: Worker, agentId: AgentId, assignmentId: UUID, body: ProgressBody, it: Service
) -> AssignmentResponse:
    """Say that the work goes on, and how far it is; 409 when it is not wanted any more."""
    told = body.model_dump(mode="json", include={"message", "fraction"}, exclude_none=True)
    await _alive(who, agentId, it)
    async with it.bearers_transaction() as conn:
        wanted = await tell_progress(conn, assignmentId, body.token, told)
    return _said(assignmentId, wanted)


@router.post(
    "/{agentId}/assignments/{assignmentId}/complete",
    openapi_extra=body_schema("application/json", model=CompleteWorkRequest),
)
async def complete(
    who: Worker, agentId: AgentId, assignmentId: UUID, body: CompleteBody, it: Service
) -> AssignmentResponse:
    """Say what the work put out; 409 when it is not wanted any more. Saying it again changes nothing."""
    await _alive(who, agentId, it)
    async with it.bearers_transaction() as conn:
        outcome = {"outputs": body.outputs, **_usage(body)}
        wanted = await end_assignment(conn, assignmentId, body.token, "COMPLETED", outcome)
    return _said(assignmentId, wanted)


@router.post(
    "/{agentId}/assignments/{assignmentId}/fail", openapi_extra=body_schema("application/json", model=FailRequest)
)
async def fail(who: Worker, agentId: AgentId, assignmentId: UUID, body: FailBody, it: Service) -> AssignmentResponse:
    """Say why the work failed; 409 when it is not wanted any more. Saying it again changes nothing."""
    error = body.error.model_dump(mode="json", by_alias=True, exclude_none=True)
    await _alive(who, agentId, it)
    async with it.bearers_transaction() as conn:
        wanted = await end_assignment(conn, assignmentId, body.token, "FAILED", {"error": error, **_usage(body)})
    return _said(assignmentId, wanted)


def _usage(body: CompleteWorkRequest | FailRequest) -> dict[str, Any]:
    return {} if body.usage is None else {"usage": body.usage.model_dump(mode="json")}


async def _alive(who: Principal, agent_id: str, it: Services) -> None:
    with suppress(NotFound):  # it was removed while it was at work, which goes on
        await beat(await found_agent(who, agent_id, it, to_change=True), it)


def _said(assignment_id: UUID, wanted: bool) -> AssignmentResponse:
    if not wanted:
        raise Conflict(WITHDRAWN)
    return AssignmentResponse(assignment_id=assignment_id, message="Kept")
