"""Failures for good, and what operators decide about them: retry, skip, or let the failure take its effect.

DESIGN section 4: after the last attempt the ``error`` edges, else the handler's suggested action, else the failure
policy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from dalang.events import RetryRequested, SkipRequested
from dalang.plan import FailurePolicy
from dalang.run_state import BLOCKED, DEAD, LIVE, PENDING
from dalang.statuses import ImpossibleMove, NodeStatus, RunStatus
from dalang.waiting import Waiting
from dalang.wire import EventType

PERSON_WANTED = ("HUMAN_REVIEW", "ESCALATE")
"""Suggested actions with which a handler wants a person to decide about its failure."""


class Deciding(Waiting):
    """A run's state with its failures."""

    @abstractmethod
    def _wind_down(self, ending: RunStatus) -> None:
        """End the run early."""

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
        if node in self.awaiting:
            return None
        if isinstance(event, SkipRequested) and (self.statuses[node] is PENDING or node in self.waits):
            return None
        status = str(self.statuses[node])
        if self.statuses[node] is NodeStatus.FAILED:
            status += " and its failure has taken effect"
        return ImpossibleMove(name, f"node {self.program.ids[node]}", status)

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
        return action in PERSON_WANTED or (self._policy() == FailurePolicy.PAUSE and action != "ABORT")

    def _policy(self) -> str:
        """Return the failure policy that holds now."""
        return self.program.policy

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
        if event.inputs or self.program.container(node) is not None:
            # Other inputs are other work: a service that remembers the key must not answer with the old result. And a
            # failed run below the node has undone what it did, so that it is to be done anew.
            self.generations[node] = self.generations.get(node, 0) + 1
        if event.inputs:
            self.overrides[node] = {**self.overrides.get(node, {}), **event.inputs}
            body = {"inputs": dict(event.inputs)}
        else:
            self.generations.setdefault(node, 0)
        data = {"generation": self.generations[node], "operator": event.operator, "reason": event.reason}
        self._move_node(node, PENDING, EventType.NODE_RETRY_REQUESTED, data, body)
        self.errors.pop(node, None)
        self._make_ready(node)
        self._decided(node, event.operator)

    def _skip(self, event: SkipRequested) -> None:
        node = self.program.index[event.node]
        failed = node in self.awaiting
        outputs = None if event.outputs is None else dict(event.outputs)
        body = None if outputs is None else {"outputs": outputs}
        data = {"skipReason": "operator", "operator": event.operator, "reason": event.reason}
        self._wait_over(node)
        self._move_node(node, NodeStatus.SKIPPED, EventType.NODE_SKIPPED, data, body)
        self._let_go(node)
        if failed:
            self._decided(node, event.operator)
        if outputs is None:
            self._resolved.extend((edge, DEAD) for edge in self.program.edges_out[node])
        else:
            self._light(node, outputs)
