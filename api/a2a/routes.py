"""The addresses of the A2A agent: its card, JSON-RPC, and HTTP+JSON; 501 where the extra ``dalang[a2a]`` is missing.

They are not in the OpenAPI document, which is of the REST interface: the protocol says what they are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from dalang.api.problems import problem

if TYPE_CHECKING:
    from dalang.api.a2a.serving import Serving

router = APIRouter(include_in_schema=False)

MISSING = "This server lacks the A2A agent: pip install 'dalang[a2a]'"


async def _serving(request: Request) -> Serving | None:
    """Return what serves A2A, made by the first request: its libraries take a second to load."""
    state = request.app.state
    if not hasattr(state, "a2a"):
        try:
            made = await asyncio.to_thread(_load, request)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in ("a2a", "google", "jsonrpc"):
                raise
            return None
        if not hasattr(state, "a2a"):
            state.a2a = made
    found: Serving = state.a2a
    return found


def _load(request: Request) -> Serving:
    from dalang.api.a2a.serving import Serving

    return Serving(request.app.state.services)


@router.get("/.well-known/agent-card.json")
async def agent_card(request: Request) -> Response:
    """Read the public agent card."""
    serving = await _serving(request)
    return problem(request, 501, MISSING, kind="missing-extra") if serving is None else serving.card(request)


@router.post("/a2a")
@router.post("/a2a/")
async def json_rpc(request: Request) -> Response:
    """Answer JSON-RPC."""
    serving = await _serving(request)
    return problem(request, 501, MISSING, kind="missing-extra") if serving is None else await serving.json_rpc(request)


@router.api_route("/a2a/rest/{path:path}", methods=["GET", "POST", "DELETE"])
async def rest(request: Request, path: str) -> Response:
    """Answer HTTP+JSON; a tenant may stand before the path, ``v1`` is version 0.3."""
    serving = await _serving(request)
    return problem(request, 501, MISSING, kind="missing-extra") if serving is None else await serving.rest(request)
