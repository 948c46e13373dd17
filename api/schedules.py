"""Schedules: make, look at, change, pause, start by hand, start for times of the past."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from dalang.api.auth import Operator, Principal, Reader
from dalang.api.bodies import body_schema, read_json, small_body
from dalang.api.problems import of_model
from dalang.api.schedule_schemas import (
    BackfillRequest,
    CreateScheduleRequest,
    ScheduleAccepted,
    ScheduleCounts,
    ScheduleDefinition,
    ScheduleDetail,
    ScheduledRunItem,
    ScheduleItem,
    SchedulePage,
    ScheduleQuery,
    TriggerRequest,
    UpdateScheduleRequest,
)
from dalang.api.schemas import Links, PauseResumeRequest
from dalang.api.services import Service, Services
from dalang.durations import format_duration
from dalang.errors import InvalidDocument, NotFound, Problem, Unavailable
from dalang.scheduling import Live, Schedules, identity, startable
from dalang.statuses import RunStatus
from dalang.store.runs import RunSummary
from dalang.store.schedules import (
    NewSchedule,
    Schedule,
    count_active_of_each,
    create_schedule,
    delete_schedule,
    get_schedule,
    list_schedules,
    newest_run_of_each,
    newest_runs,
    update_schedule,
)
from dalang.timetable import Timing
from dalang.validation.run_inputs import MAX_INPUT_BYTES

router = APIRouter(prefix="/orchestrator/schedules", tags=["schedules"])

MAX_BODY_BYTES = MAX_INPUT_BYTES + 64 * 1024
SHOWN_RUNS = 10
WRITES_AT_ONCE = 3
"""A write holds a connection to the database while it asks Temporal, which may be slow to answer."""

_writes = asyncio.Semaphore(WRITES_AT_ONCE)
_ACCEPTED: dict[str, Any] = {"status_code": 202}
M = TypeVar("M", bound=ScheduleDefinition)
_TIMING = tuple(Timing.model_fields)


@router.post("", status_code=201, openapi_extra=body_schema("application/json", model=CreateScheduleRequest))
async def create(who: Operator, request: Request, response: Response, it: Service) -> ScheduleDetail:
    """Make a schedule, which starts runs of a stored plan at the times of its `spec`."""
    document = await read_json(request, MAX_BODY_BYTES)
    wanted = await _checked(CreateScheduleRequest, document, who, it)
    new = NewSchedule(
        tenant_id=who.tenant_id,
        schedule_id=wanted.schedule_id,
        created_by=who.subject,
        paused=wanted.paused,
        **_columns(wanted),
    )
    clock = await _clock(it)
    async with _writes, it.transaction(who.tenant_id) as conn:
        row = await create_schedule(conn, new)
        await clock.create(row)
    response.headers["Location"] = f"/orchestrator/schedules/{quote(row.schedule_id)}"
    return await _detail(row, clock, it)


@router.get("")
async def get_schedules(who: Reader, query: Annotated[ScheduleQuery, Query()], it: Service) -> SchedulePage:
    """List schedules by id, each with its next times and its last run."""
    async with it.transaction(who.tenant_id) as conn:
        page = await list_schedules(conn, who.tenant_id, plan_id=query.plan_id, limit=query.limit, cursor=query.cursor)
        names = [row.schedule_id for row in page.items]
        last = await newest_run_of_each(conn, who.tenant_id, names)
        active = await count_active_of_each(conn, who.tenant_id, names)
    lives = await (await _clock(it)).live_of_all(page.items)
    items = [
        ScheduleItem.model_validate(_common(row, live, last.get(row.schedule_id), active.get(row.schedule_id, 0)))
        for row, live in zip(page.items, lives, strict=True)
    ]
    return SchedulePage(items=items, next=page.cursor)


@router.get("/{scheduleId}")
async def get_one_schedule(who: Reader, scheduleId: str, it: Service) -> ScheduleDetail:
    """Read a schedule: next times, last runs, why the last start failed."""
    return await _detail(await _found(who, scheduleId, it), await _clock(it), it)


@router.patch("/{scheduleId}", openapi_extra=body_schema("application/json", model=UpdateScheduleRequest))
async def change(who: Operator, scheduleId: str, request: Request, it: Service) -> ScheduleDetail:
    """Change a schedule: what is left out stays as it is, null is the default; runs under way go on."""
    given = await read_json(request, MAX_BODY_BYTES)
    row = await _found(who, scheduleId, it)
    wanted = await _checked(ScheduleDefinition, _patched(row, given), who, it)
    clock = await _clock(it)
    async with _changing(who, scheduleId, it) as (conn, current):
        if current.revision != row.revision:  # somebody was quicker: what they changed stays
            wanted = await _checked(ScheduleDefinition, _patched(current, given), who, it)
        changed = await update_schedule(conn, who.tenant_id, scheduleId, who.subject, **_columns(wanted))
        assert changed is not None
        await clock.put(changed, remaining="remainingActions" in given)
    return await _detail(changed, clock, it)


@router.delete("/{scheduleId}", status_code=204, response_class=Response)
async def delete(who: Operator, scheduleId: str, it: Service) -> Response:
    """Delete a schedule; the runs that it started stay, and those under way go on."""
    clock = await _clock(it)
    async with it.transaction(who.tenant_id) as conn:
        row = await delete_schedule(conn, who.tenant_id, scheduleId)
    if row is None:
        raise _no_schedule(scheduleId)
    with suppress(Unavailable):  # without its row it starts nothing, and removes itself when it is due
        await clock.remove(identity(row.tenant_id, row.schedule_id, row.key))
    return Response(status_code=204)


def _reason_body(model: type[Any]) -> dict[str, Any]:
    return body_schema("application/json", model=model, required=False)


PauseBody = Annotated[PauseResumeRequest, Depends(small_body(PauseResumeRequest, optional=True))]
TriggerBody = Annotated[TriggerRequest, Depends(small_body(TriggerRequest, optional=True))]
BackfillBody = Annotated[BackfillRequest, Depends(small_body(BackfillRequest, optional=False))]


@router.post("/{scheduleId}/pause", openapi_extra=_reason_body(PauseResumeRequest))
async def pause_schedule(who: Operator, scheduleId: str, body: PauseBody, it: Service) -> ScheduleDetail:
    """Start nothing any more until it is resumed; runs under way go on."""
    return await _set_paused(True, who, scheduleId, body.reason, it)


@router.post("/{scheduleId}/resume", openapi_extra=_reason_body(PauseResumeRequest))
async def resume_schedule(who: Operator, scheduleId: str, body: PauseBody, it: Service) -> ScheduleDetail:
    """End a pause, of an operator or after a failure; times that passed meanwhile are not made up for."""
    return await _set_paused(False, who, scheduleId, body.reason, it)


@router.post("/{scheduleId}/trigger", **_ACCEPTED, openapi_extra=_reason_body(TriggerRequest))
async def trigger(who: Operator, scheduleId: str, body: TriggerBody, it: Service) -> ScheduleAccepted:
    """Start a run now, also while it is paused; the overlap policy holds."""
    row = await _found(who, scheduleId, it)
    await (await _clock(it)).trigger(row, body.overlap)
    return ScheduleAccepted(schedule_id=scheduleId, message="A run is started, if the overlap policy allows it.")


@router.post(
    "/{scheduleId}/backfill", **_ACCEPTED, openapi_extra=body_schema("application/json", model=BackfillRequest)
)
async def backfill(who: Operator, scheduleId: str, body: BackfillBody, it: Service) -> ScheduleAccepted:
    """Start runs for the scheduled times from `from` to `to`; a time that has its run gets no second one."""
    problems = []
    now = datetime.now(UTC)
    to = body.to or now
    if to < body.from_:
        problems.append(Problem(pointer="/to", code="BAD_VALUE", message="`to` is before `from`."))
    if to > now:
        problems.append(Problem(pointer="/to", code="BAD_VALUE", message="`to` is in the future."))
    if problems:
        raise InvalidDocument(problems, "request")
    row = await _found(who, scheduleId, it)
    await (await _clock(it)).backfill(row, body.from_, to, body.overlap)
    return ScheduleAccepted(schedule_id=scheduleId, message="Runs are started for these times.")


# -- what the routes share ---------------------------------------------------------------------------------------------


async def _clock(it: Services) -> Schedules:
    """Return Temporal's schedules; raises :class:`Unavailable` while Temporal is away."""
    return Schedules(await it.temporal.client(), it.settings)


