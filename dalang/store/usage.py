"""What tenants and runs use, counted in the transaction that stores the events which tell of it: exactly once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Float, cast, delete, func, select
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.budget_tables import tenant_budgets, tenant_usage
from dalang.store.bulk import arguments, insert_all
from dalang.store.chain import Transition
from dalang.store.tables import run_events
from dalang.usage import COST, NODES, TOKENS, WALL_TIME, added, usage_of
from dalang.wire import EventType

PARTS = 16
_budget, _usage = tenant_budgets.c, tenant_usage.c
COLUMNS = {TOKENS: "tokens", COST: "cost", NODES: "nodes", WALL_TIME: "work_ms"}
"""The columns of the measures."""
_NAMES = ("tenant_id", "day", "part", *COLUMNS.values())


@dataclass(frozen=True)
class Budget:
    """What a tenant may use on a day; None is as much as there is."""

    tenant_id: str
    tokens: int | None
    cost: float | None
    nodes: int | None
    work_ms: int | None
    updated_by: str
    updated_at: datetime


@dataclass(frozen=True)
class Use:
    """What was used: ``work_ms`` is time of nodes at work."""

    tokens: int = 0
    cost: float = 0.0
    nodes: int = 0
    work_ms: int = 0


def used(event: Transition) -> dict[str, Any]:
    """Return what an event tells of; what was used in a run below its node that run's own events tell."""
    data = event.data
    found = {} if "childRunId" in data else usage_of(data.get("usage"))
    if event.type == EventType.NODE_STARTED:
        found[NODES] = 1
    return found


def work_ms(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> int:
    """Return how long a node was at work that ends with this row."""
    begun, ended = after.get("started_at"), after.get("completed_at")
    if ended is None or begun is None or (before is not None and before.get("completed_at") is not None):
        return 0
    return max(int((ended - begun) / timedelta(milliseconds=1)), 0)


Days = dict[date, dict[str, Any]]
"""What was used, by day (UTC) and measure."""


def count(days: Days, at: datetime, amounts: Mapping[str, Any]) -> None:
    """Add what was used at a time."""
    if not any(amounts.values()):
        return
    day = at.astimezone(UTC).date()
    days[day] = added(days.get(day, {}), amounts)


def counted(tenant_id: str, run_id: UUID, days: Days, prefix: str) -> dict[str, list[Any]]:
    """Return the parameters of :func:`counting` for what a run has used."""
    rows = [
        {
            "tenant_id": tenant_id,
            "day": day,
            "part": run_id.int % PARTS,
            **{column: amounts.get(measure, 0) for measure, column in COLUMNS.items()},
        }
        for day, amounts in sorted(days.items())
        if any(amounts.values())
    ]
    return arguments(tenant_usage, _NAMES, rows, prefix)


def counting(prefix: str) -> Insert:
    """Return the statement that adds to what a tenant has used."""
    statement = insert_all(tenant_usage, _NAMES, prefix=prefix)
    sums = {column: _usage[column] + statement.excluded[column] for column in COLUMNS.values()}
    return statement.on_conflict_do_update(index_elements=["tenant_id", "day", "part"], set_=sums)


def has_budget(tenant_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a tenant may not use as much as there is, as part of a statement."""
    return select(_budget.tenant_id).where(_budget.tenant_id == tenant_id).exists()


async def used_on(conn: AsyncConnection, tenant_id: str, day: date) -> Use:
    """What has the tenant used on this day?"""
    sums = [func.coalesce(func.sum(tenant_usage.c[column]), 0) for column in COLUMNS.values()]
    row = (await conn.execute(select(*sums).where(_usage.tenant_id == tenant_id, _usage.day == day))).one()
    return Use(int(row[0]), float(row[1]), int(row[2]), int(row[3]))


async def spent_up(conn: AsyncConnection, tenant_id: str, now: datetime | None = None) -> dict[str, Any] | None:
    """Is the tenant's budget of today spent? Return the first measure of which nothing is left, else None."""
    budget = await get_budget(conn, tenant_id)
    if budget is None:
        return None
    today = (now or datetime.now(UTC)).date()
    use = await used_on(conn, tenant_id, today)
    for measure, column in COLUMNS.items():
        limit, spent = getattr(budget, column), getattr(use, column)
        if limit is not None and spent >= limit:
            tomorrow = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=1)
            until = int(tomorrow.timestamp() * 1000)
            return {"measure": measure, "limit": limit, "spent": spent, "until": until}
    return None


async def get_budget(conn: AsyncConnection, tenant_id: str) -> Budget | None:
    """What may this tenant use on a day?"""
    row = (await conn.execute(select(tenant_budgets).where(_budget.tenant_id == tenant_id))).first()
    return None if row is None else Budget(*row)


async def put_budget(conn: AsyncConnection, budget: Mapping[str, Any]) -> Budget:
    """Set what a tenant may use on a day."""
    statement = insert(tenant_budgets).values(dict(budget))
    changes = {name: budget[name] for name in (*COLUMNS.values(), "updated_by")}
    statement = statement.on_conflict_do_update(
        index_elements=["tenant_id"], set_={**changes, "updated_at": func.now()}
    )
    return Budget(*(await conn.execute(statement.returning(*tenant_budgets.c))).one())


async def delete_budget(conn: AsyncConnection, tenant_id: str) -> bool:
    """Let a tenant use as much as it likes; tell whether it had a budget."""
    return (await conn.execute(delete(tenant_budgets).where(_budget.tenant_id == tenant_id))).rowcount > 0


async def used_by_run(conn: AsyncConnection, run_id: UUID) -> Use:
    """What has the run used, with what the runs below its nodes had used when they ended?"""
    usage = run_events.c.data["usage"]
    starts = func.count().filter(run_events.c.type == EventType.NODE_STARTED)
    below = func.coalesce(func.sum(cast(usage[NODES].astext, BigInteger)), 0)
    sums = (
        func.coalesce(func.sum(cast(usage[TOKENS].astext, BigInteger)), 0),
        func.coalesce(func.sum(cast(usage[COST].astext, Float)), 0),
        starts + below,
    )
    row = (await conn.execute(select(*sums).where(run_events.c.run_id == run_id, ~run_events.c.superseded))).one()
    return Use(int(row[0]), round(float(row[1]), 9), int(row[2]))


async def raised_budget(conn: AsyncConnection, run_id: UUID) -> dict[str, Any] | None:
    """Which limits did somebody give the run last?"""
    query = (
        select(run_events.c.data["budget"])
        .where(run_events.c.run_id == run_id, run_events.c.type == EventType.BUDGET_RAISED, ~run_events.c.superseded)
        .order_by(run_events.c.epoch.desc(), run_events.c.seq.desc())
        .limit(1)
    )
    found = (await conn.execute(query)).scalar()
    return found if isinstance(found, dict) else None


def amounts(of: Budget | Use) -> dict[str, Any]:
    """Return a budget, or a use, by measure."""
    return {measure: getattr(of, column) for measure, column in COLUMNS.items()}
