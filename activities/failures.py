"""From a handler's exception to an ErrorPayload, and from that to what Temporal shall do next."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic import ValidationError
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from dalang.activities.egress import refusal_within
from dalang.canonical import compact_json, find_unsafe, safe_text
from dalang.errors import ErrorPayload, ErrorType
from dalang.made import provenance_ref
from dalang.masking import Mask
from dalang.nodes import NodeFailure
from dalang.retries import asked_delay_ms, delay_ms, told_delay_ms
from dalang.wire import Checkpoint

MAX_DETAILS_BYTES = 16 * 1024
NOTHING = Mask()


def classify(error: BaseException, mask: Mask = NOTHING) -> ErrorPayload:
    """Return what ``error`` means: a typed failure as it says, a known exception by its kind, else UNKNOWN_ERROR.

    Masked first and cut afterwards: what is left of a secret at a cut would not be found.
    """
    error = refusal_within(error) or error
    if isinstance(error, NodeFailure):
        return ErrorPayload(
            type=error.type,
            message=safe_text(mask.text(error.message)),
            details=mask(_safe_details(error.details)),
            retryable=error.retryable,
            suggested_action=error.suggested_action,
            no_effect=error.no_effect or None,
            retry_after_ms=None if error.retry_after is None else max(round(error.retry_after * 1000), 0),
        )
    name = type(error).__name__
    text = safe_text(mask.text(f"{name}: {error}") if str(error) else name)
    kind, retryable = _kind(error)
    return ErrorPayload(type=kind, message=text, details={"exception": name}, retryable=retryable)


def _kind(error: BaseException) -> tuple[ErrorType, bool]:
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return ErrorType.TIMEOUT, True
    if isinstance(error, httpx.LocalProtocolError):
        return ErrorType.VALIDATION_ERROR, False  # what it was asked to send is no HTTP
    if isinstance(error, (ConnectionError, httpx.TransportError)):
        return ErrorType.NETWORK_ERROR, True
    if isinstance(error, ValidationError):
        return ErrorType.VALIDATION_ERROR, False
    if isinstance(error, MemoryError):
        return ErrorType.RESOURCE_EXHAUSTED, True
    return ErrorType.UNKNOWN_ERROR, True


def _safe_details(details: Mapping[str, Any]) -> dict[str, Any]:
    unsafe = find_unsafe(details)
    if unsafe is not None:
        return {"unrecorded": f"details{unsafe[0]} {unsafe[1]}"}
    if len(compact_json(details)) > MAX_DETAILS_BYTES:
        return {"unrecorded": f"details over {MAX_DETAILS_BYTES} bytes"}
    return dict(details)


def completed(payload: ErrorPayload, node_id: str, run_id: str, attempt: int, max_attempts: int) -> dict[str, Any]:
    """Return the wire form with where and when it happened filled in."""
    return payload.model_copy(
        update={
            "origin_node": node_id,
            "origin_run_id": run_id,
            "attempt": attempt,
            "max_attempts": max_attempts,
            "provenance_ref": provenance_ref(run_id, node_id),
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
    ).wire()


def to_temporal(
    payload: Mapping[str, Any],
    retry: Mapping[str, Any],
    attempt: int,
    checkpoint: Checkpoint | None = None,
    used: Mapping[str, Any] | None = None,
) -> ApplicationError:
    """Return the exception that makes Temporal repeat the attempt, or not, as the node's retry policy says.

    Its details are the ErrorPayload, the checkpoint, which an operator's retry goes on from, and what was used.
    """
    left = [checkpoint, dict(used)] if used else [checkpoint] if checkpoint is not None else []
    repeat = bool(payload.get("retryable")) and payload["type"] in retry["retryOn"]
    return ApplicationError(
        payload.get("message", ""),
        dict(payload),
        *left,
        type=payload["type"],
        non_retryable=not repeat,
        # An attempt that fails is the node's business, recorded as such; it is no defect of the worker to be logged.
        category=ApplicationErrorCategory.BENIGN,
        next_retry_delay=next_delay(retry, attempt, asked_delay_ms(payload)) if repeat else None,
    )


def next_delay(retry: Mapping[str, Any], attempt: int, asked_ms: int = 0) -> timedelta | None:
    """Return the delay after ``attempt``, at least ``asked_ms``, or None where Temporal computes it by its policy."""
    ms = told_delay_ms(retry, attempt, random.uniform)
    if asked_ms > (delay_ms(retry, attempt) if ms is None else ms):
        ms = asked_ms
    return None if ms is None else timedelta(milliseconds=ms)
