"""Waiting: inputs of the node types ``timer`` and ``event``, and the field ``callback``.

What each type takes is said by ``dalang/wait_inputs.py``; what holds no expression is checked before a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dalang.durations import parse_duration
from dalang.implementations import carried_out_as
from dalang.instants import parse_instant
from dalang.plan import Node
from dalang.validation.report import Problems, shown
from dalang.validation.structure import NodeAt
from dalang.wait_inputs import MAX_CORRELATION_KEY, MAX_EVENT_NAME, MAX_WAIT_MS


def wait_duration(value: Any) -> str | None:
    """Return what is wrong with how long a node waits, or None."""
    try:
        ms = parse_duration(value)
    except ValueError as error:
        return f"is no duration: {error}, not {shown(value)}."
    return None if ms <= MAX_WAIT_MS else "is longer than 366 days."


def _until(value: Any) -> str | None:
    try:
        parse_instant(value)
    except ValueError as error:
        return f"is no time: {error}, not {shown(value)}."
    return None


def _name(value: Any) -> str | None:
    fits = isinstance(value, str) and 0 < len(value) <= MAX_EVENT_NAME
    return None if fits else f"is a text of 1 to {MAX_EVENT_NAME} characters, not {shown(value)}."


def _key(value: Any) -> str | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    fits = is_number or (isinstance(value, str) and len(value) <= MAX_CORRELATION_KEY)
    return None if fits else f"is a text of at most {MAX_CORRELATION_KEY} characters, not {shown(value)}."


TIMER_INPUTS: Mapping[str, Callable[[Any], str | None]] = {"duration": wait_duration, "until": _until}
EVENT_INPUTS: Mapping[str, Callable[[Any], str | None]] = {
    "name": _name,
    "correlationKey": _key,
    "timeout": lambda value: None if value is None else wait_duration(value),
}

_CALL_NOBODY = frozenset(
    ("noop", "sleep", "timer", "event", "human", "plan", "map", "loop", "wasm", "container", "runtime-hub")
)


def check_callback(node: NodeAt, model: Node, problems: Problems) -> None:
    """Check the field ``callback``: that something of the node could be called back, and when it gives up."""
    if model.callback is None:
        return
    steps = (*node.steps, "callback")
    kind = carried_out_as(model)
    if kind in _CALL_NOBODY:
        message = f"A node of type {kind} asks nobody for anything, so nobody could call back."
        problems.error("CALLBACK_OF_NOBODY", steps, message, node.id)
    timeout = model.callback.timeout
    if timeout is not None and not 0 < timeout <= MAX_WAIT_MS:
        problems.error("BAD_DURATION", (*steps, "timeout"), "A callback is waited for at most 366 days.", node.id)
    check_end(node, timeout is not None, problems)


def check_end(node: NodeAt, bounded: bool, problems: Problems) -> None:
    """Refuse a ``finally`` node that may wait for ever: the run would never end, and cannot be cancelled then."""
    if node.is_finally and not bounded:
        message = "A `finally` node may not wait for ever, since nobody can cancel it; give it a timeout."
        problems.error("ENDLESS_FINALLY", node.steps, message, node.id)
