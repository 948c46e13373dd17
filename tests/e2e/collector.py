"""What watches, in tests: a collector of traces that speaks OTLP over HTTP, and a service that says who called it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """A span."""

    name: str
    service: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Outside:
    """What was sent to the collector, and how the service was called: headers by path, each time."""

    address: str = ""
    spans: dict[str, Seen] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    calls: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def take(self, body: bytes) -> None:
        """Read what an exporter sent."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                for one in scope.spans:
                    seen = Seen(
                        one.name,
                        about["service.name"],
                        one.trace_id.hex(),
                        one.span_id.hex(),
                        one.parent_span_id.hex(),
                        one.kind,
                        one.status.code == 2,
                        {pair.key: _value(pair.value) for pair in one.attributes},
                    )
                    self.spans[seen.id] = seen

    def chain(self, span_id: str) -> list[str]:
        """Return the names of a span and those above it, up to one that is not ours."""
        names = []
        while span_id in self.spans:
            names.append(self.spans[span_id].name)
            span_id = self.spans[span_id].parent
        return [*names, span_id]


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


class _Handler(BaseHTTPRequestHandler):
    outside: Outside

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.outside.headers = dict(self.headers)
        self.outside.take(body)
        self._answer(200, b"", "application/x-protobuf")

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        calls = self.outside.calls.setdefault(path, [])
        calls.append({name.lower(): value for name, value in self.headers.items()})
        if path == "/ill-once" and len(calls) == 1:
            self._answer(503, b"not now", "text/plain")
        else:
            self._answer(200, json.dumps({"ok": True}).encode(), "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def outside() -> Iterator[Outside]:
    """Serve for the length of the block."""
    made = Outside()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"outside": made}))
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