async def _found(who: Principal, schedule_id: str, it: Services) -> Schedule:
    async with it.transaction(who.tenant_id) as conn:
        row = await get_schedule(conn, who.tenant_id, schedule_id)
    if row is None:
        raise _no_schedule(schedule_id)
    return row


@asynccontextmanager
async def _changing(who: Principal, schedule_id: str, it: Services) -> AsyncIterator[tuple[Any, Schedule]]:
    """Open a transaction in which nobody else changes the schedule."""
    async with _writes, it.transaction(who.tenant_id) as conn:
        row = await get_schedule(conn, who.tenant_id, schedule_id, locked=True)
        if row is None:
            raise _no_schedule(schedule_id)
        yield conn, row


async def _set_paused(
    paused: bool, who: Principal, schedule_id: str, reason: str | None, it: Services
) -> ScheduleDetail:
    clock = await _clock(it)
    said = f"{'paused' if paused else 'resumed'} by {who.subject}" + (f": {reason}" if reason else "")
    async with _changing(who, schedule_id, it) as (conn, row):
        changed = await update_schedule(conn, who.tenant_id, schedule_id, who.subject, paused=paused)
        assert changed is not None
        await (clock.pause if paused else clock.resume)(row, said)
    return await _detail(changed, clock, it)


async def _checked(model: type[M], document: dict[str, Any], who: Principal, it: Services) -> M:
    """Return the document as ``model``, with a plan that can be started; every problem at once."""
    problems: list[Problem] = []
    wanted: M | None = None
    try:
        wanted = model.model_validate(document)
    except ValidationError as error:
        problems += of_model(error.errors(include_url=False, include_context=False, include_input=False), model)
    plan_id, version, inputs = _plan_of(document)
    if plan_id is not None:
        try:
            await startable(it.engine, it.launcher.preparations, who.tenant_id, plan_id, version, inputs)
        except InvalidDocument as error:
            problems += [one for one in error.problems if one.severity == "error"]
    if problems or wanted is None:
        raise InvalidDocument(problems, "schedule")
    return wanted


