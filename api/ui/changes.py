"""``/ui/live/{topic}``: tells a page of a list that something on it changed; what it is, the page asks for again.

Streams are woken by the notification that any run has new events, look at most once a second, and by themselves every
few seconds: what tells two states of a topic apart is one cheap row (``store/topics.py``), not what it consists of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import anyio
from fastapi import APIRouter, Response
from sse_starlette import ServerSentEvent

from dalang.api.auth import Principal, Reader
from dalang.api.events import any_of, event_stream
from dalang.api.services import Service, Services
from dalang.store.engine import is_connection_error
from dalang.store.listening import ANY
from dalang.store.topics import version_of_runs, version_of_tasks

router = APIRouter(include_in_schema=False)

LOOK_SECONDS = 5.0
BETWEEN_SECONDS = 1.0
"""A busy tenant's page is drawn anew no more often than this."""
_VERSIONS = {"runs": version_of_runs, "tasks": version_of_tasks}
Topic = Literal["runs", "tasks"]


@router.get("/ui/live/{topic}")
async def stream_changes(who: Reader, topic: Topic, it: Service) -> Response:
    """Stream an event ``changed`` now, and whenever the topic is another than before."""
    it.feed.require_room()
    stopping = anyio.Event()
    return event_stream(_stream(it, who, topic, stopping), stopping)


async def _stream(it: Services, who: Principal, topic: Topic, stopping: anyio.Event) -> AsyncIterator[ServerSentEvent]:
    seen: str | None = None
    with it.feed.subscribed(ANY) as wake:
        while not stopping.is_set():
            wake.clear()
            try:
                async with it.transaction(who.tenant_id) as conn:
                    version = await _VERSIONS[topic](conn, who.tenant_id)
            except Exception as error:
                if not is_connection_error(error):
                    raise
                version = seen or ""  # the database is away: the page stays as it is
            if version != seen:
                seen = version
                yield ServerSentEvent(version, event="changed")
            await asyncio.sleep(BETWEEN_SECONDS)
            await any_of(wake, stopping, seconds=LOOK_SECONDS)
