"""Proof that nobody rewrote what runs did: their chains are computed again and compared with what others hold."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from fastapi import APIRouter

from dalang.api.auth import Principal, Reader
from dalang.api.schemas import Answer, FindingItem, VerificationResponse
from dalang.api.services import Service, Services
from dalang.recorded_head import TemporalState, recorded_head
from dalang.store.runs import get_run
from dalang.store.verification import Tampering, Verification, verify_run
from dalang.temporal import TemporalUnavailable
from dalang.wire import Head

router = APIRouter(prefix="/orchestrator", tags=["audit"])

VERIFY_SECONDS = 55.0


class AuditKey(Answer):
    """A public key whose signatures are known here: its 32 bytes in base64."""

    key_id: str
    algorithm: str = "ed25519"
    public_key: str
    signs: bool


class AuditKeys(Answer):
    """The keys of this installation."""

    items: Sequence[AuditKey]


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


async def _recorded(it: Services, who: Principal, run_id: UUID) -> Head | TemporalState:
    async with it.transaction(who.tenant_id) as conn:
        run = await get_run(conn, who.tenant_id, run_id)
    if run is None or run.workflow_id is None:
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
