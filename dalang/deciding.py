"""Failures for good, and what operators decide about them: retry, skip, or let the failure take its effect.

DESIGN section 4: after the last attempt the ``error`` edges, else the handler's suggested action, else the failure
policy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from dalang.dataflow import InvalidInputs, apply_ports
from dalang.events import RetryRequested, SkipRequested
from dalang.interrupting import Interrupting
from dalang.plan import FailurePolicy
from dalang.run_state import BLOCKED, DEAD, LIVE, PENDING
from dalang.statuses import ImpossibleMove, NodeStatus, RunStatus, UnacceptableContent
from dalang.wire import EventType

PERSON_WANTED = ("HUMAN_REVIEW", "ESCALATE")
"""Suggested actions with which a handler wants a person to decide about its failure."""


class Deciding(Interrupting):
    """A run's state with its failures."""

    @abstractmethod
    def _wind_down(self, ending: RunStatus) -> None:
        """End the run early."""

    @abstractmethod
    def _ask_about(self, node: int, error: Mapping[str, Any]) -> None:
        """Raise a human task about a failed node."""

    @abstractmethod
    def _is_asked_about(self, node: int) -> bool:
        """Tell whether a human task about a failed node is open; if not, the failure holds the run."""

    def _wrong_status(self, name: str) -> ImpossibleMove:
        ending = self.ending is not None and self.status is RunStatus.RUNNING
        return ImpossibleMove(name, "the run", "ending" if ending else self.status)

    def _decision_refusal(self, name: str, event: RetryRequested | SkipRequested) -> ImpossibleMove | None:
        """Return why an operator may not retry or skip a node now, or None."""
        node = self.program.index.get(event.node)
        if node is None:
            return ImpossibleMove(name, f"node {event.node}", "not in the plan")
        if self.ending or self.status is RunStatus.PENDING:
            return ImpossibleMove(name, "the run", "ending" if self.ending else self.status)
        waits = self.statuses[node] is PENDING or node in self.waits
        if node in self.awaiting or (isinstance(event, SkipRequested) and waits):
            return self._lacking(name, node, event.outputs) if isinstance(event, SkipRequested) else None
        status = str(self.statuses[node])
        if self.statuses[node] is NodeStatus.FAILED:
            status += " and its failure has taken effect"
        return ImpossibleMove(name, f"node {self.program.ids[node]}", status)

    def _lacking(self, name: str, node: int, outputs: Mapping[str, Any] | None) -> ImpossibleMove | None:
        """Return why these cannot stand for the outputs of ``node``, or None."""
        try:
            self._substituted(node, outputs)
        except InvalidInputs as invalid:
            return UnacceptableContent(name, invalid.message)
        return None

    def _substituted(self, node: int, outputs: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return what stands for the outputs of ``node``, with its ports' defaults.

        Raises:
            InvalidInputs: a required port has no value.
        """
        if outputs is None or self.engine == 1:
            return None if outputs is None else dict(outputs)
        return apply_ports(self.program.nodes[node].get("outputPorts"), dict(outputs), "output")

    def _fail(self, node: int, error: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
        """Let ``node`` fail for good: its live error edges take the failure, or its edges are blocked."""
        program = self.program
        if self._is_read(node):
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
            self._bring_up(node, error)
            return
        self._move_node(node, NodeStatus.FAILED, EventType.NODE_FAILED, data, {"error": error})
        self._let_go(node)
        self._give_up(node, error)

    def _bring_up(self, node: int, error: Mapping[str, Any]) -> None:
        """Have somebody decide about a failed node."""
        if self._wants_person(error):
            self._ask_about(node, error)
        else:
            self._hold(node)

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
        """Whether somebody decides about this failure: by the plan's policy, or since the handler wants a person."""
        if self.ending or self.closing or node >= self.program.first_finally or self._fatal is not None:
            return False
        action = error.get("suggestedAction")
        waits = self._policy() in (FailurePolicy.PAUSE, FailurePolicy.ESCALATE)
        return action in PERSON_WANTED or (waits and action != "ABORT")

    def _policy(self) -> str:
        """Return the failure policy that holds now."""
        return self.program.policy

    def _wants_person(self, error: Mapping[str, Any]) -> bool:
        """Whether a human task is raised about a failure that needs a decision, rather than the run being held."""
        wanted = error.get("suggestedAction") in PERSON_WANTED or self._policy() == FailurePolicy.ESCALATE
        return wanted and self.engine > 1

    def _hold(self, node: int) -> None:
        """Hold the run because of a failed node, unless an operator holds it already."""
        if self.status in (RunStatus.RUNNING, RunStatus.AWAITING_HITL, RunStatus.REPLANNING):
            self.held_by_failure = True
            node_id = self.program.ids[node]
            data = {"nodeId": node_id, "reason": f"node {node_id} failed; retry or skip it, or cancel the run"}
            self._move_run(RunStatus.PAUSED, EventType.PLAN_PAUSED, data)

    @property
    def holding(self) -> list[int]:
        """Failed nodes that hold the run until an operator decides about them; about others people are asked."""
        return [node for node in self.awaiting if not self._is_asked_about(node)]

    def _decided(self, node: int, operator: str | None, action: str | None = None) -> None:
        """Somebody decided about a failed node; after the last one a run that was held for them goes on.

        ``action`` is retry, skip or abort; None where the plan was changed instead.
        """
        self.awaiting.remove(node)
        if self.held_by_failure and not self.holding:
            self.held_by_failure = False
            self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {"operator": operator})

    def _retry(self, event: RetryRequested) -> None:
        node = self.program.index[event.node]
        body = None
        if event.inputs or self.program.container(node) is not None:
            # Other inputs are other work: a service that remembers the key must not answer with the old result. And a
            # failed run below the node has undone what it did, so that it is to be done anew.
            self.generations[node] = self.generations.get(node, 0) + 1
        if event.inputs:
            self.overrides[node] = {**self.overrides.get(node, {}), **event.inputs}
            body = {"inputs": dict(event.inputs)}
        else:
            self.generations.setdefault(node, 0)
        self._starts_again(node, as_other_work=bool(event.inputs))
        data = {"generation": self.generations[node], "operator": event.operator, "reason": event.reason}
        self._move_node(node, PENDING, EventType.NODE_RETRY_REQUESTED, data, body)
        self.errors.pop(node, None)
        self._make_ready(node)
        self._decided(node, event.operator, "retry")

    def _skip(self, event: SkipRequested) -> None:
        node = self.program.index[event.node]
        failed = node in self.awaiting
        outputs = self._substituted(node, event.outputs)
        body = None if outputs is None else {"outputs": outputs}
        data = {"skipReason": "operator", "operator": event.operator, "reason": event.reason}
        self._wait_over(node)
        self._move_node(node, NodeStatus.SKIPPED, EventType.NODE_SKIPPED, data, body)
        self._let_go(node)
        if failed:
            self._decided(node, event.operator, "skip")
        if outputs is None:
            self._resolved.extend((edge, DEAD) for edge in self.program.edges_out[node])
        else:
            self._light(node, outputs)
