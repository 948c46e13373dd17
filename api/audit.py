"""Proof that nobody rewrote what runs did: their chains are computed again and compared with what others hold."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from dalang.api.auth import Admin, Principal, Reader
from dalang.api.schemas import Answer, Cursor, FindingItem, Limit, QueryModel, VerificationResponse
from dalang.api.services import Service, Services
from dalang.canonical import canonical_bytes
from dalang.errors import NotFound
from dalang.recorded_head import TemporalState, recorded_head
from dalang.store.anchors import Anchor, list_anchors, make_anchor, verify_anchors
from dalang.store.export import export_run
from dalang.store.paging import write_cursor
from dalang.store.runs import get_run
from dalang.store.verification import Tampering, Verification, runs_to_verify, verify_run
from dalang.temporal import TemporalUnavailable
from dalang.wire import Head

router = APIRouter(prefix="/orchestrator", tags=["audit"])

VERIFY_SECONDS = 55.0
MAX_CHECKED = 200
CHECKED_SECONDS = 15.0
"""After so long no further run is begun in one request."""
MAX_MADE = 100
EXPORT_SECONDS = 600.0
EXPORTED_AT_ONCE = 64 * 1024


class AuditKey(Answer):
    """A public key whose signatures are known here: its 32 bytes in base64."""

    key_id: str
    algorithm: str = "ed25519"
    public_key: str
    signs: bool


class AuditKeys(Answer):
    """The keys of this installation."""

    items: Sequence[AuditKey]


class AuditPage(Answer):
    """What was checked of all runs: ``items`` are those that something was done to."""

    checked: int
    items: Sequence[VerificationResponse]
    next: str | None = None


class AuditQuery(QueryModel):
    """Which runs are checked."""

    limit: Annotated[int, Field(ge=1, le=MAX_CHECKED)] = Field(50, description="How many are checked at once.")
    cursor: Cursor = None


class AnchorItem(Answer):
    """An anchor. ``signed`` is the text that ``digest`` and ``signature`` are of; ``root`` is over ``heads`` heads."""

    number: int
    at: datetime
    heads: int
    root: str
    previous: str
    digest: str
    signature: str
    signed: str

    @classmethod
    def of(cls, tenant_id: str, anchor: Anchor) -> Self:
        """Return what is shown of an anchor."""
        return cls(**vars(anchor), signed=canonical_bytes(anchor.document(tenant_id)).decode())


class AnchorPage(Answer):
    """Anchors, the first one first."""

    items: Sequence[AnchorItem]
    next: str | None = None


class AnchorQuery(QueryModel):
    """Which anchors are listed."""

    limit: Limit = 100
    cursor: Cursor = None


class AnchorFindingItem(Answer):
    """The first anchor that something was done to, or the first run that is not as it was anchored."""

    what: str
    number: int
    message: str
    run_id: UUID | None
    epoch: int | None
    seq: int | None


class AnchorsChecked(Answer):
    """What was checked of the anchors."""

    valid: bool
    checked: int
    finding: AnchorFindingItem | None
    next: str | None = None


@router.get("/audit/keys")
async def get_audit_keys(who: Reader, it: Service) -> AuditKeys:
    """List the public keys that check signatures; keep them elsewhere, since who checks has to know whom to trust."""
    keys = it.audit_keys
    return AuditKeys(
        items=[
            AuditKey(key_id=one, public_key=value, signs=one == keys.own_id) for one, value in keys.public_keys.items()
        ]
    )


@router.get("/runs/{runId}/verify")
async def verify(who: Reader, runId: UUID, it: Service) -> VerificationResponse:
    """Prove that nobody changed, removed, added or moved an event of the run.

    Its hash chain is computed again, and compared with the signature of its head and with what Temporal holds.
    """
    recorded = await _recorded(it, who, runId)
    head = None if isinstance(recorded, TemporalState) else recorded
    async with it.transaction(who.tenant_id, seconds=VERIFY_SECONDS, snapshot=True) as conn:
        found = await verify_run(conn, who.tenant_id, runId, recorded=head, keys=it.audit_keys)
    return shown(found, recorded)


@router.get("/audit/verify")
async def verify_all(who: Reader, query: Annotated[AuditQuery, Query()], it: Service) -> AuditPage:
    """Check the chains and signatures of all runs, some at a time; answered is which of them were tampered with."""
    async with it.transaction(who.tenant_id, seconds=VERIFY_SECONDS, snapshot=True) as conn:
        page = await runs_to_verify(conn, who.tenant_id, limit=query.limit, cursor=query.cursor)
        found: list[Verification] = []
        until = time.monotonic() + CHECKED_SECONDS
        for one in page.items:
            found.append(await verify_run(conn, who.tenant_id, one, keys=it.audit_keys))
            if time.monotonic() >= until:  # large runs: the rest is for the next request
                break
    items = [shown(one, TemporalState.NOT_ASKED) for one in found if not one.valid]
    after = page.cursor if len(found) == len(page.items) else write_cursor(found[-1].run_id)
    return AuditPage(checked=len(found), items=items, next=after)


@router.get("/audit/anchors")
async def get_anchors(who: Reader, query: Annotated[AnchorQuery, Query()], it: Service) -> AnchorPage:
    """List the anchors; keep them elsewhere: each proves what all runs had come to at its time."""
    async with it.transaction(who.tenant_id) as conn:
        page = await list_anchors(conn, who.tenant_id, limit=query.limit, cursor=query.cursor)
    return AnchorPage(items=[AnchorItem.of(who.tenant_id, one) for one in page.items], next=page.cursor)


@router.post("/audit/anchors")
async def create_anchor(who: Admin, it: Service) -> AnchorPage:
    """Anchor now what is in no anchor yet; nothing is made when nothing has happened since the last one."""
    made: list[Anchor] = []
    while len(made) < MAX_MADE:
        async with it.transaction(who.tenant_id, seconds=VERIFY_SECONDS) as conn:
            anchor = await make_anchor(conn, who.tenant_id, it.audit_keys)
        if anchor is None:
            break
        made.append(anchor)
    return AnchorPage(items=[AnchorItem.of(who.tenant_id, one) for one in made])


@router.get("/audit/anchors/verify")
async def check_anchors(who: Reader, query: Annotated[AnchorQuery, Query()], it: Service) -> AnchorsChecked:
    """Check anchors, and that every run in them is still as it was, or was deleted as a whole."""
    async with it.transaction(who.tenant_id, seconds=VERIFY_SECONDS, snapshot=True) as conn:
        checked, finding, after = await verify_anchors(
            conn, who.tenant_id, it.audit_keys, limit=query.limit, cursor=query.cursor
        )
    item = None if finding is None else AnchorFindingItem.model_validate(vars(finding))
    return AnchorsChecked(valid=finding is None, checked=checked, finding=item, next=after)


@router.get(
    "/runs/{runId}/export",
    response_class=Response,
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}},
)
async def export(who: Reader, runId: UUID, it: Service) -> StreamingResponse:
    """Export a run as JSON Lines with all that proves it: events, signature, public keys, and its place in an anchor.

    `examples/verify_audit.py` checks it without Dalang and without its database.
    """
    async with it.transaction(who.tenant_id) as conn:
        if await get_run(conn, who.tenant_id, runId) is None:
            raise NotFound(f"There is no run {runId}.")
    return StreamingResponse(_exported(it, who.tenant_id, runId), media_type="application/jsonl")


async def _exported(it: Services, tenant_id: str, run_id: UUID) -> AsyncIterator[str]:
    pieces: list[str] = []
    size = 0
    async with it.transaction(tenant_id, seconds=EXPORT_SECONDS, snapshot=True) as conn:
        async for line in export_run(conn, tenant_id, run_id, it.audit_keys):
            pieces.append(line)
            size += len(line)
            if size >= EXPORTED_AT_ONCE:
                yield "".join(pieces)
                pieces, size = [], 0
    yield "".join(pieces)


async def _recorded(it: Services, who: Principal, run_id: UUID) -> Head | TemporalState:
    async with it.transaction(who.tenant_id) as conn:
        run = await get_run(conn, who.tenant_id, run_id)
    if run is None or run.workflow_id is None or run.temporal_run_id is None:
        return TemporalState.NOT_ASKED
    try:
        return await recorded_head(await it.temporal.client(), run.workflow_id)
    except TemporalUnavailable:
        return TemporalState.UNAVAILABLE


def shown(found: Verification, recorded: Head | TemporalState) -> VerificationResponse:
    """Return what is shown of a verification."""
    finding = found.finding
    if isinstance(recorded, TemporalState):
        temporal = recorded
    else:
        differs = finding is not None and finding.what is Tampering.HEAD_CHANGED
        temporal = TemporalState.DIFFERS if differs else TemporalState.MATCHES
    return VerificationResponse(
        run_id=found.run_id,
        valid=found.valid,
        events=found.events,
        erased_bodies=found.erased_bodies,
        head=dict(found.head),
        signature=str(found.signature),
        temporal=str(temporal),
        anchored=found.anchored,
        finding=None if finding is None else FindingItem.model_validate({**vars(finding), "what": str(finding.what)}),
    )
