"""API tokens of the caller's tenant: made, listed, revoked by admins. The plain text is in one answer only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, Strict, field_validator

from dalang.api.auth import Admin
from dalang.api.bodies import body_schema, small_body
from dalang.api.schemas import Answer, Cursor, Limit, QueryModel, RequestModel
from dalang.api.services import Service
from dalang.durations import Duration
from dalang.errors import NotFound
from dalang.store import tokens as store

router = APIRouter(prefix="/orchestrator/tokens", tags=["identity"])

LONGEST_MS = 10 * 366 * 24 * 3600 * 1000
Role = Literal["viewer", "operator", "approver", "admin", "agent"]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class TokenItem(Answer):
    """What is known of a token, which is everything but the token. ``lastUsedAt`` may be a minute late."""

    token_id: UUID
    subject: str
    name: str
    roles: Sequence[str]
    groups: Sequence[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def of(cls, token: store.Token) -> Self:
        """Return what is shown of a token."""
        return cls.model_validate(vars(token))


class TokenMade(TokenItem):
    """A token that was made just now. ``token`` is not shown again."""

    token: str


class TokenPage(Answer):
    """Part of a list."""

    items: Sequence[TokenItem]
    next: str | None = None


class TokenQuery(QueryModel):
    """Which tokens are listed."""

    active: bool = Field(False, description="Only those that are neither revoked nor expired.")
    limit: Limit = 100
    cursor: Cursor = None


class CreateTokenRequest(RequestModel):
    """Whose token it is, and what may be done with it."""

    subject: Name = Field(description="Recorded with all that is done with it.")
    roles: list[Role] = Field(min_length=1, max_length=10)
    groups: list[Name] = Field(default_factory=list, max_length=100, description="Whose human tasks may be decided.")
    name: str = Field("", max_length=200, description="For people, to tell tokens apart.")
    expires_in: Annotated[Duration, Strict(False)] | None = Field(None, description="Such as `30d`. Default: for ever.")

    @field_validator("subject", "name", "groups")
    @classmethod
    def _printable(cls, value: str | list[str]) -> str | list[str]:
        if not all(one.isprintable() for one in ([value] if isinstance(value, str) else value)):
            raise ValueError("names are printable")
        return value

    @field_validator("expires_in")
    @classmethod
    def _bounded(cls, value: int | None) -> int | None:
        if value is not None and not 0 < value <= LONGEST_MS:
            raise ValueError("a token is valid for more than nothing and at most ten years, or without end")
        return value


BODIES = (CreateTokenRequest,)


@router.get("")
async def get_tokens(who: Admin, query: Annotated[TokenQuery, Query()], it: Service) -> TokenPage:
    """List the tenant's tokens, the newest first; revoked and expired ones too, unless `active` leaves them out."""
    async with it.transaction(who.tenant_id) as conn:
        page = await store.list_tokens(conn, who.tenant_id, active=query.active, limit=query.limit, cursor=query.cursor)
    return TokenPage(items=[TokenItem.of(one) for one in page.items], next=page.cursor)


@router.post("", status_code=201, openapi_extra=body_schema("application/json", model=CreateTokenRequest))
async def create_token(
    who: Admin,
    body: Annotated[CreateTokenRequest, Depends(small_body(CreateTokenRequest, optional=False))],
    request: Request,
    it: Service,
) -> TokenMade:
    """Make a token; this answer is the only one that shows it."""
    until = None if body.expires_in is None else datetime.now(UTC) + timedelta(milliseconds=body.expires_in)
    async with it.transaction(who.tenant_id) as conn:
        plain, made = await store.create_token(
            conn, who.tenant_id, body.subject, body.roles, name=body.name, groups=body.groups, expires_at=until
        )
    request.state.act = {"subject": made.subject, "roles": list(made.roles), "tokenId": str(made.token_id)}
    return TokenMade.model_validate({**vars(made), "token": plain})


@router.get("/{tokenId}")
async def get_token(who: Admin, tokenId: UUID, it: Service) -> TokenItem:
    """Read what is known of a token."""
    async with it.transaction(who.tenant_id) as conn:
        return _item(await store.get_token(conn, who.tenant_id, tokenId), tokenId)


@router.delete("/{tokenId}")
async def revoke_token(who: Admin, tokenId: UUID, it: Service) -> TokenItem:
    """Revoke a token; sessions of browsers that it made end at once, other API servers let it in for seconds more."""
    async with it.transaction(who.tenant_id) as conn:
        await store.revoke_token(conn, who.tenant_id, tokenId)
        revoked = await store.get_token(conn, who.tenant_id, tokenId)
    it.tokens.forget(tokenId)
    return _item(revoked, tokenId)


def _item(found: store.Token | None, token_id: UUID) -> TokenItem:
    if found is None:
        raise NotFound(f"There is no token {token_id}.")
    return TokenItem.of(found)
