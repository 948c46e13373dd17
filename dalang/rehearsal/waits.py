"""Nodes that wait, in a rehearsal: the virtual clock ends them, as it ends everything else.

A ``sleep``, and a ``timer`` with a duration, last as long as their inputs say. What a ``timer`` with a time, an
``event`` and a callback wait for depends on the day and on others: that takes what is given or estimated of the node,
and an ``event`` whose time is longer than its timeout fails with TIMEOUT. So does a ``human`` node; its person approves
with the probability that is given, or lets the task expire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.durations import parse_duration
from dalang.errors import ErrorType
from dalang.events import NodeFailed, NodeSucceeded, SkipRequested
from dalang.hearing import timeout_error
from dalang.rehearsal.attempts import Work, single
from dalang.run import Run
from dalang.wait_inputs import MAX_WAIT_MS, sleep_ms

NEVER_FAIL = frozenset({"sleep", "timer", "event", "human"})
"""Types that no worker works on: they do not fail by faults, are not lost, need nothing."""

APPROVE, REJECT, SKIP = "approve", "reject", "skip"
"""What becomes of a task."""


class RehearsedRun(Run):
    """The state machine, but nodes that it would begin and end by itself are the rehearsal's to end."""

    wait_types = {}  # noqa: RUF012 - a ClassVar of the base

    def _calls_back(self, node: int) -> bool:
        return False  # how long the node takes is how long its answer takes

    def decide(self, node: int, decision: str, outputs: Mapping[str, Any], at: int) -> None:
        """End a human node as a person, or the expiry of its task, would."""
        program, node_id = self.program, self.program.ids[node]
        if decision == SKIP:
            self.waits[node] = {"waitsFor": "person"}  # a node that waits in the state machine may be skipped
            self.apply(SkipRequested(node_id), at)
            return
        outputs = {**outputs, "decision": decision, "decidedBy": "rehearsal", "notes": None}
        if decision == REJECT and not any(program.is_rejected_port(edge) for edge in program.edges_out[node]):
            self.apply(NodeFailed(node_id, self._error(node, ErrorType.POLICY_VIOLATION, "rejected")), at)
        else:
            self.apply(NodeSucceeded(node_id, outputs), at)


def lasts_as_written(document: Mapping[str, Any]) -> bool:
    """Tell whether a node's inputs say how long it takes: a ``sleep``, and a ``timer`` unless it names a time."""
    inputs = document.get("inputs") or {}
    return document["type"] == "sleep" or (document["type"] == "timer" and "until" not in inputs)


def written_ms(inputs: Mapping[str, Any]) -> int | None:
    """Return how long a node with these inputs sleeps, or None if it cannot tell."""
    try:
        return sleep_ms(inputs)
    except ValueError:
        return None


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


def asked(at: int, took: int, approves: bool, task: Mapping[str, Any], node_id: str) -> tuple[Work, str]:
    """Return how a task went whose person takes ``took``, and the decision: approve, reject or skip."""
    due = task.get("due")
    if due is None or took < due:
        return single(at, at + took), APPROVE if approves else REJECT
    follows = task.get("onExpiry", "fail")
    if follows == "fail":
        return Work(((at, at + due, "TIMEOUT"),), 0, timeout_error("nobody decided in time", node_id)), REJECT
    return single(at, at + due), follows
