"""What people answer to human tasks: decide, claim, release, delegate; one task, or many at once.

The run decides whether an answer counts. What is refused here already, from the read model - a task that was decided,
somebody else's, a form that is not filled in - is refused so that the person gets a better sentence, with pointers,
and gets it also while no worker answers. Nothing is accepted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from fastapi import APIRouter, Depends, Header, Request, Response

from dalang.api.auth import DECIDERS, OPERATORS, Decider, Principal, require
from dalang.api.bodies import body_schema, small_body
from dalang.api.human_tasks import found_task
from dalang.api.noticing import actor_of
from dalang.api.problems import Forbidden, Malformed, answer
from dalang.api.runs import MAX_KEY_LENGTH, is_key
from dalang.api.services import Service, Services
from dalang.api.task_schemas import (
    ApproveRequest,
    BulkDecision,
    BulkRequest,
    BulkResponse,
    BulkResult,
    CompleteRequest,
    DecideRequest,
    DelegateRequest,
    EditRequest,
    HoldRequest,
    RejectRequest,
    TaskResponse,
)
from dalang.canonical import pointer
from dalang.controls import TASK_ANSWERS
from dalang.errors import Conflict, DalangError, InvalidDocument, Problem
from dalang.formats import load_document
from dalang.human_task import OpenTask, form_problems
from dalang.statuses import TASK_ENDS, RunStatus, TaskStatus
from dalang.store.human_tasks import Task
from dalang.store.system_events import SystemEventType
from dalang.system_log import Known
from dalang.temporal import TemporalUnavailable

router = APIRouter(prefix="/orchestrator/human-tasks", tags=["human tasks"])

MAX_BODY_BYTES = 600 * 1024
"""Values and outputs of a decision have 256 KiB each at most."""
MAX_BULK_BYTES = 2 * 1024 * 1024
AT_ONCE = 10
"""Decisions of one bulk request that are under way at the same time."""
COMPLETE, CLAIM, RELEASE, DELEGATE = TASK_ANSWERS

IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="The same key for the same task decides once and answers as before."),
]
_WAITING: dict[int | str, dict[str, Any]] = {
    202: {"model": TaskResponse, "description": "No worker answers; the decision counts when one is back."}
}


def _reads(model: type[Any], *, limit: int = MAX_BODY_BYTES, optional: bool = False) -> Any:
    return Depends(small_body(model, optional=optional, limit=limit))


def _body(model: type[Any], *, required: bool = True) -> dict[str, Any]:
    return body_schema("application/json", model=model, required=required)


@router.post("/bulk", openapi_extra=_body(BulkRequest))
async def decide_many(
    who: Decider,
    request: Request,
    body: Annotated[BulkRequest, _reads(BulkRequest, limit=MAX_BULK_BYTES)],
    it: Service,
    idempotency_key: IdempotencyKey = None,
) -> BulkResponse:
    """Decide many tasks; each is taken or refused for itself, and has the answer that it would have had alone."""
    _check_key(idempotency_key)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(decision: BulkDecision) -> BulkResult:
        async with slots:
            try:
                code, found = await decide(who, decision.task_id, decision, decision.action, idempotency_key, it)
            except (DalangError, TemporalUnavailable, TimeoutError) as error:
                return _refused(decision.task_id, error)
        return BulkResult(task_id=decision.task_id, code=code, status=found.status, message=found.message)

    results = await asyncio.gather(*(one(decision) for decision in body.decisions))
    taken = sum(result.code < 300 for result in results)
    return BulkResponse(results=results, taken=taken, refused=len(results) - taken)


@router.post("/{taskId}/complete", responses=_WAITING, openapi_extra=_body(CompleteRequest))
async def complete_task(
    who: Decider,
    taskId: UUID,
    body: Annotated[CompleteRequest, _reads(CompleteRequest)],
    response: Response,
    it: Service,
    idempotency_key: IdempotencyKey = None,
) -> TaskResponse:
    """Decide a task by any of its `actions`."""
    return await _answered(who, taskId, body, body.action, idempotency_key, response, it)


@router.post("/{taskId}/approve", responses=_WAITING, openapi_extra=_body(ApproveRequest))
async def approve_task(
    who: Decider,
    taskId: UUID,
    body: Annotated[ApproveRequest, _reads(ApproveRequest)],
    response: Response,
    it: Service,
    idempotency_key: IdempotencyKey = None,
) -> TaskResponse:
    """Approve what is proposed, with the values that the form asks for."""
    return await _answered(who, taskId, body, "approve", idempotency_key, response, it)


@router.post("/{taskId}/reject", responses=_WAITING, openapi_extra=_body(RejectRequest))
async def reject_task(
    who: Decider,
    taskId: UUID,
    body: Annotated[RejectRequest, _reads(RejectRequest)],
    response: Response,
    it: Service,
    idempotency_key: IdempotencyKey = None,
) -> TaskResponse:
    """Reject what is proposed: the port `rejected` lights, or the node fails."""
    return await _answered(who, taskId, body, "reject", idempotency_key, response, it)


@router.post("/{taskId}/edit", responses=_WAITING, openapi_extra=_body(EditRequest))
async def edit_task(
    who: Decider,
    taskId: UUID,
    body: Annotated[EditRequest, _reads(EditRequest)],
    response: Response,
    it: Service,
    idempotency_key: IdempotencyKey = None,
) -> TaskResponse:
    """Approve with changed outputs."""
    return await _answered(who, taskId, body, "edit", idempotency_key, response, it)


@router.post("/{taskId}/claim", openapi_extra=_body(HoldRequest, required=False))
async def claim_task(
    who: Decider, taskId: UUID, body: Annotated[HoldRequest, _reads(HoldRequest, optional=True)], it: Service
) -> TaskResponse:
    """Take a task: it is yours until you decide, release or delegate it."""
    return await _hold(who, taskId, CLAIM, "is yours", {}, it)


@router.post("/{taskId}/release", openapi_extra=_body(HoldRequest, required=False))
async def release_task(
    who: Decider, taskId: UUID, body: Annotated[HoldRequest, _reads(HoldRequest, optional=True)], it: Service
) -> TaskResponse:
    """Give a task back; operators may do so for somebody else."""
    return await _hold(who, taskId, RELEASE, "is nobody's", _override(who), it)


@router.post("/{taskId}/delegate", openapi_extra=_body(DelegateRequest))
async def delegate_task(
    who: Decider, taskId: UUID, body: Annotated[DelegateRequest, _reads(DelegateRequest)], it: Service
) -> TaskResponse:
    """Give a task to somebody else, or to another group; operators may do so with anybody's."""
    given = {"to": body.to, "toGroup": body.to_group}
    to = {key: value for key, value in given.items() if value is not None}
    named = " of ".join(to.values()) if len(to) == 2 else next(iter(to.values()))
    return await _hold(who, taskId, DELEGATE, f"is given to {named}", {**to, **_override(who)}, it)


