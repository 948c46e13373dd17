"""What is pushed of a task: the statuses of its run, and its artifacts; what its nodes do is for streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from a2a.utils.proto_utils import to_stream_response
from google.protobuf.json_format import MessageToDict
from httpx import URL, InvalidURL

from dalang.api.a2a.inputs import invalid
from dalang.api.a2a.reading import CHUNK, Reading, last_of, reason_of
from dalang.api.a2a.updates import Update, updates_of
from dalang.api.auth import Principal
from dalang.api.services import Services
from dalang.egress import Refused
from dalang.statuses import RUN_ENDS, RunStatus
from dalang.store.a2a import contexts
from dalang.store.a2a_push import PushConfig

MAX_TEXT = 2_000


@dataclass(frozen=True)
class Notice:
    """What one event is told as, each a StreamResponse; ``position`` is the event's."""

    position: tuple[int, int]
    bodies: list[dict[str, Any]]
    is_last: bool


async def notices(it: Services, config: PushConfig) -> AsyncGenerator[Notice, None]:
    """Yield what a receiver was not told yet of its task."""
    reading = Reading(it, Principal(config.tenant_id, config.created_by, frozenset()))
    async with it.transaction(config.tenant_id) as conn:
        context_id = (await contexts(conn, config.tenant_id, [config.run_id]))[config.run_id]
    position, status, more = (config.sent_epoch, config.sent_seq), RunStatus.RUNNING, True
    while more:
        run, events, asked, auth = await reading.news(config.run_id, position)
        more = len(events) == CHUNK
        for event in events:
            position = event.epoch, event.seq
            updates: list[Update] = []
            if event.node_id is None and not event.superseded:
                facts = {"tasks": asked, "auth_nodes": auth, "outputs": run.outputs, "text": reason_of(event, run)}
                updates, status = updates_of(event, context_id, status, **facts)
            bodies = [MessageToDict(to_stream_response(one)) for one in updates]
            if bodies or event is events[-1]:
                yield Notice(position, bodies, status in RUN_ENDS)
    if run.status in RUN_ENDS and status not in RUN_ENDS:
        untold = [MessageToDict(to_stream_response(last_of(run, context_id)))] if run.head_seq == 0 else []
        yield Notice(position, untold, True)


def checked_url(it: Services, url: str) -> str:
    """Return an address that may be told.

    Raises:
        InvalidParamsError: it is none, or the operator does not allow it.
    """
    try:
        parts = URL(url)
        if parts.scheme not in ("http", "https") or not parts.host or len(url) > MAX_TEXT:
            raise InvalidURL("it begins with https://")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        it.settings.egress.check_host(parts.scheme, parts.raw_host.decode("ascii"), port)
    except (InvalidURL, Refused, UnicodeError) as error:
        raise invalid(f"Nobody is told at this address: {error}", "url") from error
    return url
