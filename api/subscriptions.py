"""Subscriptions: who is told of events, by webhook, Kafka or NATS. Workers do the telling (``dalang/publishing``).

Webhooks are the tenant's own affair; their addresses may hold tokens, so who only reads sees no more than the host.
Kafka and NATS are the operator's, who set their addresses: those subscriptions take an admin.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response

from dalang.api.auth import ADMINS, OPERATORS, Operator, Principal, Reader
from dalang.api.bodies import body_schema, small_body
from dalang.api.problems import Forbidden
from dalang.api.runs import found_run
from dalang.api.services import Service, Services
from dalang.api.subscription_schemas import (
    CountResult,
    CreateSubscriptionRequest,
    DeadLetterItem,
    DeadLetterPage,
    DeadLetterQuery,
    EventsRequest,
    PauseRequest,
    PingResult,
    ReplayRequest,
    RotateRequest,
    SecretItem,
    SubscriptionItem,
    SubscriptionList,
    SubscriptionRequest,
)
from dalang.egress import Refused
from dalang.errors import Conflict, InvalidDocument, Problem
from dalang.store import dead_letters, subscriptions
from dalang.store.paging import read_cursor, write_cursor
from dalang.store.subscriptions import WEBHOOK, Progress, Subscription
from dalang.webhook_signatures import new_secret

router = APIRouter(prefix="/orchestrator/subscriptions", tags=["subscriptions"])

PING_SECONDS = 15.0
PING_LOOK_SECONDS = 0.1


def _json(model: type, *, required: bool = True) -> dict[str, object]:
    return body_schema("application/json", model=model, required=required)


async def _owned(who: Operator, subscriptionId: UUID, it: Service) -> Subscription:
    """Return a subscription that this principal may control."""
    async with it.transaction(who.tenant_id) as conn:
        found = await subscriptions.get_subscription(conn, who.tenant_id, subscriptionId)
    if found.kind != WEBHOOK:
        _admin(who)
    return found


Own = Annotated[Subscription, Depends(_owned)]


@router.get("")
async def get_subscriptions(who: Reader, it: Service) -> SubscriptionList:
    """List the tenant's subscriptions by name, with how they keep up."""
    async with it.transaction(who.tenant_id, snapshot=True) as conn:
        found = await subscriptions.list_subscriptions(conn, who.tenant_id)
        progress = await subscriptions.progress_of(conn, [one.subscription_id for one in found])
    whole = bool(who.roles & OPERATORS)
    shown = [SubscriptionItem.of(one, progress[one.subscription_id], whole=whole) for one in found]
    return SubscriptionList(items=shown)


@router.post("", status_code=201, openapi_extra=_json(CreateSubscriptionRequest))
async def create_subscription(
    who: Operator,
    body: Annotated[CreateSubscriptionRequest, Depends(small_body(CreateSubscriptionRequest, optional=False))],
    it: Service,
) -> SecretItem:
    """Have somebody told of events; a webhook's secret is answered this once."""
    _permit(who, body, it)
    secret = (body.secret or new_secret()) if body.kind == WEBHOOK else None
    async with it.transaction(who.tenant_id) as conn:
        made = await subscriptions.create_subscription(
            conn, who.tenant_id, body.wanted(), who.subject, since=body.since, secret=secret
        )
    return SecretItem.model_validate({**SubscriptionItem.shown(made, Progress()), "secret": secret})


@router.get("/{subscriptionId}")
async def get_subscription(who: Reader, subscriptionId: UUID, it: Service) -> SubscriptionItem:
    """Read a subscription: what it wants, how it keeps up, and what went wrong last."""
    async with it.transaction(who.tenant_id, snapshot=True) as conn:
        found = await subscriptions.get_subscription(conn, who.tenant_id, subscriptionId)
        progress = await subscriptions.progress_of(conn, [subscriptionId])
    return SubscriptionItem.of(found, progress[subscriptionId], whole=bool(who.roles & OPERATORS))


