"""What goes in and out of the routes of nodes."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from dalang.api.limit_schemas import QueueInfo, RetryItem
from dalang.api.schemas import Answer, Cursor, Limit, QueryModel
from dalang.statuses import NodeStatus


class NodeQuery(QueryModel):
    """What a list of nodes is narrowed to."""

    status: list[NodeStatus] = Field(default_factory=list, description="Any of these; may be repeated.")
    node_id: list[str] = Field(default_factory=list, max_length=200, description="Only these nodes.")
    limit: Limit = 200
    cursor: Cursor = None


class CheckpointItem(Answer):
    """That a handler left a state for the attempt that goes on with its work."""

    attempt: int = Field(description="The attempt that left it.")
    saved_at: datetime
    size: int = Field(description="Bytes of its JSON.")


class LiveAttempt(Answer):
    """What Temporal knows of a node whose activity is pending: of the attempt that is made, or waited for."""

    attempt: int
    state: str = Field(description="SCHEDULED (waits), STARTED (runs) or CANCEL_REQUESTED.")
    last_failure: dict[str, Any] | None = Field(None, description="ErrorPayload of the attempt before.")
    next_attempt_at: datetime | None = None
    worker: str | None = None
    progress: Any = Field(None, description="What the handler told by ctx.progress().")
    checkpoint: CheckpointItem | None = Field(None, description="What the handler left by ctx.checkpoint().")


class NodeItem(Answer):
    """A node of a run as lists show it. A node that nothing has happened to is PENDING."""

    node_id: str
    name: str
    type: str
    status: NodeStatus
    attempt: int = 0
    max_attempts: int = 0
    generation: int = 0
    skip_reason: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime | None = None
    live: LiveAttempt | None = None
    queue: QueueInfo | None = Field(None, description="Of a QUEUED node: what it waits for, and at which place.")


class AttemptItem(Answer):
    """A failed attempt."""

    attempt: int
    generation: int
    starts: int = Field(0, description="Earlier starts of the same work; each counts its attempts from 1.")
    error: dict[str, Any]
    started_at: datetime | None
    ended_at: datetime
    worker: str
    made: dict[str, Any] = Field(default_factory=dict, description="What made it: build, implementation, model.")


class NodeDetailResponse(NodeItem):
    """A node with everything."""

    run_id: UUID
    inputs: Any = None
    outputs: Any = None
    error: Any = None
    attempts: list[AttemptItem] = Field(default_factory=list, description="The attempts that failed, the oldest first.")
    checkpoint: CheckpointItem | None = Field(None, description="The last state that its handler left.")
    metadata: dict[str, Any] = Field(default_factory=dict)
    retries: RetryItem = RetryItem()
    child_run_ids: list[UUID] = Field(
        default_factory=list, description="The runs below a plan, map or loop node, the oldest first; at most 1,000."
    )


class NodePage(Answer):
    """A part of a run's nodes, in plan order."""

    run_id: UUID
    total: int = Field(description="Nodes of the plan.")
    items: list[NodeItem]
    next: str | None
