"""What people send into a run: payloads of signals and updates, checked here so that none can harm it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.canonical import MAX_INTEGER, compact_json, find_unsafe
    from dalang.errors import ErrorPayload, ErrorType, SuggestedAction
    from dalang.events import (
        BudgetRaised,
        CallbackReceived,
        CancelRequested,
        ExternalEvent,
        PauseRequested,
        ResumeRequested,
        RetryRequested,
        SkipRequested,
        TaskClaimed,
        TaskDecided,
        TaskDelegated,
        TaskReleased,
    )
    from dalang.interrupting import PauseMode
    from dalang.run import Run
    from dalang.statuses import ImpossibleMove, UnacceptableContent
    from dalang.usage import MAX_COST
    from dalang.wait_inputs import MAX_CORRELATION_KEY, MAX_EVENT_NAME

INVALID_REQUEST = "INVALID_REQUEST"
"""Type of the error that answers an update whose payload is malformed, or lacks what it needs (HTTP 422)."""
WRONG_STATE = "WRONG_STATE"
"""Type of the error that answers an update that does not fit the run's status (HTTP 409)."""

UNAUTHENTICATED = "UNAUTHENTICATED"
"""Type of the error that answers an update which does not prove who sends it, where that is needed (HTTP 409)."""

MAX_TEXT = 2_000
MAX_VALUES_BYTES = 256 * 1024
MAX_ID = 200
MAX_NAMES = 1_000
MAX_WALL_TIME_MS = 100 * 365 * 24 * 3600 * 1000
"""A hundred years: a timer cannot wait for ever."""
Control = (
    PauseRequested
    | ResumeRequested
    | CancelRequested
    | RetryRequested
    | SkipRequested
    | ExternalEvent
    | CallbackReceived
    | TaskDecided
    | TaskClaimed
    | TaskReleased
    | TaskDelegated
    | BudgetRaised
)


class Malformed(Exception):
    """The payload is not what the request takes; the text says what is wrong."""


@dataclass(frozen=True)
class Field:
    """A field of a payload: what checks it, what the event calls it if not the same, and whether it must be there."""

    check: Callable[[str, Any], Any]
    name: str | None = None
    required: bool = False


def parse(kind: type[Control], payload: Any) -> Control:
    """Return the event for a payload, an object with the fields of :data:`REQUESTS`.

    Raises:
        Malformed: it is anything else. Unknown fields are refused: a misspelt ``reason`` should not vanish.
    """
    request = REQUESTS[kind]
    known = ", ".join(request)
    if payload is None:
        payload = {}
    if not isinstance(payload, dict):
        raise Malformed(f"the payload is a JSON object with {known}, not {_kind(payload)}")
    unknown = [str(key)[:50] for key in payload if key not in request]
    if unknown:
        raise Malformed(f"unknown field {unknown[0]!r}; there are {known}")
    given: dict[str, Any] = {}
    for key, about in request.items():
        value = payload.get(key)
        if value is not None:
            given[about.name or key] = about.check(key, value)
        elif about.required:
            raise Malformed(f"{key} is missing")
    return kind(**given)


def one_of(key: str, value: Any, words: Sequence[str]) -> str:
    """Return one of ``words``; raises Malformed."""
    if value not in words:
        raise Malformed(f"{key} is {' or '.join(words)}")
    return str(value)


def text(key: str, value: Any, limit: int = MAX_TEXT) -> str:
    """Return a text that can be recorded; raises Malformed."""
    if not isinstance(value, str):
        raise Malformed(f"{key} is a text, not {_kind(value)}")
    if len(value) > limit:
        raise Malformed(f"{key} has {len(value)} characters; at most {limit}")
    unsafe = find_unsafe(value)
    if unsafe is not None:
        raise Malformed(f"{key} {unsafe[1]}")
    return value


def an_object(key: str, value: Any) -> dict[str, Any]:
    """Return an object that can be recorded; raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"{key} is an object, not {_kind(value)}")
    unsafe = find_unsafe(value)
    if unsafe is not None:
        raise Malformed(f"{key}{unsafe[0]} {unsafe[1]}")
    if len(compact_json(value)) > MAX_VALUES_BYTES:
        raise Malformed(f"{key} has more than {MAX_VALUES_BYTES:,} bytes")
    return value


def name(key: str, value: Any, limit: int = MAX_ID) -> str:
    """Return a text that names or identifies something, so that it is not empty; raises Malformed."""
    if not text(key, value, limit):
        raise Malformed(f"{key} is missing")
    return str(value)


def names(key: str, value: Any) -> tuple[str, ...]:
    """Return a list of names; raises Malformed."""
    if not isinstance(value, list):
        raise Malformed(f"{key} is a list, not {_kind(value)}")
    if len(value) > MAX_NAMES:
        raise Malformed(f"{key} has {len(value)} entries; at most {MAX_NAMES}")
    return tuple(name(key, one) for one in value)


def flag(key: str, value: Any) -> bool:
    """Return true or false; raises Malformed."""
    if not isinstance(value, bool):
        raise Malformed(f"{key} is true or false, not {_kind(value)}")
    return value


def count(key: str, value: Any, limit: int = MAX_INTEGER) -> int:
    """Return a whole number from 0; raises Malformed."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise Malformed(f"{key} is a number from 0 to {limit}")
    return value


