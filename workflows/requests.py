"""What people send into a run: payloads of signals and updates, checked here so that none can harm it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from dalang.canonical import compact_json, find_unsafe
    from dalang.events import (
        CancelRequested,
        ExternalEvent,
        PauseRequested,
        ResumeRequested,
        RetryRequested,
        SkipRequested,
    )
    from dalang.run import Run
    from dalang.statuses import ImpossibleMove
    from dalang.wait_inputs import MAX_CORRELATION_KEY, MAX_EVENT_NAME

INVALID_REQUEST = "INVALID_REQUEST"
"""Type of the error that answers an update with a malformed payload (HTTP 422)."""
WRONG_STATE = "WRONG_STATE"
"""Type of the error that answers an update that does not fit the run's status (HTTP 409)."""

MAX_TEXT = 2_000
MAX_VALUES_BYTES = 256 * 1024
MAX_ID = 200
Control = PauseRequested | ResumeRequested | CancelRequested | RetryRequested | SkipRequested | ExternalEvent


class Malformed(Exception):
    """The payload is not what the request takes; the text says what is wrong."""


@dataclass(frozen=True)
class _Request:
    """The fields of a payload besides operator and reason; ``values`` is the one that holds an object."""

    make: Callable[..., Control]
    node: bool = False
    values: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return (*(("nodeId",) if self.node else ()), *((self.values,) if self.values else ()), "operator", "reason")


_REQUESTS: dict[type[Control], _Request] = {
    PauseRequested: _Request(PauseRequested),
    ResumeRequested: _Request(ResumeRequested),
    CancelRequested: _Request(CancelRequested),
    RetryRequested: _Request(RetryRequested, node=True, values="inputs"),
    SkipRequested: _Request(SkipRequested, node=True, values="outputs"),
}


def parse(kind: type[Control], payload: Any) -> Control:
    """Return the event for a payload: ``{"operator": text, "reason": text}``, for a node also nodeId and its values.

    Raises:
        Malformed: it is anything else. Unknown fields are refused: a misspelt ``reason`` should not vanish.
    """
    reader = READERS.get(kind)
    if reader is not None:
        return reader(payload)
    request = _REQUESTS[kind]
    payload = _fields({} if payload is None else payload, request.fields)
    given: dict[str, Any] = {key: _text(key, payload.get(key)) for key in ("operator", "reason")}
    if request.node:
        given["node"] = _text("nodeId", payload.get("nodeId"))
        if given["node"] is None:
            raise Malformed("nodeId is missing")
    if request.values:
        given[request.values] = _object(request.values, payload.get(request.values))
    return request.make(**given)


def _external_event(payload: Any) -> ExternalEvent:
    given = _fields(payload, ("name", "correlationKey", "payload", "eventId", "operator"))
    name = _text("name", given.get("name"), MAX_EVENT_NAME)
    if not name:
        raise Malformed("name is missing")
    return ExternalEvent(
        name,
        _text("correlationKey", given.get("correlationKey"), MAX_CORRELATION_KEY) or "",
        _object("payload", given.get("payload")) or {},
        _text("eventId", given.get("eventId"), MAX_ID),
        _text("operator", given.get("operator")),
    )


READERS: dict[type[Control], Callable[[Any], Control]] = {ExternalEvent: _external_event}
"""How the payloads are read that have fields of their own."""


def _fields(payload: Any, names: Sequence[str]) -> dict[str, Any]:
    known = ", ".join(names)
    if not isinstance(payload, dict):
        raise Malformed(f"the payload is a JSON object with {known}, not {_kind(payload)}")
    unknown = [str(key)[:50] for key in payload if key not in names]
    if unknown:
        raise Malformed(f"unknown field {unknown[0]!r}; there are {known}")
    return payload


def _text(key: str, value: Any, limit: int = MAX_TEXT) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise Malformed(f"{key} is a text, not {_kind(value)}")
    if len(value) > limit:
        raise Malformed(f"{key} has {len(value)} characters; at most {limit}")
    unsafe = find_unsafe(value)
    if unsafe is not None:
        raise Malformed(f"{key} {unsafe[1]}")
    return value


def _object(key: str, value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Malformed(f"{key} is an object, not {_kind(value)}")
    unsafe = find_unsafe(value)
    if unsafe is not None:
        raise Malformed(f"{key}{unsafe[0]} {unsafe[1]}")
    if len(compact_json(value)) > MAX_VALUES_BYTES:
        raise Malformed(f"{key} has more than {MAX_VALUES_BYTES:,} bytes")
    return value


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "null" if value is None else "something else")


def check(run: Run, kind: type[Control], payload: Any) -> Control:
    """Return the event of an update that is well formed and possible now; validator and handler both ask this.

    Raises:
        ApplicationError: INVALID_REQUEST or WRONG_STATE, with a sentence for the caller.
    """
    event = checked(kind, payload)
    refusal: ImpossibleMove | None = run.refusal(event)
    if refusal is not None:
        raise ApplicationError(str(refusal), type=WRONG_STATE, non_retryable=True)
    return event


def checked(kind: type[Control], payload: Any) -> Control:
    """Return the event of a well-formed payload.

    Raises:
        ApplicationError: INVALID_REQUEST.
    """
    try:
        return parse(kind, payload)
    except Malformed as malformed:
        raise ApplicationError(str(malformed), type=INVALID_REQUEST, non_retryable=True) from None