def _plan_of(document: Mapping[str, Any]) -> tuple[UUID | None, str | None, dict[str, Any]]:
    """Return plan and inputs as far as they have the right form, so that they are checked whatever else is wrong."""
    version, inputs = document.get("planVersion"), document.get("inputs", {})
    right = isinstance(document.get("planId"), str) and isinstance(version, str | None) and isinstance(inputs, dict)
    if not right:
        return None, None, {}
    try:
        return UUID(document["planId"]), version, inputs
    except ValueError:
        return None, None, {}


def _patched(row: Schedule, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schedule's document with what is given instead of what was; null is the default."""
    document: dict[str, Any] = {
        **row.timing,
        "planId": str(row.plan_id),
        "planVersion": row.plan_version,
        "inputs": row.inputs,
        "metadata": row.metadata,
        "priority": row.priority,
        "note": row.note,
        **given,
    }
    return {name: value for name, value in document.items() if value is not None}


def _columns(wanted: ScheduleDefinition) -> dict[str, Any]:
    timing = wanted.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(_TIMING))
    return {
        "plan_id": wanted.plan_id,
        "plan_version": wanted.plan_version,
        "inputs": wanted.inputs,
        "metadata": wanted.metadata,
        "priority": wanted.priority,
        "note": wanted.note,
        "timing": timing,
    }


async def _detail(row: Schedule, clock: Schedules, it: Services) -> ScheduleDetail:
    live = await clock.live(row)
    async with it.transaction(row.tenant_id) as conn:
        runs = await newest_runs(conn, row.tenant_id, row.schedule_id, limit=SHOWN_RUNS)
        active = await count_active_of_each(conn, row.tenant_id, [row.schedule_id])
    timing = Timing.model_validate(row.timing)
    namespace = quote(it.settings.temporal_namespace, safe="")
    name = quote(identity(row.tenant_id, row.schedule_id, row.key), safe="")
    return ScheduleDetail(
        **_common(row, live, runs[0] if runs else None, active.get(row.schedule_id, 0)),
        inputs=row.inputs,
        metadata=row.metadata,
        priority=row.priority,
        catchup_window=None if timing.catchup_window is None else format_duration(timing.catchup_window),
        pause_on_failure=timing.pause_on_failure,
        remaining_actions=live.remaining,
        last_runs=[_run(run) for run in runs],
        links=Links(temporal=f"{it.settings.temporal_ui_url}/namespaces/{namespace}/schedules/{name}"),
    )


def _common(row: Schedule, live: Live, last: RunSummary | None, active: int) -> dict[str, Any]:
    timing = Timing.model_validate(row.timing)
    return {
        "schedule_id": row.schedule_id,
        "plan_id": row.plan_id,
        "plan_version": row.plan_version,
        "spec": timing.spec,
        "overlap": timing.overlap,
        "paused": live.paused,
        "paused_reason": live.reason,
        "note": row.note,
        "next_times": live.next_times,
        "last_run": None if last is None else _run(last),
        "last_error": row.last_error,
        "counts": ScheduleCounts(started=live.started, running=active, skipped=live.skipped, missed=live.missed),
        "created_by": row.created_by,
        "created_at": row.created_at,
        "updated_by": row.updated_by,
        "updated_at": row.updated_at,
    }


def _run(run: RunSummary) -> ScheduledRunItem:
    return ScheduledRunItem(
        run_id=run.run_id,
        status=RunStatus(run.status),
        plan_version=run.plan_version,
        scheduled_for=run.metadata.get("scheduledFor"),
        created_at=run.created_at,
        completed_at=run.completed_at,
        error_message=run.error_message,
    )


def _no_schedule(schedule_id: str) -> NotFound:
    return NotFound(f"There is no schedule {schedule_id!r}.")