@router.put("/{subscriptionId}", openapi_extra=_json(SubscriptionRequest))
async def change_subscription(
    who: Operator,
    subscriptionId: UUID,
    body: Annotated[SubscriptionRequest, Depends(small_body(SubscriptionRequest, optional=False))],
    it: Service,
) -> SubscriptionItem:
    """Change all of a subscription but its kind; it holds for what was not delivered yet."""
    _permit(who, body, it)
    async with it.transaction(who.tenant_id) as conn:
        made = await subscriptions.update_subscription(conn, who.tenant_id, subscriptionId, body.wanted(), who.subject)
        progress = await subscriptions.progress_of(conn, [subscriptionId])
    return SubscriptionItem.of(made, progress[subscriptionId])


@router.delete("/{subscriptionId}", status_code=204, response_class=Response)
async def delete_subscription(who: Operator, own: Own, it: Service) -> None:
    """Delete a subscription, with its dead letters and what it was not told yet."""
    async with it.transaction(who.tenant_id) as conn:
        await subscriptions.delete_subscription(conn, who.tenant_id, own.subscription_id)


@router.post("/{subscriptionId}/pause", openapi_extra=_json(PauseRequest, required=False))
async def pause_subscription(
    who: Operator,
    own: Own,
    body: Annotated[PauseRequest, Depends(small_body(PauseRequest, optional=True))],
    it: Service,
) -> SubscriptionItem:
    """Deliver nothing until it is resumed; what happens meanwhile waits."""
    async with it.transaction(who.tenant_id) as conn:
        made = await subscriptions.pause_subscription(conn, own.subscription_id, who.subject, body.reason)
        progress = await subscriptions.progress_of(conn, [own.subscription_id])
    return SubscriptionItem.of(made, progress[own.subscription_id])


@router.post("/{subscriptionId}/resume")
async def resume_subscription(who: Operator, own: Own, it: Service) -> SubscriptionItem:
    """Deliver what has waited, at once; also ends the pauses between attempts."""
    async with it.transaction(who.tenant_id) as conn:
        made = await subscriptions.resume_subscription(conn, own.subscription_id, who.subject)
        progress = await subscriptions.progress_of(conn, [own.subscription_id])
    return SubscriptionItem.of(made, progress[own.subscription_id])


@router.post("/{subscriptionId}/ping")
async def ping_subscription(who: Operator, own: Own, response: Response, it: Service) -> PingResult:
    """Send a test event of type PING and tell what came of it; 202 while no worker has taken it up."""
    async with it.transaction(who.tenant_id) as conn:
        ping_id = await subscriptions.ask_ping(conn, own.subscription_id)
    until = time.monotonic() + PING_SECONDS
    while time.monotonic() < until:
        await asyncio.sleep(PING_LOOK_SECONDS)
        async with it.transaction(who.tenant_id) as conn:
            found = (await subscriptions.get_subscription(conn, who.tenant_id, own.subscription_id)).ping or {}
        if found.get("id") != ping_id:
            break  # somebody else asked for another one
        if found["state"] == "answered":
            reason = found["error"]
            return PingResult(event_id=ping_id, delivered=reason is None, reason=reason, milliseconds=found["ms"])
    response.status_code = 202
    return PingResult(event_id=ping_id, delivered=None, reason=None, milliseconds=None)


@router.post("/{subscriptionId}/rotate-secret", openapi_extra=_json(RotateRequest, required=False))
async def rotate_secret(
    who: Operator,
    own: Own,
    body: Annotated[RotateRequest, Depends(small_body(RotateRequest, optional=True))],
    it: Service,
) -> SecretItem:
    """Sign with another secret, which is answered this once, and with the old one too for a while."""
    if own.kind != WEBHOOK:
        raise Conflict(f"A subscription of kind {own.kind} has no secret.")
    secret = body.secret or new_secret()
    now, keep = datetime.now(UTC), timedelta(milliseconds=body.keep)
    async with it.transaction(who.tenant_id) as conn:
        made = await subscriptions.rotate_secret(conn, own.subscription_id, who.subject, secret, now, keep)
        progress = await subscriptions.progress_of(conn, [own.subscription_id])
    return SecretItem.model_validate({**SubscriptionItem.shown(made, progress[own.subscription_id]), "secret": secret})


