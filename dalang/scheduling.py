"""Schedules in Temporal: made from rows of the table ``schedules``, which say what is wanted; Temporal keeps the time.

Theory of operation. A row is the truth about a schedule but for what only time tells: whether a failure paused it, how
many starts are left. Temporal's schedule, whose id ends with the row's ``key``, is made and changed inside of the row's
transaction: when Temporal refuses or is away, nothing has happened. A crash between the two leaves either a schedule
without a row, which removes itself when it is due, or one of an older revision, which is put right when it is due.
One that Temporal has lost is made anew when it is looked at or changed. What is started is read from the row when it
is due, so that Temporal's schedule holds no plan and no inputs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import (
    Client,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleBackfill,
    ScheduleCalendarSpec,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.client import Schedule as TemporalSchedule
from temporalio.client import ScheduleSpec as TemporalSpec
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from dalang import temporal, wire
from dalang.embedding import with_stored_plans
from dalang.errors import InvalidDocument, Problem, Unavailable
from dalang.launch import Preparations, Prepared
from dalang.plan import Plan
from dalang.settings import Settings
from dalang.store.engine import transaction
from dalang.store.plans import get_plan
from dalang.store.schedules import Schedule
from dalang.timetable import Overlap, Range, Times, Timing
from dalang.validation import inputs_problems, with_input_defaults

logger = logging.getLogger("dalang.scheduling")

SECONDS = 5.0
"""How long Temporal may take to answer."""
DESCRIBED_AT_ONCE = 10
_INCLUSIVE = timedelta(milliseconds=1)
T = TypeVar("T")

_OVERLAPS = {
    Overlap.SKIP: ScheduleOverlapPolicy.SKIP,
    Overlap.BUFFER_ONE: ScheduleOverlapPolicy.BUFFER_ONE,
    Overlap.BUFFER_ALL: ScheduleOverlapPolicy.BUFFER_ALL,
    Overlap.CANCEL_OTHER: ScheduleOverlapPolicy.CANCEL_OTHER,
    Overlap.ALLOW_ALL: ScheduleOverlapPolicy.ALLOW_ALL,
}


@dataclass(frozen=True)
class Live:
    """What Temporal knows of a schedule; ``reason`` is that of a pause, ``remaining`` None without end."""

    paused: bool
    reason: str | None
    next_times: list[datetime]
    remaining: int | None
    started: int
    skipped: int
    missed: int


class _Lost(Exception):
    """Temporal has no such schedule."""


class Schedules:
    """Temporal's schedules, by one client. Every method raises :class:`Unavailable` when Temporal is away."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    async def put(self, row: Schedule, *, remaining: bool = False) -> None:
        """Make Temporal's schedule as the row says, new or changed.

        A change leaves alone whether it is paused, and how many starts are left unless ``remaining``.

        Raises:
            InvalidDocument: Temporal refuses it.
        """
        try:
            await self._change(row, remaining)
        except _Lost:
            await self._create(row)

    async def _create(self, row: Schedule) -> None:
        schedule = self._made(row)
        tenant = TypedSearchAttributes([SearchAttributePair(temporal.TENANT, row.tenant_id)])
        try:
            await _answered(
                self._client.create_schedule(
                    identity(row.tenant_id, row.schedule_id, row.key), schedule, search_attributes=tenant
                )
            )
        except ScheduleAlreadyRunningError:  # somebody was quicker
            await self._change(row, remaining=False)

    async def create(self, row: Schedule) -> None:
        """Make the schedule of a new row. Raises like :meth:`put`."""
        await self._create(row)

    async def _change(self, row: Schedule, remaining: bool) -> None:
        made = self._made(row)

        def change(found: ScheduleUpdateInput) -> ScheduleUpdate:
            state = found.description.schedule.state
            if remaining:
                state = replace(
                    state,
                    limited_actions=made.state.limited_actions,
                    remaining_actions=made.state.remaining_actions,
                )
            made.state = state
            return ScheduleUpdate(made)

        await _answered(self._handle(row).update(change))

    async def remove(self, name: str) -> None:
        """Remove the schedule with this :func:`identity`; nothing happens where it is not there."""
        with contextlib.suppress(_Lost):
            await _answered(self._client.get_schedule_handle(name).delete())

    async def pause(self, row: Schedule, reason: str) -> None:
        """Start nothing any more until :meth:`resume`; what runs goes on."""
        await self._on(row, lambda handle: handle.pause(note=reason))

    async def resume(self, row: Schedule, reason: str) -> None:
        """End a pause."""
        await self._on(row, lambda handle: handle.unpause(note=reason))

    async def trigger(self, row: Schedule, overlap: Overlap | None) -> None:
        """Start now, also while it is paused; by the schedule's policy unless ``overlap`` is given."""
        policy = None if overlap is None else _OVERLAPS[overlap]
        await self._on(row, lambda handle: handle.trigger(overlap=policy))

    async def backfill(self, row: Schedule, since: datetime, until: datetime, overlap: Overlap) -> None:
        """Start for each scheduled time between these, both included."""
        # Temporal's docs call the start exclusive and say that this may change: no scheduled time is in between.
        times = ScheduleBackfill(since - _INCLUSIVE, until, _OVERLAPS[overlap])
        await self._on(row, lambda handle: handle.backfill(times))

    async def live(self, row: Schedule) -> Live:
        """Return what Temporal knows of a schedule."""
        return _live(await self._on(row, lambda handle: handle.describe()))

    async def live_of_all(self, rows: Sequence[Schedule]) -> list[Live]:
        """Return the same of many."""
        slots = asyncio.Semaphore(DESCRIBED_AT_ONCE)

        async def one(row: Schedule) -> Live:
            async with slots:
                return await self.live(row)

        return list(await asyncio.gather(*(one(row) for row in rows)))

    def _handle(self, row: Schedule) -> ScheduleHandle:
        return self._client.get_schedule_handle(identity(row.tenant_id, row.schedule_id, row.key))

    async def _on(self, row: Schedule, call: Callable[[ScheduleHandle], Awaitable[T]]) -> T:
        """Do something with a schedule; one that Temporal has lost is made anew first."""
        try:
            return await _answered(call(self._handle(row)))
        except _Lost:
            logger.warning("Temporal lost schedule %s of %s; it is made anew", row.schedule_id, row.tenant_id)
            await self.put(row)
            return await _answered(call(self._handle(row)))

    def _made(self, row: Schedule) -> TemporalSchedule:
        timing = Timing.model_validate(row.timing)
        request: wire.ScheduledStart = {
            "tenantId": row.tenant_id,
            "scheduleId": row.schedule_id,
            "key": str(row.key),
            "revision": row.revision,
        }
        action = ScheduleActionStartWorkflow(
            wire.SCHEDULED_RUN,
            request,
            id=f"scheduled-{identity(row.tenant_id, row.schedule_id, row.key)}",
            task_queue=self._settings.task_queue,
            typed_search_attributes=TypedSearchAttributes([SearchAttributePair(temporal.TENANT, row.tenant_id)]),
            static_summary=f"schedule {row.schedule_id}",
        )
        limited = timing.remaining_actions is not None
        return TemporalSchedule(
            action,
            _spec(timing),
            SchedulePolicy(
                _OVERLAPS[timing.overlap],
                None if timing.catchup_window is None else _span(timing.catchup_window),
                timing.pause_on_failure,
            ),
            ScheduleState(row.note or None, row.paused, limited, timing.remaining_actions or 0),
        )


