"""``/ui/runs``: the list of runs, narrowed by the query of its address, which therefore can be kept and sent around."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from starlette.responses import RedirectResponse

from dalang.api.runs import label_of
from dalang.api.ui.marks import RUN_MARKS, words
from dalang.api.ui.pages import Looks, PageRoute
from dalang.statuses import RUN_ENDS, RunStatus
from dalang.store.run_lists import RunFilter, list_runs
from dalang.store.runs import get_run

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PAGE = 50
Text = Annotated[str, Query(max_length=500)]


@router.get("/ui/runs")
async def runs_page(
    page: Looks,
    status: Annotated[Sequence[str], Query(max_length=20)] = (),
    active: Text = "",
    q: Text = "",
    by: Text = "",
    since: Text = "",
    until: Text = "",
    children: Text = "",
    label: Text = "",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """List runs, the newest first; the id of a run in the search leads to it."""
    tenant = page.who.tenant_id
    chosen = [one for one in RunStatus if one in status]
    if active in ("true", "false"):
        chosen = [one for one in chosen or RunStatus if (one in RUN_ENDS) == (active == "false")]
    wanted = RunFilter(
        statuses=chosen,
        text=q.strip() or None,
        created_by=by.strip() or None,
        created_from=_time(since),
        created_until=_time(until),
        children=children == "true",
        labels=[label_of(one) for one in label.split(",") if one.partition("=")[0].strip() and "=" in one][:10],
    )
    async with page.it.transaction(tenant) as conn:
        run_id = _uuid(q)
        if run_id is not None and await get_run(conn, tenant, run_id, resolved=False) is not None:
            return RedirectResponse(f"/ui/runs/{run_id}", 303)
        found = await list_runs(conn, tenant, wanted, limit=PAGE, cursor=cursor or None)
    asked = {"status": list(status), "active": active, "q": q, "by": by, "since": since, "until": until, "label": label}
    return await page.page(
        "runs.html",
        title="Runs",
        section="runs",
        runs=found.items,
        next=found.cursor,
        asked={**asked, "children": children},
        narrowed=any([*asked.values(), children]),
        statuses=words(RUN_MARKS),
    )


def _time(text: str) -> datetime | None:
    """Return the time of a field ``datetime-local``, which is taken as UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text.strip())
    except ValueError:
        return None
