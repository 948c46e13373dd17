"""What a failed request to somebody else's service means, and how much it may answer: for adapters that send some."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from dalang.activities.egress import refusal_within
from dalang.nodes import (
    InvalidInput,
    NetworkError,
    NodeFailure,
    PolicyViolation,
    ResourceExhausted,
    TimedOut,
    ToolError,
)


def status_failure(response: httpx.Response, message: str, details: Mapping[str, Any]) -> NodeFailure:
    """Return the failure that an HTTP status means which was not expected.

    502, 503 and 504: the peer is away. 429: too much was asked. 408: too late. Of the rest 5xx may be better next time.
    """
    status = response.status_code
    if status in (502, 503, 504):
        return NetworkError(message, details=details, retry_after=_retry_after(response))
    if status == 429:
        return ResourceExhausted(message, details=details, retry_after=_retry_after(response))
    if status == 408:
        return ToolError(message, type="TIMEOUT", retryable=True, details=details)
    return ToolError(message, retryable=status >= 500, details=details)


def request_failure(error: BaseException, url: str) -> NodeFailure | None:
    """Return the failure that an exception of httpx means, also one that a library has wrapped; None: it is none.

    Where there was no connection it declares ``no_effect``.
    """
    refused = refusal_within(error)
    if refused is not None:
        refused.no_effect = True
        return refused
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (httpx.HTTPError, httpx.InvalidURL)):
        cause = cause.__cause__
    if cause is None:
        return None
    name = type(cause).__name__
    details: dict[str, Any] = {"exception": name}
    if isinstance(cause, httpx.HTTPStatusError):
        status = cause.response.status_code
        message = f"{url} answered {status} {cause.response.reason_phrase}".rstrip()
        if status in (401, 403):
            return PolicyViolation(message, details={"status": status})
        return status_failure(cause.response, message, {"status": status})
    if isinstance(cause, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
        return InvalidInput(f"{url} is no usable address: {cause}", no_effect=True)
    message = f"{url}: {name}: {cause}" if str(cause) else f"{url}: {name}"
    is_early = isinstance(cause, (httpx.ConnectError, httpx.ConnectTimeout))
    kind = TimedOut if isinstance(cause, httpx.TimeoutException) else NetworkError
    return kind(message, details=details, no_effect=is_early)


def _retry_after(response: httpx.Response) -> float | None:
    """Return for how many seconds the service wants to be left alone, if it says so."""
    told = response.headers.get("retry-after", "")
    if told.isdecimal():
        return float(told[:6])
    try:
        until = parsedate_to_datetime(told)
    except ValueError:
        return None
    return max((until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


class Bounded(httpx.AsyncByteStream):
    """A response of at most so many bytes: nobody else's program fills this process."""

    def __init__(self, inner: Any, limit: int) -> None:
        self._inner = inner
        self._left = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._left -= len(chunk)
            if self._left < 0:
                raise ToolError("the peer answers more than this worker reads")
            yield chunk

    async def aclose(self) -> None:
        """Close what it reads from."""
        await self._inner.aclose()
