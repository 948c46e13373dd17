"""Erasing the caller's tenant, and the certificate of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from dalang.api.auth import Admin, Principal
from dalang.api.bodies import body_schema, small_body
from dalang.api.runs import found_run
from dalang.api.schemas import Answer, RequestModel
from dalang.api.services import Service, Services
from dalang.errors import Conflict, InvalidDocument, NotFound, Problem
from dalang.signing import NoSigningKey
from dalang.store import erasure as store

router = APIRouter(prefix="/orchestrator/erasure", tags=["audit"])

AT_ONCE = 20
"""Runs that are cancelled by one request: the next one goes on."""
FILES_UNUSED_SINCE = timedelta(days=1)
"""In the future: all of them."""


class EraseRequest(RequestModel):
    """That it is meant."""

    tenant_id: str = Field(max_length=200, description="The tenant's id, which says that this is no mistake.")
    cancel: bool = Field(False, description="Cancel runs that go on. Otherwise they are a reason not to begin (409).")


class ErasureItem(Answer):
    """How an erasure stands: `CANCELLING` as long as runs end, then `ERASED` with the certificate.

    `signature` is that of the canonical JSON (RFC 8785) of `certificate`; `keys` are the public ones that check it.
    """

    state: Literal["CANCELLING", "ERASED"]
    running: int = 0
    again: bool = False
    certificate: Mapping[str, Any] | None = None
    signature: str | None = None
    keys: Mapping[str, str] = Field(default_factory=dict)


BODIES = (EraseRequest,)


@router.get("")
async def get_erasure(who: Admin, it: Service) -> ErasureItem:
    """Read the certificate of the tenant's last erasure."""
    async with it.transaction(who.tenant_id) as conn:
        found = await store.last_erasure(conn, who.tenant_id)
    if found is None:
        raise NotFound("This tenant was never erased.")
    return _item(found, it.audit_keys.public_keys)


@router.post("", openapi_extra=body_schema("application/json", model=EraseRequest))
async def erase(
    who: Admin,
    body: Annotated[EraseRequest, Depends(small_body(EraseRequest, optional=False))],
    request: Request,
    response: Response,
    it: Service,
) -> ErasureItem:
    """Erase everything of the tenant but the heads of its chains; answers a signed certificate.

    202 while runs are being cancelled: ask again. The token that asks stays, all others end. Asked again, it says that
    it was done.
    """
    if body.tenant_id != who.tenant_id:
        message = "This is not the tenant of the token."
        raise InvalidDocument([Problem(pointer="/tenantId", code="BAD_VALUE", message=message)], "request")
    if it.audit_keys.own_id is None:
        raise NoSigningKey("This API server has no private key to sign a certificate with (DALANG_AUDIT_KEY_FILE).")
    async with it.transaction(who.tenant_id, seconds=60) as conn:
        running = await store.open_runs(conn, who.tenant_id)
        had = await store.count_rows(conn, who.tenant_id)
        before = await store.last_erasure(conn, who.tenant_id)
    if before is not None and had.keys() <= {"api_tokens"} and had.get("api_tokens", 0) <= 1:
        return _item(before, it.audit_keys.public_keys, again=True)
    if running and not body.cancel:
        raise Conflict(f"{len(running)} runs go on. Let them end, or cancel them with `cancel`.")
    if running:
        await _cancel(who, running[:AT_ONCE], it)
        response.status_code = 202
        return ErasureItem(state="CANCELLING", running=len(running))
    request.state.act = {"tenantId": who.tenant_id, "rows": sum(had.values())}
    await it.artifacts.delete_unused(who.tenant_id, datetime.now(UTC) + FILES_UNUSED_SINCE)
    done = await store.erase_tenant(
        it.engine, who.tenant_id, who.subject, it.audit_keys, kept_token=who.token_id, had=had
    )
    return _item(done, it.audit_keys.public_keys)


async def _cancel(who: Principal, run_ids: Sequence[UUID], it: Services) -> None:
    for run_id in run_ids:
        async with it.transaction(who.tenant_id) as conn:
            run = await found_run(conn, who, run_id)
        with suppress(Conflict):  # it is being cancelled, or has ended meanwhile
            await it.controls.send(run, "cancel", who.subject, "its tenant is erased")


def _item(found: store.Erasure, keys: Mapping[str, str], *, again: bool = False) -> ErasureItem:
    return ErasureItem(state="ERASED", again=again, certificate=found.certificate, signature=found.signature, keys=keys)
