"""Pause, resume and cancel of a run: asked of the workflow by an update, which answers; left as a signal if it cannot.

An update needs a worker. When none takes it in time, the same request is left as a signal, which Temporal keeps until
a worker is back: the caller is told that it will be applied, never kept waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from temporalio.client import (
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from dalang import wire
from dalang.authority import signed_request
from dalang.errors import Conflict, ConflictingPlan, InvalidDocument, Problem, Unavailable
from dalang.launch import Launcher, TemporalLink
from dalang.statuses import RUN_ENDS
from dalang.store.runs import Run
from dalang.workflows.requests import INVALID_REQUEST, UNAUTHENTICATED, WRONG_STATE

ACCEPT_SECONDS = 5.0
"""How long a worker may take to look at an update before it is left as a signal."""
ANSWER_SECONDS = 8.0
"""How long an accepted update may take to be stored and answered."""
SIGNAL_SECONDS = 3.0
PREPARE_SECONDS = 30.0
"""How long a caller is kept waiting for a revision of a plan that is being prepared."""
ASKED_SECONDS = 300.0
"""So long a run takes what the API has signed and asks for now."""
LEFT_SECONDS = 7 * 86_400.0
"""So long it takes what was left as a signal, since no worker was there: then it is better asked again."""

logger = logging.getLogger("dalang.controls")

CONTROLS = (wire.UPDATE_PAUSE, wire.UPDATE_RESUME, wire.UPDATE_CANCEL)
DECISIONS = (wire.UPDATE_RETRY_NODE, wire.UPDATE_SKIP_NODE)
"""What an operator decides about one node; an update only, since it has to be checked against the node's status."""
TASK_ANSWERS = (
    wire.UPDATE_COMPLETE_TASK,
    wire.UPDATE_CLAIM_TASK,
    wire.UPDATE_RELEASE_TASK,
    wire.UPDATE_DELEGATE_TASK,
)
"""What a person says to a human task."""
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What became of a request; ``applied`` is False when it waits for a worker."""

    status: str
    applied: bool


class Controls:
    """Sends controls into runs."""

    def __init__(self, link: TemporalLink, launcher: Launcher, accept_seconds: float = ACCEPT_SECONDS) -> None:
        self._link = link
        self._launcher = launcher
        self.accept_seconds = accept_seconds

    async def send(
        self, run: Run, control: str, operator: str, reason: str | None, more: Mapping[str, Any] | None = None
    ) -> Outcome:
        """Send ``control`` (one of :data:`CONTROLS`) into ``run``; ``more`` are fields of its own.

        Raises:
            Conflict: the run has ended, or its status does not allow it.
            InvalidDocument: the workflow finds the request malformed.
            Unavailable: Temporal is away.
        """
        return await self.tell(run, control, {"operator": operator, "reason": reason, **(more or {})})

    async def tell(self, run: Run, control: str, payload: dict[str, Any]) -> Outcome:
        """Send ``payload`` into ``run`` by the update ``control``, or as the signal of this name when nobody answers.

        Raises:
            Conflict, InvalidDocument, Unavailable: as :meth:`send`.
        """
        if run.status in RUN_ENDS:
            raise Conflict(f"{control} is not possible: the run is {run.status}.")
        if not await self._launcher.start(run):
            raise Conflict(f"{control} is not possible: the run could not be started.")
        client = await self._link.client()
        handle = client.get_workflow_handle(run.workflow)
        try:
            status = await self._update(handle, control, self._signed(run.tenant_id, run.run_id, control, payload))
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            left = self._signed(run.tenant_id, run.run_id, control, payload, LEFT_SECONDS)
            signal = handle.signal(control, left, rpc_timeout=timedelta(seconds=SIGNAL_SECONDS))
            await _answered(control, signal, SIGNAL_SECONDS)
            return Outcome(run.status, applied=False)
        return Outcome(status or run.status, applied=True)

    async def decide(self, run: Run, decision: str, payload: dict[str, Any]) -> Outcome:
        """Send ``decision`` (one of :data:`DECISIONS`) about a node into ``run``.

        Raises:
            Conflict: the run has ended, or the node's status does not allow it.
            InvalidDocument: the workflow finds the request malformed.
            Unavailable: Temporal is away, or no worker took it: nothing was decided.
        """
        if run.status in RUN_ENDS:
            raise Conflict(f"{decision} is not possible: the run is {run.status}.")
        client = await self._link.client()
        handle = client.get_workflow_handle(run.workflow)
        try:
            status = await self._update(handle, decision, self._signed(run.tenant_id, run.run_id, decision, payload))
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise Unavailable("No worker answers at the moment; nothing was decided.") from None
        return Outcome(status or run.status, applied=True)

    async def answer_task(
        self, tenant_id: str, run_id: UUID, answer: str, payload: dict[str, Any], *, lasting: bool
    ) -> Outcome:
        """Send what a person says to a human task (one of :data:`TASK_ANSWERS`) into its run.

        ``lasting``: when no worker takes it in time it is left as a signal. That is right for a decision, which has an
        id, so that it counts once whichever way it arrives, and the digest of what the person saw, so that it is void
        when that has changed; it is wrong for a claim, which is worth nothing without an answer.

        Raises:
            Conflict: the task or the run has ended, or is not this person's.
            InvalidDocument: the workflow finds the request malformed.
            Unavailable: Temporal is away; or no worker took what is not ``lasting``.
        """
        client = await self._link.client()
        handle = client.get_workflow_handle(f"{wire.WORKFLOW_ID_PREFIX}{run_id}")
        try:
            status = await self._update(handle, answer, self._signed(tenant_id, run_id, answer, payload))
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            if not lasting:
                raise Unavailable("No worker answers at the moment; try again.") from None
            left = self._signed(tenant_id, run_id, answer, payload, LEFT_SECONDS)
            signal = handle.signal(answer, left, rpc_timeout=timedelta(seconds=SIGNAL_SECONDS))
            await _answered(answer, signal, SIGNAL_SECONDS)
            return Outcome("", applied=False)
        return Outcome(status or "", applied=True)

    async def replan(self, run: Run, payload: dict[str, Any]) -> dict[str, Any] | None:
        """Ask ``run`` to go on with another plan; return its answer, or None when that is still being prepared.

        Raises:
            Conflict: the run has ended, or the plan changes what has happened.
            InvalidDocument: the patch, or the plan, is wrong; pointers lead into the request.
            Unavailable: Temporal is away, or no worker took it: nothing was changed.
        """
        if run.status in RUN_ENDS:
            raise Conflict(f"replan is not possible: the run is {run.status}.")
        if not await self._launcher.start(run):
            raise Conflict("replan is not possible: the run could not be started.")
        client = await self._link.client()
        handle = client.get_workflow_handle(f"{wire.WORKFLOW_ID_PREFIX}{run.run_id}")
        asked = handle.start_update(
            wire.UPDATE_REPLAN,
            await asyncio.to_thread(self._signed, run.tenant_id, run.run_id, wire.UPDATE_REPLAN, payload),
            wait_for_stage=WorkflowUpdateStage.ACCEPTED,
            result_type=dict,
            rpc_timeout=timedelta(seconds=self.accept_seconds),
        )
        try:
            update = await _answered(wire.UPDATE_REPLAN, asked, self.accept_seconds, silent=True)
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise Unavailable("No worker answers at the moment; nothing was changed.") from None
        try:
            answer: dict[str, Any] = await _answered(wire.UPDATE_REPLAN, update.result(), PREPARE_SECONDS, silent=True)
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            return None
        return answer

    def _signed(
        self, tenant_id: str, run_id: UUID, request: str, payload: Mapping[str, Any], seconds: float = ASKED_SECONDS
    ) -> dict[str, Any]:
        """Return ``payload`` with what proves to the run that this installation sends it."""
        until = round((time.time() + seconds) * 1000)
        return signed_request(self._launcher.keys, tenant_id, str(run_id), request, payload, until)

    async def _update(self, handle: WorkflowHandle[Any, Any], control: str, payload: dict[str, Any]) -> str | None:
        """Return the status after the update, or None when it is applied and not stored yet."""
        asked = handle.start_update(
            control,
            payload,
            wait_for_stage=WorkflowUpdateStage.ACCEPTED,
            result_type=dict,
            rpc_timeout=timedelta(seconds=self.accept_seconds),
        )
        update = await _answered(control, asked, self.accept_seconds, silent=True)
        try:
            answer = await _answered(control, update.result(), ANSWER_SECONDS, silent=True)
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            return None
        return str(answer["status"])


async def _answered(control: str, call: Awaitable[T], seconds: float, *, silent: bool = False) -> T:
    """Await a call to Temporal and translate its errors; ``silent``: TimeoutError when nobody answered."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except WorkflowUpdateFailedError as error:
        raise _refusal(control, error.cause) from error
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise Conflict(f"{control} is not possible: the run has ended.") from error
        if error.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED) and silent:
            raise TimeoutError from error
        logger.warning("%s was not taken: %s", control, error.message)
        raise Unavailable("Temporal did not take the request; try again.") from error
    except TimeoutError as error:
        if silent:
            raise
        raise Unavailable("Temporal did not answer in time.") from error


def _refusal(control: str, cause: BaseException) -> Exception:
    if isinstance(cause, ApplicationError):
        details = cause.details[0] if cause.details and isinstance(cause.details[0], dict) else {}
        if details.get("problems"):
            problems = [Problem.model_validate(one) for one in details["problems"]]
            if cause.type == INVALID_REQUEST:
                return InvalidDocument(problems, details.get("what", "request"))
            return ConflictingPlan(f"{cause.message}.", problems)
        if cause.type == INVALID_REQUEST:
            return InvalidDocument([Problem(pointer="", code="BAD_VALUE", message=cause.message)], "request")
        if cause.type in (WRONG_STATE, UNAUTHENTICATED):
            return Conflict(f"{cause.message}.")
    return Conflict(f"{control} is not possible any more: the run has ended, or is ending.")
