"""What this process counts of its own work, for Prometheus; how it stands in the tables: ``store/measures.py``.

Labels come from what is registered or enumerated - activity types, outcomes, kinds of errors - never from runs, nodes,
addresses or people, so that there are as many series after a year as there were after a day.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter as Counted
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily

from dalang.canonical import compact_json
from dalang.errors import ErrorType
from dalang.store.measures import Gauge as Measured
from dalang.wire import EventType, Fact

disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the series, and nobody reads them
PROCESS = CollectorRegistry()
"""What this process counts; an API server has one more, of its requests."""

_WORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_LAG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

ACTIVITIES = Counter(
    "dalang_activities",
    "Attempts of activities that ended, by type and outcome: completed, failed, cancelled, deferred, asked.",
    ["type", "outcome"],
    registry=PROCESS,
)
ACTIVITY_SECONDS = Histogram(
    "dalang_activity_seconds", "How long attempts of activities took.", ["type"], buckets=_WORK, registry=PROCESS
)
IN_FLIGHT = Gauge("dalang_activities_in_flight", "Attempts under way in this process.", ["type"], registry=PROCESS)
ATTEMPTS_FAILED = Counter(
    "dalang_attempts_failed", "Attempts of nodes that failed, by kind of error.", ["type", "error"], registry=PROCESS
)
EVENTS = Counter("dalang_events_recorded", "Events of runs that were stored, by type.", ["type"], registry=PROCESS)
NODES_FAILED = Counter(
    "dalang_nodes_failed",
    "Nodes that failed for good, by kind of error; an expression that cannot be computed is a VALIDATION_ERROR.",
    ["error"],
    registry=PROCESS,
)
FLUSHES = Counter("dalang_flushes", "Batches of events that were stored, or not.", ["outcome"], registry=PROCESS)
FLUSH_BYTES = Counter("dalang_flush_bytes", "Bytes of events in these batches, as JSON.", registry=PROCESS)
FLUSH_LAG = Histogram(
    "dalang_flush_lag_seconds",
    "Age of the oldest event of a batch when it was stored: how late the read model is.",
    buckets=_LAG,
    registry=PROCESS,
)
FLUSH_OLDEST = Gauge(
    "dalang_flush_oldest_seconds", "Age of the oldest event that this process is about to store.", registry=PROCESS
)
POLICY = Counter(
    "dalang_policy_decisions",
    "Decisions of policies: allowed, denied, away (a service did not answer).",
    ["applies", "outcome"],
    registry=PROCESS,
)
LEASES = Counter("dalang_leases_changed", "Leases that this process granted, or ended.", ["what"], registry=PROCESS)
LEASE_WAIT = Histogram(
    "dalang_lease_wait_seconds", "From asking for a lease until it was granted.", buckets=_WORK, registry=PROCESS
)
PUBLISHED = Counter(
    "dalang_published",
    "Events sent to subscriptions, by kind: delivered, failed.",
    ["kind", "outcome"],
    registry=PROCESS,
)
ROUND_AGE = Gauge(
    "dalang_round_age_seconds",
    "How long ago a background loop of this process last went round without a failure.",
    ["part"],
    registry=PROCESS,
)


@dataclass
class Round:
    """How a background loop of this process goes on: when it last went round, and how it failed since, if it did."""

    part: str
    every: float
    """It is late if it has not gone round for several times as many seconds."""
    at: float
    failure: str | None = None
    since: float = 0.0
    """When it became what it is: well, or failing."""

    @property
    def age(self) -> float:
        """Seconds since it last went round without a failure, or was begun."""
        return max(time.time() - self.at, 0.0)

    @property
    def well(self) -> bool:
        """Whether it goes round in time, and without a failure."""
        return self.failure is None and self.age < 3 * self.every + 10

    def went(self) -> None:
        """Note that it went round."""
        self.at = time.time()
        if self.failure is not None:
            self.failure, self.since = None, self.at

    def failed(self, error: BaseException) -> None:
        """Note that it did not."""
        if self.failure is None:
            self.since = time.time()
        self.failure = type(error).__name__


ROUNDS: dict[str, Round] = {}
"""The background loops of this process."""


def rounds(part: str, every: float) -> Round:
    """Return what a background loop, which begins now, is to tell of its rounds."""
    now = time.time()
    made = ROUNDS[part] = Round(part, every, now, None, now)
    ROUND_AGE.labels(part).set_function(lambda: made.age)
    return made


_FAILURES = (EventType.NODE_FAILED, EventType.NODE_ERROR)


class _Storing:
    """When the oldest event happened of each batch that is being stored."""

    def __init__(self) -> None:
        self.keys = itertools.count()
        self.since: dict[int, float] = {}
        FLUSH_OLDEST.set_function(self.oldest)

    def oldest(self) -> float:
        """Return how old the oldest is, in seconds."""
        return max((time.time() - at for at in list(self.since.values())), default=0.0)


_storing = _Storing()


def oldest_unstored_seconds() -> float:
    """Return the age of the oldest event that this process is about to store."""
    return _storing.oldest()


@contextmanager
def storing(facts: Sequence[Fact], sent: Any = None) -> Iterator[None]:
    """Count a batch of events that the block stores, and the bytes of what was ``sent`` for it, the facts if None."""
    key, oldest = next(_storing.keys), min((fact["at"] for fact in facts), default=0) / 1000 or time.time()
    _storing.since[key] = oldest
    try:
        yield
    except BaseException:
        FLUSHES.labels("failed").inc()
        raise
    finally:
        del _storing.since[key]
    FLUSHES.labels("stored").inc()
    FLUSH_BYTES.inc(_size(facts if sent is None else sent))
    FLUSH_LAG.observe(max(time.time() - oldest, 0.0))
    for event, count in Counted(fact["type"] for fact in facts).items():
        EVENTS.labels(event).inc(count)
    for fact in facts:
        if fact["type"] in _FAILURES:
            error = fact.get("body", {}).get("error")
            kind = error.get("type") if isinstance(error, dict) else None
            NODES_FAILED.labels(kind if kind in ErrorType.__members__ else "UNKNOWN_ERROR").inc()


def _size(sent: Any) -> int:
    try:
        return len(orjson.dumps(sent))
    except orjson.JSONEncodeError:  # what only the standard library writes: large integers, surrogates
        return len(compact_json(sent))


def exposition(measured: Iterable[Measured] = (), *registries: CollectorRegistry) -> bytes:
    """Return everything in Prometheus' text format: the process, these registries, and what was measured."""
    return b"".join(generate_latest(one) for one in (*registries, PROCESS, _Families(measured)))


class _Families(CollectorRegistry):
    """Gauges that were measured elsewhere."""

    def __init__(self, measured: Iterable[Measured]) -> None:
        super().__init__()
        self._measured = list(measured)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return them."""
        for one in self._measured:
            family = GaugeMetricFamily(one.name, one.about, labels=one.labels)
            for labels, value in one.samples:
                family.add_metric(labels, value)
            yield family
