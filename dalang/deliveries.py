"""The way of events and callbacks from Postgres into runs, as signals.

What is to be sent is always read from the tables (``store/external_events.py``, ``store/callbacks.py``): a notification
only wakes, and every few seconds all is looked at again. Rows stay locked while they are sent and are marked when
Temporal has taken the signal, so whatever crashes, an event may be sent twice, which its id makes harmless, but never
not at all. Several processes may do it side by side.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from dalang import wire
from dalang.errors import Unavailable
from dalang.launch import TemporalLink
from dalang.store.callbacks import lock_answers, mark_answers
from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.external_events import (
    BATCH,
    CHANNEL,
    delete_expired_events,
    lock_deliveries,
    mark_delivered,
    match_events,
)
from dalang.store.listening import listen_for_ever

LOOK_SECONDS = 3.0
"""How late something is sent whose notification was lost."""
TIDY_SECONDS = 300.0
RPC_SECONDS = 5.0

logger = logging.getLogger("dalang.deliveries")


class _ToRun(Protocol):
    @property
    def run_id(self) -> UUID: ...

    @property
    def workflow_id(self) -> str | None: ...


T = TypeVar("T", bound=_ToRun)


class Deliveries:
    """Sends what is to be sent."""

    def __init__(self, link: TemporalLink, engine: AsyncEngine, database_url: str) -> None:
        self._link = link
        self._engine = engine
        self._url = database_url
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look now: this process has just stored something."""
        self._wake.set()

    async def deliver(self) -> int:
        """Send everything that is to be sent; return how much that was.

        Raises:
            Unavailable: Temporal is away.
        """
        async with system_transaction(self._engine) as conn:
            await match_events(conn)
        count = await self._send_all(lock_answers, mark_answers, wire.SIGNAL_CALLBACK, _callback)
        return count + await self._send_all(lock_deliveries, mark_delivered, wire.SIGNAL_EXTERNAL_EVENT, _event)

    async def _send_all(
        self,
        lock: Callable[[AsyncConnection], Awaitable[list[T]]],
        mark: Callable[[AsyncConnection, Sequence[T]], Awaitable[None]],
        signal: str,
        payload: Callable[[T], Mapping[str, Any]],
    ) -> int:
        count = 0
        while True:
            async with system_transaction(self._engine) as conn:
                found = await lock(conn)
                if not found:
                    return count
                client = await self._link.client()
                by_run: dict[UUID, list[T]] = {}
                for one in found:
                    by_run.setdefault(one.run_id, []).append(one)
                parts = await asyncio.gather(*(_send(client, signal, part, payload) for part in by_run.values()))
                sent = [one for part in parts for one in part]
                await mark(conn, sent)
            count += len(sent)
            if len(found) < BATCH or not sent:
                return count

    async def tidy(self) -> None:
        """Delete what has expired."""
        async with system_transaction(self._engine) as conn:
            await delete_expired_events(conn)

    async def deliver_for_ever(self) -> None:
        """Deliver whenever something may be to be sent, until cancelled; what is away meanwhile is only logged."""
        hear = listen_for_ever(
            self._url,
            [CHANNEL],
            lambda *_: self._wake.set(),
            connected=self._look,
            probe_seconds=LOOK_SECONDS,
        )
        listening = asyncio.create_task(hear)
        loop = asyncio.get_running_loop()
        tidy_at = loop.time() + TIDY_SECONDS
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wake.wait()
                self._wake.clear()
                try:
                    await self.deliver()
                    if loop.time() >= tidy_at:
                        tidy_at = loop.time() + TIDY_SECONDS
                        await self.tidy()
                except (Unavailable, RPCError) as error:
                    logger.warning("events and callbacks wait: %s", error)
                except Exception as error:
                    if not is_connection_error(error):
                        logger.exception("delivering events and callbacks failed")
        finally:
            listening.cancel()

    async def _look(self) -> None:
        self._wake.set()


async def _send(client: Client, signal: str, part: Sequence[T], payload: Callable[[T], Mapping[str, Any]]) -> list[T]:
    """Send what one run gets, in order, and return what Temporal has taken: after a refusal the rest waits."""
    sent: list[T] = []
    for one in part:
        handle = client.get_workflow_handle(one.workflow_id or f"{wire.WORKFLOW_ID_PREFIX}{one.run_id}")
        try:
            await handle.signal(signal, dict(payload(one)), rpc_timeout=timedelta(seconds=RPC_SECONDS))
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                logger.warning("run %s was not told of what came for it: %s", one.run_id, error.message)
                return sent
            # It has ended, and wants nothing any more.
        sent.append(one)
    return sent


def _event(one: Any) -> dict[str, Any]:
    return {
        "name": one.name,
        "correlationKey": one.correlation_key,
        "payload": one.payload,
        "eventId": one.event_id,
    }


def _callback(one: Any) -> dict[str, Any]:
    return {
        "nodeId": one.node_id,
        "callbackId": str(one.callback_id),
        "generation": one.generation,
        **one.answer,
    }
