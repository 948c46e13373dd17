"""Nodes that need a lease: they ask, wait QUEUED, work, and give back (DESIGN section 7; ``docs/admission.md``).

A node that asks for nothing limited starts as ever. One that does becomes QUEUED and an
:class:`~dalang.events.Ask` goes out; with the answer it starts, and its end sends a :class:`~dalang.events.GiveBack`.
It makes one attempt per lease: a failed one gives back, waits out its delay (RETRYING) without holding anything, and
asks again, so that meanwhile others work, and another agent may get it.

Asks of a node are numbered. An answer to any but the last one is late news: what it grants is given back. So a pause or
a skip only withdraws the ask, and need not know whether it was granted in the same moment.

A node may also be *deferred* by whoever was to begin an attempt (an open circuit breaker): nothing was attempted; it is
QUEUED until the time that was named, and begins again. The attempts it has made before are not forgotten.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dalang.deciding import Deciding
from dalang.errors import ErrorPayload, ErrorType
from dalang.events import Ask, GiveBack, LeaseAnswered, NodeDeferred, RetryRequested, SkipRequested, Start
from dalang.instants import format_instant
from dalang.needs import Needs, needs_of
from dalang.program import Program
from dalang.retries import asked_delay_ms, retry_delay_ms
from dalang.run_state import moved
from dalang.statuses import IN_FLIGHT, ImpossibleMove, NodeStatus, RunStatus
from dalang.wire import EventType

LEASE, RETRY, DEFERRED = "lease", "retry", "deferred"
"""What a node waits for; RETRY and DEFERRED are also kinds of alarms."""
MAX_ASKED = 100
"""Nodes of a run that wait for a lease at once; more would only lengthen the queue of everybody."""
MAX_DEFERRAL_MS = 24 * 60 * 60 * 1000
"""No deferral is longer, whatever a worker says."""


class Queueing(Deciding):
    """A run's state with leases.

    ``limited`` names what is limited for the run (a pool, a capability, :data:`~dalang.needs.EVERY_NODE`); ``asks`` is
    the number of each node's last ask, ``leases`` which of them is held, ``attempts`` how many attempts a node has made
    before the activity that is under way or comes next.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        self.limited: frozenset[str] = frozenset()
        self.asks: dict[int, int] = {}
        self.leases: dict[int, dict[str, Any]] = {}
        self.attempts: dict[int, int] = {}
        self._asking: list[int] = []
        self._parked: list[int] = []
        self._granted: list[int] = []
        self._done: list[tuple[str, int]] = []
        self._deferrals: set[int] = set()
        super().__init__(program, inputs, about, max_in_flight)

    @abstractmethod
    def _begin_node(self, node: int) -> Start | None:
        """Begin a node with the inputs it was given."""

    # -- asking ----------------------------------------------------------------------------------------------------

    def _needs(self, node: int) -> Needs | None:
        """Return what the node needs of what is limited, or None; may raise ExpressionError for the key of a pool."""
        if not self.limited:
            return None
        return needs_of(
            self.program, node, self.limited, lambda: self._context(self.program.input_references.get(node, ()))
        )

    def _queue(self, node: int, needs: Needs) -> None:
        """Let a node wait for a lease."""
        self.asks[node] = self.asks.get(node, 0) + 1
        self.waits[node] = {"waitsFor": LEASE, "needs": needs.wire()}
        self._asking.append(node)
        data = {"reason": LEASE, "ask": self.asks[node]}
        self._move_node(node, NodeStatus.QUEUED, EventType.NODE_QUEUED, data)

    def _answer_refusal(self, name: str, event: LeaseAnswered) -> ImpossibleMove | None:
        if event.node not in self.program.index:
            return ImpossibleMove(name, f"node {event.node}", "not in the plan")
        return None

    def _lease_answered(self, event: LeaseAnswered) -> None:
        node = self.program.index[event.node]
        held = self.leases.get(node)
        if held is not None and held["ask"] == event.ask:
            return  # told twice
        waits = self.waits.get(node)
        if event.ask != self.asks.get(node) or waits is None or waits["waitsFor"] != LEASE:
            if event.state == "GRANTED":
                self._done.append((event.node, event.ask))
        elif event.state == "GRANTED":
            route = {} if event.route is None else {"route": event.route}
            self.leases[node] = {"ask": event.ask, "agent": event.agent, **route}
            self._granted.append(node)
        elif event.state == "WAITING":
            if list(event.short) != waits.get("short"):
                waits["short"] = list(event.short)
                data = {"status": str(NodeStatus.QUEUED), "reason": LEASE, "short": list(event.short)}
                self._emit(EventType.NODE_QUEUED, node, data)
        else:
            self._wait_over(node)
            message = f"node {event.node} can never have what it needs: {event.reason or 'the lease was refused'}"
            error = ErrorPayload(
                type=ErrorType.RESOURCE_EXHAUSTED, message=message, retryable=False, origin_node=event.node
            )
            self._fail(node, error.wire())

    def _withdraw(self, node: int) -> None:
        """The node needs no lease any more, asked for or held."""
        held = self.leases.pop(node, None)
        waits = self.waits.get(node)
        if held is not None or (waits is not None and waits["waitsFor"] == LEASE):
            self._done.append((self.program.ids[node], self.asks[node]))
        if node in self._granted:
            self._granted.remove(node)

    def _cancel_wait(self, node: int) -> None:
        self._withdraw(node)
        super()._cancel_wait(node)

    def _hold_queue(self) -> None:
        """The run is held: nodes that wait for a lease, or have one and have not begun, wait for the run instead."""
        for node in [node for node, wait in self.waits.items() if wait["waitsFor"] == LEASE]:
            self._dequeue(node, str(self.status))

    def _is_queued(self, node: int) -> bool:
        """Whether a node waits for a lease."""
        return self.statuses[node] is NodeStatus.QUEUED and self.waits.get(node, {}).get("waitsFor") == LEASE

    def _dequeue(self, node: int, reason: str) -> None:
        """Let a node that waits for a lease be ready again, and ask anew when its turn comes."""
        self._withdraw(node)
        self._wait_over(node)
        self._move_node(node, NodeStatus.PENDING, EventType.NODE_DEQUEUED, {"reason": reason})
        self._make_ready(node)

    def _skip(self, event: SkipRequested) -> None:
        self._withdraw(self.program.index[event.node])
        super()._skip(event)

    # -- attempts --------------------------------------------------------------------------------------------------

    def _makes_attempts(self, node: int) -> bool:
        """Whether the attempts of a node at work are made here, one by one, and not by Temporal."""
        return node in self.leases

    def _again(self, node: int, error: Mapping[str, Any], notes: Mapping[str, Any]) -> bool:
        """Give the lease of a failed attempt back; tell whether the node makes another attempt."""
        if not self._makes_attempts(node):
            return False
        self._withdraw(node)
        made = self.attempts[node] = self.attempts.get(node, 0) + 1
        retry = self.program.retries[self.program.nodes[node]["retry"]]
        repeats = bool(error.get("retryable")) and error.get("type") in retry["retryOn"] and made < retry["attempts"]
        if not repeats or (self.ending and node < self.program.first_finally):
            return False
        self._starts_again(node)
        delay = retry_delay_ms(retry, made, f"{self.about.get('id')}:{self.program.ids[node]}")
        delay = max(delay, asked_delay_ms(error))
        data = {"attempt": made, "maxAttempts": retry["attempts"], "delayMs": delay, "errorType": error.get("type")}
        data.update(notes)
        self._move_node(node, NodeStatus.RETRYING, EventType.NODE_RETRYING, data, {"error": dict(error)})
        self.waits[node] = {"waitsFor": RETRY}
        self._set_alarm(self._at + delay, RETRY, node)
        return True

    def _retry_now(self, node: int) -> None:
        self._wait_over(node)
        self._begin_again(node)

    def _deferral_refusal(self, name: str, event: NodeDeferred) -> ImpossibleMove | None:
        number = self.program.index.get(event.node)
        if number is None or self.statuses[number] not in IN_FLIGHT or number in self.waits:
            return ImpossibleMove(name, f"node {event.node}", "not working")
        return None

    def _deferred(self, event: NodeDeferred) -> None:
        node = self.program.index[event.node]
        self._withdraw(node)
        self._keep_checkpoint(node, event.checkpoint)
        if event.attempts > self.attempts.get(node, 0):  # made by the activity that has ended now
            self.attempts[node] = event.attempts
            self._starts_again(node)
        until = min(max(event.until, self._at + 1), self._at + MAX_DEFERRAL_MS)
        data = {
            "reason": event.reason,
            "short": list(event.short) or None,
            "until": format_instant(until),
            **event.notes,
        }
        self._move_node(node, NodeStatus.QUEUED, EventType.NODE_QUEUED, data)
        if self.ending and node < self.program.first_finally:
            self._cancel_wait(node)
            return
        self.waits[node] = {"waitsFor": DEFERRED, "reason": event.reason}
        self._deferrals.add(node)
        self._set_alarm(until, DEFERRED, node)

    def _wait_over(self, node: int) -> None:
        super()._wait_over(node)
        self._deferrals.discard(node)

    def _retry(self, event: RetryRequested) -> None:
        self.attempts.pop(self.program.index[event.node], None)
        super()._retry(event)

    def _forget(self, node: int) -> None:
        super()._forget(node)
        self.attempts.pop(node, None)

    def _begin_again(self, node: int) -> None:
        """Let a node whose wait is over be ready once more, with the inputs it has."""
        self._move_node(node, NodeStatus.PENDING, EventType.NODE_DEQUEUED, {"reason": "its wait is over"})
        self._make_ready(node)

    # -- what is due -----------------------------------------------------------------------------------------------

    def _is_full(self) -> bool:
        """Whether so many nodes wait for a lease that the next one waits here."""
        return self._room() <= 0

    def _room(self) -> int:
        """Return how many more nodes may ask for a lease now."""
        return MAX_ASKED - self.counts.get(NodeStatus.QUEUED, 0) + len(self._deferrals)

    def _park(self, node: int) -> None:
        self._parked.append(node)

    def _unpark(self) -> None:
        """Let nodes that waited for others to have asked be ready again, as many as may ask now."""
        room = max(self._room(), 0)
        parked, self._parked = self._parked[:room], self._parked[room:]
        for node in parked:
            if self.statuses[node] is NodeStatus.PENDING:
                self._make_ready(node)

    def _with_lease(self, step: Start) -> Start:
        """Return the step of a node with the attempts it has made, and with the lease it holds, if it does."""
        held, made = self.leases.get(step.node), self.attempts.get(step.node, 0)
        if held is None:
            return replace(step, attempt=made + 1) if made else step
        return replace(step, lease=held["ask"], agent=held["agent"], attempt=made + 1, route=held.get("route"))

    def _lease_steps(self, starting: bool) -> list[Start | Ask | GiveBack]:
        """Return what is asked for, what was granted and begins, and what is given back."""
        if self.status is RunStatus.PAUSED or self.status is RunStatus.REPLANNING:
            self._hold_queue()
        steps: list[Start | Ask | GiveBack] = []
        granted: list[int] = []
        if starting:
            granted, self._granted = self._granted, []
        for node in granted:
            self._wait_over(node)
            begun = self._begin_node(node)
            if begun is not None:
                steps.append(self._with_past(begun))
        asking, self._asking = self._asking, []
        for node in asking:
            waits = self.waits.get(node)
            if waits is not None and waits["waitsFor"] == LEASE:
                steps.append(Ask(node, self.program.ids[node], self.asks[node], waits["needs"]))
        done, self._done = self._done, []
        steps += [GiveBack(node_id, ask) for node_id, ask in done]
        return steps

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        gone = [node for node in (*self.leases, *self.waits) if to[node] is None]
        for node in gone:
            self._withdraw(node)
        super()._renumber(program, to)
        self._deferrals = {new for node in self._deferrals if (new := to[node]) is not None}
        self.asks, self.leases, self.attempts = moved(self.asks, to), moved(self.leases, to), moved(self.attempts, to)
        self._granted, self._asking, self._parked = (
            [new for node in nodes if (new := to[node]) is not None]
            for nodes in (self._granted, self._asking, self._parked)
        )

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; leases only where there are any."""
        own: dict[str, Any] = {}
        for name in ("asks", "leases", "attempts"):
            if getattr(self, name):
                own[name] = [[node, value] for node, value in getattr(self, name).items()]
        if self._granted:
            own["granted"] = list(self._granted)
        if self._done:
            own["leasesDone"] = [list(one) for one in self._done]
        if self._asking:
            own["asking"] = list(self._asking)
        return {**super().snapshot(), **own}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self._deferrals = {node for node, wait in self.waits.items() if wait["waitsFor"] == DEFERRED}
        for name in ("asks", "leases", "attempts"):
            setattr(self, name, {node: value for node, value in snapshot.get(name, ())})
        self._granted = list(snapshot.get("granted", ()))
        self._done = [(node_id, ask) for node_id, ask in snapshot.get("leasesDone", ())]
        self._asking = list(snapshot.get("asking", ()))


Queueing.alarm_handlers.update({RETRY: Queueing._retry_now, DEFERRED: Queueing._retry_now})