async def _answered(
    who: Principal,
    task_id: UUID,
    body: DecideRequest,
    action: str,
    key: str | None,
    response: Response,
    it: Services,
) -> TaskResponse:
    _check_key(key)
    response.status_code, found = await decide(who, task_id, body, action, key, it)
    return found


async def decide(
    who: Principal, task_id: UUID, body: DecideRequest, action: str, key: str | None, it: Services
) -> tuple[int, TaskResponse]:
    """Send a decision into its run; return the HTTP status and the answer. All ways to decide end here.

    Raises:
        Forbidden, Conflict, InvalidDocument, NotFound, Unavailable: it is refused, here or by the run.
    """
    with noticed(who, task_id, action, it):
        return await _decided(who, task_id, body, action, key, it)


@contextmanager
def noticed(who: Principal, task_id: UUID, what: str, it: Services) -> Iterator[None]:
    """Tell the tenant's chain of system events of who may not decide, or decided about something else."""
    try:
        yield
    except (Forbidden, Conflict) as refusal:
        data = {"taskId": str(task_id), "action": what, "reason": str(refusal)}
        kind = SystemEventType.DECISION_REFUSED
        it.system.refused(kind, Known(who.tenant_id), actor_of(who), data, f"{what} {task_id}")
        raise


async def _decided(
    who: Principal, task_id: UUID, body: DecideRequest, action: str, key: str | None, it: Services
) -> tuple[int, TaskResponse]:
    require(who, DECIDERS)
    task = await _task(who, task_id, it)
    # A key is its owner's: that of somebody else never answers for what he did.
    decision_id = str(uuid4() if key is None else uuid5(NAMESPACE_URL, f"{who.tenant_id}/{who.subject}/{key}"))
    if task.status in TASK_ENDS:
        if task.decision_id != decision_id:
            raise Conflict(_ended(task))
        if (task.decision or {}).get("action") != action:
            raise Conflict("The Idempotency-Key was used for another decision about this task.")
        return 200, _response(task, f"The task was decided before, with this Idempotency-Key: {action}.")
    repeated = any(vote.get("decisionId") == decision_id for vote in task.votes)
    if not repeated:
        await _check(who, task, action, body)
    given = body.model_dump(include={"values", "outputs", "inputs", "notes"}, exclude_none=True)
    payload = {
        **_identity(who, task),
        **given,
        "action": action,
        "digest": body.digest,
        "decisionId": decision_id,
    }
    outcome = await it.controls.answer_task(who.tenant_id, task.run_id, COMPLETE, payload, lasting=True)
    if not outcome.applied:
        return 202, _response(task, f"No worker answers at the moment; the {action} counts when one is back.")
    after = await _task(who, task_id, it)
    if after.status in TASK_ENDS:
        return 200, _response(after, f"The task is decided: {action}.")
    approved = len(after.votes)
    return 200, _response(after, f"Your {action} is counted: {approved} of {after.quorum}.")


