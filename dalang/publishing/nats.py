"""NATS: JetStream, one message per event, in structured mode; ``Nats-Msg-Id`` is the event's id.

The subject is ``<prefix>.<tenant>.<type>``, where whatever a subject cannot hold is written as ``=`` and its code. A
stream of the operator's has to take these subjects. An event that is sent again within the stream's window for
duplicates (two minutes, unless the operator says otherwise) is stored once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dalang.cloud_events import MEDIA_TYPE, CloudEvent, encode
from dalang.publishing.target import Failure, Sent
from dalang.store.subscriptions import Subscription

if TYPE_CHECKING:
    from nats.aio.client import Client

CONNECT_SECONDS = 5
ACK_SECONDS = 5.0
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


def subject_of(prefix: str, tenant_id: str, type_: str) -> str:
    """Return the subject of an event."""
    return ".".join((prefix, _token(tenant_id), _token(type_)))


def _token(text: str) -> str:
    return _UNFIT.sub(lambda found: f"={ord(found[0]):x}=", text) or "="


class Nats:
    """Publishes over one connection, made when it is first needed and again when it was lost."""

    at_once = 100

    def __init__(self, servers: Sequence[str], options: Mapping[str, Any] | None = None) -> None:
        self._servers = list(servers)
        self._options = dict(options or {})
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    async def send(self, subscription: Subscription, events: Sequence[CloudEvent]) -> Sent:
        """Publish one after the other, each when the one before is stored."""
        from nats.errors import Error, MaxPayloadError
        from nats.js.errors import APIError, NoStreamResponseError

        count = 0
        try:
            stream = (await self._connected()).jetstream(timeout=ACK_SECONDS)
            for event in events:
                subject = subject_of(subscription.target["subject"], event["tenant"], event["type"])
                headers = {"Nats-Msg-Id": event["id"], "Content-Type": f"{MEDIA_TYPE}; charset=utf-8"}
                await stream.publish(subject, encode(event), headers=headers)
                count += 1
        except NoStreamResponseError:
            return Sent(count, Failure(f"no stream takes the subject {subject}", away=True))
        except MaxPayloadError:
            return Sent(count, Failure("the event is larger than the server takes", refused=True))
        except APIError as error:
            return Sent(count, Failure(f"JetStream: {error.description or error.code}"[:300], away=True))
        except (Error, OSError, TimeoutError) as error:
            await self._forget()
            return Sent(count, Failure(f"NATS does not answer: {type(error).__name__}", away=True))
        return Sent(count)

    async def close(self) -> None:
        """Close the connection."""
        await self._forget()

    async def _connected(self) -> Client:
        from nats.aio.client import Client

        async with self._connecting:
            if self._client is None or not self._client.is_connected:
                await self._forget()
                client = Client()
                options: dict[str, Any] = {"name": "dalang", "connect_timeout": CONNECT_SECONDS, **self._options}
                # Each server twice and no pause, instead of sixty times: whoever sends comes again by himself.
                options |= {"max_reconnect_attempts": 1, "reconnect_time_wait": 0}
                async with asyncio.timeout(CONNECT_SECONDS * 2):
                    await client.connect(self._servers, error_cb=_ignore, allow_reconnect=False, **options)
                self._client = client
            return self._client

    async def _forget(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):  # it is of no use any more, whatever it says
                await asyncio.wait_for(client.close(), 2)


async def _ignore(_error: Exception) -> None:
    """Whoever sends hears of it; the library would log a traceback."""
