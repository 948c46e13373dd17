"""What goes in and out of the routes for agents and what they work at."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BeforeValidator, Discriminator, Field, Strict, Tag, model_validator

from dalang.api.inbound_schemas import CallbackError
from dalang.api.schemas import Answer, QueryModel, RequestModel, Text
from dalang.canonical import MAX_INTEGER
from dalang.durations import Duration
from dalang.store.agents import AgentKind, AgentStatus
from dalang.store.assignments import MAX_TOKEN
from dalang.usage import MAX_COST

AGENT_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
RESERVED_IDS = frozenset({"statistics"})
MAX_CAPABILITIES = 200
POLL_HEARTBEAT_SECONDS = 30
QUEUE_HEARTBEAT_SECONDS = 90
"""Temporal tells of a worker that polls once a minute."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
Proficiency = Annotated[float, Field(ge=0, le=1)]


def _by_proficiency(value: Any) -> Any:
    """A list of capabilities is all of them in full."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return dict.fromkeys(value, 1.0)
    return value


class QueueEndpoint(RequestModel):
    """Where a Temporal worker of its own takes its work."""

    task_queue: Name = Field(description="Its task queue, in the namespace of the runs.")
    activity: Name | None = Field(None, description="The activity type that is started. Default: the node's type.")
    heartbeat: Annotated[Duration, Strict(False)] | None = Field(
        None, description="It sends activity heartbeats at least so often. Default: it sends none."
    )


class A2AEndpoint(RequestModel):
    """Where an agent behind the A2A protocol, or behind Wayang's router, is found."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]", max_length=2_000)] = Field(
        description="Its address, where its agent card is found, or that of the card; or that of the router."
    )
    protocol: Literal["a2a", "wayang"] = Field("a2a", description="wayang: by the router's POST /a2a/send.")
    target: Name | None = Field(None, description="Of protocol wayang: which of the router's agents it is.")
    skill: Name | None = Field(None, description="Which of its skills is meant, if it has several.")
    headers: Annotated[dict[Name, Text], Field(max_length=20)] = Field(
        default_factory=dict,
        description="Of every request to it; credentials as references to secrets of the node's tenant. Only operators "
        "give any.",
    )
    mode: Literal["auto", "stream", "poll", "wait"] = Field(
        "auto", description="How its tasks are followed; auto: by stream if its card offers that, else by polling."
    )

    @model_validator(mode="after")
    def _names_its_agent(self) -> Self:
        if (self.protocol == "wayang") != (self.target is not None):
            raise ValueError("an endpoint of protocol wayang has a `target`, and no other has one")
        return self


def _kind_of_endpoint(value: Any) -> str:
    return A2A_TAG if isinstance(value, A2AEndpoint) or (isinstance(value, dict) and "url" in value) else QUEUE_TAG


A2A_TAG, QUEUE_TAG = "[a2a]", "[taskQueue]"  # problems leave out what is in brackets
Endpoint = Annotated[
    Annotated[QueueEndpoint, Tag(QUEUE_TAG)] | Annotated[A2AEndpoint, Tag(A2A_TAG)], Discriminator(_kind_of_endpoint)
]


class RegisterAgentRequest(RequestModel):
    """Who an agent is and what it can do."""

    kind: Annotated[AgentKind, Strict(False)] = AgentKind.POLL
    name: Name | None = Field(None, description="For people; of a local agent its @agent function. Default: the id.")
    capabilities: Annotated[
        dict[Name, Proficiency], BeforeValidator(_by_proficiency), Field(max_length=MAX_CAPABILITIES)
    ] = Field(default_factory=dict, description="By proficiency, 0 to 1; a list is 1 for each.")
    max_concurrent_tasks: int = Field(1, ge=1, le=10_000, description="So many nodes at once.")
    labels: Annotated[dict[Name, Text], Field(max_length=50)] = Field(default_factory=dict)
    endpoint: Endpoint | None = Field(
        None, description="Of kind taskQueue {taskQueue, ...}, of kind a2a {url, ...}, and of no other."
    )
    heartbeat_seconds: int | None = Field(
        None,
        ge=2,
        le=86_400,
        description="Offline when nothing was heard of it for so long. Default: 30 for poll, 90 for taskQueue, else it "
        "is always there.",
    )
    shared: bool = Field(False, description="It works for all tenants; this needs the role admin.")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if (self.kind is AgentKind.TASK_QUEUE) != isinstance(self.endpoint, QueueEndpoint):
            raise ValueError("an agent of kind taskQueue has an endpoint {taskQueue}, and no other kind has one")
        if (self.kind is AgentKind.A2A) != isinstance(self.endpoint, A2AEndpoint):
            raise ValueError("an agent of kind a2a has an endpoint {url}, and no other kind has one")
        return self

    @property
    def heartbeat(self) -> int | None:
        """Return after how many seconds of silence it is Offline, None for never."""
        defaults = {AgentKind.POLL: POLL_HEARTBEAT_SECONDS, AgentKind.TASK_QUEUE: QUEUE_HEARTBEAT_SECONDS}
        return self.heartbeat_seconds or defaults.get(self.kind)

    def wire_endpoint(self) -> dict[str, Any]:
        """Return the endpoint as the registry keeps it; times in milliseconds."""
        one = self.endpoint
        if one is None:
            return {}
        if isinstance(one, A2AEndpoint):
            return one.model_dump(by_alias=True, exclude_defaults=True)
        found = {"taskQueue": one.task_queue, "activity": one.activity, "heartbeatMs": one.heartbeat}
        return {name: value for name, value in found.items() if value is not None}


