"""LISTEN: a connection of its own that hears notifications, made anew whenever it is lost; and who waits for them.

A notification only wakes; what is new is read from the tables, so that one that is lost costs a few seconds: everybody
also looks by himself now and then, and all are woken when the connection was made anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dalang.store.engine import create_engine, is_connection_error

PROBE_SECONDS = 10.0
"""How soon a connection that died without a word is noticed."""
RECONNECT_SECONDS = 1.0
ANY = "*"
"""Who waits for this payload is woken by every notification of the channel."""

logger = logging.getLogger("dalang.listening")


async def listen_for_ever(
    database_url: str,
    channels: Sequence[str],
    heard: Callable[[str, str], None],
    *,
    connected: Callable[[], Awaitable[None]] | None = None,
    lost: Callable[[], None] | None = None,
    probed: Callable[[], Awaitable[None]] | None = None,
    probe_seconds: float = PROBE_SECONDS,
) -> None:
    """Call ``heard`` with channel and payload of every notification, until cancelled.

    ``connected`` is called when a connection listens, before anything is waited for: what it reads then misses nothing.
    ``lost`` is called when it does no longer, ``probed`` each time it was seen to be alive.
    """
    while True:
        try:
            await _listen(database_url, channels, heard, connected, probed, probe_seconds)
        except Exception as error:  # whatever it was, those who wait go on by looking themselves
            if is_connection_error(error):
                logger.warning("the listening connection was lost: %s", type(error).__name__)
            else:
                logger.exception("listening to %s failed", ", ".join(channels))
        finally:
            if lost is not None:
                lost()
        await asyncio.sleep(RECONNECT_SECONDS)


async def _listen(
    database_url: str,
    channels: Sequence[str],
    heard: Callable[[str, str], None],
    connected: Callable[[], Awaitable[None]] | None,
    probed: Callable[[], Awaitable[None]] | None,
    probe_seconds: float,
) -> None:
    async with create_engine(database_url, pooled=False).connect() as conn:
        raw: Any = (await conn.get_raw_connection()).driver_connection
        for channel in channels:
            await raw.add_listener(channel, lambda _conn, _pid, channel, payload: heard(channel, payload))
        if connected is not None:
            await connected()
        while True:
            await asyncio.sleep(probe_seconds)
            await raw.execute("SELECT 1", timeout=5)
            if probed is not None:
                await probed()


class Listener:
    """Wakes whoever waits for a channel's payload; :meth:`listen` runs beside them.

    ``listening`` is set while notifications are heard.
    """

    def __init__(self, database_url: str, channels: Sequence[str]) -> None:
        self._url = database_url
        self._channels = tuple(channels)
        self._waiting: dict[tuple[str, str], set[asyncio.Event]] = {}
        self.listening = asyncio.Event()

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
        await listen_for_ever(
            self._url, self._channels, self._heard, connected=self._connected, lost=self.listening.clear
        )

    async def _connected(self) -> None:
        self.listening.set()
        for wakes in self._waiting.values():
            for wake in wakes:
                wake.set()

    def _heard(self, channel: str, payload: str) -> None:
        for one in (payload, ANY):
            for wake in self._waiting.get((channel, one), ()):
                wake.set()


async def woken(wake: asyncio.Event, seconds: float) -> None:
    """Wait for the event, so long at most, and clear it."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await wake.wait()
    except TimeoutError:
        pass
    wake.clear()
