"""The registry of agents: register, look at, drain, remove."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from dalang.api.agent_schemas import (
    AGENT_ID,
    RESERVED_IDS,
    A2AEndpoint,
    AgentItem,
    AgentPage,
    AgentQuery,
    AgentStatisticsItem,
    DrainRequest,
    QueueEndpoint,
    RegisterAgentRequest,
)
from dalang.api.auth import Operator, Principal, Reader, Worker
from dalang.api.bodies import body_schema, small_body
from dalang.api.problems import Forbidden
from dalang.api.services import Service, Services
from dalang.errors import Conflict, InvalidDocument, NotFound, Problem
from dalang.store.admission_tables import SHARED
from dalang.store.agents import (
    Agent,
    AgentKind,
    NewAgent,
    drain_agent,
    get_agent,
    heartbeat,
    list_agents,
    register_agent,
    remove_agent,
    statistics,
)

router = APIRouter(prefix="/orchestrator/agents", tags=["agents"])

AgentId = Annotated[str, Path(pattern=AGENT_ID)]
RegisterBody = Annotated[RegisterAgentRequest, Depends(small_body(RegisterAgentRequest, optional=False))]
DrainBody = Annotated[DrainRequest, Depends(small_body(DrainRequest, optional=True))]


@router.get("")
async def get_agents(who: Reader, query: Annotated[AgentQuery, Query()], it: Service) -> AgentPage:
    """List the agents that may work for this tenant, its own and those of everybody, with what each is doing."""
    async with it.transaction(who.tenant_id) as conn:
        known = await list_agents(conn, who.tenant_id)
    items = [
        _item(one)
        for one in known
        if query.status in (None, one.status)
        and query.kind in (None, one.kind)
        and (query.capability is None or query.capability in one.capabilities)
    ]
    return AgentPage(items=items)


@router.get("/statistics")
async def get_agent_statistics(who: Reader, it: Service) -> AgentStatisticsItem:
    """Count these agents by what they are doing, and average the loads of those that are there."""
    async with it.transaction(who.tenant_id) as conn:
        return AgentStatisticsItem.model_validate(asdict(statistics(await list_agents(conn, who.tenant_id))))


@router.get("/{agentId}")
async def get_one_agent(who: Reader, agentId: AgentId, it: Service) -> AgentItem:
    """Read an agent: what it can do, what it is doing, when it was heard of last."""
    return _item(await found_agent(who, agentId, it))


@router.put("/{agentId}", openapi_extra=body_schema("application/json", model=RegisterAgentRequest))
async def register(who: Worker, agentId: AgentId, body: RegisterBody, it: Service) -> AgentItem:
    """Register an agent, or say anew what it is; whatever waits for somebody like it may go to it from now on."""
    _check(who, agentId, body, it)
    new = NewAgent(
        tenant_id=SHARED if body.shared else who.tenant_id,
        agent_id=agentId,
        kind=str(body.kind),
        name=body.name or agentId,
        capabilities=body.capabilities,
        max_concurrent_tasks=body.max_concurrent_tasks,
        registered_by=who.subject,
        labels=body.labels,
        endpoint=body.wire_endpoint(),
        heartbeat_seconds=body.heartbeat,
    )
    async with it.owners_transaction(new.tenant_id) as conn:
        agent = await register_agent(conn, new)
    await it.leasing.grant()
    return _item(agent)


def _check(who: Principal, agent_id: str, body: RegisterAgentRequest, it: Services) -> None:
    queue = body.endpoint.task_queue if isinstance(body.endpoint, QueueEndpoint) else None
    if (body.shared or queue is not None) and "admin" not in who.roles:
        what = "An agent that works for all tenants" if body.shared else "An agent on a task queue, which all share,"
        raise Forbidden(f"{what} is registered by somebody with the role admin.")
    if isinstance(body.endpoint, A2AEndpoint) and body.endpoint.headers and not {"operator", "admin"} & set(who.roles):
        raise Forbidden(
            "The headers of an agent's endpoint may name secrets; they are given by an operator or an admin."
        )
    if agent_id in RESERVED_IDS:
        raise InvalidDocument([Problem(pointer="", code="BAD_VALUE", message=f"No agent is called {agent_id}.")], "id")
    if queue == it.settings.task_queue:
        message = "This is the task queue of Dalang's own workers; an agent there is one of kind local."
        raise InvalidDocument([Problem(pointer="/endpoint/taskQueue", code="BAD_VALUE", message=message)], "request")


@router.post("/{agentId}/heartbeat")
async def send_heartbeat(who: Worker, agentId: AgentId, it: Service) -> AgentItem:
    """Say that an agent is there; one that was Offline may get work again."""
    agent = await found_agent(who, agentId, it, to_change=True)
    await beat(agent, it)
    return _item(await found_agent(who, agentId, it))


@router.post("/{agentId}/drain", openapi_extra=body_schema("application/json", model=DrainRequest, required=False))
async def drain(who: Operator, agentId: AgentId, body: DrainBody, it: Service) -> AgentItem:
    """Give an agent nothing new any more; what it works at goes on. `draining: false` ends that."""
    agent = await found_agent(who, agentId, it, to_change=True)
    async with it.owners_transaction(agent.tenant_id) as conn:
        await drain_agent(conn, agent.tenant_id, agentId, body.draining)
    await it.leasing.grant()
    return _item(await found_agent(who, agentId, it))


@router.delete("/{agentId}", status_code=204, response_class=Response)
async def remove(who: Operator, agentId: AgentId, it: Service) -> Response:
    """Forget an agent; what it works at goes on, unless it has to ask for it."""
    agent = await found_agent(who, agentId, it, to_change=True)
    async with it.owners_transaction(agent.tenant_id) as conn:
        await remove_agent(conn, agent.tenant_id, agentId)
    await it.leasing.grant()
    return Response(status_code=204)


# -- what the routes share ---------------------------------------------------------------------------------------------


async def found_agent(who: Principal, agent_id: str, it: Services, *, to_change: bool = False) -> Agent:
    """Return who is called so for this tenant; ``to_change``: one of everybody is an admin's to change."""
    async with it.transaction(who.tenant_id) as conn:
        agent = await get_agent(conn, who.tenant_id, agent_id)
    if agent is None:
        raise NotFound(f"There is no agent {agent_id}.")
    if to_change and agent.tenant_id == SHARED and "admin" not in who.roles:
        raise Forbidden(f"Agent {agent_id} works for all tenants; this needs the role admin.")
    return agent


async def beat(agent: Agent, it: Services) -> None:
    """Note that an agent was heard of; if it was Offline, somebody may have waited for it."""
    async with it.owners_transaction(agent.tenant_id) as conn:
        back = await heartbeat(conn, agent.tenant_id, [agent.agent_id])
    if back:
        await it.leasing.grant()


def require_kind(agent: Agent, kind: AgentKind) -> None:
    """Raise :class:`Conflict` unless the agent is of this kind."""
    if agent.kind != kind:
        raise Conflict(f"Agent {agent.agent_id} is of kind {agent.kind}, not {kind}.")


def _item(one: Agent) -> AgentItem:
    shown = {name: value for name, value in vars(one).items() if name in AgentItem.model_fields}
    return AgentItem.model_validate(
        {
            **shown,
            "shared": one.tenant_id == SHARED,
            "status": one.status,
            "active_tasks": one.active,
            "load": round(one.load, 4),
        }
    )