def identity(tenant_id: str, schedule_id: str, key: UUID | str) -> str:
    """Return Temporal's id of a schedule: readable, and different from that of one that had the same id before."""
    return f"{tenant_id}/{schedule_id}/{key}"


@dataclass(frozen=True)
class Startable:
    """What a schedule starts now: a plan, and inputs that fit it, with its defaults."""

    prepared: Prepared
    inputs: dict[str, Any]
    plan: Plan | None = None
    """The plan where it is not stored as it is: with the stored plans that it names in it."""


async def startable(
    engine: AsyncEngine,
    preparations: Preparations,
    tenant_id: str,
    plan_id: UUID,
    plan_version: str | None,
    inputs: Mapping[str, Any],
) -> Startable:
    """Return what would be started now; asked when a schedule is made or changed, and each time that it is due.

    Raises:
        InvalidDocument: there is no such plan, this process refuses it, or the inputs do not fit it; pointers lead
            into the schedule.
    """
    async with transaction(engine, tenant_id) as conn:
        stored = await get_plan(conn, tenant_id, plan_id, plan_version)
        if stored is None and plan_version is not None and await get_plan(conn, tenant_id, plan_id) is not None:
            raise _invalid("/planVersion", "UNKNOWN_VERSION", f"Plan {plan_id} has no version {plan_version!r}.")
    if stored is None:
        raise _invalid("/planId", "UNKNOWN_PLAN", f"There is no plan {plan_id}.")
    try:
        prepared = await preparations.of_document(stored.digest, stored.document)
        plan = None
        if prepared.is_open:
            plan, prepared = await with_stored_plans(engine, preparations, tenant_id, stored.document)
    except InvalidDocument as error:
        first = next(one.message for one in error.problems if one.severity == "error")
        message = f"Version {stored.version} of plan {stored.name!r} is refused: {first}"
        raise _invalid("/planId", "INVALID_PLAN", message) from error
    found = await asyncio.to_thread(inputs_problems, prepared.head, dict(inputs))
    problems = [one.model_copy(update={"pointer": "/inputs" + one.pointer}) for one in found]
    if any(one.severity == "error" for one in problems):
        raise InvalidDocument(problems, "schedule")
    return Startable(prepared, dict(with_input_defaults(prepared.head, inputs)), plan)


