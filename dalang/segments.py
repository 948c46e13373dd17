"""A segment on its way: the state machine of a run, over the part of it that a worker was given.

It is the same machine, so that joins, conditions and inputs mean the same; only what it does not know ends here. A node
that fails, or whose inputs cannot be made, is *left*: what depends on it is not decided, and the run itself goes on
from there. Of inputs that cannot be made only the run itself tells, so such a node is to go alone (``unmade``): in the
next segment it would be left again, and so on for ever. One node is at work at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop
from typing import Any

from dalang.events import NodeSucceeded, Start
from dalang.plan import SUCCESS_PORT
from dalang.program import Program
from dalang.program_columns import EdgeColumns, Kinds, NodeColumns
from dalang.run import Run
from dalang.run_state import ACTIVITY, PENDING
from dalang.statuses import NodeStatus, RunStatus


class Ahead(Run):
    """The part of a run that a worker goes ahead with; ``part`` is as :class:`~dalang.events.RunSegment` has it."""

    def __init__(self, part: Mapping[str, Any]) -> None:
        ids, kind_of = zip(*part["nodes"], strict=True)
        nodes = NodeColumns(list(ids), Kinds(part["kinds"], kind_of))
        document = {
            "nodes": nodes,
            "edges": EdgeColumns.of(
                edge if len(edge) > 2 else ("", edge[0], SUCCESS_PORT, edge[1], None, None, None)
                for edge in part["edges"]
            ),
            "retries": part["retries"],
            "policy": part["policy"],
            "priority": part["priority"],
            "maxInFlight": None,
            "timeout": None,
            "finally": len(nodes.ids),
        }
        self._left: set[int] = set()
        self.unmade: list[str] = []
        super().__init__(Program(document), part["inputs"], part["about"], 1)
        count: int = part["count"]
        self.engine = part["engine"]
        self.status = RunStatus.RUNNING
        self.statuses = [*[PENDING] * count, *map(NodeStatus, part["statuses"])]
        self.edges = bytearray(map(int, part["states"]))
        self.outputs = {node: value for node, value in part["outputs"]}
        self.errors = {node: value for node, value in part["errors"]}
        self._index()
        self._find_ready(range(count))

    def next(self, at: int) -> Start | None:
        """Begin the next node and return what it is to do, or None when none can begin."""
        started = [step for step in self.due(at) if isinstance(step, Start)]
        self.facts.clear()
        return started[0] if started else None

    def _next_startable(self) -> int | None:
        ready = self._ready[ACTIVITY]
        while ready and ready[0][-1] in self._left:
            heappop(ready)
        return super()._next_startable()

    def succeed(self, node_id: str, outputs: Mapping[str, Any], at: int) -> None:
        """Take the outputs of the node that is at work."""
        self.apply(NodeSucceeded(node_id, outputs), at)

    def leave(self, node: int) -> None:
        """Go on without knowing what becomes of a node: neither it nor what reads it begins here any more."""
        if self.statuses[node] is NodeStatus.RUNNING:
            self._busy[ACTIVITY] -= 1
        leaving = [node]
        while leaving:
            one = leaving.pop()
            if one not in self._left:
                self._left.add(one)
                leaving.extend(reader for reader in self._readers_of(one) if self.statuses[reader] is PENDING)

    def _readers_of(self, node: int) -> list[int]:
        """Return the nodes whose inputs, or whose edges' conditions, read a node."""
        program = self.program
        found = [reader for reader, read in enumerate(program.reads) if node in read]
        return found + [program.targets[edge] for edge, read in program.edge_reads.items() if node in read]

    def _slot_kinds(self) -> bytearray:
        return bytearray([ACTIVITY]) * len(self.program.ids)

    def _fail(self, node: int, error: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
        self.unmade.append(self.program.ids[node])
        self.leave(node)

    def _close(self) -> None:
        """The end of a part is nobody's end."""

    def _weigh_waiting(self) -> None:
        """Nor does it wait for anybody."""
