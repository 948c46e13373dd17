"""What is seen of every request: a line in the log, a span that goes on from the caller's, and what both are about."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from dalang import tracing
from dalang.about import tell, telling

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
QUIET = ("/health/live", "/health/ready", "/metrics")
"""Asked all the time by machines: logged at DEBUG, and not traced."""
NO_ROUTE = "(none)"

logger = logging.getLogger("dalang.access")


@dataclass
class Seen:
    """A request, of which more is known when it is answered."""

    scope: Scope
    span: tracing.Span

    def answered(self, status: int, seconds: float) -> None:
        """Log it, and say in its span how it went; by its route, since addresses may hold what opens things."""
        route, method = route_of(self.scope), method_of(self.scope)
        fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1)}
        level = logging.DEBUG if route in QUIET else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(level, "%s %s %d", method, route, status, extra={"fields": fields})
        self.span.update_name(f"{method} {route}")
        self.span.set_attribute("http.route", route)
        self.span.set_attribute("http.response.status_code", status)
        if status >= 500:
            tracing.mark_failed(str(status))


@contextmanager
def observed(scope: Scope, request_id: str) -> Iterator[Seen]:
    """Observe a request for the length of the block."""
    with telling(request=request_id):
        if scope["path"] in QUIET or tracing.tracer() is None:
            yield Seen(scope, tracing.NOTHING)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes = {"http.request.method": method_of(scope), "dalang.request_id": request_id}
        with tracing.span(method_of(scope), "server", attributes, headers) as span:
            yield Seen(scope, span)


def is_by(tenant_id: str, path: Mapping[str, Any]) -> None:
    """Say who asks, and of which run and node; whoever let the request in knows."""
    tell(tenant=tenant_id, run=path.get("runId"), node=path.get("nodeId"))
    tracing.describe()


def is_about(run_id: str) -> None:
    """Say which run a request is about that does not name it in its address."""
    tell(run=run_id)
    tracing.describe()


def route_of(scope: Scope) -> str:
    """Return the template of the request's address: addresses themselves would be without number."""
    return getattr(scope.get("route"), "path", None) or NO_ROUTE


def method_of(scope: Scope) -> str:
    """Return the request's method, if it is one that there is."""
    return scope["method"] if scope["method"] in METHODS else "other"
