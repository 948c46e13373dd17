"""What many rehearsals of a plan tell: how long it takes, how it ends, what is critical and what is scarce."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from dalang.nesting import CONTAINER_TYPES
from dalang.rehearsal.scenario import Scenario
from dalang.rehearsal.simulation import SLOTS, Trace
from dalang.rehearsal.waits import NEVER_FAIL
from dalang.statuses import NodeStatus

MAX_CAUSES = 20
_FREE = NEVER_FAIL.union(CONTAINER_TYPES)
"""Node types that hold no slot of the run."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How long the rehearsals took, in milliseconds: each percentile is the length of one of them (nearest rank)."""

    least: int
    p5: int
    p50: int
    p95: int
    most: int
    mean: float

    def wire(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "min": self.least,
            "p5": self.p5,
            "p50": self.p50,
            "p95": self.p95,
            "max": self.most,
            "mean": round(self.mean, 1),
        }


@dataclass(frozen=True, slots=True)
class NodeSummary:
    """What became of a node; shares are of all rehearsals, means of those in which its work began."""

    node_id: str
    type: str
    run: float
    statuses: dict[str, float]
    start: float | None
    end: float | None
    wait: float
    """Mean time between being ready and beginning to work, over all rehearsals in which it was begun."""
    retries: float
    """Mean number of attempts after the first."""
    lost: float
    """Mean number of attempts that were lost with their worker."""
    criticality: float
    """In which share of the rehearsals it was on the path that took longest."""

    def wire(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "nodeId": self.node_id,
            "type": self.type,
            "run": self.run,
            "statuses": self.statuses,
            "startMs": _rounded(self.start),
            "endMs": _rounded(self.end),
            "waitMs": _rounded(self.wait),
            "retries": round(self.retries, 4),
            "lostAttempts": round(self.lost, 4),
            "criticality": self.criticality,
        }


@dataclass(frozen=True, slots=True)
class ResourceSummary:
    """How much of something limited was used, and how long nodes waited for it, in the mean of all rehearsals."""

    name: str
    capacity: float
    utilisation: float
    """The share of capacity times makespan that was in use."""
    waiting: float
    """Milliseconds, summed over nodes; who waits for several things at once counts at each."""
    waits: float
    """How many nodes waited."""

    def wire(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "name": self.name,
            "capacity": self.capacity,
            "utilisation": round(self.utilisation, 4),
            "waitingMs": round(self.waiting, 1),
            "waits": round(self.waits, 4),
        }


@dataclass(frozen=True, slots=True)
class Cause:
    """Why rehearsals did not end COMPLETED: the first failure that nothing took, or the reason of the cancel."""

    node_id: str | None
    type: str
    message: str
    share: float

    def wire(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"nodeId": self.node_id, "type": self.type, "message": self.message, "share": self.share}


@dataclass(frozen=True, slots=True)
class UndoSummary:
    """A node that was undone: in which share of all rehearsals, and how long its compensation took in the mean."""

    node_id: str
    share: float
    took: float

    def wire(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"nodeId": self.node_id, "share": self.share, "tookMs": round(self.took, 1)}


