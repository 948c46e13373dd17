"""Following a run to its end: its events in order, each once, whatever happens to the API meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from dalang.commands.client import ApiClient
from dalang.commands.failures import Unreachable
from dalang.statuses import RUN_ENDS

PATIENCE_SECONDS = 300.0
"""How long an API may be away before watching gives up; the run does not notice."""
Event = dict[str, Any]


def follow(
    client: ApiClient,
    run_id: str,
    *,
    after: str | None = None,
    say: Callable[[str | None], None] = lambda text: None,
    patience: float = PATIENCE_SECONDS,
) -> Iterator[Event]:
    """Yield the run's events from the one after ``after`` until it has ended.

    A lost connection is made again from the last event. ``say`` is told when the API is away, and None when it
    is back.

    Raises:
        Unreachable: it was away for ``patience`` seconds.
        CommandFailure: the API refuses.
    """
    lost: float | None = None
    pause = 0.2
    while True:
        try:
            for identity, text in client.events(run_id, after):
                if lost is not None:
                    lost, pause = None, 0.2
                    say(None)
                event = json.loads(text)
                if not isinstance(event, dict) or "type" not in event:
                    continue
                after = identity or event.get("id") or after
                yield event
                if is_end(event):
                    return
            if client.get(f"/runs/{run_id}")["status"] in RUN_ENDS and not _unread(client, run_id, after):
                return
            reason: Exception = Unreachable("the stream ended")
        except httpx.TransportError as error:
            reason = client.unreachable(error)
        except Unreachable as error:
            reason = error
        now = time.monotonic()
        lost = lost or now
        if now - lost > patience:
            raise Unreachable(
                f"{reason} It has been away for {patience:.0f} s; the run goes on without it.",
                hint=f"`dalang watch {run_id}` goes on watching.",
            )
        if now > lost:
            say("the API is away, connecting again; the run goes on")
        time.sleep(pause)
        pause = min(pause * 2, 2.0)


def is_end(event: Event) -> bool:
    """Tell whether this event is the run's last."""
    return event.get("nodeId") is None and (event.get("data") or {}).get("status") in RUN_ENDS


def _unread(client: ApiClient, run_id: str, after: str | None) -> bool:
    """Tell whether the ended run has events that were not seen: a run that never began has none."""
    return bool(client.get(f"/runs/{run_id}/events", after=after, limit=1)["items"])
