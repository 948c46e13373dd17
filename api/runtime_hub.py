"""The Runtime Hub of Wayang's contract, served: a task is a run of a plan with one node.

It goes the ordinary way of a run - policies, quotas, events, audit - and belongs to the tenant of the token. What both
sides of the contract agree on is in ``dalang/runtime_hub.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dalang import runtime_hub as hub
from dalang.api.auth import Operator, Principal, Reader
from dalang.api.bodies import body_schema, checked, read_json
from dalang.api.runs import found_run
from dalang.api.schemas import Answer, ExecutePlanRequest
from dalang.api.services import Service, Services
from dalang.api.starting import begin
from dalang.canonical import compact_json
from dalang.errors import Conflict, InvalidDocument, NotFound, Problem, Unavailable
from dalang.nodes import BUILT_IN_TYPES, registry
from dalang.statuses import RUN_ENDS
from dalang.store.runs import Run

router = APIRouter(prefix=hub.PREFIX, tags=["runtime hub"])

LOOK_SECONDS = 5.0
"""A task is looked at so often although nothing was heard of it."""
_WAIT = re.compile(r"(?:^|[\s,;])wait\s*=\s*(\d{1,6})(?![^\s,;])", re.IGNORECASE)


class ExecuteNodeRequest(BaseModel):
    """A task, as Wayang's adapter sends it; what it sends besides is passed over."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        alias_generator=to_camel,
        json_schema_extra={
            "examples": [
                {
                    "taskId": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11",
                    "runId": "b6f0c2d4-0f6e-4c42-8a0e-52f0a5a2c111",
                    "nodeId": "count",
                    "nodeDescriptor": {"id": "word-count", "capabilities": []},
                    "input": {"text": "to be or not to be"},
                    "metadata": {"nodeType": "word-count"},
                }
            ]
        },
    )

    task_id: UUID = Field(description="Stands for the task: the same id again answers the same task.")
    run_id: UUID | None = Field(None, description="Of the caller; kept with the run.")
    node_id: str | None = Field(None, max_length=500, description="Of the caller; kept with the run.")
    node_descriptor: dict[str, Any] | None = Field(None, description="As in a plan.")
    input: dict[str, Any] | None = Field(None, description="The inputs of the node.")
    metadata: dict[str, Any] | None = Field(
        None, description="`nodeType`: what is run. `timeoutMs`: how long it may take. All of it reaches the handler."
    )


class NodeExecutionResult(Answer):
    """How a task ended, or that it has not yet (`metadata.status`)."""

    task_id: UUID
    success: bool
    outputs: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    metadata: dict[str, Any]


class ExecutionStatus(Answer):
    """How a task stands: PENDING, RUNNING, PAUSED, AWAITING_HITL, SUCCESS, FAILED or CANCELLED.

    `metadata.result` holds the result of one that has ended.
    """

    task_id: UUID
    status: str
    metadata: dict[str, Any]


BODIES = (ExecuteNodeRequest,)
_NOT_YET: dict[int | str, dict[str, Any]] = {
    202: {"model": NodeExecutionResult, "description": "The task is under way; `success` is false, and says TIMEOUT."}
}
_CANCELLING: dict[int | str, dict[str, Any]] = {
    202: {"model": ExecutionStatus, "description": "No worker answers; it will be cancelled when one is back."}
}
Prefer = Annotated[str | None, Header(max_length=200, description="`wait=SECONDS`: how long to wait for the end.")]


@router.post("/execute", responses=_NOT_YET, openapi_extra=body_schema("application/json", model=ExecuteNodeRequest))
async def execute_task(
    who: Operator, request: Request, response: Response, it: Service, prefer: Prefer = None
) -> NodeExecutionResult:
    """Run a task and answer its result; the same `taskId` again answers the same task."""
    document = await read_json(request, it.settings.max_plan_bytes)
    task = checked(ExecuteNodeRequest, document)
    run = await _begun(task, who, it)
    run = await _ended(run, who, it, _patience(prefer, it.settings.runtime_hub_wait_seconds))
    if run.status not in RUN_ENDS:
        response.status_code = 202
    result = hub.result_of(task.task_id, run.status, run.outputs, run.error, run.reason)
    return NodeExecutionResult.model_validate({**result, "metadata": _about(run)})


@router.get("/tasks/{taskId}/status")
async def task_status(who: Reader, taskId: UUID, it: Service) -> ExecutionStatus:
    """Tell how a task stands."""
    return _status(taskId, await _task(who, taskId, it))


