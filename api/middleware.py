"""What every request passes: its id, its deadline, its metrics, and the catch-all that leaves no error unanswered."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from urllib.parse import unquote_to_bytes

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dalang.api.noticing import notice
from dalang.api.observing import Seen, method_of, observed, route_of
from dalang.api.problems import Malformed, answer, request_of
from dalang.errors import Unavailable

logger = logging.getLogger("dalang.api")

DEADLINE_SECONDS = 60.0
"""Until the answer begins. The longest honest request is validating a plan of 100,000 nodes in YAML."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class Metrics:
    """Counters of this process, in a registry of its own, so that two apps in one process do not mix."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the series, and nobody reads them
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self.requests = Counter("dalang_http_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "dalang_http_request_seconds", "Time until the answer began.", ["method", "route"], registry=self.registry
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request under its route's template: addresses themselves would be without number."""
        route, method = route_of(scope), method_of(scope)
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)


class RequestContext:
    """The outermost layer of the app, plain ASGI, so that streams pass unbuffered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        with observed(scope, request_id) as seen:
            await self._serve(scope, receive, send, seen)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, seen: Seen) -> None:
        request_id = scope["state"]["request_id"]
        begun, status, running = time.perf_counter(), 0, True

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if running:
                    deadline.reschedule(None)  # a stream may last
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
                seconds = time.perf_counter() - begun
                self._metrics.count(scope, status, seconds)
                seen.answered(status, seconds)
                await notice(scope, status)
            await send(message)

        try:
            async with asyncio.timeout(DEADLINE_SECONDS) as deadline:
                scope["state"]["deadline"] = deadline  # for routes whose answer may take as long as a run
                _check_address(scope)
                await self._app(scope, receive, send_with_headers)
        except Exception as error:
            running = False
            if status:  # the answer has begun: all that is left is to break it off
                logger.exception("request %s broke off", request_id)
                raise
            if isinstance(error, TimeoutError):
                error = Unavailable("The request took too long; try again.")
            response = answer(request_of(scope), error)
            await response(scope, receive, send_with_headers)


def _check_address(scope: Scope) -> None:
    """Refuse what PostgreSQL has no text for, before it looks like an error of ours."""
    query = unquote_to_bytes(scope.get("query_string", b""))
    if "\x00" in scope["path"] or b"\x00" in query:
        raise Malformed("The address holds the character U+0000.")
    try:
        scope["path"].encode()
        query.decode()
    except UnicodeError:
        raise Malformed("The address is not UTF-8.") from None
