"""Traces through Temporal: a run goes on with the trace of the request that started it, its activities with the run's.

The SDK's own interceptor carries the trace in headers and makes spans of what workflows do. It adds no command, so
histories replay with it and without; while nothing is traced there is none.
"""

from __future__ import annotations

from typing import Any

from dalang.tracing import tracer


def tracing_interceptors() -> list[Any]:
    """Return what clients, and workers by their clients, trace with; nothing unless this process traces."""
    made_by = tracer()
    if made_by is None:
        return []
    from temporalio.contrib.opentelemetry import TracingInterceptor

    return [TracingInterceptor(made_by)]
