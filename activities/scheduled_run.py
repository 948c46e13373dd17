"""The activities of ``ScheduledRun``: start the run that is due, exactly once; wait for its end.

One scheduled time of one schedule is one Idempotency-Key, so whatever is repeated, after a crash or by a second
backfill of the same times, finds the run that is there.

Waiting takes no slot of the worker, however many scheduled runs wait for people: the activity is left open ("async
completion"), and a task beside it tells Temporal that it is alive until the run has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import (
    AsyncActivityCancelledError,
    AsyncActivityHandle,
    Client,
    WorkflowExecutionStatus,
    WorkflowHistoryEventFilterType,
)
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode

from dalang import wire
from dalang.activities.patience import AWAY_SECONDS, beating, patiently
from dalang.errors import Denied, ErrorType, InvalidDocument
from dalang.launch import Launcher
from dalang.scheduling import Schedules, identity, startable
from dalang.statuses import RUN_ENDS
from dalang.store.engine import transaction
from dalang.store.runs import NewRun, Run, get_run
from dalang.store.schedules import Schedule, find_started, get_schedule_of_key, note_error
from dalang.timetable import format_instant

logger = logging.getLogger("dalang.scheduled")

BEAT_SECONDS = 2.0
AWAIT_BEAT_SECONDS = 5.0
SETTLE_SECONDS = 15.0
"""So long a row may be missing, or older than Temporal's schedule: it is being written."""


