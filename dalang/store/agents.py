"""The registry of agents: who there is, what each can do, and how much of it is in use.

An agent's load is nowhere stored: it is the number of leases that it holds. Whether it is there is a matter of its last
sign of life, unless it has no ``heartbeat_seconds``; then it always is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.errors import Conflict
from dalang.store.admission_tables import SHARED, agents, leases
from dalang.store.engine import across_tenants
from dalang.wire import AGENT

MAX_AGENTS = 1_000
"""Of one tenant, and of all together: each grant pass reads them."""

_agents, _leases = agents.c, leases.c


class AgentKind(StrEnum):
    """Where an agent works."""

    LOCAL = "local"
    """A function of the workers, registered with ``@agent``."""
    TASK_QUEUE = "taskQueue"
    """A Temporal worker of its own, in any language."""
    POLL = "poll"
    """A program without Temporal, which asks for work by REST."""
    A2A = "a2a"
    """Behind the A2A protocol, or behind Wayang's router."""


class AgentStatus(StrEnum):
    """What an agent is doing."""

    IDLE = "Idle"
    """It is there and has nothing to do."""
    WORKING = "Working"
    """It works at one node at least; unless its load is 1 it takes more."""
    OFFLINE = "Offline"
    """Nothing was heard of it for longer than its ``heartbeatSeconds``."""
    DRAINING = "Draining"
    """It ends what it works at and gets nothing new, because an operator says so."""


@dataclass(frozen=True)
class NewAgent:
    """An agent as it registers; ``capabilities`` by proficiency, 0 to 1. The tenant '' is everybody."""

    tenant_id: str
    agent_id: str
    kind: str
    name: str
    capabilities: Mapping[str, float]
    max_concurrent_tasks: int
    registered_by: str
    labels: Mapping[str, str]
    endpoint: Mapping[str, Any]
    heartbeat_seconds: int | None = None


@dataclass(frozen=True)
class Agent(NewAgent):
    """An agent as it stands now; ``active`` counts what it works at."""

    draining: bool = False
    heartbeat_at: datetime | None = None
    registered_at: datetime | None = None
    updated_at: datetime | None = None
    is_there: bool = True
    active: int = 0

    @property
    def load(self) -> float:
        """Return which part of its places is taken."""
        return self.active / self.max_concurrent_tasks if self.max_concurrent_tasks else 1.0

    @property
    def status(self) -> AgentStatus:
        """Return what it is doing; one that is not there is Offline, whatever else is said of it."""
        if not self.is_there:
            return AgentStatus.OFFLINE
        if self.draining:
            return AgentStatus.DRAINING
        return AgentStatus.WORKING if self.active else AgentStatus.IDLE


@dataclass(frozen=True)
class AgentStatistics:
    """The pool statistics of the seed, and how many are away or draining; the load is that of those who are there."""

    total_agents: int
    idle_agents: int
    working_agents: int
    offline_agents: int
    draining_agents: int
    average_load: float


def statistics(known: Sequence[Agent]) -> AgentStatistics:
    """Count agents by status, and average their loads."""
    by_status = {status: sum(1 for one in known if one.status is status) for status in AgentStatus}
    there = [one.load for one in known if one.is_there]
    return AgentStatistics(
        total_agents=len(known),
        idle_agents=by_status[AgentStatus.IDLE],
        working_agents=by_status[AgentStatus.WORKING],
        offline_agents=by_status[AgentStatus.OFFLINE],
        draining_agents=by_status[AgentStatus.DRAINING],
        average_load=sum(there) / len(there) if there else 0.0,
    )


def is_there() -> ColumnElement[bool]:
    """The condition that something was heard of an agent lately, or need not be."""
    until = _agents.heartbeat_at + func.make_interval(0, 0, 0, 0, 0, 0, _agents.heartbeat_seconds)
    return or_(_agents.heartbeat_seconds.is_(None), func.coalesce(until > func.now(), False))


_ROW = [_agents[one.name] for one in fields(Agent) if one.name not in ("is_there", "active")]


async def register_agent(conn: AsyncConnection, new: NewAgent) -> Agent:
    """Register an agent, or say anew what it is; that it was drained stays. Registering is a sign of life.

    Raises:
        Conflict: there are too many.
    """
    key = (_agents.tenant_id == new.tenant_id) & (_agents.agent_id == new.agent_id)
    count = select(func.count()).select_from(agents).where(_agents.tenant_id == new.tenant_id, ~key)
    if (await conn.execute(count)).scalar_one() >= MAX_AGENTS:
        raise Conflict(f"There are {MAX_AGENTS:,} agents already; remove one that is gone.")
    values = {**vars(new), **{name: dict(getattr(new, name)) for name in ("capabilities", "labels", "endpoint")}}
    changes = {name: value for name, value in values.items() if name not in ("tenant_id", "agent_id")}
    statement = insert(agents).values(**values, heartbeat_at=func.now())
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "agent_id"],
            set_={**changes, "heartbeat_at": func.now(), "updated_at": func.now()},
        )
    )
    found = await get_agent(conn, new.tenant_id, new.agent_id, shared=False)
    assert found is not None
    return found