def amount(key: str, value: Any) -> float:
    """Return a cost; raises Malformed."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_COST:
        raise Malformed(f"{key} is an amount from 0 to {MAX_COST:g}")
    return value


def an_error(key: str, value: Any) -> dict[str, Any]:
    """Return an ErrorPayload in wire form that somebody outside reports; raises Malformed."""
    given = an_object(key, value)
    kind = one_of(f"{key}.type", given.get("type", ErrorType.TOOL_ERROR), tuple(ErrorType))
    action = given.get("suggestedAction")
    return ErrorPayload(
        type=ErrorType(kind),
        message=text(f"{key}.message", given.get("message", "")),
        details=an_object(f"{key}.details", given.get("details", {})),
        retryable=flag(f"{key}.retryable", given.get("retryable", False)),
        suggested_action=action and SuggestedAction(one_of(f"{key}.suggestedAction", action, tuple(SuggestedAction))),
    ).wire()


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null" if value is None else "something else")


_SAID = {"operator": Field(text), "reason": Field(text)}
_TASK = {"taskId": Field(name, "task", required=True), "operator": Field(name, required=True), "groups": Field(names)}

REQUESTS: dict[type[Control], Mapping[str, Field]] = {
    PauseRequested: {"mode": Field(partial(one_of, words=tuple(PauseMode))), **_SAID},
    ResumeRequested: _SAID,
    CancelRequested: _SAID,
    BudgetRaised: {
        "tokens": Field(count),
        "cost": Field(amount),
        "nodes": Field(count),
        "wallTimeMs": Field(partial(count, limit=MAX_WALL_TIME_MS), "wall_time"),
        **_SAID,
    },
    RetryRequested: {"nodeId": Field(text, "node", required=True), "inputs": Field(an_object), **_SAID},
    SkipRequested: {"nodeId": Field(text, "node", required=True), "outputs": Field(an_object), **_SAID},
    ExternalEvent: {
        "name": Field(partial(name, limit=MAX_EVENT_NAME), required=True),
        "correlationKey": Field(partial(text, limit=MAX_CORRELATION_KEY), "correlation_key"),
        "payload": Field(an_object),
        "eventId": Field(partial(text, limit=MAX_ID), "event_id"),
        "operator": Field(text),
    },
    CallbackReceived: {
        "nodeId": Field(name, "node", required=True),
        "callbackId": Field(name, "callback_id", required=True),
        "generation": Field(count),
        "outputs": Field(an_object),
        "error": Field(an_error),
    },
    TaskDecided: {
        **_TASK,
        "action": Field(name, required=True),
        "digest": Field(name),
        "values": Field(an_object),
        "outputs": Field(an_object),
        "inputs": Field(an_object),
        "notes": Field(text),
        "decisionId": Field(name, "decision_id"),
    },
    TaskClaimed: _TASK,
    TaskReleased: {**_TASK, "override": Field(flag)},
    TaskDelegated: {**_TASK, "to": Field(name), "toGroup": Field(name, "to_group"), "override": Field(flag)},
}
"""The fields of every request's payload."""
NAMES: dict[type[Control], str] = {
    PauseRequested: wire.UPDATE_PAUSE,
    ResumeRequested: wire.UPDATE_RESUME,
    CancelRequested: wire.UPDATE_CANCEL,
    BudgetRaised: wire.UPDATE_RAISE_BUDGET,
    RetryRequested: wire.UPDATE_RETRY_NODE,
    SkipRequested: wire.UPDATE_SKIP_NODE,
    ExternalEvent: wire.UPDATE_EXTERNAL_EVENT,
    CallbackReceived: wire.UPDATE_CALLBACK,
    TaskDecided: wire.UPDATE_COMPLETE_TASK,
    TaskClaimed: wire.UPDATE_CLAIM_TASK,
    TaskReleased: wire.UPDATE_RELEASE_TASK,
    TaskDelegated: wire.UPDATE_DELEGATE_TASK,
}
"""What every request is called, as an update and as a signal."""


def check(run: Run, kind: type[Control], payload: Any, at: int) -> Control:
    """Return the event of an update that is well formed and possible now; validator and handler both ask this.

    Raises:
        ApplicationError: INVALID_REQUEST or WRONG_STATE, with a sentence for the caller.
    """
    event = checked(kind, payload)
    refusal: ImpossibleMove | None = run.refusal(event, at)
    if refusal is not None:
        kind_of_refusal = INVALID_REQUEST if isinstance(refusal, UnacceptableContent) else WRONG_STATE
        raise ApplicationError(str(refusal), type=kind_of_refusal, non_retryable=True)
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
