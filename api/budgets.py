"""Budgets: what a run, and a tenant on one day, may use, and has used."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from dalang import wire
from dalang.api.auth import Admin, Operator, Reader
from dalang.api.bodies import body_schema, small_body
from dalang.api.runs import found_run
from dalang.api.schemas import Answer, ControlResponse, RequestModel, Text
from dalang.api.services import Service
from dalang.canonical import MAX_INTEGER
from dalang.durations import Duration
from dalang.errors import NotFound
from dalang.statuses import RunStatus
from dalang.store.plans import get_part
from dalang.store.usage import (
    amounts,
    delete_budget,
    get_budget,
    put_budget,
    raised_budget,
    used_by_run,
    used_on,
)
from dalang.usage import MAX_COST

router = APIRouter(prefix="/orchestrator", tags=["limits"])

Count = Annotated[int, Field(ge=0, le=MAX_INTEGER, strict=True)]
Cost = Annotated[float, Field(ge=0, le=MAX_COST)]


class BudgetRequest(RequestModel):
    """Limits; times are durations such as `90m`."""

    tokens: Count | None = Field(None, description="Tokens that nodes report.")
    cost: Cost | None = Field(None, description="Cost that nodes report.")
    nodes: Count | None = Field(None, description="Starts of nodes.")
    wall_time: Duration | None = Field(
        None, description="Of a run: since it began. Of a tenant: time of its nodes at work, added up."
    )


class RaiseBudgetRequest(BudgetRequest):
    """The limits that change; what is not given stays as it is."""

    reason: Text | None = None


class Amounts(Answer):
    """Limits, or what was used; null is no limit. Times in milliseconds."""

    tokens: int | None = None
    cost: float | None = None
    nodes: int | None = None
    wall_time_ms: int | None = None


class RunBudget(Answer):
    """What a run may use and has used, as far as its events tell."""

    run_id: UUID
    status: RunStatus
    budget: Amounts
    used: Amounts


class TenantBudget(Answer):
    """What the tenant may use on a day (UTC), and has used today."""

    day: date
    budget: Amounts
    used: Amounts
    updated_by: str | None = None
    updated_at: datetime | None = None


RaiseBody = Annotated[RaiseBudgetRequest, Depends(small_body(RaiseBudgetRequest, optional=False))]
BudgetBody = Annotated[BudgetRequest, Depends(small_body(BudgetRequest, optional=False))]
BODIES = (BudgetRequest, RaiseBudgetRequest)


@router.get("/runs/{runId}/budget")
async def get_run_budget(who: Reader, runId: UUID, it: Service) -> RunBudget:
    """Read what a run may use, and what it has used; a run below a node counts when it has ended."""
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId)
        limits = await raised_budget(conn, runId)
        if limits is None:
            limits = _planned(await get_part(conn, who.tenant_id, run.plan_digest, "budget"))
        used = await used_by_run(conn, runId)
    passed = None
    if run.started_at is not None:
        passed = int(((run.completed_at or datetime.now(UTC)) - run.started_at).total_seconds() * 1000)
    return RunBudget(
        run_id=runId,
        status=RunStatus(run.status),
        budget=_amounts(limits),
        used=_amounts({**amounts(used), "wallTime": passed}),
    )


@router.patch("/runs/{runId}/budget", openapi_extra=body_schema("application/json", model=RaiseBudgetRequest))
async def raise_run_budget(who: Operator, runId: UUID, body: RaiseBody, it: Service) -> ControlResponse:
    """Give a run another budget; one that is paused because its budget was spent goes on when there is enough."""
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId)
    limits = {"tokens": body.tokens, "cost": body.cost, "nodes": body.nodes, "wallTimeMs": body.wall_time}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    payload = {**given, "operator": who.subject, "reason": body.reason}
    outcome = await it.controls.decide(run, wire.UPDATE_RAISE_BUDGET, payload)
    return ControlResponse(run_id=runId, status=RunStatus(outcome.status), message="The budget is changed")


@router.get("/budgets")
async def get_budgets(who: Reader, it: Service) -> TenantBudget:
    """Read what the tenant may use on a day, and what it has used today."""
    async with it.transaction(who.tenant_id, snapshot=True) as conn:
        today = datetime.now(UTC).date()
        budget = await get_budget(conn, who.tenant_id)
        used = await used_on(conn, who.tenant_id, today)
    return TenantBudget(
        day=today,
        budget=Amounts() if budget is None else _amounts(amounts(budget)),
        used=_amounts(amounts(used)),
        updated_by=None if budget is None else budget.updated_by,
        updated_at=None if budget is None else budget.updated_at,
    )


@router.put("/budgets", openapi_extra=body_schema("application/json", model=BudgetRequest))
async def set_budgets(who: Admin, body: BudgetBody, it: Service) -> TenantBudget:
    """Set what the tenant may use on a day, all lines of it; runs that are paused for it are resumed by hand."""
    row: dict[str, Any] = {**body.model_dump(include={"tokens", "cost", "nodes"}), "work_ms": body.wall_time}
    async with it.transaction(who.tenant_id) as conn:
        await put_budget(conn, {**row, "tenant_id": who.tenant_id, "updated_by": who.subject})
    return await get_budgets(who, it)


@router.delete("/budgets", status_code=204, response_class=Response)
async def clear_budgets(who: Admin, it: Service) -> None:
    """Let the tenant use as much as it likes."""
    async with it.transaction(who.tenant_id) as conn:
        if not await delete_budget(conn, who.tenant_id):
            raise NotFound("The tenant has no budget.")


def _planned(budget: Any) -> dict[str, Any]:
    limits = budget or {}
    return {**limits, "wallTime": BudgetRequest.model_validate({"wallTime": limits.get("wallTime")}).wall_time}


def _amounts(of: dict[str, Any]) -> Amounts:
    return Amounts(tokens=of.get("tokens"), cost=of.get("cost"), nodes=of.get("nodes"), wall_time_ms=of.get("wallTime"))
