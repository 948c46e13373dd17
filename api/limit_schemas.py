"""What goes in and out of the routes of pools, quotas, the queue and allocations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, model_validator

from dalang.api.schemas import Answer, Cursor, Limit, QueryModel, RequestModel, Text

MOST = 1e12
Amount = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)]
POOL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class PoolRequest(RequestModel):
    """What is limited: so much at once (`size`), so much a second (`rate`, at most `burst` at once), or both."""

    size: Amount | None = None
    rate: Positive | None = None
    burst: Positive | None = Field(None, description="Default: what comes in a second, at least 1.")
    description: Text = ""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.size is None and self.rate is None:
            raise ValueError("a pool has a size, a rate, or both")
        if self.rate is None and self.burst is not None:
            raise ValueError("burst goes with rate")
        return self


class QuotaRequest(RequestModel):
    """What the tenant may use at once; what is left out is not limited."""

    max_nodes: int | None = Field(None, ge=0, le=1_000_000)
    cpu_cores: Amount | None = None
    memory_mb: Amount | None = None
    weight: float = Field(1, gt=0, le=1_000_000, description="Its share where tenants compete: 2 gets twice as much.")


BODIES = (PoolRequest, QuotaRequest)


class PoolScope(QueryModel):
    """Whose pool."""

    shared: bool = Field(False, description="The pool of this name that all tenants share; takes an admin to change.")


class AllocationQuery(QueryModel):
    """Which leases."""

    run_id: UUID | None = None
    limit: Limit = 200
    cursor: Cursor = None


class QueueQuery(QueryModel):
    """How many of those that wait are named."""

    limit: Limit = 100


class OwnUse(Answer):
    """What of it is this tenant's."""

    used: float
    leases: int
    waiting: int


class UseItem(Answer):
    """How much of a pool, or of one key of it, is in use, by whomever."""

    total: float | None = Field(None, description="Its size; null where only a rate limits it.")
    used: float
    available: float | None
    percent: float | None = Field(None, description="Used of total, 0 to 100; more when it was made smaller.")
    leases: int
    waiting: int = Field(description="Nodes that wait and ask for it.")
    tokens: float | None = Field(None, description="What its rate lets through now.")
    own: OwnUse


class KeyUse(UseItem):
    """One key of a pool; it is a pool of its own, of the same size."""

    key: str


class PoolItem(UseItem):
    """A pool. Use without a key stands here, the other below `keys`: of a shared pool, those this tenant uses."""

    name: str
    shared: bool
    binding: bool = Field(description="false: the tenant has a pool of that name itself, which counts instead.")
    size: float | None
    rate: float | None
    burst: float | None
    description: str
    updated_by: str | None = Field(None, description="Of a shared pool nobody is named.")
    updated_at: datetime
    keys: list[KeyUse]


class PoolList(Answer):
    """The pools that bind a tenant, by name."""

    items: list[PoolItem]


class QuotaItem(Answer):
    """What the tenant may use at once, and what it does; null is as much as there is."""

    max_nodes: int | None = None
    cpu_cores: float | None = None
    memory_mb: float | None = None
    weight: float = 1
    updated_by: str | None = Field(None, description="null: nobody has set a quota.")
    updated_at: datetime | None = None
    used_nodes: int = Field(description="Nodes with a lease.")
    used_cpu_cores: float
    used_memory_mb: float


class Resource(Answer):
    """One resource of the seeds' getUtilization."""

    name: str = Field(description="`name` or `name/key` of a pool, `quota nodes`, `quota cpu` or `quota memory`.")
    total: float
    used: float
    available: float
    percent: float


class Utilization(Answer):
    """How much of everything that has a size is in use."""

    items: list[Resource]


class QueueInfo(Answer):
    """Why a QUEUED node waits."""

    reason: str = Field(description="`lease`; else what put its attempt off: `breaker`.")
    short: list[str] = Field(
        default_factory=list, description="What is missing: pools, rates, quotas, agents; or whose breaker it is."
    )
    position: int | None = Field(None, description="Its place, from 1, among all that wait for a lease.")
    since: datetime | None = None
    until: datetime | None = Field(None, description="When it begins at the latest, where that is known.")


class QueuedNode(QueueInfo):
    """A node that waits."""

    run_id: UUID
    node_id: str


class QueueStatus(Answer):
    """The queue for leases of a tenant."""

    size: int = Field(description="Nodes that wait for a lease.")
    oldest: datetime | None = Field(None, description="Since when the first of them waits.")
    oldest_seconds: float
    active: int = Field(description="Nodes that hold a lease.")
    everybody: int = Field(description="Nodes that wait, of all tenants.")
    reasons: dict[str, int] = Field(description="How many wait for what; who waits for several things counts at each.")
    items: list[QueuedNode] = Field(description="The first of them.")


class RunQueue(Answer):
    """The QUEUED nodes of a run: those with a position first."""

    run_id: UUID
    items: list[QueuedNode]


class AllocationItem(Answer):
    """A lease that is held."""

    lease_id: UUID
    run_id: UUID
    node_id: str
    amounts: dict[str, float]
    agent_id: str | None
    asked_at: datetime
    granted_at: datetime


class AllocationPage(Answer):
    """A part of the leases that are held, the oldest first."""

    items: list[AllocationItem]
    next: str | None


class RetryItem(Answer):
    """How often something was tried again, and how long was waited before."""

    total_retries: int = 0
    last_retry_at: datetime | None = Field(None, description="When the attempt failed that was tried again last.")
    total_delay_ms: int = Field(0, description="Delays as they were; where nobody reported them, as planned.")


class NodeRetries(RetryItem):
    """Of one node."""

    node_id: str


class RunRetries(RetryItem):
    """Of a run, and of those of its nodes that were tried again."""

    run_id: UUID
    nodes: list[NodeRetries]
