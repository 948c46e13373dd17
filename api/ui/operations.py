"""What operators look after: agents, limits, the queue, breakers, schedules, webhooks.

Each page shows what its REST routes answer, by calling them, and offers the acts that the visitor's roles allow.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from dalang.api import agents, breakers, budgets, limits, queue, schedules, subscriptions
from dalang.api.agent_schemas import AgentQuery
from dalang.api.auth import ADMINS
from dalang.api.limit_schemas import AllocationQuery, QueueQuery
from dalang.api.schedule_schemas import ScheduleItem, ScheduleQuery
from dalang.api.ui.pages import Looks, PageRoute
from dalang.durations import format_duration
from dalang.event_types import EventType
from dalang.store.plans import list_plans

router = APIRouter(include_in_schema=False, route_class=PageRoute)

SHOWN = 200
Cursor = Annotated[str | None, Query(max_length=2_000)]
TELLING = [str(one) for one in EventType if one.startswith(("PLAN_", "NODE_", "HITL_"))]
"""The types of events that webhooks are mostly told of; the REST API takes all."""


@router.get("/ui/agents")
async def agents_page(page: Looks) -> Response:
    """List agents: what they can do, what they are doing, when they were heard of last."""
    found = await agents.get_agents(page.who, AgentQuery(status=None, kind=None, capability=None), page.it)
    figures = await agents.get_agent_statistics(page.who, page.it)
    return await page.page("agents.html", title="Agents", section="agents", agents=found.items, figures=figures)


@router.get("/ui/limits")
async def limits_page(page: Looks) -> Response:
    """Show pools, the tenant's quota and its budget, with what of them is in use."""
    return await page.page(
        "limits.html",
        title="Limits",
        section="limits",
        pools=(await limits.get_pools(page.who, page.it)).items,
        quota=await limits.get_quotas(page.who, page.it),
        budget=await budgets.get_budgets(page.who, page.it),
        is_admin=bool(page.who.roles & ADMINS),
    )


@router.get("/ui/queue")
async def queue_page(page: Looks, cursor: Cursor = None) -> Response:
    """Show which nodes wait for a lease, and which hold one."""
    held = await queue.get_allocations(page.who, AllocationQuery(run_id=None, limit=SHOWN, cursor=cursor), page.it)
    waits = await queue.get_queue(page.who, QueueQuery(limit=SHOWN), page.it)
    return await page.page("queue.html", title="Queue", section="queue", queue=waits, held=held.items, next=held.next)


@router.get("/ui/breakers")
async def breakers_page(page: Looks, cursor: Cursor = None) -> Response:
    """List circuit breakers, and let one be opened or closed by hand."""
    query = breakers.BreakerQuery(state=[], key=None, limit=SHOWN, cursor=cursor)
    found = await breakers.get_circuit_breakers(page.who, query, page.it)
    items = sorted(found.items, key=lambda one: ("OPEN", "HALF_OPEN", "CLOSED").index(one.state))
    return await page.page("breakers.html", title="Breakers", section="breakers", breakers=items, next=found.next)


@router.get("/ui/schedules")
async def schedules_page(page: Looks, cursor: Cursor = None) -> Response:
    """List schedules with their next times and last runs, and make one."""
    query = ScheduleQuery(plan_id=None, limit=SHOWN, cursor=cursor)
    found = await schedules.get_schedules(page.who, query, page.it)
    async with page.it.transaction(page.who.tenant_id) as conn:
        plans = await list_plans(conn, page.who.tenant_id, limit=SHOWN)
    return await page.page(
        "schedules.html",
        title="Schedules",
        section="schedules",
        schedules=[(one, _when(one)) for one in found.items],
        next=found.next,
        plans=plans.items,
        names={plan.plan_id: plan.name for plan in plans.items},
    )


@router.get("/ui/webhooks")
async def webhooks_page(page: Looks) -> Response:
    """List who is told of events and how they keep up, and make a webhook."""
    found = await subscriptions.get_subscriptions(page.who, page.it)
    return await page.page(
        "webhooks.html", title="Webhooks", section="webhooks", subscriptions=found.items, types=TELLING
    )


def _when(one: ScheduleItem) -> list[str]:
    """Return the times of a schedule as people say them."""
    spec = one.spec
    told = [f"cron {expression}" for expression in spec.cron]
    if spec.every is not None:
        told.append(f"every {format_duration(spec.every)}")
    told += ["by calendar"] * len(spec.calendar)
    return [*told, spec.timezone] if spec.cron or spec.calendar else told
