"""What goes in and out of the routes of schedules; ``dalang/timetable.py`` has the times."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field, Strict

from dalang.api.schemas import Answer, Cursor, Limit, Links, QueryModel, RequestModel, Text
from dalang.plan_base import Priority
from dalang.statuses import RunStatus
from dalang.timetable import Instant, Overlap, ScheduleSpec, Timing

MAX_LISTED = 200
ScheduleId = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Letters, digits, dots, dashes and underscores; one of the tenant's.",
    ),
]


class ScheduleDefinition(Timing):
    """What a schedule starts, and when."""

    plan_id: Annotated[UUID, Strict(False)] = Field(description="A stored plan.")
    plan_version: str | None = Field(
        None, min_length=1, max_length=100, description="Default: the highest version at each start."
    )
    inputs: dict[str, Any] = Field(default_factory=dict, description="Of each run; checked now and at each start.")
    priority: Priority | None = Field(None, description="Default: the plan's. An integer or low ... critical.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Free; reaches handlers.")
    note: Text = Field("", description="For people.")


class CreateScheduleRequest(ScheduleDefinition):
    """A new schedule."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "scheduleId": "nightly",
                    "planId": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11",
                    "spec": {"cron": ["0 3 * * MON-FRI"], "timezone": "Europe/Berlin"},
                    "overlap": "skip",
                }
            ]
        }
    )

    schedule_id: ScheduleId
    paused: bool = Field(False, description="Start nothing before it is resumed.")


class UpdateScheduleRequest(RequestModel):
    """What is changed; what is left out stays, null is the default. `spec`, `inputs`, `metadata` are replaced whole."""

    plan_id: Annotated[UUID, Strict(False)] | None = Field(None, description="A stored plan.")
    plan_version: str | None = Field(None, description="Null: the highest version at each start.")
    inputs: dict[str, Any] | None = None
    priority: Priority | None = None
    metadata: dict[str, Any] | None = None
    note: Text | None = None
    spec: ScheduleSpec | None = None
    overlap: Overlap | None = None
    catchup_window: str | None = None
    pause_on_failure: bool | None = None
    remaining_actions: int | None = Field(None, description="How many starts are left from now on; null: no end.")


class TriggerRequest(RequestModel):
    """Start now."""

    overlap: Annotated[Overlap | None, Field(strict=False)] = Field(None, description="Default: the schedule's.")


class BackfillRequest(RequestModel):
    """Start for the scheduled times of the past."""

    from_: Instant = Field(alias="from", description="The first time.")
    to: Instant | None = Field(None, description="The last time, not in the future. Default: now.")
    overlap: Annotated[Overlap, Field(strict=False)] = Field(
        Overlap.BUFFER_ALL, description="bufferAll: one run after the other; allowAll: all at once."
    )


class ScheduleQuery(QueryModel):
    """What a list of schedules is narrowed to."""

    plan_id: UUID | None = None
    limit: Annotated[Limit, Field(le=MAX_LISTED)] = 50
    cursor: Cursor = None


class ScheduledRunItem(Answer):
    """A run that a schedule started."""

    run_id: UUID
    status: RunStatus
    plan_version: str
    scheduled_for: str | None
    created_at: datetime
    completed_at: datetime | None
    error_message: str | None


class ScheduleCounts(Answer):
    """What became of the scheduled times."""

    started: int
    running: int = Field(description="Runs that have not ended.")
    skipped: int = Field(description="Not started since the run before had not ended.")
    missed: int = Field(description="Not started since Temporal was away for longer than the catchupWindow.")


class ScheduleItem(Answer):
    """A schedule as lists show it."""

    schedule_id: str
    plan_id: UUID
    plan_version: str | None
    spec: ScheduleSpec
    overlap: Overlap
    paused: bool
    paused_reason: str | None = Field(None, description="Of an operator, or of Temporal after a failure.")
    note: str
    next_times: list[datetime] = Field(description="The next ten at most, without jitter; none while it is paused.")
    last_run: ScheduledRunItem | None
    last_error: dict[str, Any] | None = Field(None, description="Why the last start made no run.")
    counts: ScheduleCounts
    created_by: str
    created_at: datetime
    updated_by: str
    updated_at: datetime


class ScheduleDetail(ScheduleItem):
    """A schedule with everything."""

    inputs: dict[str, Any]
    metadata: dict[str, Any]
    priority: int | None
    catchup_window: str | None
    pause_on_failure: bool
    remaining_actions: int | None = Field(description="How many starts are left; null: no end.")
    last_runs: list[ScheduledRunItem] = Field(description="The newest ten at most, the newest first.")
    links: Links = Links()


class SchedulePage(Answer):
    """A part of the list of schedules, by id."""

    items: list[ScheduleItem]
    next: str | None


class ScheduleAccepted(Answer):
    """A request that Temporal took and works on."""

    schedule_id: str
    message: str
