"""The attempts of one node, from its start to its end: durations, faults, lost workers, time-outs and retries.

A node's attempts depend on nothing that happens meanwhile, so they are drawn all at once when it starts. Temporal
repeats them by the node's policy as ``activities/failures.py`` and ``workflows/dispatch.py`` tell it to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from dalang.admission import Demand
from dalang.rehearsal.distributions import Distribution
from dalang.rehearsal.options import Fault
from dalang.retries import server_delay_ms, told_delay_ms

GRACE_MS = 4_000
"""How much longer than the handler Temporal waits (``dispatch.GRACE``): then the worker is taken to be gone."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a node does when it is started."""

    duration: Distribution | None
    """None: a sleep or a timer, which lasts as long as its inputs say."""
    outcomes: tuple[tuple[float, Mapping[str, Any]], ...]
    """(sum of the weights so far, outputs); one outcome takes nothing from the random source."""
    echoes: bool
    """Its inputs are added to its outputs, as ``noop`` does."""
    faults: tuple[Fault, ...]
    crashes: float
    retry: Mapping[str, Any]
    start_to_close: int
    schedule_to_close: int | None
    heartbeat: int
    demand: Demand | None
    never: str | None
    """Why its demand can never be met."""
    extra: Mapping[str, float]
    """What it needs besides, as the rehearsal is told; where a pool has keys, over all that it asks for."""
    undo: Distribution
    """How long its compensation takes, if it has one."""
    approval: float = 1.0
    """How probable it is that the person whom a human node asks approves."""

    def outputs(self, rnd: Random) -> Mapping[str, Any]:
        """Return the outputs of one success."""
        if len(self.outcomes) == 1:
            return self.outcomes[0][1]
        point = rnd.random() * self.outcomes[-1][0]
        return next((outputs for until, outputs in self.outcomes if point < until), self.outcomes[-1][1])


@dataclass(frozen=True, slots=True)
class Work:
    """How the attempts of a node went: (start, end, error type or None) of each, and the error it ended with."""

    attempts: tuple[tuple[int, int, str | None], ...]
    lost: int
    """How many of them were lost with their worker."""
    error: dict[str, Any] | None

    @property
    def end(self) -> int:
        """When the last one ended."""
        return self.attempts[-1][1]


def single(start: int, end: int) -> Work:
    """Return one attempt that succeeds."""
    return Work(((start, end, None),), 0, None)


def work(behaviour: Behaviour, duration: Distribution, at: int, rnd: Random, node_id: str) -> Work:
    """Draw the attempts of a node that starts at ``at``."""
    if not behaviour.faults and not behaviour.crashes:
        took = duration.draw(rnd)
        if took <= behaviour.start_to_close and behaviour.schedule_to_close is None:
            return single(at, at + took)
        first: int | None = took
    else:
        first = None
    retry = behaviour.retry
    deadline = None if behaviour.schedule_to_close is None else at + behaviour.schedule_to_close
    attempts: list[tuple[int, int, str | None]] = []
    lost = 0
    while True:
        took = duration.draw(rnd) if first is None else first
        first = None
        number = len(attempts) + 1
        ends, kind, message, retryable, gone, fault = _attempt(behaviour, took, rnd)
        end = at + ends
        if deadline is not None and end > deadline:
            end, kind, retryable, gone, fault = deadline, "TIMEOUT", False, False, None
            message = "all attempts together did not end in their time (scheduleToClose)"
        attempts.append((at, end, kind))
        lost += gone
        if kind is None:
            return Work(tuple(attempts), lost, None)
        delay = retry_delay(retry, number, rnd, by_server=gone)
        again = retryable and kind in retry["retryOn"] and number < retry["attempts"]
        if not again or (deadline is not None and end + delay > deadline):
            error = _error(kind, message, retryable, node_id, number, retry["attempts"])
            if fault is not None and fault.action is not None:
                error["suggestedAction"] = str(fault.action)
            return Work(tuple(attempts), lost, error)
        at = end + delay


def _attempt(behaviour: Behaviour, took: int, rnd: Random) -> tuple[int, str | None, str, bool, bool, Fault | None]:
    """Return how long one attempt takes, how it ends, whether it may be repeated, whether its worker is gone, why."""
    limit = behaviour.start_to_close
    if behaviour.crashes and rnd.random() < behaviour.crashes:
        noticed = round(min(took, limit) * rnd.random()) + behaviour.heartbeat
        return min(noticed, limit + GRACE_MS), "TIMEOUT", "its worker stopped answering", True, True, None
    if took > limit:
        return limit, "TIMEOUT", f"the handler did not end within {limit / 1000:g} s", True, False, None
    if behaviour.faults:
        point = rnd.random()
        for fault in behaviour.faults:
            point -= fault.rate
            if point < 0:
                return took, str(fault.type), "a rehearsed failure", fault.may_be_repeated, False, fault
    return took, None, "", False, False, None


def retry_delay(retry: Mapping[str, Any], attempt: int, rnd: Random, *, by_server: bool = False) -> int:
    """Return the delay after ``attempt`` in milliseconds; ``by_server``: the worker that made it is gone."""
    told = None if by_server else told_delay_ms(retry, attempt, rnd.uniform)
    return round(server_delay_ms(retry, attempt) if told is None else told)


def _error(kind: str, message: str, retryable: bool, node_id: str, attempt: int, attempts: int) -> dict[str, Any]:
    return {
        "type": kind,
        "message": message,
        "details": {},
        "retryable": retryable,
        "originNode": node_id,
        "attempt": attempt,
        "maxAttempts": attempts,
    }
