"""Tickets: a link that signs a browser in, once and within two minutes, made by whoever has a token."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.security import HTTPAuthorizationCredentials

from dalang.api.auth import Reader, bearer
from dalang.api.problems import Forbidden
from dalang.api.schemas import Answer
from dalang.api.services import Service

router = APIRouter(prefix="/orchestrator", tags=["identity"])


class TicketResponse(Answer):
    """A ticket, and the address that takes it. ``&next=/ui/...`` may be added to it."""

    ticket: str
    url: str
    expires_at: datetime


@router.post("/sign-in-tickets", status_code=201)
async def create_sign_in_ticket(
    who: Reader, it: Service, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> TicketResponse:
    """Make a link that signs a browser in as the token's owner; it works once, within two minutes."""
    if credentials is None:
        # A session must not outlive itself by begetting others.
        raise Forbidden("A ticket needs a token: Authorization: Bearer <token>.")
    ticket, expires_at = await it.sessions.ticket(who.signed_in())
    return TicketResponse(
        ticket=ticket, url=f"{it.settings.public_url}/ui/sign-in?ticket={ticket}", expires_at=expires_at
    )