@router.post("/tasks/{taskId}/cancel", responses=_CANCELLING)
async def cancel_task(who: Operator, taskId: UUID, response: Response, it: Service) -> ExecutionStatus:
    """Cancel a task; one that has ended stays as it is."""
    run = await _task(who, taskId, it)
    if run.status not in RUN_ENDS:
        # It may end at the same moment, which is as good.
        with contextlib.suppress(Conflict):
            outcome = await it.controls.send(run, "cancel", who.subject, "cancelled at the runtime hub")
            response.status_code = 200 if outcome.applied else 202
        run = await _ended(run, who, it, 0)
    return _status(taskId, run)


# -- a task and its run ------------------------------------------------------------------------------------------------


async def _begun(task: ExecuteNodeRequest, who: Principal, it: Services) -> Run:
    """Start the task's run, or find it.

    Raises:
        Conflict: the id was used for another task.
        InvalidDocument: it cannot be run, and why.
    """
    inputs, told = task.input or {}, task.metadata or {}
    types = (*BUILT_IN_TYPES, *registry.node_types)
    plan = hub.plan_of(task.node_descriptor or {}, inputs, told, types)
    if plan is None:
        text = "It does not say what to run: give a descriptor with an implementation, or metadata.nodeType."
        raise InvalidDocument([Problem(pointer="/nodeDescriptor", code="MISSING_FIELD", message=text)], "request")
    about = {"taskId": str(task.task_id), "runId": _text(task.run_id), "nodeId": task.node_id}
    metadata = {**told, "runtimeHub": {name: value for name, value in about.items() if value is not None}}
    # What changes when the same task is sent again, Wayang's `startTime`, is not part of what it is.
    asked = {"input": inputs, "plan": plan, **about}
    wanted = ExecutePlanRequest.model_validate({"plan": plan, "inputs": inputs, "metadata": metadata})
    try:
        begun = await begin(
            it,
            who,
            wanted,
            key=f"runtime-hub:{task.task_id}",
            request_digest=await asyncio.to_thread(lambda: hashlib.sha256(compact_json(asked)).hexdigest()),
            run_id=hub.run_id(who.tenant_id, task.task_id),
        )
    except InvalidDocument as error:
        raise InvalidDocument([_placed(one) for one in error.problems], "request") from None
    return begun.run


def _placed(problem: Problem) -> Problem:
    """Return a problem of the plan, or of its inputs, where the request has it."""
    node = "/plan/nodes/0/"
    for ours, theirs in ((f"{node}descriptor", "/nodeDescriptor"), (f"{node}inputs", "/input"), ("/inputs", "/input")):
        if problem.pointer.startswith(ours):
            pointer = theirs + problem.pointer.removeprefix(ours)
            break
    else:
        pointer = "/nodeDescriptor"
    return problem.model_copy(update={"pointer": pointer, "node_id": None})


async def _ended(run: Run, who: Principal, it: Services, seconds: float) -> Run:
    """Wait so long for a run's end and return it as it is then, with its outputs."""
    try:
        it.feed.require_room()
    except Unavailable:  # the task is under way all the same
        seconds = 0
    deadline = asyncio.get_running_loop().time() + seconds
    # Subscribed before the first look: what is stored in between wakes us.
    with it.feed.subscribed(str(run.run_id)) as wake:
        while True:
            wake.clear()
            async with it.transaction(who.tenant_id) as conn:
                run = await found_run(conn, who, run.run_id, resolved=True)
            left = deadline - asyncio.get_running_loop().time()
            if run.status in RUN_ENDS or left <= 0:
                return run
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), min(left, LOOK_SECONDS))


async def _task(who: Principal, task: UUID, it: Services) -> Run:
    try:
        async with it.transaction(who.tenant_id) as conn:
            return await found_run(conn, who, hub.run_id(who.tenant_id, task), resolved=True)
    except NotFound:
        raise NotFound(f"There is no task {task}.") from None


def _status(task: UUID, run: Run) -> ExecutionStatus:
    about = _about(run)
    if run.status in RUN_ENDS:
        about["result"] = hub.result_of(task, run.status, run.outputs, run.error, run.reason)
    return ExecutionStatus(task_id=task, status=hub.status_of(run.status), metadata=about)


def _about(run: Run) -> dict[str, Any]:
    return {"runId": str(run.run_id), "status": hub.status_of(run.status)}


def _patience(prefer: str | None, most: float) -> float:
    """Return how many seconds the caller waits (RFC 7240), never more than ``most``."""
    found = _WAIT.search(prefer or "")
    return most if found is None else min(float(found[1]), most)


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
