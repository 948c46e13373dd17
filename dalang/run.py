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
    unhandled under failFast: what waits becomes CANCELLED, what is in flight is stopped and waited for. Then what took
    effect is undone, if the plan wants it after such an end; each ``Undo`` is answered by UndoSucceeded or UndoFailed.
    Then the ``finally`` nodes run, then the end is COMPLETED, FAILED or CANCELLED.

Statuses and possible moves stand in ``statuses.py``, the state and its indexes in ``run_state.py``, edges and joins in
``joining.py``, what edges carry in ``dataflow.py``, waits and alarms in ``waiting.py``, interrupts in
``interrupting.py``, failures and decisions about them in ``deciding.py``, timers and what comes from outside in
``hearing.py`` and ``callbacks.py``, people and their tasks in ``people.py``, what handlers ask them in
``questions.py``, nodes that hold other nodes in ``containers.py``, other plans for a run that goes on in
``revising.py``, the beginning from what another run came to in ``reviving.py``, compensation in ``undoing.py``, budgets
in ``budgeting.py``, nodes that are worked on together in ``segmenting.py``; DESIGN sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import heappop
from typing import Any

from dalang.dataflow import InvalidInputs, edge_values, expression_error, render_inputs, validation_error
from dalang.events import (
    AlarmRang,
    Begin,
    BudgetRaised,
    CallbackReceived,
    CancelRequested,
    Event,
    ExternalEvent,
    LeaseAnswered,
    NodeDeferred,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    PersonAsked,
    PlanRevised,
    Rejected,
    ReplanFailed,
    ResumeRequested,
    RetryRequested,
    SegmentEnded,
    SkipRequested,
    Start,
    Step,
    Stop,
    TaskClaimed,
    TaskDecided,
    TaskDelegated,
    TaskReleased,
    TenantBudgetSpent,
    TimedOut,
    UndoFailed,
    UndoSucceeded,
)
from dalang.expressions import ExpressionError
from dalang.joining import START
from dalang.program import Program
from dalang.run_state import BLOCKED, LIVE, PENDING
from dalang.segmenting import Segmenting
from dalang.statuses import IN_FLIGHT, ImpossibleMove, NodeStatus, RunStatus
from dalang.wire import EventType

MOVING = (RunStatus.RUNNING, RunStatus.COMPENSATING)
"""Statuses of a run that begins what is due."""

_ENDS = (NodeSucceeded, NodeFailed, NodeStopped, NodeDeferred, PersonAsked, UndoSucceeded, UndoFailed)
"""Ends of what was at work, which tell what it has used."""

SKIPPED, CANCELLED, RUNNING = NodeStatus.SKIPPED, NodeStatus.CANCELLED, NodeStatus.RUNNING


