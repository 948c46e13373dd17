"""``ScheduledRun``: what Temporal starts when a schedule is due. It starts a run the ordinary way and ends with it.

Temporal's overlap policies and ``pauseOnFailure`` look at the workflow that the schedule started, so this one stays
open until the run has ended, fails when the run failed, and passes a cancel (``cancelOther``) on to the run as a signal
and waits: a run ends in order, with its undo, before the next one begins. It is no parent of the run: a run is started
by writing its row first and then ``PlanRun``, which an API's reconciler may do as well, and a child has one parent.

As in ``PlanRun``, no input may fail a workflow task, and what is done here is held by recorded histories.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RawValue, RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.authority import SCHEDULE

CANCEL_REASON = "its schedule, or whoever cancelled the scheduled workflow, asked for it"

_SCHEDULED_AT = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2, maximum_interval=timedelta(seconds=10)
)
_START_TIMEOUT = timedelta(minutes=5)
_START_HEARTBEAT = timedelta(seconds=10)
_RUN_TIMEOUT = timedelta(days=3650)
"""A run may wait for a person for long; Temporal wants a bound for an activity."""
_AWAIT_HEARTBEAT = timedelta(seconds=20)


@workflow.defn(name=wire.SCHEDULED_RUN)
class ScheduledRun:
    """One start of a schedule; see the module's text. Argument: :class:`wire.ScheduledStart`."""

    @workflow.init
    def __init__(self, request: Any = None, *surplus: Any) -> None:
        self._request: dict[str, Any] = {}
        self._invalid: str | None = None
        self._run_id: str | None = None
        self._cancelled = False
        try:
            for key, kind in (("tenantId", str), ("scheduleId", str), ("key", str), ("revision", int)):
                if not isinstance(request[key], kind):
                    raise TypeError(key)
                self._request[key] = request[key]
        except Exception as error:
            # Raised here it would fail the workflow task for ever; `run` ends the workflow with it instead.
            name = type(error).__name__
            self._invalid = f"this is no input of {wire.SCHEDULED_RUN} ({name}); make schedules through the API"

    @workflow.run
    async def run(self, request: Any = None, *surplus: Any) -> Any:
        """Start a run and return, when it has ended, ``{runId, status}``, or ``{skipped}``.

        Raises:
            ApplicationError: no run could be started, or it FAILED; its type is that of the run's error.
        """
        if self._invalid is not None:
            raise ApplicationError(self._invalid, type="INVALID_INPUT", non_retryable=True)
        started = await self._done(self._start())
        self._run_id = started.get("runId")
        if self._run_id is None:
            return started
        if self._cancelled:
            await self._cancel_run()
        end = await self._done(self._await(started))
        return self._conclude(self._run_id, end)

    def _start(self) -> asyncio.Task[Any]:
        at = workflow.info().typed_search_attributes.get(_SCHEDULED_AT) or workflow.info().start_time
        return workflow.start_activity(
            wire.START_SCHEDULED_RUN,
            {**self._request, "at": round(at.timestamp() * 1000)},
            result_type=dict,
            start_to_close_timeout=_START_TIMEOUT,
            heartbeat_timeout=_START_HEARTBEAT,
            retry_policy=_RETRY,
            priority=Priority(fairness_key=self._request["tenantId"][:64]),
        )

    def _await(self, started: dict[str, Any]) -> asyncio.Task[Any]:
        return workflow.start_activity(
            wire.AWAIT_SCHEDULED_RUN,
            {"tenantId": self._request["tenantId"], "runId": started["runId"]},
            result_type=dict,
            start_to_close_timeout=_RUN_TIMEOUT,
            heartbeat_timeout=_AWAIT_HEARTBEAT,
            retry_policy=_RETRY,
            summary=f"run {started['runId']}",
            priority=Priority(fairness_key=self._request["tenantId"][:64]),
        )

    async def _done(self, task: asyncio.Task[Any]) -> dict[str, Any]:
        """Await an activity; a cancel of this workflow does not reach it, but the run."""
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                self._cancelled = True
                await self._cancel_run()
            except ActivityError:
                break
        try:
            result: dict[str, Any] = task.result()
        except ActivityError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError):
                raise ApplicationError(cause.message, *cause.details, type=cause.type, non_retryable=True) from None
            raise ApplicationError(str(cause or error), non_retryable=True) from None
        return result

    async def _cancel_run(self) -> None:
        if self._run_id is None:
            return  # it is not known yet; asked for again as soon as it is
        run = workflow.get_external_workflow_handle(f"{wire.WORKFLOW_ID_PREFIX}{self._run_id}")
        payload = {"operator": f"{SCHEDULE}{self._request['scheduleId']}", "reason": CANCEL_REASON}
        with contextlib.suppress(FailureError):  # it has ended meanwhile
            await run.signal(wire.SIGNAL_CANCEL, payload)

    def _conclude(self, run_id: str, end: dict[str, Any]) -> dict[str, Any]:
        result = {"runId": run_id, "status": end["status"]}
        if end["status"] == "CANCELLED" and self._cancelled:
            raise asyncio.CancelledError
        if end["status"] in ("COMPLETED", "CANCELLED"):
            return result
        message = f"run {run_id} is {end['status']}: {end.get('message') or 'see the run'}"
        raise ApplicationError(message, result, type=end.get("errorType"), non_retryable=True)

    @workflow.signal(dynamic=True)
    def other_signal(self, name: str, payloads: Sequence[RawValue]) -> None:
        """Pass over a signal: controls go to the run, not to this workflow."""

    @workflow.query(name=wire.QUERY_STATUS)
    def status(self, request: Any = None) -> dict[str, Any]:
        """Return which run this is about."""
        return {"runId": self._run_id, "invalid": self._invalid, "cancelled": self._cancelled}
