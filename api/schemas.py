"""What goes in and out, as the seeds name it (ExecutePlanRequest, ExecutionStatusResponse, ...), in camelCase.

Requests are strict: nothing unknown, nothing coerced (``false`` is no integer).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator
from pydantic.alias_generators import to_camel

from dalang.interrupting import PauseMode
from dalang.plan_base import Priority
from dalang.statuses import NodeStatus, RunStatus

MAX_PAGE = 1_000
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE, description="Items of one page at most.")]
Cursor = Annotated[str | None, Field(max_length=2_000, description="`next` of the page before.")]


def _rfc_3339(value: Any) -> Any:
    if isinstance(value, str) and _DATE.match(value) is None:
        raise ValueError("a time looks like 2026-01-31T12:00:00Z")
    return value


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]", re.ASCII)
Time = Annotated[AwareDatetime, BeforeValidator(_rfc_3339)]
"""Pydantic's own would take 0.5 for half a second after 1970."""
Text = Annotated[str, Field(max_length=2_000)]


class RequestModel(BaseModel):
    """A body, or the query of an address."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)


class QueryModel(BaseModel):
    """The query of an address: texts, so they are converted, but nothing unknown is passed over."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Answer(BaseModel):
    """Something that is answered."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


# -- requests ----------------------------------------------------------------------------------------------------------


class ExecutePlanRequest(RequestModel):
    """Which plan to run, with what: a stored plan by ``planId``, or the ``plan`` itself."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"planId": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11", "inputs": {"feature": "login"}, "priority": "high"},
                {"plan": {"name": "hello", "nodes": [{"nodeId": "greet", "type": "noop"}]}},
            ]
        }
    )

    plan_id: Annotated[UUID, Strict(False)] | None = Field(None, description="A stored plan.")
    plan_version: str | None = Field(None, min_length=1, max_length=100, description="Default: the highest version.")
    plan: dict[str, Any] | None = Field(None, description="A plan document that is run without being stored as a plan.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="Checked against the plan's `inputs` schema.")
    priority: Priority | None = Field(None, description="Default: the plan's. An integer or low ... critical.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Free; reaches handlers.")
    tenant_id: str | None = Field(None, max_length=200, description="Of the seeds; the token's tenant always wins.")
    created_by: str | None = Field(None, max_length=500, description="Of the seeds; the token's subject always wins.")

    @model_validator(mode="after")
    def _one_plan(self) -> Self:
        if (self.plan_id is None) == (self.plan is None):
            raise ValueError("give either planId or plan")
        if self.plan is not None and self.plan_version is not None:
            raise ValueError("planVersion goes with planId; a plan has its own version")
        return self


class PauseResumeRequest(RequestModel):
    """Why; ``operator`` is accepted as in the seeds, recorded is the token's subject."""

    reason: Text | None = None
    operator: Text | None = None


class PauseRunRequest(PauseResumeRequest):
    """Why, and what becomes of what is in flight."""

    mode: PauseMode = Field(
        PauseMode.DRAIN,
        strict=False,
        description="drain: what is in flight ends. interrupt: it is stopped where that is safe, and starts again from "
        "its checkpoint when the run is resumed; also possible when the run is paused and drains.",
    )


class CancelRequest(RequestModel):
    """Why; ``operator`` is accepted as in the seeds, recorded is the token's subject."""

    reason: Text | None = None
    operator: Text | None = None


class RetryNodeRequest(RequestModel):
    """Why, and what to change: ``inputs`` replace the node's inputs key by key."""

    inputs: dict[str, Any] | None = None
    reason: Text | None = None
    operator: Text | None = None


class SkipNodeRequest(RequestModel):
    """Why, and the ``outputs`` that stand in for the node's; without them what follows it is skipped, too."""

    outputs: dict[str, Any] | None = None
    reason: Text | None = None
    operator: Text | None = None


Label = Annotated[str, Field(max_length=500, pattern="^[^=]+=", description="A name, =, a value.")]


class RunQuery(QueryModel):
    """What a list of runs is narrowed to."""

    status: list[RunStatus] = Field(default_factory=list, description="Any of these; may be repeated.")
    plan_id: UUID | None = None
    plan: str | None = Field(None, max_length=500, description="A part of the plan's name, in any case.")
    created_by: str | None = Field(None, max_length=500)
    schedule_id: str | None = Field(None, max_length=100, description="Only runs that this schedule started.")
    from_: Time | None = Field(None, alias="from", description="Created at or after this time (RFC 3339).")
    to: Time | None = Field(None, description="Created before this time (RFC 3339).")
    parent_run_id: UUID | None = Field(None, description="Only runs below nodes of this run.")
    parent_node_id: str | None = Field(None, max_length=200, description="Only runs below this node.")
    children: bool = Field(False, description="With the runs below nodes of other runs.")
    label: list[Label] = Field(default_factory=list, max_length=10, description="`name=value` of their metadata; all.")
    active: bool | None = Field(None, description="true: runs that have not ended; false: those that have.")
    limit: Limit = 50
    cursor: Cursor = None


class PlanQuery(QueryModel):
    """What a list of plans is narrowed to."""

    name: str | None = Field(None, max_length=500, description="A part of the name, in any case.")
    limit: Limit = 50
    cursor: Cursor = None


class EventQuery(QueryModel):
    """Which events of a run."""

    after: str | None = Field(None, max_length=50, description="Events after this id (`epoch.seq`).")
    type: list[str] = Field(default_factory=list, max_length=50, description="Only events of these types.")
    node_id: str | None = Field(None, max_length=200, description="Only events of this node.")
    bodies: bool = Field(False, description="With inputs, outputs and errors.")
    limit: Limit = 200


# -- answers -----------------------------------------------------------------------------------------------------------


class ProblemItem(Answer):
    """One thing that is wrong, or doubtful, in a document."""

    pointer: str = Field(description="JSON Pointer (RFC 6901) into the document.")
    code: str = Field(description="Stable, upper case.")
    message: str
    severity: str = "error"
    node_id: str | None = None
    edge_id: str | None = None


class ProblemDetails(Answer):
    """Every answer that is no success (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    request_id: str | None = None
    problems: list[ProblemItem] | None = None


class ExecutePlanResponse(Answer):
    """The run that was made."""

    run_id: UUID
    status: RunStatus
    message: str
    warnings: list[ProblemItem] = Field(
        default_factory=list, description="What it asks of pools that they cannot give."
    )


class ControlResponse(Answer):
    """What became of a pause, resume or cancel."""

    run_id: UUID
    status: RunStatus
    message: str


class Links(Answer):
    """Where else to look."""

    temporal: str | None = None
    parent: str | None = None
    children: str | None = None


class RunItem(Answer):
    """A run as lists show it."""

    run_id: UUID
    plan_id: UUID
    plan_name: str
    plan_version: str
    status: RunStatus
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    created_by: str
    priority: int
    total_nodes: int
    node_status_counts: dict[NodeStatus, int] = Field(description="Of all nodes; they sum up to totalNodes.")
    metadata: dict[str, Any]
    reason: str | None = None
    error_message: str | None = None
    redrive_of: UUID | None = Field(None, description="The run that this one starts again.")
    undo_of: UUID | None = Field(None, description="The terminated run whose effects this one undoes.")
    parent_run_id: UUID | None = Field(None, description="Of a run below a node: the run of that node.")
    parent_node_id: str | None = None
    top_run_id: UUID | None = Field(None, description="Of a run below a node: the one that nobody's node started.")
    iteration: int | None = Field(None, description="Of a run below a loop: which iteration it is, from 0.")
    elements: int | None = Field(None, description="Of the run below a map: how many elements it has.")
    links: Links = Links()


class ExecutionStatusResponse(RunItem):
    """A run with everything."""

    last_event_at: datetime | None = None
    last_event_id: str | None = Field(None, description="`epoch.seq` of the newest stored event.")
    inputs: Any = None
    outputs: Any = None
    error: Any = Field(None, description="The ErrorPayload of the failure that ended the run.")
    root_run_id: UUID | None = Field(None, description="The first run of all that were redriven; keys begin with it.")
    redriven_by: UUID | None = Field(None, description="The run that starts this one again.")
    undone_by: UUID | None = Field(None, description="The run that undoes this terminated one.")
    origin: dict[str, Any] | None = Field(None, description="What was asked for when this run took over from another.")


class RunPage(Answer):
    """A part of the list of runs, the newest first."""

    items: list[RunItem]
    next: str | None


class RunCounts(Answer):
    """How many runs there are."""

    counts: dict[RunStatus, int] = Field(description="By status; statuses without runs are left out.")
    active: int
    total: int


class PlanCreated(Answer):
    """A version of a plan that was stored, now or before."""

    plan_id: UUID
    version: str
    digest: str
    name: str
    nodes: int
    edges: int
    warnings: list[ProblemItem]


class PlanChecked(Answer):
    """What validation found."""

    valid: bool
    problems: list[ProblemItem]


class PlanItem(Answer):
    """A version of a plan as lists show it."""

    plan_id: UUID
    version: str
    name: str
    digest: str
    nodes: int
    edges: int
    created_by: str
    created_at: datetime


class PlanDetail(PlanItem):
    """A version of a plan with its document."""

    plan: dict[str, Any]


class PlanPage(Answer):
    """A part of the list of plans, each in its highest version, by name."""

    items: list[PlanItem]
    next: str | None


class PlanVersions(Answer):
    """All versions of a plan, the highest first."""

    items: list[PlanItem]


class RunPlan(Answer):
    """The plan that a run runs."""

    plan_id: UUID
    version: str
    digest: str
    plan: dict[str, Any]


class EventActor(Answer):
    """Who did what an event tells."""

    type: Literal["system", "human", "agent"]
    id: str
    role: str | None = None


class EventItem(Answer):
    """One event of a run; hash = SHA-256(JCS(event) + previousHash)."""

    id: str = Field(description="`epoch.seq`.")
    epoch: int
    seq: int
    type: str
    node_id: str | None
    at: datetime
    recorded_at: datetime
    actor: EventActor
    level: Literal["INFO", "WARN", "ERROR", "CRITICAL"]
    tags: list[str]
    context: dict[str, Any] | None = Field(None, description="What the run was before: of people's acts and failures.")
    data: dict[str, Any]
    body: Any = None
    body_digest: str | None
    previous_hash: str
    hash: str
    superseded: bool


class EventPage(Answer):
    """A part of a run's events, the oldest first; ``next`` goes into ``after``."""

    items: list[EventItem]
    next: str | None


class FindingItem(Answer):
    """The first event that something was done to."""

    what: Literal["CHANGED", "REMOVED", "INSERTED", "REORDERED", "MARK_CHANGED", "HEAD_CHANGED", "UNSIGNED", "FORGED"]
    epoch: int
    seq: int
    message: str


class VerificationResponse(Answer):
    """Whether a run's events are as they were written.

    ``signature`` says whether the head is signed with a known key; ``temporal`` whether the head in the result of an
    ended workflow leads to the same events (MATCHES, DIFFERS, EXPIRED, UNAVAILABLE, RUNNING).
    """

    run_id: UUID
    valid: bool
    events: int
    erased_bodies: int
    head: dict[str, Any]
    signature: str
    temporal: str
    anchored: int
    finding: FindingItem | None