class Run(Segmenting):
    """One run of a program. ``max_in_flight`` bounds activities in flight where the plan does not."""

    @classmethod
    def restore(
        cls, program: Program, inputs: Mapping[str, Any], snapshot: Mapping[str, Any], max_in_flight: int = 50
    ) -> Run:
        """Return the run that :meth:`snapshot` was taken of, ready to go on with the same program."""
        run = cls(program, inputs, snapshot["about"], max_in_flight)
        run._load(snapshot)
        if run.status is RunStatus.COMPENSATING:
            run._index_undo()
        if run.status is not RunStatus.PENDING:
            run._find_ready(range(len(run.statuses) if run.closing else program.first_finally))
        return run

    # -- events ----------------------------------------------------------------------------------------------------

    def apply(self, event: Event, at: int) -> None:
        """Take one event, which happened at ``at`` (milliseconds since the epoch), with all its consequences.

        Raises:
            ImpossibleMove: the event does not fit; nothing was changed.
        """
        refusal = self.refusal(event, at)
        if refusal is not None:
            raise refusal
        self._at = at
        self._take_end(event)
        self._settle()
        self._weigh_waiting()
        self._close()

    def refusal(self, event: Event, at: int | None = None) -> ImpossibleMove | None:
        """Return why ``event`` is not possible (``at`` a time), or None: validators and :meth:`apply` ask the same."""
        rule = RULES[type(event)]
        return rule.refusal(self, rule.name, event) or self._too_late(rule.name, event, at)

    def _ended_refusal(self, name: str, event: NodeSucceeded | NodeFailed | NodeStopped) -> ImpossibleMove | None:
        """Return why this cannot be how a node in flight ended, or None."""
        number = self.program.index.get(event.node)
        if number is None:
            return ImpossibleMove(name, f"node {event.node}", "not in the plan")
        if self.statuses[number] not in IN_FLIGHT or self.statuses[number] is NodeStatus.AWAITING_HITL:
            return ImpossibleMove(name, f"node {event.node}", self.statuses[number])
        if number in self.waits:
            return ImpossibleMove(name, f"node {event.node}", "waiting for what no worker does")
        told = number in self.halting or (self.ending and number < self.program.first_finally)
        if isinstance(event, NodeStopped) and not told:
            return ImpossibleMove(name, f"node {event.node}", f"{self.statuses[number]} and was not told to stop")
        return None

    def _begin_refusal(self, name: str, event: Begin) -> ImpossibleMove | None:
        return None if self.status is RunStatus.PENDING else self._wrong_status(name)

    def _pause_refusal(self, name: str, event: PauseRequested) -> ImpossibleMove | None:
        if self._may_interrupt(event):
            return None
        going = self.status in (RunStatus.RUNNING, RunStatus.AWAITING_HITL, RunStatus.REPLANNING)
        possible = going and not self.ending and not self.closing
        return None if possible else self._wrong_status(name)

    def _resume_refusal(self, name: str, event: ResumeRequested) -> ImpossibleMove | None:
        holding = self.holding
        if holding:
            names = ", ".join(self.program.ids[node] for node in holding[:5])
            return ImpossibleMove(name, "the run", f"{self.status} until somebody retries or skips {names}")
        return self._short_refusal(name) if self.status is RunStatus.PAUSED else self._wrong_status(name)

    def _cancel_refusal(self, name: str, event: CancelRequested | TimedOut) -> ImpossibleMove | None:
        return None if self._cancellable() else self._wrong_status(name)

    def _never_refused(self, name: str, event: Event) -> None:
        return None

    def _cancellable(self) -> bool:
        return (
            self.status in (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.AWAITING_HITL, RunStatus.REPLANNING)
            and self.ending is not RunStatus.CANCELLED
            and not self.closing
        )

    def _begin(self, event: Begin) -> None:
        self._move_run(RunStatus.VALIDATED, EventType.PLAN_VALIDATED, {})
        seed = event.seed or {}
        self._move_run(RunStatus.RUNNING, EventType.PLAN_STARTED, seed.get("data", {}), {"inputs": self.inputs})
        self._budget_since = self._at
        self._keep_time()
        if seed:
            self._take_over(seed)
        self._find_ready(range(self.program.first_finally))

    def _take_end(self, event: Event) -> None:
        if isinstance(event, _ENDS):
            self._spend(event.notes)
        RULES[type(event)].handler(self, event)

    def _succeeded(self, event: NodeSucceeded) -> None:
        node, outputs = self.program.index[event.node], event.outputs
        data = {"attempt": event.attempt, **event.notes}
        self._withdraw(node)
        if self._calls_back(node):
            self._acknowledge(node, outputs, data)
            return
        if event.undoable:
            self._took_effect_below(node)
        self._had_hand(node, *event.notes.get("contributors", ()))
        if self.program.types[node] == "loop":
            iterated = self._iterated(node, outputs, event.notes)
            if iterated is None:
                return
            outputs = iterated
        self._succeed(node, outputs, data)

    def _failed(self, event: NodeFailed) -> None:
        node = self.program.index[event.node]
        answered = self._is_answered(node)
        self._effect_unsure(node, {**event.error, "noEffect": False} if answered else event.error, event.lost)
        self._keep_checkpoint(node, event.checkpoint)
        if answered:
            self._withdraw(node)
            self._use_answer(node, {"error": dict(event.error)}, event.notes)
        elif event.cut_short and self._goes_back(node, event.notes):
            self._withdraw(node)
        elif not self._again(node, event.error, event.notes):
            self._fail(node, event.error, event.notes)

    def _stopped(self, event: NodeStopped) -> None:
        node = self.program.index[event.node]
        self._withdraw(node)
        self._keep_checkpoint(node, event.checkpoint)
        if self._goes_back(node, event.notes, event.until):
            return
        self.given.pop(node, None)
        self.answers.pop(node, None)
        self._move_node(node, CANCELLED, EventType.NODE_CANCELLED, event.notes)
        self._resolved.extend((edge, BLOCKED) for edge in self.program.edges_out[node])

    def _resume(self, event: ResumeRequested) -> None:
        self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {"operator": event.operator, "reason": event.reason})

    def _cancel(self, event: CancelRequested) -> None:
        self.reason = event.reason or "cancelled"
        data = {"operator": event.operator, "reason": event.reason}
        if self.status in (RunStatus.PAUSED, RunStatus.AWAITING_HITL, RunStatus.REPLANNING):
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
        if starting:
            steps.extend(self._restarts())
            self._unpark()
        while starting:
            node = self._next_ready()
            if node is None:
                self._close()
                undo = self._next_undo()
                if undo is not None:
                    steps.append(undo)
                elif not self._has_ready():
                    break
            elif not self._gather(node):
                started = self._start(node)
                if started is not None:
                    steps.append(self._with_past(started))
        steps.extend(self._lease_steps(starting))
        self._weigh_waiting()
        if starting:
            steps.extend(self._segments_due())
            steps.extend(self._plans_due())
        steps.extend(self._stops_of_segments())
        stops = [node for node in self._to_stop if self.statuses[node] in IN_FLIGHT and node not in self.waits]
        steps.extend(Stop(self.program.ids[node], node in self.halting and not self.ending) for node in stops)
        self._to_stop = []
        return steps

    def _next_ready(self) -> int | None:
        """Return the ready node to start next, or None when none is ready or no slot is free."""
        if self.status not in MOVING or self._is_held_back():
            return None
        node = self._next_startable()
        return None if node is None else heappop(self._ready[self._slots[node]])[-1]

    def _has_ready(self) -> bool:
        return self.status in MOVING and self._next_startable() is not None and not self._is_held_back()

    def _start(self, node: int) -> Start | None:
        program, node_id = self.program, self.program.ids[node]
        again = node in self.given
        try:
            inputs = {**(self.given[node] if again else self._inputs(node)), **self.overrides.get(node, {})}
            inputs = self._fitting(node, inputs)
            self._word_task(node, inputs)
            needs = self._needs(node)
        except ExpressionError as failure:
            error = expression_error(f"inputs{failure.pointer or ''} of node {node_id}", failure, node_id)
        except InvalidInputs as invalid:
            error = validation_error(invalid.message, invalid.details, node_id)
        else:
            if needs is not None and self._is_full():
                self._park(node)
                return None
            if not again:
                self._drop_unread(program.reads[node])
            self.given[node] = inputs
            if needs is None:
                return self._begin_node(node)
            self._queue(node, needs)
            return None
        self._fail(node, error)
        self._settle()
        return None

    def _begin_node(self, node: int) -> Start | None:
        """Begin a node with the inputs it was given; one that only waits is begun in here, and is no step."""
        program, inputs = self.program, self.given[node]
        generation = self.generations.get(node, 0)
        step = self._with_lease(self._step(node, inputs))
        data = {
            "attempt": step.attempt,
            "maxAttempts": program.retries[program.nodes[node]["retry"]]["attempts"],
            "generation": generation,
            "iteration": step.iteration or None,
            "childRunId": step.child,
            "agent": step.agent,
        }
        self._move_node(node, RUNNING, EventType.NODE_STARTED, data, {"inputs": inputs})
        self._may_take_effect(node, inputs, generation)
        begin = self.wait_types.get(program.types[node])
        if begin is None:
            return step
        begin(self, node, inputs)
        self._settle()
        return None

    def _inputs(self, node: int) -> dict[str, Any]:
        program = self.program
        carried = [
            edge_values(program, edge, self.outputs.get(program.sources[edge], {}), self._carried_error(edge))
            for edge in program.edges_in[node]
            if self.edges[edge] == LIVE
        ]
        context = {**self._context(program.input_references.get(node, ())), "inputs": self._own_inputs(node)}
        replaced = self.overrides.get(node) if self.engine > 8 else None
        return self._with_items(node, render_inputs(program, node, context, carried, replaced), context)

    def _carried_error(self, edge: int) -> Mapping[str, Any] | None:
        return self.errors.get(self.program.sources[edge]) if self.program.is_error_port(edge) else None

    # -- the end ---------------------------------------------------------------------------------------------------

    def _wind_down(self, ending: RunStatus) -> None:
        """End early: what waits is cancelled, what is in flight is told to stop and waited for."""
        already = self.ending is not None
        self.ending = ending
        if already:
            return
        self._stop_planning()
        if self.held_by_failure and self.status is RunStatus.PAUSED:
            self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {"reason": "the run is ending"})
        awaiting, self.awaiting, self.held_by_failure = self.awaiting, [], False
        for node in awaiting:  # nobody decides about them any more
            error = self._withdraw_question(node)
            self._let_go(node)
            self._give_up(node, error or self.errors.get(node, {}))
        for node in range(self.program.first_finally):
            status = self.statuses[node]
            if status is PENDING:
                if node not in self._claimed:  # those may have begun; what did not is cancelled with their segment
                    self._cancel_unstarted(node)
            elif node in self.waits or status is NodeStatus.AWAITING_HITL:
                self._cancel_wait(node)
            elif node in self.again:
                self._cancel_between(node)
            elif status in IN_FLIGHT and node not in self.halting:  # those are told already
                self._to_stop.append(node)

    def _cancel_unstarted(self, node: int) -> None:
        self._move_node(node, CANCELLED, EventType.NODE_CANCELLED, {})
        self._let_go(node)

    def _end_early(self, node: int) -> None:
        """End the run because of a failed node, after everything that its failure decides by itself."""
        self._fatal = None
        if self.ending is None:
            data = {"status": str(self.status), "nodeId": self.program.ids[node]}
            self._emit(EventType.PLAN_FAILING, None, data)
            self._wind_down(RunStatus.FAILED)

    def _close(self) -> None:
        """When all nodes have ended undo what is to be undone; then run the ``finally`` nodes, then end the run."""
        if self.status not in MOVING or self._open[0] or self.awaiting or self._undo_is_open() or self._is_planning():
            return
        if not self.closing:
            if self._begin_undo(self._outcome()):
                return
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
            try:
                if self.program.repeat is not None:
                    self.result = self._results()
                elif template is not None:
                    self.result = template.render(self._context(self.program.output_references))
            except ExpressionError as failure:
                self.error = expression_error(f"outputs{failure.pointer or ''} of the plan", failure)
                outcome = RunStatus.FAILED
            except InvalidInputs as invalid:
                self.error = validation_error(invalid.message, invalid.details)
                outcome = RunStatus.FAILED
        if self._begin_undo(outcome):  # a finally node, or the outputs, failed what had been a success
            return
        data = self._undo_summary()
        if outcome is RunStatus.COMPLETED:
            self._move_run(outcome, EventType.PLAN_COMPLETED, data, {"outputs": self.result})
        elif outcome is RunStatus.FAILED:
            self._move_run(outcome, EventType.PLAN_FAILED, data, {"error": self.error or {}})
        else:
            self._move_run(outcome, EventType.PLAN_CANCELLED, {"reason": self.reason, **data})

    def _find_ready(self, nodes: range) -> None:
        """Put into the heaps every node of ``nodes`` that waits for nothing but a slot."""
        for node in nodes:
            waits = self.statuses[node] is PENDING and not self._readied[node]
            if waits and (not self.program.edges_in[node] or self._verdict(node) == START):
                self._make_ready(node)


