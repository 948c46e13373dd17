"""``/ui/``: how things stand."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dalang.api.ui.pages import Looks, PageRoute
from dalang.store.runs import RunFilter, count_active, count_by_status, list_runs

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/ui/")
async def overview(page: Looks) -> Response:
    """Show figures, and what happened last."""
    tenant = page.who.tenant_id
    async with page.it.transaction(tenant, snapshot=True) as conn:
        counts = await count_by_status(conn, tenant)
        active = await count_active(conn, tenant)
        newest = await list_runs(conn, tenant, RunFilter(children=False), limit=8)
    return await page.page(
        "overview.html", title="Overview", section="overview", counts=counts, active=active, runs=newest.items
    )
