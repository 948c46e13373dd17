"""The state of a run: one status per node, one state per edge, and the facts that say how it came to be.

Everything else here is an index that :meth:`RunState._index` derives again from those: counts, slots in use, how many
edges of a node wait, are live or blocked, the heaps of ready nodes, and how many readers an output still has. A
property test holds each equal to its naive derivation after every event. What follows from an event is ``run.py``.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import compress
from typing import Any, TypeVar

from dalang.nesting import CONTAINER_TYPES
from dalang.program import Program
from dalang.statuses import (
    HOLDS_SLOT,
    IN_FLIGHT,
    NODE_ENDS,
    NODE_MOVES,
    RUN_MOVES,
    ImpossibleMove,
    NodeStatus,
    RunStatus,
)
from dalang.wire import ENGINE_VERSION, EventType, Fact

UNRESOLVED, LIVE, DEAD, BLOCKED = range(4)
"""States of an edge."""
_DIGITS = bytes.maketrans(bytes(range(4)), b"0123")
_STATES = bytes.maketrans(b"0123", bytes(range(4)))

ACTIVITY, SLEEP, WAIT, CONTAINER, LIGHT = range(5)
"""Kinds of slots: of activities, of the driver's timers, of nodes that wait in the state machine itself, of nodes whose
work is a run below them, and of nodes that are worked on together (``segmenting.py``)."""
CORE_WAITS = frozenset({"timer", "event", "human"})
"""Node types that nobody outside works on: the state machine itself begins and ends them (``waiting.py``)."""
_FREE = {"sleep": SLEEP, **dict.fromkeys(CORE_WAITS, WAIT), **dict.fromkeys(CONTAINER_TYPES, CONTAINER)}

PENDING = NodeStatus.PENDING
V = TypeVar("V")

MAX_SLEEPING = 500
"""Timers of one run at once, when the plan does not say: they hold no slot, but each is an event when it fires."""
MAX_WAITING = 10_000
"""Nodes of one run that wait in the state machine at once, when the plan does not say."""
MAX_CHILDREN = 100
"""Runs below the nodes of one run at once, when the plan does not say."""


class RunState:
    """What a run is, without what follows from it."""

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        count = len(program.ids)
        self.program = program
        self.inputs = inputs
        self.about = dict(about)
        self.status = RunStatus.PENDING
        self.seq = 0
        self.facts: list[Fact] = []
        self.statuses: list[NodeStatus] = [PENDING] * count
        self.edges = bytearray(len(program.edge_ids))
        self.outputs: dict[int, Mapping[str, Any]] = {}
        self.errors: dict[int, Mapping[str, Any]] = {}
        self.result: Mapping[str, Any] | None = None
        self.error: Mapping[str, Any] | None = None
        self.ending: RunStatus | None = None
        self.reason: str | None = None
        self.closing = False
        self.awaiting: list[int] = []
        self.held_by_failure = False
        self.given: dict[int, Mapping[str, Any]] = {}
        self.generations: dict[int, int] = {}
        self.overrides: dict[int, Mapping[str, Any]] = {}
        self._default_in_flight = max_in_flight
        self.engine = ENGINE_VERSION
        """The meaning of the run's history (``wire.ENGINE_VERSION``); the driver sets that of an older run."""
        self._max_in_flight = program.max_in_flight or max_in_flight
        self._retaining = 0
        self._at = 0
        self._to_stop: list[int] = []
        self._readers: array[int]
        self._index()

    # -- moves and facts -------------------------------------------------------------------------------------------

    def _move_run(
        self, to: RunStatus, kind: EventType, data: dict[str, Any], body: dict[str, Any] | None = None
    ) -> None:
        if to not in RUN_MOVES[self.status]:
            raise ImpossibleMove(kind, "the run", self.status)
        self.status = to
        self._emit(kind, None, _with_status(to, data), body)

    def _move_node(
        self, node: int, to: NodeStatus, kind: EventType, data: Mapping[str, Any], body: dict[str, Any] | None = None
    ) -> None:
        source = self.statuses[node]
        if to not in NODE_MOVES[source]:
            raise ImpossibleMove(kind, f"node {self.program.ids[node]}", source)
        self.statuses[node] = to
        self.counts[source] -= 1
        self.counts[to] = self.counts.get(to, 0) + 1
        change = (to in self._holds) - (source in self._holds)
        if change:
            self._busy[self._slots[node]] += change
        self._open[node >= self.program.first_finally] += (source in NODE_ENDS) - (to in NODE_ENDS)
        self._emit(kind, node, _with_status(to, data), body)

    def _emit(
        self, kind: EventType, node: int | None, data: dict[str, Any], body: dict[str, Any] | None = None
    ) -> None:
        self.seq += 1
        fact: Fact = {"seq": self.seq, "type": str(kind), "at": self._at, "data": data}
        if node is not None:
            fact["nodeId"] = self.program.ids[node]
        if body is not None:
            fact["body"] = body
        self.facts.append(fact)

    def _make_ready(self, node: int) -> None:
        self._readied[node] = True
        program = self.program
        key = (-program.node_priority(node), -program.ranks[node], node)
        heappush(self._ready[self._slots[node]], key)

    def _next_startable(self) -> int | None:
        """Return the ready node whose turn it is, or None when none is ready or no slot is free."""
        limits = (self._max_in_flight, MAX_SLEEPING, MAX_WAITING, MAX_CHILDREN, self._light_slots())
        for heap, busy, limit in zip(self._ready, self._busy, limits, strict=True):
            while heap and self.statuses[heap[0][-1]] is not PENDING:
                heappop(heap)  # it was skipped or cancelled meanwhile
            if heap and busy < limit:
                return heap[0][-1]
        return None

    def _light_slots(self) -> int:
        """Return how many nodes may be worked on together."""
        return 0

    def _drop_unread(self, sources: Iterable[int]) -> None:
        """One reader of these nodes' outputs is done; drop what nobody may read any more."""
        for source in sources:
            self._readers[source] -= 1
            if not self._is_read(source):
                self.outputs.pop(source, None)
                self.errors.pop(source, None)

    def _is_read(self, node: int) -> bool:
        """Whether somebody may still read the node's outputs: a part of the program, or of one that is being made."""
        return self._readers[node] > 0 or self._retaining > 0

    # -- indexes, snapshot, restore --------------------------------------------------------------------------------

    def _index(self) -> None:
        """Build every index from statuses and edge states."""
        program = self.program
        count = len(program.ids)
        self._holds = IN_FLIGHT if program.max_in_flight is not None else HOLDS_SLOT
        self._slots = self._slot_kinds()
        self._ready: tuple[list[tuple[int, int, int]], ...] = ([], [], [], [], [])
        self._readied = bytearray(count)
        self._waiting = program.edges_in.sizes()
        self._live = array("i", [0]) * count
        self._blocked = array("i", [0]) * count
        targets, waiting, live, blocked = program.targets, self._waiting, self._live, self._blocked
        for edge in compress(range(len(self.edges)), self.edges):  # those that are not UNRESOLVED
            target, state = targets[edge], self.edges[edge]
            waiting[target] -= 1
            if state == LIVE:
                live[target] += 1
            elif state == BLOCKED:
                blocked[target] += 1
        self.counts: dict[NodeStatus, int] = dict(Counter(self.statuses))
        self._busy = [0, 0, 0, 0, 0]
        self._open = [0, 0]
        self._readers = readers = program.readers[:]
        if self.given or self.counts.get(PENDING, 0) < count:
            self._index_begun()
        else:
            self._open = [program.first_finally, count - program.first_finally]
        for edge, references in program.edge_reads.items():
            if self.edges[edge] == UNRESOLVED:
                for source in references:
                    readers[source] += 1
        for source in program.kept:
            readers[source] += 1

    def _index_begun(self) -> None:
        """Count what nodes hold, which of them are open, and who has read already."""
        program, readers, awaiting = self.program, self._readers, set(self.awaiting)
        for node, status in enumerate(self.statuses):
            if status in self._holds:
                self._busy[self._slots[node]] += 1
            if status not in NODE_ENDS:
                self._open[node >= program.first_finally] += 1
            if (status is not PENDING and node not in awaiting) or node in self.given:
                for source in program.reads[node]:
                    readers[source] -= 1

    def _slot_kinds(self) -> bytearray:
        """Return by node which kind of slot it holds while it is at work."""
        # An explicit maxInFlight counts every node that is RUNNING, whatever it does; one that asks a person is not.
        slots = {"human": WAIT} if self.program.max_in_flight is not None else _FREE
        return bytearray(slots.get(kind, ACTIVITY) for kind in self.program.types)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON, for continue-as-new: everything but facts and indexes."""
        letters = self._letters()
        return {
            "status": str(self.status),
            "seq": self.seq,
            "statuses": "".join(map(letters.__getitem__, self.statuses)),
            "edges": self.edges.translate(_DIGITS).decode("ascii"),
            "outputs": [[node, value] for node, value in self.outputs.items()],
            "errors": [[node, value] for node, value in self.errors.items()],
            "result": self.result,
            "error": self.error,
            "ending": None if self.ending is None else str(self.ending),
            "reason": self.reason,
            "closing": self.closing,
            "toStop": list(self._to_stop),
            "awaiting": list(self.awaiting),
            "heldByFailure": self.held_by_failure,
            "given": [[node, value] for node, value in self.given.items()],
            "generations": [[node, value] for node, value in self.generations.items()],
            "overrides": [[node, value] for node, value in self.overrides.items()],
            "about": self.about,
        }

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        """Take over the state that :meth:`snapshot` gave."""
        statuses = {letter: status for status, letter in self._letters().items()}
        self.status = RunStatus(snapshot["status"])
        self.seq = snapshot["seq"]
        self.statuses = list(map(statuses.__getitem__, snapshot["statuses"]))
        self.edges = bytearray(snapshot["edges"], "ascii").translate(_STATES)
        self.outputs = {node: value for node, value in snapshot["outputs"]}
        self.errors = {node: value for node, value in snapshot["errors"]}
        self.result, self.error = snapshot["result"], snapshot["error"]
        self.ending = None if snapshot["ending"] is None else RunStatus(snapshot["ending"])
        self.reason, self.closing = snapshot["reason"], snapshot["closing"]
        self.awaiting = list(snapshot["awaiting"])
        self.held_by_failure = snapshot["heldByFailure"]
        self.given = {node: value for node, value in snapshot["given"]}
        self.generations = {node: value for node, value in snapshot["generations"]}
        self.overrides = {node: value for node, value in snapshot["overrides"]}
        self._index()
        self._to_stop = list(snapshot["toStop"])

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        """Take another program; ``to`` gives each node's number in it, None for one that it lacks.

        Edge states and indexes are made anew by who calls this. Whatever else goes by node numbers is renumbered here
        by its own class.
        """
        statuses = [PENDING] * len(program.ids)
        for node, status in enumerate(self.statuses):
            new = to[node]
            if new is not None:
                statuses[new] = status
        self.statuses = statuses
        self.outputs, self.errors = moved(self.outputs, to), moved(self.errors, to)
        self.given, self.overrides = moved(self.given, to), moved(self.overrides, to)
        self.generations = moved(self.generations, to)
        self.awaiting = [new for node in self.awaiting if (new := to[node]) is not None]
        self._to_stop = [new for node in self._to_stop if (new := to[node]) is not None]
        self.program = program
        self._max_in_flight = program.max_in_flight or self._default_in_flight

    @staticmethod
    def _letters() -> dict[NodeStatus, str]:
        return {status: chr(ord("A") + number) for number, status in enumerate(NodeStatus)}


def moved(values: Mapping[int, V], to: Sequence[int | None]) -> dict[int, V]:
    """Return what is kept by node number under the new numbers, without nodes that are gone."""
    return {new: value for node, value in values.items() if (new := to[node]) is not None}


def _with_status(status: RunStatus | NodeStatus, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": str(status), **{key: value for key, value in data.items() if value is not None}}
