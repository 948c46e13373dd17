"""What tells streams that a run has new events; what is new is always read from the table."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from dalang.errors import Unavailable
from dalang.store.flush_statements import CHANNEL
from dalang.store.listening import Listener

MAX_STREAMS = 2_000


class EventFeed:
    """Wakes streams when ``listener`` hears of their runs, and bounds how many there are."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._count = 0

    def require_room(self) -> None:
        """Raise :class:`Unavailable` when this process has as many streams as it takes."""
        if self._count >= MAX_STREAMS:
            raise Unavailable(f"This server has {self._count} streams open; try again.")

    @contextmanager
    def subscribed(self, run_id: str) -> Iterator[asyncio.Event]:
        """Return an event that is set whenever something of the run was stored; clear it *before* reading."""
        self._count += 1
        try:
            with self._listener.waiting(CHANNEL, run_id) as wake:
                yield wake
        finally:
            self._count -= 1
