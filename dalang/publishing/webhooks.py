"""Webhooks: one POST per event, a CloudEvent in structured mode, signed by the conventions of Standard Webhooks.

With the format ``openlineage`` it is a RunEvent instead, and events that have none are not sent.

Any 2xx takes the event; everything else, silence for too long included, does not. Redirects are not followed. 410 says
that nothing more is wanted; 429 and 503 may say with Retry-After when to come again. What a receiver answers beyond its
status is not kept: it is a stranger's text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from dalang import __version__
from dalang.activities.egress import EgressRefused, refusal_within
from dalang.canonical import compact_json
from dalang.cloud_events import MEDIA_TYPE, CloudEvent, encode
from dalang.openlineage import of_cloud_event
from dalang.publishing.target import Failure, Sent
from dalang.secret_references import SCHEME
from dalang.store.subscriptions import Subscription, valid_secrets
from dalang.webhook_signatures import signed_headers

SECONDS = 10.0
Reveal = Callable[[str, str], str | None]
MAX_ANSWER_BYTES = 16 * 1024
MAX_RETRY_AFTER_SECONDS = 86_400.0


class Webhooks:
    """Calls receivers; ``seconds`` is how long one may take to answer, ``reveal`` knows a tenant's secrets by name."""

    at_once = 1

    def __init__(
        self, client: Callable[[], httpx.AsyncClient], seconds: float = SECONDS, reveal: Reveal = lambda *_: None
    ) -> None:
        self._make = client
        self._reveal = reveal
        self._made: httpx.AsyncClient | None = None
        self._seconds = seconds

    async def send(self, subscription: Subscription, events: Sequence[CloudEvent]) -> Sent:
        """Send the first of ``events``."""
        failure = await self._post(subscription, events[0])
        return Sent(0, failure) if failure else Sent(1)

    async def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            await self._made.aclose()

    async def _post(self, subscription: Subscription, event: CloudEvent) -> Failure | None:
        body, media_type = encode(event), MEDIA_TYPE
        if subscription.target.get("format") == "openlineage":
            lineage = of_cloud_event(event)
            if lineage is None:
                return None  # nothing of it is told in that form
            body, media_type = compact_json(lineage), "application/json"
        now = datetime.now(UTC)
        try:
            valid = [self._secret(subscription, one["secret"]) for one in valid_secrets(subscription.secrets, now)]
            headers = {
                "Content-Type": f"{media_type}; charset=utf-8",
                "User-Agent": f"Dalang/{__version__}",
                **signed_headers(valid, event["id"], int(now.timestamp()), body),
            }
        except ValueError as error:
            return Failure(f"it cannot be signed: {error}")
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._client().stream(
                    "POST", subscription.target["url"], content=body, headers=headers, follow_redirects=False
                ) as answer,
            ):
                await _drain(answer)
        except (TimeoutError, httpx.TimeoutException):
            return Failure(f"no answer within {self._seconds:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, EgressRefused) as error:
            refused = refusal_within(error)
            return Failure(f"no answer: {type(error).__name__}" if refused is None else str(refused)[:300])
        return _failure(answer)

    def _secret(self, subscription: Subscription, secret: str) -> str:
        """Return what to sign with: the secret, or what it refers to."""
        if not secret.startswith(SCHEME):
            return secret
        name = secret.removeprefix(SCHEME)
        value = self._reveal(subscription.tenant_id, name)
        if value is None:
            raise ValueError(f"there is no secret {name!r}")
        return value.strip()

    def _client(self) -> httpx.AsyncClient:
        if self._made is None:
            self._made = self._make()
        return self._made


async def _drain(answer: httpx.Response) -> None:
    """Read the rest, so that the connection can be used again; the status alone counts."""
    size = 0
    with suppress(httpx.HTTPError):
        async for part in answer.aiter_raw():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                return


def _failure(answer: httpx.Response) -> Failure | None:
    if answer.is_success:
        return None
    reason = f"HTTP {answer.status_code}"
    if answer.is_redirect:
        reason += ", and redirects are not followed"
    return Failure(reason, gone=answer.status_code == 410, retry_after=_retry_after(answer.headers))


def _retry_after(headers: Any) -> float | None:
    """Return for how many seconds a receiver asks for patience."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return min(float(value), MAX_RETRY_AFTER_SECONDS)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(until - time.time(), 0.0), MAX_RETRY_AFTER_SECONDS)
