"""The second chain of a tenant: what was refused and administered at the API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from dalang.api.auth import Admin, Reader
from dalang.api.schemas import Answer, Cursor, FindingItem, Limit, QueryModel
from dalang.api.services import Service
from dalang.store.system_events import SystemEventType, list_system_events, verify_system

router = APIRouter(prefix="/orchestrator/audit/system", tags=["audit"])

VERIFY_SECONDS = 55.0


class ActorItem(Answer):
    """Who it was."""

    type: str = Field(description="human, agent or system.")
    id: str
    role: str | None = None
    tenant: str | None = Field(None, description="Of somebody of another tenant.")


class SystemEventItem(Answer):
    """Something that was refused or administered; `data.count` says how often within a minute, besides the first."""

    seq: int
    type: str
    at: datetime
    level: str
    actor: ActorItem
    data: dict[str, Any]
    previous_hash: str
    hash: str


class SystemEventPage(Answer):
    """A part of what happened, the newest first."""

    items: Sequence[SystemEventItem]
    next: str | None = None


class SystemEventQuery(QueryModel):
    """What is listed."""

    type: list[SystemEventType] = Field(default_factory=list, description="Any of these; may be repeated.")
    limit: Limit = 100
    cursor: Cursor = None


class SystemVerificationResponse(Answer):
    """Whether the chain is as it was written: `finding` is the first event that something was done to."""

    valid: bool
    events: int
    head: dict[str, Any]
    signature: str
    anchored: int
    finding: FindingItem | None = None


@router.get("")
async def get_system_events(who: Admin, query: Annotated[SystemEventQuery, Query()], it: Service) -> SystemEventPage:
    """List what was refused and administered, the newest first."""
    async with it.transaction(who.tenant_id) as conn:
        page = await list_system_events(conn, who.tenant_id, types=query.type, limit=query.limit, cursor=query.cursor)
    return SystemEventPage(items=[SystemEventItem.model_validate(vars(one)) for one in page.items], next=page.cursor)


@router.get("/verify")
async def verify_system_events(who: Reader, it: Service) -> SystemVerificationResponse:
    """Compute the hash chain of what was refused and administered again."""
    async with it.transaction(who.tenant_id, seconds=VERIFY_SECONDS, snapshot=True) as conn:
        found = await verify_system(conn, who.tenant_id, it.audit_keys)
    finding = None if found.finding is None else {**vars(found.finding), "what": str(found.finding.what)}
    return SystemVerificationResponse(
        valid=finding is None,
        events=found.events,
        head=dict(found.head),
        signature=str(found.signature),
        anchored=found.anchored,
        finding=None if finding is None else FindingItem.model_validate(finding),
    )
