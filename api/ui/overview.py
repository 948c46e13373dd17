"""``/ui/``: how things stand; what needs somebody comes first."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from dalang.api.ui.charts import bars
from dalang.api.ui.pages import Looks, PageRoute
from dalang.store.human_tasks import TaskFilter, list_tasks
from dalang.store.measures import Gauge, gauges
from dalang.store.run_lists import RunFilter, list_runs
from dalang.store.throughput import ended_runs

router = APIRouter(include_in_schema=False, route_class=PageRoute)

RANGES = {
    "hour": (timedelta(minutes=1), 60, "%H:%M", "Last hour"),
    "day": (timedelta(minutes=30), 48, "%H:%M", "Last day"),
    "week": (timedelta(hours=4), 42, "%a %H:%M", "Last week"),
    "month": (timedelta(days=1), 30, "%d %b", "Last 30 days"),
}


@router.get("/ui/")
async def overview(page: Looks, range: Annotated[str, Query(max_length=10)] = "day") -> Response:
    """Show what is ill, what waits and for how long, how runs ended over time, and the newest of them."""
    tenant, chosen = page.who.tenant_id, range if range in RANGES else "day"
    step, steps, form, _ = RANGES[chosen]
    now = datetime.now(UTC)
    since = datetime.fromtimestamp((now.timestamp() // step.total_seconds() + 1 - steps) * step.total_seconds(), UTC)
    health = asyncio.create_task(page.it.health.parts())
    async with page.it.transaction(tenant, snapshot=True) as conn:
        figures = _sums(await gauges(conn, tenant))
        ended = await ended_runs(conn, tenant, since, step, steps)
        newest = await list_runs(conn, tenant, RunFilter(children=False), limit=8)
        urgent = await list_tasks(conn, tenant, TaskFilter(open=True), by_due=True, limit=5)
    parts = await health
    return await page.page(
        "overview.html",
        title="Overview",
        section="overview",
        figures=figures,
        chart=bars(ended, since, step, form),
        ended=sum(sum(one.values()) for one in ended),
        failed=sum(one["FAILED"] for one in ended),
        runs=newest.items,
        tasks=urgent.items,
        ranges=[(name, told) for name, (*_, told) in RANGES.items()],
        range=chosen,
        ill=[f"{part.name.capitalize()} is ill. {part.remedy.rstrip('.')}" for part in parts if part.state == "ill"],
    )


def _sums(found: list[Gauge]) -> dict[str, float]:
    """Return gauges by name, and those with a state by name and state."""
    sums: dict[str, float] = {}
    for gauge in found:
        for labels, value in gauge.samples:
            for name in (gauge.name, f"{gauge.name} {labels[-1]}"):
                sums[name] = sums.get(name, 0) + value
    return sums
