"""Circuit breakers: how they stand, and what operators do about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field, Strict, field_validator

from dalang.api.auth import Operator, Reader
from dalang.api.bodies import body_schema, small_body
from dalang.api.schemas import Answer, Cursor, Limit, QueryModel, RequestModel, Text
from dalang.api.services import Service
from dalang.breaker import BreakerState
from dalang.durations import Duration
from dalang.errors import NotFound
from dalang.store.breakers import MAX_KEY, StoredBreaker, force_open, get_breaker, list_breakers, reset

router = APIRouter(prefix="/orchestrator/circuit-breakers", tags=["circuit breakers"])

LONGEST_OPEN_MS = 7 * 24 * 60 * 60 * 1000
Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY)]


class BreakerItem(Answer):
    """A breaker as it stands. ``until`` is when an OPEN one lets somebody try, ``trials`` how many try now."""

    breaker_id: UUID
    key: str
    state: BreakerState
    failures: int
    successes: int
    until: datetime | None
    trials: int
    openings: int
    opened_at: datetime | None
    last_failure: str | None
    last_failure_at: datetime | None
    operator: str | None
    reason: str | None
    changed_at: datetime

    @classmethod
    def of(cls, stored: StoredBreaker) -> Self:
        """Return what is shown of a stored breaker."""
        return cls.model_validate({**vars(stored), "trials": len(stored.trials)})


class BreakerPage(Answer):
    """Part of a list."""

    items: Sequence[BreakerItem]
    next: str | None = None


class BreakerQuery(QueryModel):
    """Which breakers are listed."""

    state: list[BreakerState] = Field(default_factory=list, description="Only these; may be repeated.")
    key: Key | None = Field(None, description="Only this one.")
    limit: Limit = 100
    cursor: Cursor = None


class ResetRequest(RequestModel):
    """Why a breaker is reset."""

    reason: Text | None = None


class OpenRequest(RequestModel):
    """Which breaker lets nobody pass, and for how long."""

    key: Key = Field(description="As nodes that wait for it name it: `http https://example.org:443`, `agent coder`.")
    duration: Annotated[Duration, Strict(False)] | None = Field(None, description="At most 7 days. Default: `30s`.")
    reason: Text | None = None

    @field_validator("key")
    @classmethod
    def _printable(cls, key: str) -> str:
        if not key.isprintable():
            raise ValueError("a key is printable")
        return key

    @field_validator("duration")
    @classmethod
    def _bounded(cls, duration: int | None) -> int | None:
        if duration is not None and not 0 < duration <= LONGEST_OPEN_MS:
            raise ValueError("a breaker is open for more than nothing and at most 7 days")
        return duration


BODIES = (ResetRequest, OpenRequest)


@router.get("")
async def get_circuit_breakers(who: Reader, query: Annotated[BreakerQuery, Query()], it: Service) -> BreakerPage:
    """List the breakers that anything ever failed behind, by key; all others are CLOSED."""
    async with it.transaction(who.tenant_id) as conn:
        page = await list_breakers(
            conn, who.tenant_id, states=query.state, key=query.key, limit=query.limit, cursor=query.cursor
        )
    return BreakerPage(items=[BreakerItem.of(one) for one in page.items], next=page.cursor)


@router.get("/{breakerId}")
async def get_circuit_breaker(who: Reader, breakerId: UUID, it: Service) -> BreakerItem:
    """Read a breaker."""
    async with it.transaction(who.tenant_id) as conn:
        found = await get_breaker(conn, who.tenant_id, breakerId)
    return _item(found, breakerId)


@router.post("/{breakerId}/reset", openapi_extra=body_schema("application/json", model=ResetRequest, required=False))
async def reset_circuit_breaker(
    who: Operator,
    breakerId: UUID,
    body: Annotated[ResetRequest, Depends(small_body(ResetRequest, optional=True))],
    it: Service,
) -> BreakerItem:
    """Close a breaker by hand: everybody passes again, with nothing held against whoever is called."""
    async with it.transaction(who.tenant_id) as conn:
        found = await reset(conn, who.tenant_id, breakerId, who.subject, body.reason)
    return _item(found, breakerId)


@router.post("/open", openapi_extra=body_schema("application/json", model=OpenRequest))
async def open_circuit_breaker(
    who: Operator, body: Annotated[OpenRequest, Depends(small_body(OpenRequest, optional=False))], it: Service
) -> BreakerItem:
    """Open a breaker by hand, whether there was one or not: nothing calls it for so long."""
    lasts = body.duration or it.settings.breaker_thresholds.open_ms
    async with it.transaction(who.tenant_id) as conn:
        return BreakerItem.of(await force_open(conn, who.tenant_id, body.key, lasts, who.subject, body.reason))


def _item(found: StoredBreaker | None, breaker_id: UUID) -> BreakerItem:
    if found is None:
        raise NotFound(f"There is no circuit breaker {breaker_id}.")
    return BreakerItem.of(found)
