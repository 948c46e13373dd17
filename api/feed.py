"""What tells streams that a run has new events: one listening connection per process, shared by all streams.

A notification only wakes; what is new is always read from the table, so a lost one costs a few seconds at most: each
stream also looks by itself, and all are woken when the connection was made anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dalang.errors import Unavailable
from dalang.store.engine import create_engine
from dalang.store.recording import CHANNEL

logger = logging.getLogger("dalang.api.feed")

MAX_STREAMS = 2_000
PROBE_SECONDS = 10.0
"""How soon a connection that died without a word is noticed."""
RECONNECT_SECONDS = 1.0


class EventFeed:
    """Wakes streams; :meth:`listen` runs beside them."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._count = 0
        self.listening = asyncio.Event()

    def require_room(self) -> None:
        """Raise :class:`Unavailable` when this process has as many streams as it takes."""
        if self._count >= MAX_STREAMS:
            raise Unavailable(f"This server has {self._count} streams open; try again.")

    @contextmanager
    def subscribed(self, run_id: str) -> Iterator[asyncio.Event]:
        """Return an event that is set whenever something of the run was stored; clear it *before* reading."""
        wake = asyncio.Event()
        self._waiting.setdefault(run_id, set()).add(wake)
        self._count += 1
        try:
            yield wake
        finally:
            self._count -= 1
            self._waiting[run_id].discard(wake)
            if not self._waiting[run_id]:
                del self._waiting[run_id]

    async def listen(self) -> None:
        """Listen until cancelled, connecting again whenever the connection is lost."""
        while True:
            try:
                await self._listen_once()
            except Exception as error:  # whatever it was, streams go on by looking themselves
                logger.warning("the listening connection was lost: %s", type(error).__name__)
            finally:
                self.listening.clear()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        engine = create_engine(self._url, pooled=False)
        async with engine.connect() as conn:
            raw: Any = (await conn.get_raw_connection()).driver_connection
            await raw.add_listener(CHANNEL, self._notified)
            self.listening.set()
            self._wake_all()
            while True:
                await asyncio.sleep(PROBE_SECONDS)
                await raw.execute("SELECT 1", timeout=5)

    def _notified(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        for wake in self._waiting.get(payload, ()):
            wake.set()

    def _wake_all(self) -> None:
        for wakes in self._waiting.values():
            for wake in wakes:
                wake.set()
