"""One rehearsal: the real state machine with a virtual clock.

Theory of operation
    What the workflow does with activities and timers is done here with a heap of the times at which they end. A pass
    takes the ends of one moment, applies them to the :class:`~dalang.run.Run`, asks it what is due, begins that, and
    moves the clock to the next end. Which node starts, is skipped or cancelled, and how the run ends, is decided by
    the ``Run`` alone.

    A node that needs something limited waits for a lease between its start and its work, as an admitted node is QUEUED:
    it is in flight for the ``Run`` and holds one of its slots meanwhile. The lease lasts until the node ends, retries
    included. A node that is told to stop stops at once.

    All draws come from one random source in the order of what happens, so a seed gives the same rehearsal in every
    process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from random import Random
from typing import Any

from dalang.admission import AGING_MS, Demand, Lease
from dalang.events import (
    Begin,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    Start,
    Stop,
    TimedOut,
    Undo,
    UndoSucceeded,
)
from dalang.expressions import ExpressionError
from dalang.needs import needs_of
from dalang.rehearsal.attempts import Work, single, work
from dalang.rehearsal.scenario import Scenario
from dalang.rehearsal.waits import NEVER_FAIL, RehearsedRun, asked, waited, written_ms
from dalang.run_state import LIVE
from dalang.statuses import RUN_ENDS, NodeStatus, RunStatus
from dalang.wire import EventType

_TIMEOUT = -1
_UNDO = -2
"""The undo of node n is ``_UNDO - n`` in the heap."""
_ENDED_UNSTARTED = frozenset({EventType.NODE_SKIPPED, EventType.NODE_FAILED, EventType.NODE_ERROR})
"""Facts by which nodes may end that were never begun."""
_HELD = (RunStatus.PAUSED, RunStatus.AWAITING_HITL)
"""Statuses in which nothing moves until a person decides about a failure: the end of a rehearsal."""
SLOTS = "slots (maxInFlight)"
"""The name of the run's slots among the resources."""


@dataclass(slots=True)
class NodeTrace:
    """What happened to a node that was begun; times are milliseconds since the start of the run."""

    ready: int
    """When nothing but a slot was missing."""
    begun: int
    """When it had its slot."""
    start: int | None = None
    """When it had its lease, too, and its work began."""
    end: int = 0
    work: Work | None = None
    cause: int | None = None
    """The node whose end let it start."""
    stopped_by: int | None = None
    """The node whose end stopped it."""
    lease: Lease | None = None
    waited_for: tuple[str, ...] = ()
    """What was not free when it was begun."""


