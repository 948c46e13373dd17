"""What the inputs of nodes that wait mean: how long, until when, or for which event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dalang.durations import parse_duration
from dalang.instants import parse_instant

MAX_WAIT_MS = 366 * 86_400_000
"""The longest that a node waits."""
MAX_EVENT_NAME = 200
MAX_CORRELATION_KEY = 500


def sleep_ms(inputs: Mapping[str, Any]) -> int:
    """Return how long a ``sleep`` node sleeps, from ``duration`` ("90s") or ``seconds`` (a number), in milliseconds.

    Raises:
        ValueError: neither is usable.
    """
    if "duration" in inputs:
        ms = parse_duration(inputs["duration"])
    else:
        seconds = inputs.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise ValueError('a sleep node takes duration: "90s", or seconds: 90')
        ms = round(seconds * 1000)
    if ms > MAX_WAIT_MS:
        raise ValueError("a sleep node sleeps at most 366 days")
    return ms


def timer_until(inputs: Mapping[str, Any], now: int) -> int:
    """Return when a ``timer`` node that begins ``now`` fires, from ``until`` (a time) or ``duration`` ("90s").

    Raises:
        ValueError: neither is usable, or it is more than 366 days away.
    """
    until, duration = inputs.get("until"), inputs.get("duration")
    if (until is None) == (duration is None):
        raise ValueError('a timer node takes duration: "90s" or until: "2026-12-24T18:00:00Z", one of them')
    at = now + parse_duration(duration) if until is None else parse_instant(until)
    if at - now > MAX_WAIT_MS:
        raise ValueError("a timer node waits at most 366 days")
    return at


def event_wait(inputs: Mapping[str, Any]) -> tuple[str, str, int | None]:
    """Return name, correlation key and timeout (milliseconds) of what an ``event`` node waits for.

    Raises:
        ValueError: one of them is unusable.
    """
    name, key, timeout = inputs.get("name"), inputs.get("correlationKey"), inputs.get("timeout")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_EVENT_NAME:
        raise ValueError(f"an event node takes name: a text of 1 to {MAX_EVENT_NAME} characters")
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)  # an order's number is a key as good as its text
    if key is not None and (not isinstance(key, str) or len(key) > MAX_CORRELATION_KEY):
        raise ValueError(f"the correlationKey of an event node is a text of at most {MAX_CORRELATION_KEY} characters")
    ms = None if timeout is None else parse_duration(timeout)
    if ms is not None and ms > MAX_WAIT_MS:
        raise ValueError("an event node waits at most 366 days")
    return name, key or "", ms
