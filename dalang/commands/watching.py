"""Following a run to its end, whatever happens to the API meanwhile: by its events, or by looking now and then."""

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
LOOK_SECONDS = 0.5
"""How often a run is looked at whose events are not told."""
Event = dict[str, Any]
Say = Callable[[str | None], None]


class Patience:
    """How long one bears with an API that is away; ``say`` is told of it, and None when it is back."""

    def __init__(self, run_id: str, say: Say, seconds: float = PATIENCE_SECONDS) -> None:
        self._run_id, self._say, self._seconds = run_id, say, seconds
        self._lost: float | None = None
        self._pause = 0.2

    def back(self) -> None:
        """It has answered."""
        if self._lost is not None:
            self._lost, self._pause = None, 0.2
            self._say(None)

    def wait(self, reason: Exception) -> None:
        """It does not answer: wait a moment.

        Raises:
            Unreachable: it has been away for too long.
        """
        now = time.monotonic()
        self._lost = self._lost or now
        if now - self._lost > self._seconds:
            raise Unreachable(
                f"{reason} It has been away for {self._seconds:.0f} s; the run goes on without it.",
                hint=f"`dalang watch {self._run_id}` goes on watching.",
            )
        if now > self._lost:
            self._say("the API is away, connecting again; the run goes on")
        time.sleep(self._pause)
        self._pause = min(self._pause * 2, 2.0)


def follow(
    client: ApiClient,
    run_id: str,
    *,
    after: str | None = None,
    say: Say = lambda text: None,
    patience: float = PATIENCE_SECONDS,
) -> Iterator[Event]:
    """Yield the run's events from the one after ``after`` until it has ended.

    A lost connection is made again from the last event. ``say`` is told when the API is away, and None when it
    is back.

    Raises:
        Unreachable: it was away for ``patience`` seconds.
        CommandFailure: the API refuses.
    """
    waiting = Patience(run_id, say, patience)
    while True:
        try:
            for identity, text in client.events(run_id, after):
                waiting.back()
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
        waiting.wait(reason)


def looks(client: ApiClient, run_id: str, *, say: Say = lambda text: None) -> Iterator[dict[str, Any]]:
    """Yield how the run stands, now and then until it has ended: what that costs, no number of nodes changes.

    Raises:
        Unreachable: the API was away for too long.
        CommandFailure: it refuses.
    """
    waiting = Patience(run_id, say)
    while True:
        try:
            run = client.get(f"/runs/{run_id}")
        except Unreachable as error:
            waiting.wait(error)
            continue
        waiting.back()
        yield run
        if run["status"] in RUN_ENDS:
            return
        time.sleep(LOOK_SECONDS)


def is_end(event: Event) -> bool:
    """Tell whether this event is the run's last."""
    return event.get("nodeId") is None and (event.get("data") or {}).get("status") in RUN_ENDS


def _unread(client: ApiClient, run_id: str, after: str | None) -> bool:
    """Tell whether the ended run has events that were not seen: a run that never began has none."""
    return bool(client.get(f"/runs/{run_id}/events", after=after, limit=1)["items"])