async def heartbeat(conn: AsyncConnection, tenant_id: str, agent_ids: Iterable[str]) -> list[str]:
    """Note that something was heard of these agents; return those that were Offline until now."""
    key = (_agents.tenant_id == tenant_id) & _agents.agent_id.in_(list(agent_ids))
    rows = await conn.execute(
        select(_agents.agent_id, is_there()).where(key).order_by(_agents.agent_id).with_for_update()
    )
    back = [agent_id for agent_id, there in rows if not there]
    await conn.execute(update(agents).where(key).values(heartbeat_at=func.now()))
    return back


async def drain_agent(conn: AsyncConnection, tenant_id: str, agent_id: str, draining: bool = True) -> bool:
    """Give it nothing new any more, or let it take work again; tell whether there is such an agent."""
    key = (_agents.tenant_id == tenant_id) & (_agents.agent_id == agent_id)
    changed = await conn.execute(update(agents).where(key).values(draining=draining, updated_at=func.now()))
    return changed.rowcount > 0


async def remove_agent(conn: AsyncConnection, tenant_id: str, agent_id: str) -> bool:
    """Forget an agent; what it works at goes on. Tell whether there was such an agent."""
    key = (_agents.tenant_id == tenant_id) & (_agents.agent_id == agent_id)
    return (await conn.execute(delete(agents).where(key))).rowcount > 0


async def get_agent(conn: AsyncConnection, tenant_id: str, agent_id: str, *, shared: bool = True) -> Agent | None:
    """Who is called so for this tenant: its own agent, else (``shared``) that of everybody?"""
    found = await _read(conn, (tenant_id, SHARED) if shared else (tenant_id,), agent_id)
    return found[0] if found else None


async def list_agents(conn: AsyncConnection, tenant_id: str) -> list[Agent]:
    """Which agents may work for this tenant? By id; its own one hides that of everybody with the same id."""
    found: dict[str, Agent] = {}
    for one in await _read(conn, (tenant_id, SHARED)):
        found.setdefault(one.agent_id, one)
    return list(found.values())


async def capabilities_of_all(conn: AsyncConnection, tenant_id: str) -> list[frozenset[str]]:
    """What can each agent do that may work for this tenant? For the validation of plans."""
    return [frozenset(one.capabilities) for one in await list_agents(conn, tenant_id)]


@dataclass(frozen=True)
class QueueAgent:
    """An agent that is a Temporal worker, and its task queue."""

    tenant_id: str
    agent_id: str
    queue: str


async def queues_of_agents(conn: AsyncConnection) -> list[QueueAgent]:
    """Which agents of all tenants are heard of by who takes work from their task queues?"""
    queue = _agents.endpoint["taskQueue"].astext
    is_meant = (_agents.kind == AgentKind.TASK_QUEUE) & _agents.heartbeat_seconds.is_not(None)
    rows = await conn.execute(select(_agents.tenant_id, _agents.agent_id, queue).where(is_meant).order_by(queue))
    return [QueueAgent(*row) for row in rows]


def placed() -> ScalarSelect[Any]:
    """Of a lease: ``{kind, endpoint}`` of its agent as JSON, null without one. For :func:`route_of`."""
    is_meant = (_agents.agent_id == _leases.agent_id) & _agents.tenant_id.in_((_leases.tenant_id, SHARED))
    made = func.jsonb_build_object("kind", _agents.kind, "endpoint", _agents.endpoint)
    # A tenant's own agent before the shared one, whose tenant is ''.
    one = select(made).where(is_meant).order_by(_agents.tenant_id.desc()).limit(1)
    return one.correlate(leases).scalar_subquery()


def route_of(place: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return where the work of an agent is begun (``wire.AgentRoute``); None: as that of any node, in a worker."""
    if place is None or place["kind"] == AgentKind.LOCAL:
        return None
    if place["kind"] == AgentKind.TASK_QUEUE:
        return dict(place["endpoint"])
    return {"activity": AGENT}


async def _read(conn: AsyncConnection, tenants: Sequence[str], agent_id: str | None = None) -> list[Agent]:
    wanted = [_agents.tenant_id.in_(tenants), *(() if agent_id is None else (_agents.agent_id == agent_id,))]
    order = (_agents.agent_id, (_agents.tenant_id == SHARED))
    rows = (await conn.execute(select(*_ROW, is_there().label("is_there")).where(*wanted).order_by(*order))).all()
    if not rows:
        return []
    async with across_tenants(conn):  # one that is shared is at work for several of them
        active = await _active(conn)
    return [Agent(**row._mapping, active=active.get((row.tenant_id, row.agent_id), 0)) for row in rows]


async def _active(conn: AsyncConnection) -> dict[tuple[str, str], int]:
    """How many leases does each agent hold, by (tenant, id)? A tenant's own agent comes before that of everybody."""
    held = await conn.execute(
        select(_leases.tenant_id, _leases.agent_id, func.count(), _agents.agent_id.is_not(None))
        .select_from(
            leases.outerjoin(agents, (_agents.tenant_id == _leases.tenant_id) & (_agents.agent_id == _leases.agent_id))
        )
        .where(_leases.state == "GRANTED", _leases.agent_id.is_not(None))
        .group_by(_leases.tenant_id, _leases.agent_id, _agents.agent_id)
    )
    found: dict[tuple[str, str], int] = {}
    for tenant_id, agent_id, count, is_own in held:
        key = (tenant_id if is_own else SHARED, agent_id)
        found[key] = found.get(key, 0) + count
    return found
