"""Telling A2A clients of their tasks at the addresses they gave: in order, until they take it or it is given up.

Every API process does it, beside the others. Nothing of the SDK is loaded before there is somebody to tell.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx

from dalang.activities.egress import EgressRefused, http_client, refusal_within
from dalang.store import a2a_push
from dalang.store.a2a_push import PushConfig
from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.listening import woken

if TYPE_CHECKING:
    from dalang.api.services import Services

AT_ONCE = 16
CLAIM_SECONDS = 60.0
SEND_SECONDS = 10.0
LOOK_SECONDS, IDLE_SECONDS = 1.0, 5.0
"""How often all is looked at while somebody is to be told now or later, and while nobody is."""
MAX_ATTEMPTS = 12
MAX_DELAY_SECONDS = 600.0
MEDIA_TYPE = "application/a2a+json"

logger = logging.getLogger("dalang.api")


class Pusher:
    """Tells whoever is to be told; ``wake`` makes it look at once."""

    def __init__(self, it: Services) -> None:
        self._it = it
        self._engine = it.engine
        self._tasks: set[asyncio.Task[None]] = set()
        self.wake = asyncio.Event()

    async def push_for_ever(self) -> None:
        """Tell until cancelled; what is away meanwhile is only logged."""
        async with http_client(rules=self._it.settings.egress, follow_redirects=False, timeout=SEND_SECONDS) as client:
            try:
                while True:
                    seconds = IDLE_SECONDS
                    try:
                        seconds = await self._look(client)
                    except Exception as error:
                        if not is_connection_error(error):
                            logger.exception("push notifications failed")
                    await woken(self.wake, seconds)
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look(self, client: httpx.AsyncClient) -> float:
        free = AT_ONCE - len(self._tasks)
        async with system_transaction(self._engine) as conn:
            if not await a2a_push.is_open(conn):
                return IDLE_SECONDS
            claimed = await a2a_push.claim(conn, free, CLAIM_SECONDS) if free else []
        for config in claimed:
            task = asyncio.create_task(self._tell(client, config))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return LOOK_SECONDS

    async def _tell(self, client: httpx.AsyncClient, config: PushConfig) -> None:
        try:
            await self._told(client, config)
        except Exception as error:  # the claim ends by itself, and somebody tries again
            if not is_connection_error(error):
                logger.exception("telling of task %s failed", config.run_id)

    async def _told(self, client: httpx.AsyncClient, config: PushConfig) -> None:
        from dalang.api.a2a.notices import notices  # the SDK takes a while to load

        ended = False
        async with aclosing(notices(self._it, config)) as found:
            async for notice in found:
                for body in notice.bodies:
                    error = await _post(client, config, body)
                    if error is not None:
                        await self._failed(config, error)
                        return
                async with system_transaction(self._engine) as conn:
                    if not await a2a_push.moved(conn, config, *notice.position, CLAIM_SECONDS):
                        return
                config = replace(config, attempts=0)
                ended = notice.is_last
        async with system_transaction(self._engine) as conn:
            await a2a_push.settled(conn, config, ended=ended)

    async def _failed(self, config: PushConfig, error: str) -> None:
        tries = config.attempts + 1
        again = None if tries >= MAX_ATTEMPTS else min(2.0**config.attempts, MAX_DELAY_SECONDS)
        logger.info("task %s: %s was not told: %s", config.run_id, config.config_id, error)
        async with system_transaction(self._engine) as conn:
            await a2a_push.failed(conn, config, error, again)


async def _post(client: httpx.AsyncClient, config: PushConfig, body: dict[str, Any]) -> str | None:
    """Tell one thing; return why it was not taken."""
    headers = {"Content-Type": MEDIA_TYPE}
    if config.token:
        headers["X-A2A-Notification-Token"] = config.token
    if config.scheme and config.credentials:
        headers["Authorization"] = f"{config.scheme} {config.credentials}"
    try:
        async with (
            asyncio.timeout(SEND_SECONDS),
            client.stream("POST", config.url, json=body, headers=headers) as answer,
        ):
            pass  # the status alone counts
    except TimeoutError:
        return f"no answer within {SEND_SECONDS:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, EgressRefused, ValueError) as error:
        refused = refusal_within(error)
        return f"no answer: {type(error).__name__}" if refused is None else str(refused)[:300]
    return None if answer.is_success else f"HTTP {answer.status_code}"