class DrainRequest(RequestModel):
    """Whether an agent is to get nothing new any more."""

    draining: bool = True


class AgentQuery(QueryModel):
    """Which agents are meant."""

    status: AgentStatus | None = None
    capability: str | None = Field(None, max_length=200, description="Only agents that offer it.")
    kind: AgentKind | None = None


class AgentItem(Answer):
    """An agent as it stands now."""

    agent_id: str
    shared: bool
    kind: AgentKind
    name: str
    status: AgentStatus
    capabilities: dict[str, float]
    max_concurrent_tasks: int
    active_tasks: int
    load: float
    labels: dict[str, str]
    endpoint: dict[str, Any]
    draining: bool
    heartbeat_seconds: int | None
    heartbeat_at: datetime | None
    registered_by: str
    registered_at: datetime
    updated_at: datetime


class AgentPage(Answer):
    """Agents by id; there is no other page."""

    items: list[AgentItem]
    next: Literal[None] = None


class AgentStatisticsItem(Answer):
    """The pool statistics of the seed, and how many agents are away or draining."""

    total_agents: int
    idle_agents: int
    working_agents: int
    offline_agents: int
    draining_agents: int
    average_load: float


# -- work --------------------------------------------------------------------------------------------------------------

MAX_OUTCOME_BYTES = 1024 * 1024
MAX_WAIT_SECONDS = 60


class PollRequest(RequestModel):
    """How long to wait for work."""

    wait_seconds: float = Field(30, ge=0, le=MAX_WAIT_SECONDS)


class TaskAssignment(Answer):
    """A node that an agent is to do; with the token it tells how that goes."""

    assignment_id: UUID
    token: str
    agent_id: str
    alive_seconds: int = Field(description="Say something about it at least so often, or it goes to somebody else.")
    node_task: dict[str, Any] = Field(description="Type, inputs, idempotency key and more; see docs/agents.md.")


class _OfToken(RequestModel):
    token: str = Field(min_length=1, max_length=MAX_TOKEN, description="Of the assignment.")


class ProgressRequest(_OfToken):
    """An agent is at work."""

    message: str = Field("", max_length=500)
    fraction: float | None = Field(None, ge=0, le=1, description="How much of it is done.")


class UsageReport(RequestModel):
    """What the work has used, for budgets."""

    tokens: int = Field(0, ge=0, le=MAX_INTEGER)
    cost: float = Field(0.0, ge=0, le=MAX_COST)


class _End(_OfToken):
    usage: UsageReport | None = None


class CompleteWorkRequest(_End):
    """What the work put out."""

    outputs: dict[str, Any] = Field(default_factory=dict)


class AgentError(CallbackError):
    """Why the work failed."""

    no_effect: bool = Field(False, description="Nothing was changed outside.")


class FailRequest(_End):
    """Why the work failed; one that is `retryable` may be tried again, perhaps by another agent."""

    error: AgentError = Field(default_factory=AgentError)


class AssignmentResponse(Answer):
    """What was said is kept."""

    assignment_id: UUID
    message: str


BODIES = (
    RegisterAgentRequest,
    DrainRequest,
    PollRequest,
    ProgressRequest,
    CompleteWorkRequest,
    FailRequest,
)