def _invalid(pointer: str, code: str, message: str) -> InvalidDocument:
    return InvalidDocument([Problem(pointer=pointer, code=code, message=message)], "schedule")


def _spec(timing: Timing) -> TemporalSpec:
    spec = timing.spec
    return TemporalSpec(
        calendars=[_calendar(times) for times in spec.times()],
        intervals=[] if spec.every is None else [ScheduleIntervalSpec(_span(spec.every), _span(spec.offset))],
        start_at=spec.start_at,
        end_at=spec.end_at,
        jitter=_span(spec.jitter) if spec.jitter else None,
        time_zone_name=spec.timezone,
    )


def _calendar(times: Times) -> ScheduleCalendarSpec:
    return ScheduleCalendarSpec(
        second=_ranges(times.second),
        minute=_ranges(times.minute),
        hour=_ranges(times.hour),
        day_of_month=_ranges(times.day_of_month),
        month=_ranges(times.month),
        year=_ranges(times.year),
        day_of_week=_ranges(times.day_of_week),
    )


def _ranges(ranges: tuple[Range, ...]) -> list[ScheduleRange]:
    return [ScheduleRange(first, last) for first, last in ranges]


def _span(ms: int) -> timedelta:
    return timedelta(milliseconds=ms)


def _live(found: ScheduleDescription) -> Live:
    state, info = found.schedule.state, found.info
    return Live(
        paused=state.paused,
        reason=state.note if state.paused else None,
        next_times=[] if state.paused else list(info.next_action_times),
        remaining=state.remaining_actions if state.limited_actions else None,
        started=info.num_actions,
        skipped=info.num_actions_skipped_overlap,
        missed=info.num_actions_missed_catchup_window,
    )


async def _answered(call: Awaitable[T]) -> T:
    """Await a call to Temporal and translate its errors."""
    try:
        async with asyncio.timeout(SECONDS):
            return await call
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise _Lost from error
        if error.status == RPCStatusCode.INVALID_ARGUMENT and "search attribute" not in error.message.lower():
            raise _invalid("/spec", "REFUSED", f"Temporal refuses it: {error.message}"[:2000]) from error
        logger.warning("Temporal did not take a schedule: %s", error.message)
        raise Unavailable("Temporal did not take the request; try again.") from error
    except TimeoutError as error:
        raise Unavailable("Temporal did not answer in time.") from error
