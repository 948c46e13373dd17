"""What people send into a run: payloads of signals and updates, checked here so that none can harm it."""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from dalang.canonical import find_unsafe
    from dalang.events import CancelRequested, PauseRequested, ResumeRequested
    from dalang.run import Run
    from dalang.statuses import ImpossibleMove

INVALID_REQUEST = "INVALID_REQUEST"
"""Type of the error that answers an update with a malformed payload (HTTP 422)."""
WRONG_STATE = "WRONG_STATE"
"""Type of the error that answers an update that does not fit the run's status (HTTP 409)."""

MAX_TEXT = 2_000
Control = PauseRequested | ResumeRequested | CancelRequested


class Malformed(Exception):
    """The payload is not what the request takes; the text says what is wrong."""


def parse(kind: type[Control], payload: Any) -> Control:
    """Return the event for ``{"operator": text, "reason": text}``, both optional, or for no payload at all.

    Raises:
        Malformed: it is anything else. Unknown fields are refused: a misspelt ``reason`` should not vanish.
    """
    if payload is None:
        payload = {}
    if not isinstance(payload, dict):
        raise Malformed(f"the payload is a JSON object with operator and reason, not {_kind(payload)}")
    unknown = [str(key)[:50] for key in payload if key not in ("operator", "reason")]
    if unknown:
        raise Malformed(f"unknown field {unknown[0]!r}; there are operator and reason")
    for key, value in payload.items():
        if value is not None and not isinstance(value, str):
            raise Malformed(f"{key} is a text, not {_kind(value)}")
        if value is not None and len(value) > MAX_TEXT:
            raise Malformed(f"{key} has {len(value)} characters; at most {MAX_TEXT}")
        unsafe = find_unsafe(value)
        if unsafe is not None:
            raise Malformed(f"{key} {unsafe[1]}")
    return kind(operator=payload.get("operator"), reason=payload.get("reason"))


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "null" if value is None else "something else")


def check(run: Run, kind: type[Control], payload: Any) -> Control:
    """Return the event of an update that is well formed and possible now; validator and handler both ask this.

    Raises:
        ApplicationError: INVALID_REQUEST or WRONG_STATE, with a sentence for the caller.
    """
    try:
        event = parse(kind, payload)
    except Malformed as malformed:
        raise ApplicationError(str(malformed), type=INVALID_REQUEST, non_retryable=True) from None
    refusal: ImpossibleMove | None = run.refusal(event)
    if refusal is not None:
        raise ApplicationError(str(refusal), type=WRONG_STATE, non_retryable=True)
    return event
