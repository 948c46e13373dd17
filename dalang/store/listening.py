"""One listening connection of a process, for many who each wait for a notification of their own.

A notification only wakes; what is new is read from the tables, so that one that is lost costs a few seconds: everybody
also looks by himself now and then, and all are woken when the connection was made anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dalang.store.engine import create_engine

PROBE_SECONDS = 10.0
"""How soon a connection that died without a word is noticed."""
RECONNECT_SECONDS = 1.0

logger = logging.getLogger("dalang.listening")


class Listener:
    """Wakes whoever waits for a channel's payload; :meth:`listen` runs beside them."""

    def __init__(self, database_url: str, channels: Sequence[str]) -> None:
        self._url = database_url
        self._channels = tuple(channels)
        self._waiting: dict[tuple[str, str], set[asyncio.Event]] = {}

    @contextmanager
    def waiting(self, channel: str, payload: str) -> Iterator[asyncio.Event]:
        """Return an event that is set by each such notification; clear it *before* reading."""
        wake = asyncio.Event()
        self._waiting.setdefault((channel, payload), set()).add(wake)
        try:
            yield wake
        finally:
            self._waiting[channel, payload].discard(wake)
            if not self._waiting[channel, payload]:
                del self._waiting[channel, payload]

    async def listen(self) -> None:
        """Listen until cancelled, connecting again whenever the connection is lost."""
        while True:
            try:
                await self._listen_once()
            except Exception as error:  # whatever it was, those who wait go on by looking themselves
                logger.warning("the listening connection was lost: %s", type(error).__name__)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        engine = create_engine(self._url, pooled=False)
        async with engine.connect() as conn:
            raw: Any = (await conn.get_raw_connection()).driver_connection
            for channel in self._channels:
                await raw.add_listener(channel, self._notified)
            for wakes in self._waiting.values():
                for wake in wakes:
                    wake.set()
            while True:
                await asyncio.sleep(PROBE_SECONDS)
                await raw.execute("SELECT 1", timeout=5)

    def _notified(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        for wake in self._waiting.get((channel, payload), ()):
            wake.set()


async def woken(wake: asyncio.Event, seconds: float) -> None:
    """Wait for the event, so long at most, and clear it."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await wake.wait()
    except TimeoutError:
        pass
    wake.clear()
