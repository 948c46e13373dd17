"""Segments: connected light nodes that one activity runs forward, instead of one activity each (DESIGN section 5).

A node declared ``execution: local`` is short and safe to run twice. When such nodes are ready, they and those that can
become ready through nothing but them are *claimed* and handed out as one :class:`~dalang.events.RunSegment`: the part
of the program that they are, with what their edges from outside carry. The worker runs this same state machine over it
(``segments.py``) and answers what it did, node by node and in order, which is then applied here as if each had been
begun and ended on its own: joins, conditions, failures and facts are nobody's business but this machine's.

A claimed node is PENDING until the answer says that it began. It may not be skipped or changed meanwhile. What the
worker did not come to - it was out of time, or the node before failed - is PENDING and free again afterwards. A node
that failed in a segment, that wants a person, or whose segment was lost, goes on *alone*: as an activity of its own.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dalang.budgeting import Budgeting
from dalang.canonical import compact_json
from dalang.events import (
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    RetryRequested,
    RunSegment,
    SegmentEnded,
    SkipRequested,
    Start,
    StopSegment,
)
from dalang.program import JOIN_WORDS, Program
from dalang.run_state import ACTIVITY, LIGHT, PENDING, UNRESOLVED
from dalang.statuses import NODE_ENDS, ImpossibleMove, NodeStatus
from dalang.wire import EventType

MAX_SEGMENT_NODES = 1024
"""Nodes of one segment: a worker that dies repeats at most so many."""
FORMER_SEGMENT_NODES = 256
"""The same in runs before the fifth engine version."""
MAX_SEGMENTS = 4
"""Segments of one run at once."""


@dataclass
class Claim:
    """The nodes of a segment under way, those that were ready when it began first, and when that was."""

    nodes: list[int]
    begun: int
    stopped: bool = False


class Segmenting(Budgeting):
    """A run's state with its segments by number; ``alone`` are light nodes that go by themselves all the same."""

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        self.segments: dict[int, Claim] = {}
        self.alone: set[int] = set()
        self._claimed: set[int] = set()
        self._gathered: list[int] = []
        self._last_segment = 0
        self._tried: int | None = None
        super().__init__(program, inputs, about, max_in_flight)

    @abstractmethod
    def _start(self, node: int) -> Start | None:
        """Start a ready node, or let it fail."""

    @abstractmethod
    def _take_end(self, event: Event) -> None:
        """Let happen what follows from how a node ended."""

    @abstractmethod
    def _cancel_unstarted(self, node: int) -> None:
        """Cancel a node that has not started, since the run is ending."""

    # -- claiming --------------------------------------------------------------------------------------------------

    def _slot_kinds(self) -> bytearray:
        slots = super()._slot_kinds()
        if self.program.max_in_flight is None:
            for node in self.program.light:
                if node not in self.alone:
                    slots[node] = LIGHT
        return slots

    def _index(self) -> None:
        super()._index()
        self._busy[LIGHT] += len(self._claimed)

    def _light_slots(self) -> int:
        return MAX_SEGMENTS * self._largest_segment() if len(self.segments) < MAX_SEGMENTS else 0

    def _largest_segment(self) -> int:
        return MAX_SEGMENT_NODES if self.engine > 4 else FORMER_SEGMENT_NODES

    def _gather(self, node: int) -> bool:
        """Take a ready node for the next segment; not one that must go alone, which is ready as such then."""
        if self._slots[node] != LIGHT:
            return False
        if self._is_closed(node, {}):
            self._busy[LIGHT] += 1
            self._gathered.append(node)
        else:
            self._go_alone(node)
            self._make_ready(node)
        return True

    def _is_light(self, node: int) -> bool:
        """Whether the node may be in a segment now: it starts for the first time, and nothing limits it."""
        before = node in self.given or node in self.overrides or node in self.generations
        return not (before or self.budget) and self._needs(node) is None

    def _go_alone(self, node: int) -> None:
        self.alone.add(node)
        self._slots[node] = ACTIVITY

    def _segments_due(self) -> list[RunSegment]:
        """Return segments of the nodes that were gathered."""
        gathered = [node for node in self._gathered if self.statuses[node] is PENDING]  # a failure may end the run
        self._busy[LIGHT] -= len(self._gathered) - len(gathered)
        self._gathered = []
        self._claimed.update(gathered)
        steps, most = [], self._largest_segment()
        for at in range(0, len(gathered), most):
            steps.append(self._claim(gathered[at : at + most]))
        return steps

    def _claim(self, first: list[int]) -> RunSegment:
        nodes = self._reached(first)
        self._claimed.update(nodes)
        self._busy[LIGHT] += len(nodes) - len(first)
        self._last_segment += 1
        self.segments[self._last_segment] = Claim(nodes, self._at)
        return RunSegment(self._last_segment, tuple(self.program.ids[node] for node in nodes), self._cut(nodes))

    def _reached(self, first: list[int]) -> list[int]:
        """Return these nodes and those that can become ready through nothing but them, as many as a segment has."""
        program, nodes, most = self.program, dict.fromkeys(first), self._largest_segment()
        waiting = deque(first)
        while waiting:
            for edge in program.edges_out[waiting.popleft()]:
                target = program.targets[edge]
                if len(nodes) >= most:
                    return list(nodes)
                if target not in nodes and self._is_closed(target, nodes):
                    nodes[target] = None
                    waiting.append(target)
        return list(nodes)

    def _is_closed(self, node: int, nodes: Mapping[int, None]) -> bool:
        """Whether a node that waits depends on nothing that happens outside of ``nodes`` from now on."""
        program = self.program
        if self._slots[node] != LIGHT or self.statuses[node] is not PENDING or node in self._claimed:
            return False
        edges = program.edges_in[node]
        sources = (program.sources[edge] for edge in edges if self.edges[edge] == UNRESOLVED)
        reads = (read for edge in edges for read in program.edge_reads.get(edge, ()))
        settled = all(one in nodes or self.statuses[one] in NODE_ENDS for one in (*program.reads[node], *reads))
        return settled and all(source in nodes for source in sources) and self._is_light(node)

    def _cut(self, nodes: list[int]) -> dict[str, Any]:
        """Return the part of the program that these nodes are, with the nodes outside that they depend on or read."""
        program = self.program
        edges = sorted(edge for node in nodes for edge in program.edges_in[node])
        reads = [read for edge in edges for read in program.edge_reads.get(edge, ())]
        reads += [read for node in nodes for read in program.reads[node]]
        inside = dict.fromkeys(nodes)
        border = [one for one in dict.fromkeys(reads) if one not in inside]
        numbers = {node: number for number, node in enumerate((*nodes, *border))}
        retries = {program.nodes[node]["retry"]: None for node in nodes}
        retry_numbers = {retry: number for number, retry in enumerate(retries)}
        kinds: dict[bytes, int] = {}
        known: dict[int | str, int] = {}
        kind_of = []
        for node in (*nodes, *border):
            definition = program.nodes[node]
            key = id(definition) if node in inside else program.types[node]  # equal nodes are one object
            if key not in known:
                retry = retry_numbers[definition["retry"]] if node in inside else 0
                document = {**(definition if node in inside else {"type": program.types[node]}), "retry": retry}
                known[key] = kinds.setdefault(compact_json(document), len(kinds))
            kind_of.append(known[key])
        return {
            "kinds": [json.loads(kind) for kind in kinds],
            "nodes": [[program.ids[node], kind] for node, kind in zip((*nodes, *border), kind_of, strict=True)],
            "edges": [self._cut_edge(edge, numbers) for edge in edges],
            "retries": [program.retries[retry] for retry in retries],
            "policy": program.policy,
            "priority": program.priority,
            "count": len(nodes),
            "states": "".join(str(self.edges[edge]) for edge in edges),
            "statuses": [str(self.statuses[node]) for node in border],
            "outputs": [[numbers[node], self.outputs[node]] for node in border if node in self.outputs],
            "errors": [[numbers[node], self.errors[node]] for node in border if node in self.errors],
            "inputs": self.inputs,
            "about": self.about,
            "engine": self.engine,
        }

    def _cut_edge(self, edge: int, numbers: Mapping[int, int]) -> list[Any]:
        """Return an edge as a program has it; of most it is enough to say from where to where (``segments.py``)."""
        program = self.program
        condition = program.conditions[edge] if self.edges[edge] == UNRESOLVED else None
        source, target = numbers[program.sources[edge]], numbers[program.targets[edge]]
        rest = [program.target_ports[edge], program.mappings[edge], condition]
        is_named = program.joins[program.targets[edge]] not in JOIN_WORDS
        if program.is_success_port(edge) and rest == [None, None, None] and not is_named:
            return [source, target]
        return [program.edge_ids[edge], source, program.ports[edge], target, *rest]

    def _stops_of_segments(self) -> list[StopSegment]:
        """Return the segments that are to stop: those of a run that ends early."""
        if not self.ending:
            return []
        numbers = [number for number, claim in self.segments.items() if not claim.stopped]
        for number in numbers:
            self.segments[number].stopped = True
        return [StopSegment(number) for number in numbers]

    # -- what came of it -------------------------------------------------------------------------------------------

    def _segment_refusal(self, name: str, event: SegmentEnded) -> ImpossibleMove | None:
        return None if event.number in self.segments else ImpossibleMove(name, f"segment {event.number}", "not begun")

    def _segment_ended(self, event: SegmentEnded) -> None:
        """Apply what a worker did in a segment, and let go of what it did not come to."""
        now, claim = self._at, self.segments.pop(event.number)
        failed = [entry.end.node for entry in event.entries if isinstance(entry.end, NodeFailed)]
        alone = {self.program.index.get(one) for one in (*event.alone, *failed)}
        for node in claim.nodes:
            if node in alone or (event.lost and self._readied[node]):
                self._go_alone(node)
        if self.ending:  # as if they had not been claimed when the run began to end
            begun = {entry.end.node for entry in event.entries}
            self._cancel_unstarted_of([node for node in claim.nodes if self.program.ids[node] not in begun])
        at = claim.begun
        for entry in event.entries:
            began = self._at = min(max(entry.began, at), now)
            at = min(max(entry.ended, began), now)
            self._take_entry(entry.end, at)
        self._at = now
        self._busy[LIGHT] -= len(claim.nodes)
        self._claimed.difference_update(claim.nodes)
        if self.ending:
            self._cancel_unstarted_of(claim.nodes)
        if self.engine > 8 and not alone and all(self.statuses[node] is PENDING for node in claim.nodes):
            for node in claim.nodes:  # what brought nothing may bring nothing again, and so on for ever
                if self._readied[node]:
                    self._go_alone(node)
        for node in claim.nodes:
            if self.statuses[node] is PENDING and self._readied[node]:
                self._make_ready(node)

    def _cancel_unstarted_of(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            if self.statuses[node] is PENDING:
                self._cancel_unstarted(node)

    def _take_entry(self, end: NodeSucceeded | NodeFailed | NodeStopped, ended: int) -> None:
        node = self.program.index.get(end.node)
        if node in self._claimed and self.statuses[node] is PENDING and self._readied[node]:
            self._start(node)
            self._settle()
        if node is None or node not in self._claimed or self.statuses[node] is not NodeStatus.RUNNING:
            data = {"request": f"segment: {end.node}", "reason": "it was not this node's turn"}
            self._emit(EventType.REQUEST_REJECTED, None, data)
            return
        self._at = ended
        self._tried = node
        self._take_end(end)
        self._tried = None
        self._settle()

    def _makes_attempts(self, node: int) -> bool:
        return node == self._tried or super()._makes_attempts(node)

    def _make_ready(self, node: int) -> None:
        if node in self._claimed:
            self._readied[node] = True  # and the end of its segment does the rest
        else:
            super()._make_ready(node)

    # -- what others may do meanwhile ------------------------------------------------------------------------------

    def _decision_refusal(self, name: str, event: RetryRequested | SkipRequested) -> ImpossibleMove | None:
        if self.program.index.get(event.node) in self._claimed:
            return ImpossibleMove(name, f"node {event.node}", "being run together with others; ask again in a moment")
        return super()._decision_refusal(name, event)

    def _waits(self, node: int) -> bool:
        return node not in self._claimed and super()._waits(node)

    def _has_started(self, node: int) -> bool:
        return node in self._claimed or super()._has_started(node)

    def _said(self, node: int) -> str:
        return "is being run together with others" if node in self._claimed else super()._said(node)

    def _is_moving(self) -> bool:
        return bool(self.segments) or super()._is_moving()

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        super()._renumber(program, to)
        self.alone = set(_moved(self.alone, to))
        self._claimed = set(_moved(self._claimed, to))
        for claim in self.segments.values():
            claim.nodes = _moved(claim.nodes, to)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON. It is taken when no segment is under way."""
        own: dict[str, Any] = {}
        if self.alone:
            own["alone"] = sorted(self.alone)
        if self._last_segment:
            own["lastSegment"] = self._last_segment
        return {**super().snapshot(), **own}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        self.alone = set(snapshot.get("alone", ()))
        self._last_segment = snapshot.get("lastSegment", 0)
        super()._load(snapshot)


def _moved(nodes: Iterable[int], to: Sequence[int | None]) -> list[int]:
    return [new for node in nodes if (new := to[node]) is not None]
