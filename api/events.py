"""Events of runs: as a list, and as a stream (Server-Sent Events) that resumes without loss or repetition."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import anyio
from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from dalang.api.auth import Principal, Reader
from dalang.api.runs import found_run
from dalang.api.schemas import EventItem, EventPage, EventQuery
from dalang.api.services import Service, Services
from dalang.errors import InvalidDocument, Problem
from dalang.statuses import RUN_ENDS
from dalang.store.engine import is_connection_error
from dalang.store.events import Event, event_later, list_events
from dalang.store.runs import Run
from dalang.wire import EventType

router = APIRouter(prefix="/orchestrator/runs/{runId}/events", tags=["events"])

ENDS = frozenset({EventType.PLAN_COMPLETED, EventType.PLAN_FAILED, EventType.PLAN_CANCELLED})
CHUNK = 200
"""Events read at once for a stream: all that it keeps, however slow its client is."""
SCANNED = 20_000
"""Events looked at for one page of a list that is narrowed to types."""
LOOK_SECONDS = 3.0
"""A stream looks by itself this often: a notification may be lost."""
KEEP_ALIVE_SECONDS = 15
SEND_SECONDS = 60.0
"""A client that takes nothing for so long is let go."""
STOP_SECONDS = 2.0
"""What a stream gets to end in order when the server stops; its reader resumes elsewhere."""
_ID = re.compile(r"(\d{1,9})\.(\d{1,18})", re.ASCII)
Position = tuple[int, int]


@router.get("")
async def get_events(who: Reader, runId: UUID, query: Annotated[EventQuery, Query()], it: Service) -> EventPage:
    """List the events of a run, the oldest first."""
    position = _position(query.after)
    async with it.transaction(who.tenant_id, seconds=30) as conn:
        await found_run(conn, who, runId)
        until = None
        if query.type and query.node_id is None:
            until = await event_later(conn, who.tenant_id, runId, after=position, count=SCANNED)
        found = await list_events(
            conn,
            who.tenant_id,
            runId,
            after=position,
            until=until,
            limit=query.limit + 1,
            node_id=query.node_id,
            types=query.type or (),
            bodies=query.bodies,
            resolved=query.bodies,
        )
    if len(found) > query.limit:
        found = found[: query.limit]
        until = found[-1].epoch, found[-1].seq
    following = None if until is None else f"{until[0]}.{until[1]}"
    return EventPage(items=[_item(event) for event in found], next=following)


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The stream."},
    204: {"description": "The run has ended and nothing follows; a browser stops reconnecting."},
}


@router.get("/stream", response_class=EventSourceResponse, responses=_STREAM)
async def stream_events(
    who: Reader,
    runId: UUID,
    request: Request,
    it: Service,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=50)] = None,
    lastEventId: Annotated[str | None, Query(max_length=50, description="As the header Last-Event-ID.")] = None,
    bodies: Annotated[bool, Query(description="With inputs, outputs and errors.")] = False,
) -> Response:
    """Stream the events of a run as they are stored, from the beginning or after Last-Event-ID, until the run ends.

    Each has its `epoch.seq` as id, its type as event name, and its JSON as data.
    """
    it.feed.require_room()
    after = _position(last_event_id or lastEventId)
    async with it.transaction(who.tenant_id) as conn:
        run = await found_run(conn, who, runId)
    if _is_over(run, after):
        return Response(status_code=204)
    stopping = anyio.Event()
    return event_stream(_stream(it, who, runId, after, bodies, stopping), stopping)


def event_stream(events: AsyncIterator[ServerSentEvent], stopping: anyio.Event) -> EventSourceResponse:
    """Return the answer that streams ``events`` until the server stops, which sets ``stopping`` first."""
    return EventSourceResponse(
        events,
        shutdown_event=stopping,
        shutdown_grace_period=STOP_SECONDS,
        ping=KEEP_ALIVE_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="keep-alive"),
        send_timeout=SEND_SECONDS,
        headers={"X-Accel-Buffering": "no"},
    )


async def _stream(
    it: Services, who: Principal, run_id: UUID, after: Position | None, bodies: bool, stopping: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    # Subscribed before the first read: what is stored in between wakes us.
    with it.feed.subscribed(str(run_id)) as wake:
        position = after
        while not stopping.is_set():
            wake.clear()
            try:
                async with it.transaction(who.tenant_id) as conn:
                    run = await found_run(conn, who, run_id)
                    events = await list_events(
                        conn, who.tenant_id, run_id, after=position, limit=CHUNK, bodies=bodies, resolved=False
                    )
            except Exception as error:
                if not is_connection_error(error):
                    raise
                await asyncio.sleep(1)  # the database is away: the stream lives on, and keep-alives say so
                continue
            for event in events:
                position = event.epoch, event.seq
                yield ServerSentEvent(_data(event, bodies), event=event.type, id=event.id)
                if event.type in ENDS and not event.superseded:
                    return
            if len(events) == CHUNK:
                continue
            if not events and _is_over(run, position):
                return
            await any_of(wake, stopping, seconds=LOOK_SECONDS)


async def any_of(*events: asyncio.Event | anyio.Event, seconds: float) -> None:
    """Wait until one of ``events`` is set, at most so long."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


def _is_over(run: Run, position: Position | None) -> bool:
    """Tell whether the run has ended and the reader has all of it."""
    head = run.head_epoch, run.head_seq
    return run.status in RUN_ENDS and (position or (0, 0)) >= head


def _position(text: str | None) -> Position | None:
    """Return the place that an event's id stands for.

    Raises:
        InvalidDocument: it is no such id.
    """
    if text is None or text == "":
        return None
    found = _ID.fullmatch(text)
    if found is None or int(found[1]) >= 2**31 or int(found[2]) >= 2**63:
        raise InvalidDocument([Problem(pointer="", code="BAD_VALUE", message="An event's id is epoch.seq.")], "request")
    return int(found[1]), int(found[2])


def _item(event: Event) -> EventItem:
    known = {name: getattr(event, name) for name in EventItem.model_fields if hasattr(event, name)}
    return EventItem.model_validate({**known, **event.seen})


def _data(event: Event, bodies: bool) -> str:
    exclude = None if bodies else {"body"}
    return json.dumps(_item(event).model_dump(mode="json", by_alias=True, exclude=exclude), ensure_ascii=False)