@dataclass(frozen=True)
class Summary:
    """All rehearsals of a plan."""

    scenario: Scenario
    runs: int
    """How many there were: fewer than asked for when nothing is left to chance, or when the budget was used up."""
    random: bool
    complete: bool
    makespan: Spread
    completed: Spread | None
    """Of those that ended COMPLETED."""
    ends: dict[str, float]
    causes: tuple[Cause, ...]
    nodes: tuple[NodeSummary, ...]
    resources: tuple[ResourceSummary, ...]
    """The one that nodes waited longest for first."""
    compensations: tuple[UndoSummary, ...]
    """The one that ran most often first."""
    median: Trace
    worst: Trace

    @property
    def bottleneck(self) -> ResourceSummary | None:
        """What nodes waited longest for, if they waited."""
        first = self.resources[0] if self.resources else None
        return first if first is not None and first.waiting > 0 else None

    def wire(self) -> dict[str, Any]:
        """Return everything as JSON; times are milliseconds."""
        options = self.scenario.options
        return {
            "plan": self.scenario.plan.name,
            "version": self.scenario.plan.version,
            "seed": options.seed,
            "runs": self.runs,
            "runsAsked": options.runs,
            "random": self.random,
            "complete": self.complete,
            "makespanMs": self.makespan.wire(),
            "completedMakespanMs": None if self.completed is None else self.completed.wire(),
            "ends": self.ends,
            "causes": [cause.wire() for cause in self.causes],
            "bottleneck": None if self.bottleneck is None else self.bottleneck.name,
            "resources": [resource.wire() for resource in self.resources],
            "nodes": [node.wire() for node in self.nodes],
            "compensations": [undo.wire() for undo in self.compensations],
            "median": trace_wire(self.scenario, self.median),
            "worst": trace_wire(self.scenario, self.worst),
            "warnings": [
                one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in self.scenario.warnings
            ],
        }


