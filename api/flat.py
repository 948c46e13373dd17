"""The routes of a router put into an app as they are.

``FastAPI.include_router`` builds each route a second time, for each app, at its first request - half a second for all
of ours - and then finds them through two levels. What it would add to them, :func:`add` sets.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute


def add(app: FastAPI, router: APIRouter, responses: dict[int | str, dict[str, Any]]) -> None:
    """Add the routes of ``router``; each also answers ``responses``, and its operation is called what it is."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            route.responses = {**responses, **route.responses}
            route.unique_id = route.name
        app.router.routes.append(route)
