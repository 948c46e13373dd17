"""A circuit breaker: what attempts that end well or badly make of it, and who may pass (``docs/circuit-breakers.md``).

    CLOSED     everybody passes; so many failures in a row open it
    OPEN       nobody passes until its time has come
    HALF_OPEN  a few pass on trial; so many successes close it, one failure opens it again

Pure: times are milliseconds since the epoch and come in with each question. Who stores breakers takes one function's
answer at a time, under a lock.

Only what was begun in a state counts in it. An attempt that began before the breaker opened and ends afterwards is old
news: whether the service has recovered is told by trials alone. A trial that is never heard of again (its worker was
killed) loses its place when its time is over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

LEAST_WAIT_MS = 500
"""How soon somebody asks again who found all trial places taken; longer, the longer the trials take."""


class BreakerState(StrEnum):
    """What a breaker lets through."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


class Outcome(StrEnum):
    """What the end of an attempt says of whoever it called."""

    FAILED = "FAILED"
    """It is away, too slow or has no room: this counts."""
    ANSWERED = "ANSWERED"
    """It is there, whatever it answered."""
    UNKNOWN = "UNKNOWN"
    """Nothing: it was never called, or nobody heard what came of it."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When breakers open and close: failures in a row, successes on trial, and how long it is OPEN."""

    failures: int = 5
    successes: int = 2
    open_ms: int = 30_000


@dataclass(frozen=True, slots=True)
class Trial:
    """A place in HALF_OPEN, taken ``since`` and lost after ``until``."""

    trial_id: str
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class Breaker:
    """One breaker. ``failures`` are those in a row while CLOSED, ``successes`` those on trial while HALF_OPEN.

    ``until`` is when an OPEN one lets somebody try; ``opened_at`` when it opened last, ``openings`` how often it did.
    """

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    successes: int = 0
    until: int | None = None
    trials: tuple[Trial, ...] = ()
    opened_at: int | None = None
    openings: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether somebody passes: with a trial place, freely (neither), or not before ``wait_until``."""

    trial: Trial | None = None
    wait_until: int | None = None


def asked(breaker: Breaker, thresholds: Thresholds, trial: Trial) -> tuple[Breaker, Verdict]:
    """Return what becomes of the breaker when somebody asks to pass at ``trial.since``, and the answer."""
    at = trial.since
    if breaker.state is BreakerState.CLOSED:
        return breaker, Verdict()
    if breaker.state is BreakerState.OPEN:
        if breaker.until is not None and at < breaker.until:
            return breaker, Verdict(wait_until=breaker.until)
        breaker = replace(breaker, state=BreakerState.HALF_OPEN, until=None, successes=0, trials=())
    trials = tuple(one for one in breaker.trials if one.until > at)
    if len(trials) < thresholds.successes:
        return replace(breaker, trials=(*trials, trial)), Verdict(trial=trial)
    busy = at - min(one.since for one in trials)
    wait = min(max(busy, LEAST_WAIT_MS), max(thresholds.open_ms, 1))
    return replace(breaker, trials=trials), Verdict(wait_until=at + wait)


def heard(breaker: Breaker, thresholds: Thresholds, outcome: Outcome, trial_id: str | None, at: int) -> Breaker:
    """Return what the end of an attempt makes of the breaker; ``trial_id`` is the place it had, if any."""
    if breaker.state is BreakerState.CLOSED:
        if outcome is Outcome.FAILED:
            failures = breaker.failures + 1
            breaker = replace(breaker, failures=failures)
            return opened(breaker, at, at + thresholds.open_ms) if failures >= thresholds.failures else breaker
        return replace(breaker, failures=0) if outcome is Outcome.ANSWERED else breaker
    trials = tuple(one for one in breaker.trials if one.trial_id != trial_id)
    if len(trials) == len(breaker.trials):
        return breaker  # old news
    if outcome is Outcome.FAILED:
        return opened(breaker, at, at + thresholds.open_ms)
    successes = breaker.successes + (outcome is Outcome.ANSWERED)
    if successes >= thresholds.successes:
        return closed(breaker)
    return replace(breaker, successes=successes, trials=trials)


def opened(breaker: Breaker, at: int, until: int) -> Breaker:
    """Return the breaker OPEN from ``at`` to ``until``."""
    return Breaker(BreakerState.OPEN, breaker.failures, 0, until, (), at, breaker.openings + 1)


def closed(breaker: Breaker) -> Breaker:
    """Return the breaker CLOSED, with nothing held against it."""
    return Breaker(opened_at=breaker.opened_at, openings=breaker.openings)