class ScheduledRuns:
    """Starts what is due and waits for it. One per worker process."""

    def __init__(self, engine: AsyncEngine, client: Client, launcher: Launcher, schedules: Schedules) -> None:
        self._engine = engine
        self._client = client
        self._launcher = launcher
        self._schedules = schedules
        self._waits: set[asyncio.Task[None]] = set()

    @activity.defn(name=wire.START_SCHEDULED_RUN)
    async def start(self, request: Any) -> dict[str, Any]:
        """Start the run of one scheduled time, or find it: the row first, then ``PlanRun``."""
        due: wire.ScheduledStartAt = request
        async with beating(BEAT_SECONDS):
            row = await self._row(due)
            if row is None:
                return {"tenantId": due["tenantId"], "skipped": "the schedule was deleted"}
            run = await self._accepted(row, datetime.fromtimestamp(due["at"] / 1000, UTC))
            # Temporal away, Postgres away: the activity is repeated, and the API's reconciler looks after the row too.
            await self._launcher.start(run)
        return {"tenantId": run.tenant_id, "runId": str(run.run_id)}

    async def _row(self, due: wire.ScheduledStartAt) -> Schedule | None:
        """Return the schedule's row; Temporal's schedule is put right when it is not what the row says."""
        key = UUID(due["key"])
        async with transaction(self._engine, due["tenantId"]) as conn:
            row = await get_schedule_of_key(conn, due["tenantId"], key)
        if row is not None and due["revision"] <= row.revision:
            return row
        since = activity.info().scheduled_time
        if datetime.now(UTC) - since < timedelta(seconds=SETTLE_SECONDS):
            # Made or changed at this moment: its row is committed after Temporal has taken it.
            message = "the schedule is not stored yet"
            raise ApplicationError(message, type="NOT_STORED", category=ApplicationErrorCategory.BENIGN)
        if row is None:
            await self._schedules.remove(identity(due["tenantId"], due["scheduleId"], key))
            return None
        await self._schedules.put(row)
        return row

    async def _accepted(self, row: Schedule, at: datetime) -> Run:
        """Return the run of this time, with its row committed."""
        scheduled_for = format_instant(at)
        key = f"schedule:{row.key}:{scheduled_for}"
        async with transaction(self._engine, row.tenant_id) as conn:
            run = await find_started(conn, row.tenant_id, key)
        if run is not None:
            return run
        try:
            found = await startable(
                self._engine, self._launcher.preparations, row.tenant_id, row.plan_id, row.plan_version, row.inputs
            )
        except InvalidDocument as error:
            await self._refused(row, scheduled_for, error)
            raise ApplicationError(
                f"schedule {row.schedule_id} could not start a run: {error}",
                type=ErrorType.VALIDATION_ERROR,
                non_retryable=True,
                category=ApplicationErrorCategory.BENIGN,
            ) from None
        head = found.prepared.head
        new = NewRun(
            tenant_id=row.tenant_id,
            plan_id=found.prepared.plan_id,
            plan_name=head.name,
            plan_version=head.version,
            plan_digest=found.prepared.digest,
            created_by=row.creator,
            total_nodes=found.prepared.nodes,
            inputs=found.inputs,
            metadata={**row.metadata, "scheduleId": row.schedule_id, "scheduledFor": scheduled_for},
            priority=head.priority if row.priority is None else row.priority,
            idempotency_key=key,
            # Of the key alone: a schedule that was changed meanwhile does not make another run of the same time.
            request_digest=hashlib.sha256(key.encode()).hexdigest(),
        )
        try:
            run = await self._launcher.accept(new, found.plan, found.prepared.inner)
        except Denied as denied:
            if denied.away:  # the time is not lost while the policy service restarts: Temporal repeats the activity
                raise
            await self._note(row, scheduled_for, ErrorType.POLICY_VIOLATION, str(denied))
            raise ApplicationError(
                f"schedule {row.schedule_id} could not start a run: {denied}",
                type=ErrorType.POLICY_VIOLATION,
                non_retryable=True,
                category=ApplicationErrorCategory.BENIGN,
            ) from None
        async with transaction(self._engine, row.tenant_id) as conn:
            await note_error(conn, row.tenant_id, row.key, None)
        return run

    async def _refused(self, row: Schedule, scheduled_for: str, error: InvalidDocument) -> None:
        problems = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in error.problems]
        await self._note(row, scheduled_for, ErrorType.VALIDATION_ERROR, str(error), problems[:20])

    async def _note(
        self, row: Schedule, scheduled_for: str, kind: ErrorType, message: str, problems: Sequence[Any] = ()
    ) -> None:
        """Keep with the schedule why nothing was started: there is no run to show it."""
        told = {
            "type": str(kind),
            "message": message[:2000],
            "scheduledFor": scheduled_for,
            "at": format_instant(datetime.now(UTC)),
            "problems": list(problems),
        }
        async with transaction(self._engine, row.tenant_id) as conn:
            await note_error(conn, row.tenant_id, row.key, told)
        logger.warning("schedule %s of %s could not start a run: %s", row.schedule_id, row.tenant_id, message)

    # -- waiting ---------------------------------------------------------------------------------------------------

    @activity.defn(name=wire.AWAIT_SCHEDULED_RUN)
    async def wait(self, request: Any) -> dict[str, Any]:
        """Wait for a run's end, without a slot of the worker: the answer comes later."""
        started: wire.ScheduledStarted = request
        handle = self._client.get_async_activity_handle(task_token=activity.info().task_token)
        waiting = asyncio.create_task(self._wait(handle, started["tenantId"], UUID(started["runId"])))
        self._waits.add(waiting)
        waiting.add_done_callback(self._waits.discard)
        activity.raise_complete_async()

    async def _wait(self, handle: AsyncActivityHandle, tenant_id: str, run_id: UUID) -> None:
        beating = asyncio.create_task(_beat_until_gone(handle))
        ended = asyncio.create_task(self._end(tenant_id, run_id))
        try:
            await asyncio.wait({beating, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                await _told(lambda: handle.complete(ended.result()))
        except asyncio.CancelledError:
            # This worker ends; the next attempt, elsewhere, need not wait until the beats are missed.
            stopping = ApplicationError("the worker stops", category=ApplicationErrorCategory.BENIGN)
            with contextlib.suppress(Exception):
                await handle.fail(stopping, rpc_timeout=timedelta(seconds=1))
        except Exception as error:
            logger.exception("waiting for run %s failed", run_id)
            told = ApplicationError(f"waiting failed: {type(error).__name__}")
            with contextlib.suppress(RPCError):
                await handle.fail(told)
        finally:
            beating.cancel()
            ended.cancel()

    async def _end(self, tenant_id: str, run_id: UUID) -> wire.ScheduledEnd:
        """Wait until the run's workflow has ended and return how."""
        known = await self._closed(f"{wire.WORKFLOW_ID_PREFIX}{run_id}")
        run = await patiently(self._engine, tenant_id, lambda conn: get_run(conn, tenant_id, run_id, resolved=False))
        if run is None or run.status not in RUN_ENDS:
            return {"status": known}  # its row was deleted, or it was terminated and could tell no more
        end: wire.ScheduledEnd = {"status": run.status}
        if isinstance(run.error, Mapping):
            end["errorType"] = str(run.error.get("type", ErrorType.UNKNOWN_ERROR))
        if run.error_message:
            end["message"] = run.error_message[:2000]
        return end

    async def _closed(self, workflow_id: str) -> str:
        """Wait until no execution of the workflow is open, and return Temporal's status of the last one."""
        handle = self._client.get_workflow_handle(workflow_id)
        closing = WorkflowHistoryEventFilterType.CLOSE_EVENT
        while True:
            try:
                async for _ in handle.fetch_history_events(wait_new_event=True, event_filter_type=closing):
                    pass
                # It may go on in another execution: continued as new, or reset.
                status = (await handle.describe()).status
                if status is not None and status != WorkflowExecutionStatus.RUNNING:
                    return status.name
            except RPCError as error:
                if error.status == RPCStatusCode.NOT_FOUND:  # never started, or older than Temporal keeps histories
                    return "UNKNOWN"
                await asyncio.sleep(AWAY_SECONDS)

    async def close(self) -> None:
        """Hand over what is waited for to another worker."""
        waits = list(self._waits)
        for waiting in waits:
            waiting.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _beat_until_gone(handle: AsyncActivityHandle) -> None:
    """Tell Temporal that the run is still waited for, until nobody wants to know."""
    while True:
        await asyncio.sleep(AWAIT_BEAT_SECONDS)
        try:
            await handle.heartbeat()
        except AsyncActivityCancelledError:
            return
        except RPCError as error:
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                return  # the workflow was terminated, or another attempt has begun


async def _told(call: Any) -> None:
    """Answer, also when Temporal is away at this moment; nothing where the answer is not wanted any more."""
    while True:
        try:
            await call()
        except RPCError as error:
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                return
            await asyncio.sleep(AWAY_SECONDS)
        else:
            return
