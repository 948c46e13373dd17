"""What goes in and out about human tasks, with the names of the seed's HumanTask where it has them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field, Strict, field_validator, model_validator

from dalang.api.schemas import Answer, Cursor, Limit, QueryModel, RequestModel, Text
from dalang.durations import Duration
from dalang.statuses import RunStatus, TaskKind, TaskStatus

MAX_BULK = 100
LONGEST_MS = 24 * 3600 * 1000
DEFAULT_MS = 15 * 60 * 1000
"""How long an approval token is valid."""
Name = Annotated[str, Field(min_length=1, max_length=200)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="`digest` of the task as it was shown.")]
Values = Annotated[dict[str, Any] | None, Field(None, description="What the task's `form` asks for.")]
Outputs = Annotated[dict[str, Any], Field(description="Outputs, changed or standing in for the node's.")]
Inputs = Annotated[dict[str, Any] | None, Field(None, description="Of a retry: replace the node's key by key.")]
Notes = Annotated[Text | None, Field(None, description="Why, for people; they are recorded.")]


class TaskQuery(QueryModel):
    """What a list of human tasks is narrowed to."""

    status: list[TaskStatus] = Field(default_factory=list, description="Any of these; may be repeated.")
    kind: list[TaskKind] = Field(default_factory=list, description="Any of these; may be repeated.")
    assignee: str | None = Field(None, max_length=200, description="Only tasks of this person.")
    group: str | None = Field(None, max_length=200, description="Only tasks that are open to this group.")
    mine: bool = Field(False, description="Open tasks you could decide: yours, and those of nobody or of your groups.")
    run_id: UUID | None = None
    open: bool | None = Field(None, description="true: PENDING and IN_PROGRESS; false: those that have ended.")
    overdue: bool | None = Field(None, description="Open, and past the time by which they are due.")
    order: Literal["priority", "newest"] = Field("priority", description="priority: the most urgent, then the oldest.")
    limit: Limit = 50
    cursor: Cursor = None


class DecideRequest(RequestModel):
    """What you were shown, and why you decide so; ``operator`` is accepted as in the seeds, yours is the token's."""

    digest: Digest
    notes: Notes
    operator: Text | None = None


class ApproveRequest(DecideRequest):
    """Let what is proposed go on, with the values that the form asks for."""

    values: Values


class RejectRequest(DecideRequest):
    """Do not let it go on."""

    values: Values


class EditRequest(DecideRequest):
    """Let it go on with changed outputs."""

    outputs: Outputs
    values: Values


class CompleteRequest(DecideRequest):
    """Decide by any of the task's actions."""

    action: Annotated[str, Field(min_length=1, max_length=50, description="One of the task's `actions`.")]
    values: Values
    outputs: Annotated[dict[str, Any] | None, Field(None, description="Of edit and skip.")]
    inputs: Inputs


class BulkDecision(CompleteRequest):
    """One of many decisions."""

    task_id: Annotated[UUID, Strict(False)]


class BulkRequest(RequestModel):
    """Many decisions; each is taken or refused for itself."""

    decisions: list[BulkDecision] = Field(min_length=1, max_length=MAX_BULK)

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len({one.task_id for one in self.decisions}) < len(self.decisions):
            raise ValueError("a task is decided once: one taskId stands there twice")
        return self


class HoldRequest(RequestModel):
    """A claim or a release; ``operator`` is accepted as in the seeds, yours is the token's."""

    operator: Text | None = None


class DelegateRequest(RequestModel):
    """To whom a task is given: a person, a group, or a person of a group."""

    to: Name | None = None
    to_group: Name | None = None
    operator: Text | None = None

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.to is None and self.to_group is None:
            raise ValueError("give `to`, a person, or `toGroup`, a group")
        return self


class ApprovalTokenRequest(RequestModel):
    """For how long, and for what you have seen."""

    valid_for: Duration = Field(
        DEFAULT_MS, description="How long it is valid: a duration such as `15m`; at most `24h`."
    )
    digest: Digest | None = Field(None, description="`digest` of the task as it was shown to you. Default: now's.")

    @field_validator("valid_for")
    @classmethod
    def _short(cls, value: int) -> int:
        if not 0 < value <= LONGEST_MS:
            raise ValueError("an approval token is valid for 24h at most")
        return value


BODIES = (
    ApproveRequest,
    RejectRequest,
    EditRequest,
    CompleteRequest,
    HoldRequest,
    DelegateRequest,
    BulkRequest,
    ApprovalTokenRequest,
)
"""What the routes read by themselves."""


class Vote(Answer):
    """One of several approvals that a task needs."""

    operator: str | None = None
    action: str | None = None
    at: datetime


class TaskItem(Answer):
    """A human task as lists show it; `createdBy` started the run."""

    task_id: UUID
    run_id: UUID
    node_id: str
    plan_name: str
    kind: str
    title: str
    status: TaskStatus
    priority: int
    assigned_to: str | None
    candidate_group: str | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    due_at: datetime | None
    remind_at: datetime | None
    reminded_at: datetime | None
    escalate_at: datetime | None
    escalated_at: datetime | None
    completed_at: datetime | None
    completed_by: str | None
    overdue: bool
    quorum: int = Field(description="So many different people must approve.")
    four_eyes: bool
    votes: list[Vote]
    actions: list[str] = Field(description="What may be decided.")
    digest: str = Field(description="Of what is shown; a decision carries it.")


class TaskHappening(Answer):
    """Something that happened to a task."""

    id: str = Field(description="`epoch.seq` of the event.")
    type: str
    at: datetime
    data: dict[str, Any]
    decision: Any = None


class TaskDetail(TaskItem):
    """A human task with everything: what is shown, what was decided, what happened to it."""

    description: str | None = Field(description="Markdown.")
    context: Any = Field(description="What is proposed: the node's inputs.")
    form: Any = Field(description="JSON Schema of the `values` of a decision.")
    error: Any = Field(description="Of a task that a failure raised: the ErrorPayload.")
    candidates: list[str] | None = Field(description="The only people who may decide; null: no such list.")
    excluded: list[str] = Field(description="Who may not decide: they started the run or had a hand in it.")
    decision: Any
    notes: str | None
    run_status: RunStatus
    history: list[TaskHappening]


class TaskPage(Answer):
    """A part of the list of human tasks."""

    items: list[TaskItem]
    next: str | None


class TaskCountsResponse(Answer):
    """How many human tasks there are."""

    counts: dict[TaskStatus, int] = Field(description="By status; statuses without tasks are left out.")
    by_group: dict[str, int] = Field(description="Open ones by group; those of no group under the empty name.")
    open: int
    overdue: int
    unassigned: int
    mine: int = Field(description="Open ones that you could decide.")
    total: int


class TaskResponse(Answer):
    """What became of a decision, a claim, a release or a delegation."""

    task_id: UUID
    run_id: UUID
    status: TaskStatus
    run_status: RunStatus
    assigned_to: str | None
    message: str


class ApprovalToken(Answer):
    """A token, and how it is used. It is shown once and kept nowhere."""

    token: str
    task_id: UUID
    run_id: UUID
    subject: str
    digest: str
    expires_at: datetime
    commands: dict[str, str] = Field(description="By action: the command line of `temporal` that decides so.")


class BulkResult(Answer):
    """What became of one of many decisions: `code` is the HTTP status that it would have had for itself."""

    task_id: UUID
    code: int
    status: TaskStatus | None = None
    message: str
    problems: list[dict[str, Any]] | None = None


class BulkResponse(Answer):
    """What became of many decisions, in their order."""

    results: list[BulkResult]
    taken: int
    refused: int
