"""Traces by OpenTelemetry: nothing unless a process was told where to send them, and then one trace for all it caused.

Without :func:`start` everything here does nothing and costs next to nothing; the library (``dalang[otel]``) is loaded
by it alone. Every span tells what the work at hand is about (``about.py``) as ``dalang.run_id``, ``dalang.node_id``,
``dalang.plan``, ``dalang.tenant``; never inputs, outputs, or addresses in full: those may hold secrets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from dalang.about import told
from dalang.errors import DalangError

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, Any]

INSTALL = "pip install 'dalang[otel]'"
NAME = "dalang"
SEND_SECONDS = 3.0
"""How long a collector may take, with all that is tried again: a process that ends waits for it, and not for long."""
TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
_ABOUT = {"run": "dalang.run_id", "node": "dalang.node_id", "plan": "dalang.plan", "tenant": "dalang.tenant"}
_RUN_WORKFLOW = "run-"


class TracesSettings(Protocol):
    """What :func:`start` needs of the settings."""

    @property
    def otel_endpoint(self) -> str:
        """Where they are sent; empty: nowhere."""

    @property
    def otel_headers(self) -> str:
        """With which headers."""

    @property
    def otel_service_name(self) -> str:
        """What this process is called; empty: as it calls itself."""

    @property
    def otel_resource_attributes(self) -> str:
        """What more is said of it."""

    @property
    def otel_sample_ratio(self) -> float:
        """Share of the traces that begin here that are recorded."""


class NoTracing(DalangError):
    """Traces are wanted, and the library that makes them is not installed."""


class Span(Protocol):
    """What is traced."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Say something of it."""

    def update_name(self, name: str) -> None:
        """Call it something else."""


class _NoSpan:
    def set_attribute(self, key: str, value: Any) -> None:
        """Say nothing."""

    def update_name(self, name: str) -> None:
        """Stay without a name."""


class _Process:
    """What this process traces with."""

    provider: Any = None
    tracer: Any = None
    propagator: Any = None


NOTHING: Span = _NoSpan()
"""What is not traced."""


def start(settings: TracesSettings, service: str) -> None:
    """Trace what this process does from now on, if the settings say where to.

    Raises:
        NoTracing: they do, and the library is not there.
    """
    if not settings.otel_endpoint or _Process.tracer is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError as error:
        raise NoTracing(f"traces need a library that is not here ({error}): {INSTALL}") from None
    attributes = {**_pairs(settings.otel_resource_attributes), "service.name": settings.otel_service_name or service}
    provider = TracerProvider(
        resource=Resource.create(attributes), sampler=ParentBasedTraceIdRatio(settings.otel_sample_ratio)
    )
    provider.add_span_processor(_about_spans())
    exporter = OTLPSpanExporter(settings.otel_endpoint, headers=_pairs(settings.otel_headers), timeout=SEND_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    _Process.provider, _Process.tracer = provider, provider.get_tracer(NAME)
    _Process.propagator = TraceContextTextMapPropagator()


def stop() -> None:
    """Send what was traced, and trace no more; waits for it, so not in an event loop."""
    provider, _Process.provider, _Process.tracer, _Process.propagator = _Process.provider, None, None, None
    if provider is not None:
        provider.shutdown()


def flush() -> None:
    """Send what was traced so far; waits for it."""
    if _Process.provider is not None:
        _Process.provider.force_flush()


def provider() -> Any:
    """Return OpenTelemetry's tracer provider, for libraries that trace by themselves; None: nothing is traced."""
    return _Process.provider


def tracer() -> Any:
    """Return OpenTelemetry's tracer; None: nothing is traced."""
    return _Process.tracer


@contextmanager
def span(
    name: str, kind: Kind = "internal", attributes: Attributes | None = None, carrier: Mapping[str, str] | None = None
) -> Iterator[Span]:
    """Trace the block; what it raises marks the span as failed, by its type. ``carrier``: headers of who asked."""
    if _Process.tracer is None:
        yield NOTHING
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    context = None if carrier is None else _Process.propagator.extract(carrier)
    with _Process.tracer.start_as_current_span(
        name,
        context,
        kind=SpanKind[kind.upper()],
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except BaseException as error:
            # Not its text: that may tell what no trace should, and it stands in the node's error.
            made.set_attribute("error.type", type(error).__name__)
            made.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def describe(attributes: Attributes | None = None) -> None:
    """Say of the span that is open here what the work at hand is about, and these attributes."""
    if _Process.tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes({**_about(), **(attributes or {})})


def mark_failed(kind: str) -> None:
    """Say of the span that is open here that what it traces failed."""
    if _Process.tracer is not None:
        from opentelemetry.trace import Status, StatusCode, get_current_span

        get_current_span().set_attribute("error.type", kind)
        get_current_span().set_status(Status(StatusCode.ERROR, kind))


def inject(headers: MutableMapping[str, str]) -> None:
    """Give a request that goes out the trace that it belongs to."""
    if _Process.tracer is not None:
        _Process.propagator.inject(headers)


async def on_request(request: Any) -> None:
    """Give a request its trace: for ``event_hooks`` of clients that are not made by ``activities/egress.py``."""
    inject(request.headers)


def traceparent() -> str | None:
    """Return the W3C ``traceparent`` of what is traced here."""
    headers: dict[str, str] = {}
    inject(headers)
    return headers.get(TRACEPARENT)


def trace_id() -> str | None:
    """Return the id of the trace that is open here, in hexadecimal digits."""
    if _Process.tracer is None:
        return None
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def _about() -> dict[str, Any]:
    known = told()
    return {attribute: known[name] for name, attribute in _ABOUT.items() if name in known}


def _about_spans() -> Any:
    from opentelemetry.sdk.trace import SpanProcessor

    class About(SpanProcessor):
        """Says of every span what it is about, also of those that libraries make."""

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            found = _about()
            workflow_id = (span.attributes or {}).get("temporalWorkflowID", "")
            if "dalang.run_id" not in found and str(workflow_id).startswith(_RUN_WORKFLOW):
                found["dalang.run_id"] = str(workflow_id).removeprefix(_RUN_WORKFLOW)
            span.set_attributes(found)

    return About()


def _pairs(text: str) -> dict[str, str]:
    """Read ``name=value,name=value``, percent-encoded as OpenTelemetry wants it."""
    from urllib.parse import unquote

    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}