@dataclass(slots=True)
class Trace:
    """One rehearsal."""

    seed: int
    status: RunStatus
    makespan: int
    statuses: list[NodeStatus]
    nodes: dict[int, NodeTrace]
    """By node number, those that were begun, in the order in which they were."""
    path: tuple[int, ...]
    """The chain of nodes, each of which let the next one start, that ends with the end of the run."""
    error: Mapping[str, Any] | None
    reason: str | None
    drew: bool
    """Whether anything was left to chance."""
    steps: int
    """How much was computed: events and attempts."""
    used: dict[str, float] = field(default_factory=dict)
    """By resource, amount times milliseconds in use."""
    undone: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By node number, when its compensation began and ended."""


def rehearse_once(scenario: Scenario, seed: int) -> Trace:
    """Rehearse the plan once; the same scenario and seed give the same trace."""
    return _Simulation(scenario, seed).run()


class _Simulation:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.program = scenario.program
        self.seed = seed
        self.rnd = Random(seed)  # noqa: S311 - a simulation has to be repeatable
        self.admission = scenario.admission.empty()
        self.nodes: dict[int, NodeTrace] = {}
        self.ended_at: dict[int, int] = {}
        self.heap: list[tuple[int, int, int, int]] = []
        self.now = 0
        self.order = 0
        self.closing_at: int | None = None
        self.last: int | None = None
        self.ended: list[int] = []
        """What ended since the last pass."""
        self.causes: list[int] = []
        """What ended before this pass, and so let begin what it begins."""
        self.queued: dict[int, tuple[Start, Demand]] = {}
        self.asked: list[int] = []
        """Those that were queued in this pass."""
        self.inputs: dict[int, Mapping[str, Any]] = {}
        self.decisions: dict[int, str] = {}
        self.undone: dict[int, tuple[int, int]] = {}
        self.steps = 0

    def run(self) -> Trace:
        scenario, program = self.scenario, self.program
        state = self.rnd.getstate()
        for edge, share in scenario.chances:
            program.decided[edge] = share >= 1 or self.rnd.random() < share
        run = self.machine = RehearsedRun(program, scenario.inputs, scenario.about, scenario.options.max_in_flight)
        run.apply(Begin(), 0)
        if program.timeout_ms is not None:
            # Behind what ends at the same moment: a run that is done in time is done.
            heappush(self.heap, (program.timeout_ms, 1, 0, _TIMEOUT))
        while True:
            again = self._pass()
            if run.status in RUN_ENDS:
                break
            if again:
                continue
            if not self.heap:
                # Nobody decides about failures in a rehearsal.
                assert run.status in _HELD, f"stuck at {self.now} ms with seed {self.seed}: {run.counts}"
                break
            self._advance()
        return Trace(
            seed=self.seed,
            status=run.status,
            makespan=self.now,
            statuses=run.statuses,
            nodes=self.nodes,
            path=self._path(),
            error=self._awaited() if run.status in _HELD else run.error,
            reason=run.reason,
            drew=self.rnd.getstate() != state,
            steps=self.steps,
            used=self._used(),
            undone=self.undone,
        )

    # -- the clock ---------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Move the clock to the next moment at which something ends, and apply all that ends then."""
        heap, run = self.heap, self.machine
        now = self.now = heap[0][0]
        while heap and heap[0][0] == now:
            if heap[0][3] == _TIMEOUT and self.ended:
                break  # a pass of its own: what ended now may end the run
            node = heappop(heap)[3]
            if node == _TIMEOUT:
                if run.refusal(TimedOut()) is None:
                    run.apply(TimedOut(), now)
                break
            if node < _TIMEOUT:
                self._undone(_UNDO - node)
                continue
            trace = self.nodes[node]
            if node not in self.ended_at:  # else it was stopped meanwhile
                self._end(node, trace)

    def _end(self, node: int, trace: NodeTrace) -> None:
        assert trace.work is not None
        error = trace.work.error
        self._leave(node, trace)
        if error is not None:
            self.machine.apply(NodeFailed(self.program.ids[node], error), self.now)
            return
        behaviour = self.scenario.behaviours[node]
        outputs = behaviour.outputs(self.rnd)
        if behaviour.echoes:
            outputs = {**outputs, **self.inputs.pop(node, {})}
        if node in self.decisions:
            self.machine.decide(node, self.decisions[node], outputs, self.now)
            return
        self.machine.apply(NodeSucceeded(self.program.ids[node], outputs, len(trace.work.attempts)), self.now)

    def _leave(self, node: int, trace: NodeTrace) -> None:
        """Note that a node has ended, and give back what it held."""
        trace.end = self.ended_at[node] = self.now
        self.ended.append(node)
        self.steps += 1
        if trace.lease is not None:
            self.admission.release(trace.lease)

    def _pass(self) -> bool:
        """Begin what is due and grant what is free; return whether something ended by that."""
        run = self.machine
        self.causes, self.ended = self.ended, []
        if self.causes:
            self.last = self.causes[0]
        steps = run.due(self.now)
        self._note_facts()
        stops: list[int] = []
        for step in steps:
            if isinstance(step, Stop):
                stops.append(self.program.index[step.node_id])
            elif isinstance(step, Undo):
                self._undo(step)
            elif isinstance(step, Start):  # nothing is limited for the machine: leases are simulated here
                self._begin(step)
        for node in stops:
            self._stop(node)
        if self.queued:
            self._grant()
        self._note_facts()
        return bool(self.ended)

    def _note_facts(self) -> None:
        """Take from the facts when nodes that were never begun ended."""
        run = self.machine
        for fact in run.facts:
            if fact["type"] in _ENDED_UNSTARTED:
                self.ended_at.setdefault(self.program.index[fact["nodeId"]], fact["at"])
        run.facts.clear()
        if run.closing and self.closing_at is None:
            self.closing_at = self.now

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _begin(self, step: Start) -> None:
        node = step.node
        behaviour = self.scenario.behaviours[node]
        trace = self.nodes[node] = NodeTrace(self._ready_at(node), self.now, cause=self._cause(node))
        if behaviour.echoes:
            self.inputs[node] = step.inputs
        if behaviour.demand is None:
            self._start(step, trace)
        elif behaviour.never is not None:
            self._refuse(node, trace, "RESOURCE_EXHAUSTED", behaviour.never)
        else:
            try:
                demand = self._demand(node)
            except ExpressionError as error:
                self._refuse(node, trace, "VALIDATION_ERROR", str(error))
                return
            self.order += 1
            urgency = self.program.node_priority(node) - self.now // AGING_MS
            self.admission.request(node, (-urgency, -self.program.ranks[node], self.order), demand)
            self.queued[node] = step, demand
            self.asked.append(node)

    def _demand(self, node: int) -> Demand:
        """Return what a node needs now; each key of a pool is a pool of its own."""
        behaviour = self.scenario.behaviours[node]
        demand = behaviour.demand
        assert demand is not None
        if "pools" not in self.program.nodes[node]:
            return demand
        context = lambda: self.machine._context(self.program.input_references.get(node, ()))  # noqa: E731
        needs = needs_of(self.program, node, self.scenario.limited, context)
        amounts = {**(needs.amounts if needs is not None else {}), **behaviour.extra}
        for full_name in amounts:
            name, separator, _ = full_name.partition("/")
            if separator and name in self.admission.pools:
                for admission in (self.admission, self.scenario.admission):  # whose sizes are shown
                    admission.pools.setdefault(full_name, admission.pools[name])
                    admission.used.setdefault(full_name, 0.0)
        keyed = self.admission.demand((), amounts)
        return replace(demand, pools=keyed.pools if keyed is not None else ())

    def _start(self, step: Start, trace: NodeTrace) -> None:
        node = step.node
        behaviour = self.scenario.behaviours[node]
        trace.start = self.now
        if behaviour.duration is None:
            ms = self._written_ms(node, step.inputs)
            if ms is None:
                message = f'a {step.type} node takes a duration such as "90s"'
                self._refuse(node, trace, "VALIDATION_ERROR", message)
                return
            trace.work = single(self.now, self.now + ms)
        elif step.type == "human":
            task = self.program.nodes[node].get("task", {})
            took = behaviour.duration.draw(self.rnd)
            approves = behaviour.approval >= 1 or self.rnd.random() < behaviour.approval
            trace.work, self.decisions[node] = asked(self.now, took, approves, task, step.node_id)
        elif step.type in NEVER_FAIL:
            trace.work = waited(self.now, behaviour.duration.draw(self.rnd), step.inputs, step.node_id)
        else:
            trace.work = work(behaviour, behaviour.duration, self.now, self.rnd, step.node_id)
        self.steps += len(trace.work.attempts)
        self.order += 1
        heappush(self.heap, (trace.work.end, 0, self.order, node))

    def _written_ms(self, node: int, inputs: Mapping[str, Any]) -> int | None:
        ms = written_ms(inputs)
        if ms is None and node in self.program.unread:
            return self.scenario.options.default_duration.draw(self.rnd)
        return ms

    def _refuse(self, node: int, trace: NodeTrace, kind: str, message: str) -> None:
        """Let a node fail that cannot be begun."""
        self._leave(node, trace)
        error = {"type": kind, "message": message, "retryable": False, "originNode": self.program.ids[node]}
        self.machine.apply(NodeFailed(self.program.ids[node], error), self.now)

    def _grant(self) -> None:
        for who, lease in self.admission.grants():
            assert isinstance(who, int)
            (step, _), trace = self.queued.pop(who), self.nodes[who]
            trace.lease = lease
            if trace.begun < self.now:
                trace.cause = self._giver(who, lease)
            self._start(step, trace)
        for node in self.asked:
            if node in self.queued:
                self.nodes[node].waited_for = tuple(self.admission.short(self.queued[node][1]))
        self.asked.clear()

    def _stop(self, node: int) -> None:
        trace = self.nodes[node]
        if node in self.ended_at:
            return
        trace.stopped_by = self.causes[0] if self.causes else None
        if self.queued.pop(node, None) is not None:
            self.admission.withdraw(node)
        self._leave(node, trace)
        self.machine.apply(NodeStopped(self.program.ids[node]), self.now)

    def _undo(self, step: Undo) -> None:
        """Begin a compensation, which succeeds: what a failed one needs is a person."""
        self.undone.setdefault(step.node, (self.now, self.now))
        self.order += 1
        end = self.now + self.scenario.behaviours[step.node].undo.draw(self.rnd)
        heappush(self.heap, (end, 0, self.order, _UNDO - step.node))

    def _undone(self, node: int) -> None:
        self.undone[node] = (self.undone[node][0], self.now)
        self.steps += 1
        self.machine.apply(UndoSucceeded(self.program.ids[node]), self.now)

    def _awaited(self) -> dict[str, Any]:
        """Return why the run is held: the failure that an operator has to decide about."""
        node = self.machine.awaiting[0]
        work = self.nodes[node].work if node in self.nodes else None
        error = work.error if work is not None and work.error is not None else {"type": "VALIDATION_ERROR"}
        message = f"{error.get('message', 'it failed')}; the run waits for an operator to retry or skip the node"
        return {**error, "originNode": self.program.ids[node], "message": message}

    # -- why and when ------------------------------------------------------------------------------------------------

    def _ready_at(self, node: int) -> int:
        """Return when a node that is begun now was ready: when its join was decided."""
        program, ended = self.program, self.ended_at
        edges = program.edges_in[node]
        if not edges:
            return 0 if node < program.first_finally else self.closing_at or 0
        sources = [program.sources[edge] for edge in edges]
        times = [ended[source] for source in sources if source in ended]
        if program.joins[node] != "any":
            return max(times, default=self.now)
        live = [
            ended[source]
            for edge, source in zip(edges, sources, strict=True)
            if source in ended and self.machine.edges[edge] == LIVE
        ]
        return min(live, default=self.now)

    def _cause(self, node: int) -> int | None:
        """Return the node whose end let ``node`` start now: one that it depends on, else one that freed a slot."""
        ended = self.causes
        if not ended:
            return None
        sources = {self.program.sources[edge] for edge in self.program.edges_in[node]}
        return next((one for one in ended if one in sources), ended[0])

    def _giver(self, node: int, lease: Lease) -> int | None:
        """Return the node whose end gave ``node`` its lease."""
        ended = self.causes
        wanted = set(self.admission.names(lease.demand))
        for one in ended:
            held = self.nodes[one].lease
            if held is not None and wanted.intersection(self.admission.names(held.demand)):
                return one
        return ended[0] if ended else None

    def _path(self) -> tuple[int, ...]:
        node = self.ended[0] if self.ended else self.last
        path: list[int] = []
        while node is not None and len(path) <= len(self.nodes):
            path.append(node)
            trace = self.nodes[node]
            node = trace.stopped_by if trace.stopped_by is not None else trace.cause
        return tuple(reversed(path))

    def _used(self) -> dict[str, float]:
        used: dict[str, float] = {}
        for trace in self.nodes.values():
            if trace.lease is not None and trace.start is not None:
                lasted = trace.end - trace.start
                for name, amount in trace.lease.demand.pools:
                    used[f"pool {name}"] = used.get(f"pool {name}", 0.0) + amount * lasted
                if trace.lease.agent is not None:
                    name = f"agent {self.admission.agents[trace.lease.agent].name}"
                    used[name] = used.get(name, 0.0) + lasted
        return used
