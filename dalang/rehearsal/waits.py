"""Nodes that wait, in a rehearsal: the virtual clock ends them, as it ends everything else.

A ``sleep``, and a ``timer`` with a duration, last as long as their inputs say. What a ``timer`` with a time, an
``event`` and a callback wait for depends on the day and on others: that takes what is given or estimated of the node,
and an ``event`` whose time is longer than its timeout fails with TIMEOUT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.durations import MAX_DURATION_MS, parse_duration
from dalang.hearing import timeout_error
from dalang.rehearsal.attempts import Work
from dalang.run import Run
from dalang.wait_inputs import MAX_WAIT_MS

NEVER_FAIL = frozenset({"sleep", "timer", "event"})
"""Types that no worker works on: they do not fail by faults, are not lost, need nothing."""


class RehearsedRun(Run):
    """The state machine, but nodes that it would begin and end by itself are the rehearsal's to end."""

    wait_types = {}  # noqa: RUF012 - a ClassVar of the base

    def _calls_back(self, node: int) -> bool:
        return False  # how long the node takes is how long its answer takes


def lasts_as_written(document: Mapping[str, Any]) -> bool:
    """Tell whether a node's inputs say how long it takes: a ``sleep``, and a ``timer`` unless it names a time."""
    inputs = document.get("inputs") or {}
    return document["type"] == "sleep" or (document["type"] == "timer" and "until" not in inputs)


def written_ms(inputs: Mapping[str, Any]) -> int | None:
    """Return how long a node with these inputs sleeps, or None if it cannot tell (``workflows.dispatch``)."""
    if "duration" in inputs:
        try:
            ms = parse_duration(inputs["duration"])
        except ValueError:
            return None
    else:
        seconds = inputs.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= MAX_DURATION_MS:
            return None
        ms = round(seconds * 1000)
    return ms if ms <= MAX_WAIT_MS else None


def waited(at: int, took: int, inputs: Mapping[str, Any], node_id: str) -> Work:
    """Return how the wait of a node went whose event, or time, takes ``took``."""
    timeout = inputs.get("timeout")
    try:
        limit = MAX_WAIT_MS if timeout is None else parse_duration(timeout)
    except ValueError:
        limit = MAX_WAIT_MS  # an expression that nobody could evaluate
    if took <= limit:
        return Work(((at, at + took, None),), 0, None)
    error = timeout_error("nothing came in time", node_id)
    return Work(((at, at + limit, "TIMEOUT"),), 0, error)
