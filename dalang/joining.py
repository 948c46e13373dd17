"""Edges and joins: how an edge becomes live, dead or blocked, and when a node starts or is skipped (DESIGN section 3).

What follows is worked off from queues, first in, first out: a chain of skips may be as long as the plan.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from dalang.dataflow import InvalidInputs, apply_ports, expression_error, validation_error
from dalang.expressions import ExpressionError, evaluate_condition
from dalang.program import Program
from dalang.run_state import BLOCKED, DEAD, LIVE, PENDING, UNRESOLVED, RunState
from dalang.statuses import NodeStatus
from dalang.wire import EventType

WAIT, START, SKIP = range(3)
"""Verdicts on a join."""


class Joining(RunState):
    """A run's state with its edges; what a failure means for the run is decided by who builds on it."""

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self._raised: deque[tuple[int, ExpressionError]] = deque()
        self._resolved: deque[tuple[int, int]] = deque()
        self._fatal: int | None = None

    @abstractmethod
    def _fail(self, node: int, error: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
        """Let ``node`` fail for good."""

    def _succeed(
        self, node: int, outputs: Mapping[str, Any], data: Mapping[str, Any], shown: Mapping[str, Any] | None = None
    ) -> None:
        """Let ``node`` succeed with ``outputs`` and what its output ports add to them.

        ``shown`` are references that stand for outputs in the fact: of large ones that somebody has stored.
        """
        try:
            outputs = apply_ports(self.program.nodes[node].get("outputPorts"), dict(outputs), "output")
        except InvalidInputs as invalid:
            self._fail(node, validation_error(invalid.message, invalid.details, self.program.ids[node]))
            return
        self.given.pop(node, None)
        self._move_node(
            node,
            NodeStatus.SUCCESS,
            EventType.NODE_COMPLETED,
            data,
            {"outputs": {**outputs, **shown} if shown else outputs},
        )
        self._light(node, outputs)

    @abstractmethod
    def _end_early(self, node: int) -> None:
        """End the run because of a failed node."""

    def _light(self, node: int, outputs: Mapping[str, Any]) -> None:
        """Resolve the edges of a node that ended with ``outputs``."""
        program = self.program
        if self._is_read(node):
            self.outputs[node] = outputs
        self._resolved.extend((edge, self._lit(edge, outputs)) for edge in program.edges_out[node])

    def _lit(self, edge: int, outputs: Mapping[str, Any]) -> int:
        """Return what becomes of an edge whose source ended with ``outputs``."""
        program = self.program
        if program.types[program.sources[edge]] == "human" and outputs.get("decision") == "reject":
            lit = program.is_rejected_port(edge)
        else:
            is_fixed = program.is_error_port(edge) or program.is_rejected_port(edge)
            lit = program.is_success_port(edge) or (not is_fixed and program.ports[edge] in outputs)
        return self._weigh(edge, outputs, None) if lit else DEAD

    def _let_go(self, node: int) -> None:
        """The node will not start again: its inputs, or the outputs it might have read for them, are not kept."""
        if self.given.pop(node, None) is None:
            self._drop_unread(self.program.reads[node])

    def _weigh(self, edge: int, outputs: Mapping[str, Any], error: Mapping[str, Any] | None) -> int:
        """Return LIVE or DEAD by the edge's condition; one that raises is BLOCKED and will fail the edge's target."""
        condition = self.program.condition(edge)
        if condition is None:
            return LIVE
        context = self._context(condition.references)
        context["outputs"] = outputs
        context["error"] = error or {}
        try:
            return LIVE if evaluate_condition(condition, context) else DEAD
        except ExpressionError as failure:
            # A copy: the one that was raised holds its frames, and they the failure before it, all along a chain.
            self._raised.append((edge, ExpressionError(failure.code, failure.message)))
            return BLOCKED

    def _settle(self) -> None:
        """Follow what the resolved edges decide, first in, first out, until nothing follows any more.

        It is a loop over queues, not a recursion: a chain of skips may be as long as the plan.
        """
        while True:
            if self._raised:
                self._fail_target(*self._raised.popleft())
            elif self._resolved:
                edge, state = self._resolved.popleft()
                if self.edges[edge] == UNRESOLVED:
                    self._resolve(edge, state)
            elif self._fatal is not None:
                self._end_early(self._fatal)
            else:
                return

    def _fail_target(self, edge: int, failure: ExpressionError) -> None:
        target = self.program.targets[edge]
        edge_id = self.program.edge_ids[edge]
        if self.statuses[target] is PENDING and not self._was_at_work(target):
            self._fail(target, expression_error(f"the condition of edge {edge_id}", failure, self.program.ids[target]))
        else:
            self._emit(EventType.CONDITION_FAILED, target, {"edgeId": edge_id, "code": failure.code})

    def _was_at_work(self, node: int) -> bool:
        """Whether a PENDING node was started before and waits to go on."""
        return False

    def _resolve(self, edge: int, state: int) -> None:
        program = self.program
        self.edges[edge] = state
        self._drop_unread(program.edge_reads.get(edge, ()))
        target = program.targets[edge]
        self._waiting[target] -= 1
        if state == LIVE:
            self._live[target] += 1
        elif state == BLOCKED:
            self._blocked[target] += 1
        self._decide_join(target)

    def _decide_join(self, target: int) -> None:
        """Make a waiting node ready, or skip it, when its join is decided."""
        program = self.program
        if self.statuses[target] is not PENDING or self._readied[target]:
            return
        verdict = self._verdict(target) if program.edges_in[target] else START
        if verdict == START:
            if target < program.first_finally or self.closing:
                self._make_ready(target)
        elif verdict == SKIP:
            self._pass_over(target)

    def _pass_over(self, node: int) -> None:
        """Skip a node whose join can no longer be met."""
        upstream = self._blocked[node] > 0
        data = {"skipReason": "upstreamFailed" if upstream else "condition"}
        self._move_node(node, NodeStatus.SKIPPED, EventType.NODE_SKIPPED, data)
        self._let_go(node)
        self._resolved.extend((out, BLOCKED if upstream else DEAD) for out in self.program.edges_out[node])

    def _verdict(self, node: int) -> int:
        """Decide a node's join from its edges (DESIGN section 3).

        A join that a dead edge has already spoiled still waits for the rest: a blocked one among them changes the
        reason of the skip, and that must not depend on which came first.
        """
        join = self.program.joins[node]
        waiting, live, blocked = self._waiting[node], self._live[node], self._blocked[node]
        if join == "allLive":
            if blocked:
                return SKIP
            return WAIT if waiting else (START if live else SKIP)
        if join == "any":
            return START if live else (WAIT if waiting else SKIP)
        if join == "allDone":
            return WAIT if waiting else START
        if join == "all":
            if blocked:
                return SKIP
            return WAIT if waiting else (START if live == len(self.program.edges_in[node]) else SKIP)
        return self._boolean_verdict(node, waiting)

    def _boolean_verdict(self, node: int, waiting: int) -> int:
        expression = self.program.join_expression(node)
        assert expression is not None
        known: dict[str, bool | None] = {}
        for edge in self.program.edges_in[node]:
            state = self.edges[edge]
            known[self.program.edge_ids[edge]] = None if state == UNRESOLVED else state == LIVE
        decided = expression.decide(known)
        if decided:
            return START
        return WAIT if waiting or decided is None else SKIP

    def _context(self, references: Sequence[str]) -> dict[str, Any]:
        nodes = {}
        for name in references:
            number = self.program.index[name]
            nodes[name] = {
                "status": str(self.statuses[number]),
                "outputs": self.outputs.get(number, {}),
                "error": self.errors.get(number, {}),
            }
        return {"inputs": self.inputs, "nodes": nodes, "run": self.about, "outputs": {}, "error": {}}
