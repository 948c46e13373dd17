"""Who is signed in to the pages, for admins of the tenant: listed, and signed out by name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field

from dalang.api.auth import Admin
from dalang.api.schemas import Answer, QueryModel
from dalang.api.services import Service
from dalang.store.browser_sessions import end_sessions_of, list_sessions

router = APIRouter(prefix="/orchestrator/sessions", tags=["identity"])

Subject = Annotated[str, Field(min_length=1, max_length=500)]


class SessionItem(Answer):
    """A session of a browser. ``byToken``: it ends with the API token that made it; else a provider's word did."""

    subject: str
    roles: Sequence[str]
    groups: Sequence[str]
    by_token: bool
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


class SessionList(Answer):
    """Who is signed in, the newest first, a thousand at most."""

    items: Sequence[SessionItem]


class SessionsEnded(Answer):
    """How many there were."""

    ended: int


class SessionQuery(QueryModel):
    """Whose sessions."""

    subject: Subject | None = Field(None, description="Only his.")


class EndQuery(QueryModel):
    """Whose sessions end."""

    subject: Subject


@router.get("")
async def get_sessions(who: Admin, query: Annotated[SessionQuery, Query()], it: Service) -> SessionList:
    """List who is signed in with a browser, the newest first."""
    async with it.transaction(who.tenant_id) as conn:
        found = await list_sessions(conn, who.tenant_id, query.subject)
    return SessionList(items=[SessionItem.model_validate(vars(one)) for one in found])


@router.delete("")
async def end_sessions(who: Admin, query: Annotated[EndQuery, Query()], request: Request, it: Service) -> SessionsEnded:
    """Sign somebody out of all his browsers, at once; whether he may come back is a matter of tokens and providers."""
    async with it.transaction(who.tenant_id) as conn:
        ended = await end_sessions_of(conn, who.tenant_id, query.subject)
    request.state.act = {"subject": query.subject, "ended": ended}
    return SessionsEnded(ended=ended)