async def _hold(
    who: Principal, task_id: UUID, what: str, done: str, more: dict[str, Any], it: Services
) -> TaskResponse:
    require(who, DECIDERS)
    task = await _task(who, task_id, it)
    with noticed(who, task_id, what, it):
        if task.status in TASK_ENDS:
            raise Conflict(_ended(task))
        if "override" not in more:
            check_person(who, task)
    await it.controls.answer_task(who.tenant_id, task.run_id, what, {**_identity(who, task), **more}, lasting=False)
    return _response(await _task(who, task_id, it), f"The task {done}.")


async def _task(who: Principal, task_id: UUID, it: Services) -> Task:
    async with it.transaction(who.tenant_id) as conn:
        return await found_task(conn, who, task_id)


def _identity(who: Principal, task: Task) -> dict[str, Any]:
    return {"taskId": str(task.task_id), "operator": who.subject, "groups": list(who.groups)}


def _override(who: Principal) -> dict[str, Any]:
    return {"override": True} if who.roles & OPERATORS else {}


def check_open(who: Principal, task: Task, digest: str) -> None:
    """Refuse whoever could not decide the task, or what it does not show any more.

    Raises:
        Forbidden: the task is not for this person. Conflict: it has ended, is somebody else's now, or has changed.
    """
    if task.status in TASK_ENDS:
        raise Conflict(_ended(task))
    check_person(who, task)
    if digest != task.digest:
        raise Conflict("What the task shows has changed since you read it; read it again.")


async def _check(who: Principal, task: Task, action: str, body: DecideRequest) -> None:
    """Refuse what the run would refuse, as far as the read model knows.

    Raises:
        Forbidden: the task is not for this person. Conflict: it is somebody else's now, or has changed.
        InvalidDocument: it has no such action, or its form is not filled in.
    """
    check_open(who, task, body.digest)
    if action not in task.actions:
        message = f"The actions of this task are {', '.join(task.actions)}."
        raise InvalidDocument([Problem(pointer="/action", code="BAD_VALUE", message=message)], "request")
    if task.form is not None:
        values = getattr(body, "values", None)
        found = await asyncio.to_thread(form_problems, task.form, values, action)
        if found:
            problems = [Problem(pointer=pointer("values", *at), code=code, message=text) for code, at, text in found]
            raise InvalidDocument(problems, "request")


def check_person(who: Principal, task: Task) -> None:
    """Refuse a person whom the run would refuse; 403 is for who can never decide it, 409 for who has to wait."""
    asked = OpenTask(
        id=str(task.task_id),
        node=task.node_id,
        kind=task.kind,
        actions=task.actions,
        title=task.title,
        digest=task.digest,
        created_at=0,
        assignee=task.assigned_to,
        group=task.candidate_group,
        candidates=task.candidates,
        excluded=task.excluded,
    )
    objection = asked.objection(who.subject, who.groups)
    if objection is None:
        return
    sentence = f"The task is {objection}."
    if who.subject in task.excluded:
        raise Forbidden(f"Four eyes: {sentence[0].lower()}{sentence[1:]}")
    if task.assigned_to is not None and (task.candidates is None or who.subject in task.candidates):
        raise Conflict(sentence)
    raise Forbidden(sentence)


def _check_key(key: str | None) -> None:
    if key is not None and not is_key(key):
        raise Malformed(f"An Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable ASCII characters.")


def _ended(task: Task) -> str:
    if task.status != TaskStatus.COMPLETED:
        return f"The task is {task.status}; nothing can be decided any more."
    action = (task.decision or {}).get("action", "decided")
    return f"The task is COMPLETED: {task.completed_by or 'somebody'} decided {action}."


def _response(task: Task, message: str) -> TaskResponse:
    return TaskResponse(
        task_id=task.task_id,
        run_id=task.run_id,
        status=TaskStatus(task.status),
        run_status=RunStatus(task.run_status),
        assigned_to=task.assigned_to,
        message=message,
    )


def _refused(task_id: UUID, error: Exception) -> BulkResult:
    """Return the answer that the error would have been, as one of many."""
    response = answer(None, error)
    problem = load_document(bytes(response.body), name="problem.json")
    message = str(problem.get("detail") or problem["title"])
    return BulkResult(task_id=task_id, code=response.status_code, message=message, problems=problem.get("problems"))
