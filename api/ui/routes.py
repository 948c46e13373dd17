"""All pages; the last router answers what none of them is."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dalang.api.ui import (
    changes,
    files,
    inbox,
    operations,
    overview,
    plans,
    run_bars,
    run_data,
    run_page,
    run_panels,
    runs,
)
from dalang.api.ui.pages import Looks, PageRoute
from dalang.errors import NotFound

_rest = APIRouter(include_in_schema=False, route_class=PageRoute)


@_rest.get("/ui")
@_rest.get("/ui/{path:path}")
async def no_page(page: Looks, path: str = "") -> Response:
    """Say that there is no such page."""
    raise NotFound("Nothing of Dalang has this address.")


_RUN = (run_data.router, run_bars.router, run_panels.router, run_page.router)
_SHELL = (files.router, changes.router, overview.router, runs.router, inbox.router, plans.router, operations.router)
ROUTERS = (*_SHELL, *_RUN, _rest)