def trace_wire(scenario: Scenario, trace: Trace) -> dict[str, Any]:
    """Return one rehearsal as JSON: every node that was begun, with its attempts; times are milliseconds."""
    ids = scenario.program.ids
    return {
        "seed": trace.seed,
        "status": str(trace.status),
        "makespanMs": trace.makespan,
        "criticalPath": [ids[node] for node in trace.path],
        "nodes": [
            {
                "nodeId": ids[node],
                "status": str(trace.statuses[node]),
                "readyMs": one.ready,
                "startMs": one.start,
                "endMs": one.end,
                "attempts": []
                if one.work is None
                else [
                    {"startMs": start, "endMs": min(end, one.end), **({"error": kind} if kind else {})}
                    for start, end, kind in one.work.attempts
                    if start <= one.end
                ],
            }
            for node, one in trace.nodes.items()
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


@dataclass
class Tally:
    """Counts over rehearsals; :meth:`summary` turns them into shares and means."""

    scenario: Scenario
    lengths: list[tuple[int, int, bool]] = field(default_factory=list)
    """(makespan, seed, whether it completed) of each."""
    ends: Counter[str] = field(default_factory=Counter)
    causes: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    messages: dict[tuple[str | None, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.scenario.program.ids)
        self._statuses: list[Counter[NodeStatus]] = [Counter() for _ in range(count)]
        self._run, self._begun, self._critical = [0] * count, [0] * count, [0] * count
        self._start, self._end, self._wait = [0] * count, [0] * count, [0] * count
        self._retries, self._lost = [0] * count, [0] * count
        self._used: Counter[str] = Counter()
        self._waited: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._total = 0
        self._undone: Counter[int] = Counter()
        self._undoing: Counter[int] = Counter()
        program = self.scenario.program
        limited = program.max_in_flight is not None
        self._slotted = [kind not in _FREE or (limited and kind != "human") for kind in program.types]

    def add(self, trace: Trace) -> None:
        """Count one rehearsal."""
        self.lengths.append((trace.makespan, trace.seed, trace.status == "COMPLETED"))
        self._total += trace.makespan
        self.ends[str(trace.status)] += 1
        self._count_cause(trace)
        for node, status in enumerate(trace.statuses):
            self._statuses[node][status] += 1
        for node in trace.path:
            self._critical[node] += 1
        for node, one in trace.nodes.items():
            self._begun[node] += 1
            work_began = one.end if one.start is None else one.start
            self._wait[node] += work_began - one.ready
            if self._slotted[node]:
                self._used[SLOTS] += one.end - one.begun
            if one.begun > one.ready:
                self._waited[SLOTS] += one.begun - one.ready
                self._waits[SLOTS] += 1
            for name in one.waited_for:
                self._waited[name] += work_began - one.begun
                self._waits[name] += 1
            if one.start is not None:
                self._run[node] += 1
                self._start[node] += one.start
                self._end[node] += one.end
            if one.work is not None:
                if one.end == one.work.end:
                    self._retries[node] += len(one.work.attempts) - 1
                else:
                    self._retries[node] += sum(start <= one.end for start, _, _ in one.work.attempts) - 1
                self._lost[node] += one.work.lost
        for node, (start, end) in trace.undone.items():
            self._undone[node] += 1
            self._undoing[node] += end - start
        for name, amount in trace.used.items():
            self._used[name] += amount  # type: ignore[assignment]  # a Counter of floats counts as well

    def _count_cause(self, trace: Trace) -> None:
        if trace.status == "COMPLETED":
            return
        error = trace.error
        if error is None:
            key: tuple[str | None, str] = (None, trace.reason or "CANCELLED")
        else:
            key = (error.get("originNode"), str(error.get("type")))
        self.causes[key] += 1
        self.messages.setdefault(key, str((error or {}).get("message", "the run took longer than its timeout")))

    def extremes(self) -> tuple[int, int]:
        """Return the seeds of the median and of the worst rehearsal: the longest, of those the least seed."""
        ordered = sorted(self.lengths)
        median = ordered[_rank(len(ordered), 50)][1]
        most = ordered[-1][0]
        return median, min(seed for length, seed, _ in ordered if length == most)

    def summary(self, median: Trace, worst: Trace, *, random: bool, complete: bool) -> Summary:
        """Return everything."""
        runs = len(self.lengths)
        completed = [length for length, _, done in self.lengths if done]
        return Summary(
            scenario=self.scenario,
            runs=runs,
            random=random,
            complete=complete,
            makespan=_spread([length for length, _, _ in self.lengths]),
            completed=_spread(completed) if completed else None,
            ends={end: count / runs for end, count in self.ends.most_common()},
            causes=tuple(
                Cause(node, kind, self.messages[node, kind], count / runs)
                for (node, kind), count in self.causes.most_common(MAX_CAUSES)
            ),
            nodes=tuple(self._node(node, runs) for node in range(len(self._run))),
            resources=self._resources(runs),
            compensations=tuple(
                UndoSummary(self.scenario.program.ids[node], count / runs, self._undoing[node] / count)
                for node, count in sorted(self._undone.items(), key=lambda one: (-one[1], one[0]))
            ),
            median=median,
            worst=worst,
        )

    def _node(self, node: int, runs: int) -> NodeSummary:
        ran, begun = self._run[node], self._begun[node]
        return NodeSummary(
            node_id=self.scenario.program.ids[node],
            type=self.scenario.program.types[node],
            run=ran / runs,
            statuses={str(status): count / runs for status, count in self._statuses[node].most_common()},
            start=self._start[node] / ran if ran else None,
            end=self._end[node] / ran if ran else None,
            wait=self._wait[node] / begun if begun else 0.0,
            retries=self._retries[node] / runs,
            lost=self._lost[node] / runs,
            criticality=self._critical[node] / runs,
        )

    def _resources(self, runs: int) -> tuple[ResourceSummary, ...]:
        admission, program = self.scenario.admission, self.scenario.program
        capacities = {f"pool {name}": size for name, size in admission.pools.items()}
        capacities |= {f"agent {agent.name}": float(agent.capacity) for agent in admission.agents}
        if program.max_in_flight is not None or self._waits[SLOTS]:
            capacities[SLOTS] = float(program.max_in_flight or self.scenario.options.max_in_flight)
        found = [
            ResourceSummary(
                name=name,
                capacity=capacity,
                utilisation=self._used[name] / (capacity * self._total) if capacity and self._total else 0.0,
                waiting=self._waited[name] / runs,
                waits=self._waits[name] / runs,
            )
            for name, capacity in capacities.items()
        ]
        return tuple(sorted(found, key=lambda one: (-one.waiting, -one.utilisation)))


def _rank(count: int, percent: int) -> int:
    return max(ceil(count * percent / 100) - 1, 0)


def _spread(lengths: Sequence[int]) -> Spread:
    ordered = sorted(lengths)
    at = {percent: ordered[_rank(len(ordered), percent)] for percent in (5, 50, 95)}
    return Spread(ordered[0], at[5], at[50], at[95], ordered[-1], sum(ordered) / len(ordered))
