"""What comes from outside: events for nodes that wait for them, and answers of services at callback addresses."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Request, Response

from dalang import wire
from dalang.api.auth import Operator, Reader
from dalang.api.bodies import body_schema, checked, read_json
from dalang.api.inbound_schemas import (
    DAY_MS,
    MAX_BODY_BYTES,
    CallbackRequest,
    CallbackResponse,
    DeliveryItem,
    EventRequest,
    EventResponse,
    ReceivedEvent,
    RunEventRequest,
    RunEventResponse,
)
from dalang.api.problems import Malformed
from dalang.api.runs import MAX_KEY_LENGTH, IdempotencyKey, found_run, is_key
from dalang.api.services import Service
from dalang.errors import NotFound
from dalang.statuses import RunStatus
from dalang.store.callbacks import MAX_TOKEN, PREFIX, answer_callback
from dalang.store.external_events import NewEvent, get_event, put_event

router = APIRouter(prefix="/orchestrator", tags=["waiting"])


async def _event(request: Request, who: Operator) -> EventRequest:
    return checked(EventRequest, await read_json(request, MAX_BODY_BYTES))


async def _run_event(request: Request, who: Operator) -> RunEventRequest:
    return checked(RunEventRequest, await read_json(request, MAX_BODY_BYTES))


def _event_id(body: RunEventRequest, key: str | None) -> str:
    if key is not None and not is_key(key):
        raise Malformed(f"An Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable ASCII characters.")
    return body.event_id or (key or str(uuid4()))[:200]


@router.post("/events", status_code=202, openapi_extra=body_schema("application/json", model=EventRequest))
async def send_event(
    who: Operator, body: Annotated[EventRequest, Depends(_event)], it: Service, idempotency_key: IdempotencyKey = None
) -> EventResponse:
    """Send an event to every run that waits for it, now or while it is kept."""
    event_id = _event_id(body, idempotency_key)
    new = NewEvent(
        tenant_id=who.tenant_id,
        event_id=event_id,
        name=body.name,
        correlation_key=body.correlation_key,
        payload=body.payload,
        created_by=who.subject,
        ttl=timedelta(milliseconds=body.ttl or DAY_MS),
    )
    async with it.transaction(who.tenant_id) as conn:
        made = await put_event(conn, new)
    it.deliveries.wake()
    message = "Event accepted" if made else "Event was accepted before"
    return EventResponse(event_id=event_id, repeated=not made, message=message)


@router.get("/events/{eventId}")
async def get_one_event(who: Reader, eventId: str, it: Service) -> ReceivedEvent:
    """Read an event that is kept, and which runs it went to."""
    async with it.transaction(who.tenant_id) as conn:
        found = await get_event(conn, who.tenant_id, eventId)
    if found is None:
        raise NotFound(f"There is no event {eventId!r}, or it is not kept any more.")
    reached = [DeliveryItem(run_id=run_id, delivered_at=at) for run_id, at in found.deliveries]
    return ReceivedEvent.model_validate({**vars(found), "deliveries": reached})


@router.post("/runs/{runId}/events", openapi_extra=body_schema("application/json", model=RunEventRequest))
async def send_event_to_run(
    who: Operator,
    runId: UUID,
    body: Annotated[RunEventRequest, Depends(_run_event)],
    response: Response,
    it: Service,
    idempotency_key: IdempotencyKey = None,
) -> RunEventResponse:
    """Send an event to one run, which keeps it if no node waits for it yet."""
    event_id = _event_id(body, idempotency_key)
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId)
    payload = {
        "name": body.name,
        "correlationKey": body.correlation_key,
        "payload": body.payload,
        "eventId": event_id,
        "operator": who.subject,
    }
    outcome = await it.controls.tell(run, wire.UPDATE_EXTERNAL_EVENT, payload)
    message = "Event accepted"
    if not outcome.applied:
        response.status_code = 202
        message = "No worker answers at the moment; the event reaches the run when one is back."
    return RunEventResponse(run_id=runId, status=RunStatus(outcome.status), event_id=event_id, message=message)


@router.post(
    "/callbacks/{token}", status_code=202, openapi_extra=body_schema("application/json", model=CallbackRequest)
)
async def call_back(request: Request, token: str, it: Service) -> CallbackResponse:
    """Answer a node that waits for it; the address itself is what allows it."""
    if not token.startswith(PREFIX) or len(token) > MAX_TOKEN:
        raise NotFound("There is no such callback.")
    body = checked(CallbackRequest, await read_json(request, MAX_BODY_BYTES))
    async with it.bearers_transaction() as conn:
        await answer_callback(conn, token, body.answer())
    it.deliveries.wake()
    return CallbackResponse(message="The answer is accepted")
