"""The state machine of a run: events in, steps out.

Theory of operation
    A :class:`Run` holds one status per node and one state per edge. :meth:`Run.apply` takes one event - a node ended, a
    person paused - and follows all it means: edges become live, dead or blocked, joins are decided, nodes become
    ready or are skipped, the run begins to end. :meth:`Run.due` then says what to begin now: start this node with these
    inputs, stop that one; each ``Start`` is answered later by exactly one NodeSucceeded, NodeFailed or NodeStopped.

    Each change is one *fact*, numbered and put into ``facts`` in the order it happened; the driver takes them there
    and has them stored. The machine reads no clock (``at`` comes in with each event), no environment and no random
    source, and walks lists in plan order only, so the same events give the same facts in every process.

    An event costs time in the number of the node's own edges. Everything but statuses and edge states is an index
    (counts, the heap of ready nodes, outputs still needed) that can be derived again: that is what
    :meth:`Run.snapshot` leaves out and :meth:`Run.restore` rebuilds.

The end
    A run ends when every node has ended. It ends early when an operator cancels it, its time is up or a node fails
    unhandled under failFast: what waits becomes CANCELLED, what is in flight is stopped and waited for. Then the
    ``finally`` nodes run, then the end is COMPLETED, FAILED or CANCELLED.

Statuses and possible moves stand in ``statuses.py``, the state and its indexes in ``run_state.py``, edges and joins in
``joining.py``, what edges carry in ``dataflow.py``; DESIGN sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop
from typing import Any

from dalang.dataflow import InvalidInputs, apply_ports, edge_values, expression_error, render_inputs, validation_error
from dalang.events import (
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    Rejected,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    Start,
    Step,
    Stop,
    TimedOut,
)
from dalang.expressions import ExpressionError
from dalang.joining import START, Joining
from dalang.plan import FailurePolicy
from dalang.program import Program
from dalang.run_state import BLOCKED, DEAD, LIVE, PENDING
from dalang.statuses import IN_FLIGHT, RUN_ENDS, ImpossibleMove, NodeStatus, RunStatus
from dalang.wire import EventType

PERSON_WANTED = ("HUMAN_REVIEW", "ESCALATE")
"""Suggested actions with which a handler wants a person to decide about its failure."""

MAX_SLEEPING = 500
"""Timers of one run at once, when the plan does not say: they hold no slot, but each is an event when it fires."""

SKIPPED, CANCELLED, RUNNING = NodeStatus.SKIPPED, NodeStatus.CANCELLED, NodeStatus.RUNNING


class Run(Joining):
    """One run of a program. ``max_in_flight`` bounds activities in flight where the plan does not."""

    @classmethod
    def restore(
        cls, program: Program, inputs: Mapping[str, Any], snapshot: Mapping[str, Any], max_in_flight: int = 50
    ) -> Run:
        """Return the run that :meth:`snapshot` was taken of, ready to go on with the same program."""
        run = cls(program, inputs, snapshot["about"], max_in_flight)
        run._load(snapshot)
        if run.status is not RunStatus.PENDING:
            run._find_ready(range(len(run.statuses) if run.closing else program.first_finally))
        return run

    # -- events ----------------------------------------------------------------------------------------------------

    def apply(self, event: Event, at: int) -> None:
        """Take one event, which happened at ``at`` (milliseconds since the epoch), with all its consequences.

        Raises:
            ImpossibleMove: the event does not fit; nothing was changed.
        """
        refusal = self.refusal(event)
        if refusal is not None:
            raise refusal
        self._at = at
        _HANDLERS[type(event)](self, event)
        self._settle()
        self._close()

    def refusal(self, event: Event) -> ImpossibleMove | None:
        """Return why ``event`` is not possible now, or None: validators of updates and :meth:`apply` ask the same."""
        name = _NAMES[type(event)]
        if isinstance(event, (NodeSucceeded, NodeFailed, NodeStopped, RetryRequested, SkipRequested)):
            number = self.program.index.get(event.node)
            if number is None:
                return ImpossibleMove(name, f"node {event.node}", "not in the plan")
            if isinstance(event, (SkipRequested, RetryRequested)):
                return self._decision_refusal(name, event, number)
            if self.statuses[number] not in IN_FLIGHT:
                return ImpossibleMove(name, f"node {event.node}", self.statuses[number])
            if isinstance(event, NodeStopped) and not (self.ending and number < self.program.first_finally):
                return ImpossibleMove(name, f"node {event.node}", f"{self.statuses[number]} and was not told to stop")
            return None
        possible = {
            Begin: self.status is RunStatus.PENDING,
            PauseRequested: self.status is RunStatus.RUNNING and not self.ending and not self.closing,
            ResumeRequested: self.status is RunStatus.PAUSED,
            CancelRequested: self._cancellable(),
            TimedOut: self._cancellable(),
            Rejected: True,
        }[type(event)]
        if isinstance(event, ResumeRequested) and self.awaiting:
            names = ", ".join(self.program.ids[node] for node in self.awaiting[:5])
            return ImpossibleMove(name, "the run", f"{self.status} until somebody retries or skips {names}")
        if possible:
            return None
        return ImpossibleMove(name, "the run", "ending" if self.ending and self.status not in RUN_ENDS else self.status)

    def _decision_refusal(self, name: str, event: Event, node: int) -> ImpossibleMove | None:
        """Return why an operator may not retry or skip ``node`` now, or None."""
        if self.ending or self.status is RunStatus.PENDING:
            return ImpossibleMove(name, "the run", "ending" if self.ending else self.status)
        if node in self.awaiting or (isinstance(event, SkipRequested) and self.statuses[node] is PENDING):
            return None
        status = str(self.statuses[node])
        if self.statuses[node] is NodeStatus.FAILED:
            status += " and its failure has taken effect"
        return ImpossibleMove(name, f"node {self.program.ids[node]}", status)

    def _cancellable(self) -> bool:
        return (
            self.status in (RunStatus.RUNNING, RunStatus.PAUSED)
            and self.ending is not RunStatus.CANCELLED
            and not self.closing
        )

    def _begin(self, event: Begin) -> None:
        self._move_run(RunStatus.VALIDATED, EventType.PLAN_VALIDATED, {})
        self._move_run(RunStatus.RUNNING, EventType.PLAN_STARTED, {}, {"inputs": self.inputs})
        self._find_ready(range(self.program.first_finally))

    def _succeeded(self, event: NodeSucceeded) -> None:
        node = self.program.index[event.node]
        try:
            outputs = apply_ports(self.program.nodes[node].get("outputPorts"), dict(event.outputs), "output")
        except InvalidInputs as invalid:
            self._fail(node, validation_error(invalid.message, invalid.details, event.node))
            return
        data: dict[str, Any] = {"attempt": event.attempt, **event.notes}
        self.given.pop(node, None)
        self._move_node(node, NodeStatus.SUCCESS, EventType.NODE_COMPLETED, data, {"outputs": outputs})
        self._light(node, outputs)

    def _failed(self, event: NodeFailed) -> None:
        self._fail(self.program.index[event.node], event.error, event.notes)

    def _fail(self, node: int, error: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
        """Let ``node`` fail for good: its live error edges take the failure, or its edges are blocked."""
        program = self.program
        if self._readers[node]:
            self.errors[node] = error
        outgoing = program.edges_out[node]
        weighed = {edge: self._weigh(edge, {}, error) for edge in outgoing if program.is_error_port(edge)}
        data = {"attempt": error.get("attempt"), "errorType": error.get("type"), **(notes or {})}
        if LIVE in weighed.values():
            self._move_node(node, NodeStatus.ERROR, EventType.NODE_ERROR, data, {"error": error})
            self._resolved.extend((edge, weighed.get(edge, DEAD)) for edge in outgoing)
            self._let_go(node)
            return
        fallback = program.nodes[node].get("fallback")
        if fallback is not None and error.get("suggestedAction") == "FALLBACK":
            body = {"error": error, "outputs": fallback}
            self._move_node(node, NodeStatus.ERROR, EventType.NODE_ERROR, {**data, "fallback": True}, body)
            self._let_go(node)
            self._light(node, fallback)
            return
        if self._needs_decision(node, error):
            self._move_node(
                node, NodeStatus.FAILED, EventType.NODE_FAILED, {**data, "awaiting": True}, {"error": error}
            )
            self.awaiting.append(node)
            self._hold(node)
            return
        self._move_node(node, NodeStatus.FAILED, EventType.NODE_FAILED, data, {"error": error})
        self._let_go(node)
        self._give_up(node, error)

    def _give_up(self, node: int, error: Mapping[str, Any]) -> None:
        """Let a failure that nothing handles take its effect on what depends on the node, and on the run."""
        program = self.program
        self._resolved.extend((edge, BLOCKED) for edge in program.edges_out[node])
        if self.error is None:
            self.error = error
        ends_run = program.policy == FailurePolicy.FAIL_FAST or error.get("suggestedAction") == "ABORT"
        if ends_run and self._fatal is None and node < program.first_finally:
            self._fatal = node

    def _needs_decision(self, node: int, error: Mapping[str, Any]) -> bool:
        """Whether an operator decides about this failure: by the plan's policy, or since the handler wants a person."""
        if self.ending or self.closing or node >= self.program.first_finally or self._fatal is not None:
            return False
        action = error.get("suggestedAction")
        return action in PERSON_WANTED or (self.program.policy == FailurePolicy.PAUSE and action != "ABORT")

    def _hold(self, node: int) -> None:
        """Hold the run because of a failed node, unless an operator holds it already."""
        if self.status is RunStatus.RUNNING:
            self.held_by_failure = True
            node_id = self.program.ids[node]
            data = {"nodeId": node_id, "reason": f"node {node_id} failed; retry or skip it, or cancel the run"}
            self._move_run(RunStatus.PAUSED, EventType.PLAN_PAUSED, data)

    def _decided(self, node: int, operator: str | None) -> None:
        """An operator decided about a failed node; after the last one a run that was held for them goes on."""
        self.awaiting.remove(node)
        if not self.awaiting and self.held_by_failure:
            self.held_by_failure = False
            self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {"operator": operator})

    def _retry(self, event: RetryRequested) -> None:
        node = self.program.index[event.node]
        body = None
        if event.inputs:
            # Other inputs are other work: a service that remembers the key must not answer with the old result.
            self.generations[node] = self.generations.get(node, 0) + 1
            self.overrides[node] = {**self.overrides.get(node, {}), **event.inputs}
            body = {"inputs": dict(event.inputs)}
        else:
            self.generations.setdefault(node, 0)
        data = {"generation": self.generations[node], "operator": event.operator, "reason": event.reason}
        self._move_node(node, PENDING, EventType.NODE_RETRY_REQUESTED, data, body)
        self.errors.pop(node, None)
        self._make_ready(node)
        self._decided(node, event.operator)

    def _stopped(self, event: NodeStopped) -> None:
        node = self.program.index[event.node]
        self.given.pop(node, None)
        self._move_node(node, CANCELLED, EventType.NODE_CANCELLED, event.notes)
        self._resolved.extend((edge, BLOCKED) for edge in self.program.edges_out[node])

    def _skip(self, event: SkipRequested) -> None:
        node = self.program.index[event.node]
        failed = node in self.awaiting
        outputs = None if event.outputs is None else dict(event.outputs)
        body = None if outputs is None else {"outputs": outputs}
        data = {"skipReason": "operator", "operator": event.operator, "reason": event.reason}
        self._move_node(node, SKIPPED, EventType.NODE_SKIPPED, data, body)
        self._let_go(node)
        if failed:
            self._decided(node, event.operator)
        if outputs is None:
            self._resolved.extend((edge, DEAD) for edge in self.program.edges_out[node])
        else:
            self._light(node, outputs)

    def _pause(self, event: PauseRequested) -> None:
        self._move_run(RunStatus.PAUSED, EventType.PLAN_PAUSED, {"operator": event.operator, "reason": event.reason})

    def _resume(self, event: ResumeRequested) -> None:
        self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {"operator": event.operator, "reason": event.reason})

    def _cancel(self, event: CancelRequested) -> None:
        self.reason = event.reason or "cancelled"
        data = {"operator": event.operator, "reason": event.reason}
        if self.status is RunStatus.PAUSED:
            self._move_run(RunStatus.RUNNING, EventType.PLAN_CANCEL_REQUESTED, data)
        else:
            self._emit(EventType.PLAN_CANCEL_REQUESTED, None, {"status": self.status, **data})
        self._wind_down(RunStatus.CANCELLED)

    def _time_out(self, event: TimedOut) -> None:
        self._cancel(CancelRequested(operator="system", reason="TIMEOUT"))

    def _reject(self, event: Rejected) -> None:
        self._emit(EventType.REQUEST_REJECTED, None, {"request": event.request, "reason": event.reason})

    # -- what is due -----------------------------------------------------------------------------------------------

    def due(self, at: int, starting: bool = True) -> list[Step]:
        """Return what to begin now and take note that it is begun; each ``Start`` moves its node to RUNNING.

        With ``starting`` false only stops are returned: the driver wants a quiet moment.
        """
        self._at = at
        steps: list[Step] = []
        while starting:
            node = self._next_ready()
            if node is None:
                self._close()
                if not self._has_ready():
                    break
            else:
                started = self._start(node)
                if started is not None:
                    steps.append(started)
        steps.extend(Stop(self.program.ids[node]) for node in self._to_stop if self.statuses[node] in IN_FLIGHT)
        self._to_stop = []
        return steps

    def _next_ready(self) -> int | None:
        """Return the ready node to start next, or None when none is ready or no slot is free."""
        if self.status is not RunStatus.RUNNING:
            return None
        for sleeping, limit in ((False, self._max_in_flight), (True, MAX_SLEEPING)):
            heap = self._ready[sleeping]
            while heap and self._busy[sleeping] < limit:
                node = heappop(heap)[-1]
                if self.statuses[node] is PENDING:
                    return node
        return None

    def _has_ready(self) -> bool:
        free = (self._busy[0] < self._max_in_flight, self._busy[1] < MAX_SLEEPING)
        return self.status is RunStatus.RUNNING and any(
            heap and slot for heap, slot in zip(self._ready, free, strict=True)
        )

    def _start(self, node: int) -> Start | None:
        program, node_id = self.program, self.program.ids[node]
        again = node in self.given
        try:
            inputs = {**(self.given[node] if again else self._inputs(node)), **self.overrides.get(node, {})}
        except ExpressionError as failure:
            error = expression_error(f"inputs{failure.pointer or ''} of node {node_id}", failure, node_id)
        except InvalidInputs as invalid:
            error = validation_error(invalid.message, invalid.details, node_id)
        else:
            attempts = program.retries[program.nodes[node]["retry"]]["attempts"]
            generation = self.generations.get(node, 0)
            data = {"attempt": 1, "maxAttempts": attempts, "generation": generation}
            self._move_node(node, RUNNING, EventType.NODE_STARTED, data, {"inputs": inputs})
            if not again:
                self._drop_unread(program.reads[node])
            self.given[node] = inputs
            return Start(node, node_id, program.types[node], inputs, generation)
        self._fail(node, error)
        self._settle()
        return None

    def _inputs(self, node: int) -> dict[str, Any]:
        program = self.program
        carried = [
            edge_values(program, edge, self.outputs.get(program.sources[edge], {}), self._carried_error(edge))
            for edge in program.edges_in[node]
            if self.edges[edge] == LIVE
        ]
        return render_inputs(program, node, self._context(program.input_references.get(node, ())), carried)

    def _carried_error(self, edge: int) -> Mapping[str, Any] | None:
        return self.errors.get(self.program.sources[edge]) if self.program.is_error_port(edge) else None

    # -- the end ---------------------------------------------------------------------------------------------------

    def _wind_down(self, ending: RunStatus) -> None:
        """End early: what waits is cancelled, what is in flight is told to stop and waited for."""
        already = self.ending is not None
        self.ending = ending
        if already:
            return
        if self.held_by_failure and self.status is RunStatus.PAUSED:
            self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {"reason": "the run is ending"})
        awaiting, self.awaiting, self.held_by_failure = self.awaiting, [], False
        for node in awaiting:  # nobody decides about them any more
            self._let_go(node)
            self._give_up(node, self.errors.get(node, {}))
        for node in range(self.program.first_finally):
            status = self.statuses[node]
            if status is PENDING:
                self._move_node(node, CANCELLED, EventType.NODE_CANCELLED, {})
                self._let_go(node)
            elif status in IN_FLIGHT:
                self._to_stop.append(node)

    def _end_early(self, node: int) -> None:
        """End the run because of a failed node, after everything that its failure decides by itself."""
        self._fatal = None
        if self.ending is None:
            data = {"status": str(self.status), "nodeId": self.program.ids[node]}
            self._emit(EventType.PLAN_FAILING, None, data)
            self._wind_down(RunStatus.FAILED)

    def _close(self) -> None:
        """Begin the ``finally`` nodes when the others have ended, and end the run when those have."""
        if self.status is not RunStatus.RUNNING or self._open[0]:
            return
        if not self.closing:
            self.closing = True
            self.about["status"] = str(self._outcome())
            self._find_ready(range(self.program.first_finally, len(self.statuses)))
        if self._open[1] == 0:
            self._end()

    def _outcome(self) -> RunStatus:
        if self.ending is not None:
            return self.ending
        return RunStatus.FAILED if self.error is not None else RunStatus.COMPLETED

    def _end(self) -> None:
        outcome = self._outcome()
        template = self.program.outputs_template
        if outcome is RunStatus.COMPLETED:
            self.result = self.program.document.get("outputs") or {}
            if template is not None:
                try:
                    self.result = template.render(self._context(self.program.output_references))
                except ExpressionError as failure:
                    self.error = expression_error(f"outputs{failure.pointer or ''} of the plan", failure)
                    outcome = RunStatus.FAILED
        if outcome is RunStatus.COMPLETED:
            self._move_run(outcome, EventType.PLAN_COMPLETED, {}, {"outputs": self.result})
        elif outcome is RunStatus.FAILED:
            self._move_run(outcome, EventType.PLAN_FAILED, {}, {"error": self.error or {}})
        else:
            self._move_run(outcome, EventType.PLAN_CANCELLED, {"reason": self.reason})

    def _find_ready(self, nodes: range) -> None:
        """Put into the heaps every node of ``nodes`` that waits for nothing but a slot."""
        for node in nodes:
            if self.statuses[node] is PENDING and (not self.program.edges_in[node] or self._verdict(node) == START):
                self._make_ready(node)


_HANDLERS: dict[type, Callable[[Run, Any], None]] = {
    Begin: Run._begin,
    NodeSucceeded: Run._succeeded,
    NodeFailed: Run._failed,
    NodeStopped: Run._stopped,
    PauseRequested: Run._pause,
    ResumeRequested: Run._resume,
    CancelRequested: Run._cancel,
    TimedOut: Run._time_out,
    RetryRequested: Run._retry,
    SkipRequested: Run._skip,
    Rejected: Run._reject,
}

_NAMES: dict[type, str] = {
    Begin: "begin",
    NodeSucceeded: "node succeeded",
    NodeFailed: "node failed",
    NodeStopped: "node stopped",
    PauseRequested: "pause",
    ResumeRequested: "resume",
    CancelRequested: "cancel",
    TimedOut: "time-out",
    RetryRequested: "retry",
    SkipRequested: "skip",
    Rejected: "reject",
}