@router.post("/{subscriptionId}/replay", status_code=202, openapi_extra=_json(ReplayRequest))
async def replay_run(
    who: Operator,
    own: Own,
    body: Annotated[ReplayRequest, Depends(small_body(ReplayRequest, optional=False))],
    it: Service,
) -> SubscriptionItem:
    """Deliver a run again from its first event on."""
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, body.run_id)
        await subscriptions.replay(conn, own, run.tenant_id, run.run_id)
        progress = await subscriptions.progress_of(conn, [own.subscription_id])
    return SubscriptionItem.of(own, progress[own.subscription_id])


@router.get("/{subscriptionId}/dead-letters")
async def get_dead_letters(
    who: Reader, subscriptionId: UUID, query: Annotated[DeadLetterQuery, Query()], it: Service
) -> DeadLetterPage:
    """List the events that could not be delivered, the oldest first."""
    after = None
    if query.cursor is not None:
        at, run_id, epoch, seq = read_cursor(query.cursor, datetime, UUID, int, int)
        after = (at, run_id, epoch, seq)
    async with it.transaction(who.tenant_id) as conn:
        await subscriptions.get_subscription(conn, who.tenant_id, subscriptionId)
        found = await dead_letters.list_dead_letters(conn, subscriptionId, after=after, limit=query.limit + 1)
    page = found[: query.limit]
    last = page[-1] if len(found) > query.limit else None
    cursor = None if last is None else write_cursor(last.dead_at, last.run_id, last.epoch, last.seq)
    return DeadLetterPage(items=[DeadLetterItem.of(one) for one in page], next=cursor)


@router.post(
    "/{subscriptionId}/dead-letters/redeliver", status_code=202, openapi_extra=_json(EventsRequest, required=False)
)
async def redeliver_dead_letters(
    who: Operator,
    own: Own,
    body: Annotated[EventsRequest, Depends(small_body(EventsRequest, optional=True))],
    it: Service,
) -> CountResult:
    """Deliver dead letters once more, before whatever else waits of their runs; one try each."""
    async with it.transaction(who.tenant_id) as conn:
        return CountResult(count=await dead_letters.redeliver(conn, own.subscription_id, body.keys()))


@router.post("/{subscriptionId}/dead-letters/discard", openapi_extra=_json(EventsRequest, required=False))
async def discard_dead_letters(
    who: Operator,
    own: Own,
    body: Annotated[EventsRequest, Depends(small_body(EventsRequest, optional=True))],
    it: Service,
) -> CountResult:
    """Forget dead letters."""
    async with it.transaction(who.tenant_id) as conn:
        return CountResult(count=await dead_letters.discard(conn, own.subscription_id, body.keys()))


def _permit(who: Principal, body: SubscriptionRequest, it: Services) -> None:
    """Refuse what this principal, or the operator's rules, do not allow."""
    if body.kind != WEBHOOK:
        _admin(who)
    if body.url is not None:
        check_reachable(body.url, it)


def check_reachable(url: str, it: Services) -> None:
    """Refuse an address that no worker would call; a name is judged when it is called.

    Raises:
        InvalidDocument: the operator's rules do not allow it.
    """
    from httpx import URL

    parts = URL(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        it.settings.egress.check_host(parts.scheme, parts.raw_host.decode("ascii"), port)
    except Refused as refused:
        raise InvalidDocument([Problem(pointer="/url", code="REFUSED", message=str(refused))], "request") from None


def _admin(who: Principal) -> None:
    if not who.roles & ADMINS:
        raise Forbidden("Subscriptions of Kafka and NATS take the role admin.")