@dataclass(frozen=True)
class Rule:
    """What an event is called in refusals, when it is refused, and what it does."""

    name: str
    refusal: Callable[[Run, str, Any], ImpossibleMove | None]
    handler: Callable[[Run, Any], None]


RULES: dict[type, Rule] = {
    Begin: Rule("begin", Run._begin_refusal, Run._begin),
    NodeSucceeded: Rule("node succeeded", Run._ended_refusal, Run._succeeded),
    NodeFailed: Rule("node failed", Run._ended_refusal, Run._failed),
    NodeStopped: Rule("node stopped", Run._ended_refusal, Run._stopped),
    PauseRequested: Rule("pause", Run._pause_refusal, Run._pause),
    ResumeRequested: Rule("resume", Run._resume_refusal, Run._resume),
    CancelRequested: Rule("cancel", Run._cancel_refusal, Run._cancel),
    TimedOut: Rule("time-out", Run._cancel_refusal, Run._time_out),
    AlarmRang: Rule("alarm", Run._never_refused, Run._ring),
    LeaseAnswered: Rule("lease", Run._answer_refusal, Run._lease_answered),
    NodeDeferred: Rule("deferral", Run._deferral_refusal, Run._deferred),
    SegmentEnded: Rule("segment ended", Run._segment_refusal, Run._segment_ended),
    PersonAsked: Rule("question", Run._question_refusal, Run._person_asked),
    RetryRequested: Rule("retry", Run._decision_refusal, Run._retry),
    SkipRequested: Rule("skip", Run._decision_refusal, Run._skip),
    ExternalEvent: Rule("external event", Run._event_refusal, Run._hear),
    PlanRevised: Rule("replan", Run._revise_refusal, Run._revise),
    ReplanFailed: Rule("failed replan", Run._replan_failed_refusal, Run._replan_failed),
    UndoSucceeded: Rule("undo succeeded", Run._undo_refusal, Run._undo_succeeded),
    UndoFailed: Rule("undo failed", Run._undo_refusal, Run._undo_failed),
    TaskDecided: Rule("decide", Run._decide_refusal, Run._decide_task),
    TaskClaimed: Rule("claim", Run._claim_refusal, Run._claim_task),
    TaskReleased: Rule("release", Run._release_refusal, Run._release_task),
    TaskDelegated: Rule("delegate", Run._delegate_refusal, Run._delegate_task),
    CallbackReceived: Rule("callback", Run._callback_refusal, Run._called_back),
    BudgetRaised: Rule("raise budget", Run._raise_refusal, Run._raise_budget),
    TenantBudgetSpent: Rule("tenant budget", Run._never_refused, Run._tenant_spent),
    Rejected: Rule("reject", Run._never_refused, Run._reject),
}
"""Every event: the one place that says what can happen to a run."""
