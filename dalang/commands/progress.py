"""How far a run is: a fold over its events. Pure: it reads no clock and draws nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dalang.commands.output import instant
from dalang.statuses import IN_FLIGHT, NODE_ENDS, RUN_ENDS, NodeStatus

UNDER_WAY = IN_FLIGHT | {NodeStatus.COMPENSATING}


@dataclass(slots=True)
class NodeProgress:
    """One node: what the plan says of it, and what has happened. Times are seconds since the epoch."""

    node_id: str
    name: str
    type: str
    level: int
    status: str = "PENDING"
    started: float | None = None
    ended: float | None = None
    attempts: int = 1
    note: str = ""


class RunProgress:
    """A run as its events tell it; ``nodes`` are in the order in which they can start."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.name = str(plan.get("name", ""))
        self.version = str(plan.get("version", ""))
        self.status = "PENDING"
        self._take(plan)
        self.reason = ""
        self.started: float | None = None
        self.ended: float | None = None
        self.away: str | None = None

    def _take(self, plan: Mapping[str, Any], nodes: Sequence[NodeProgress] | None = None) -> None:
        self.nodes = sorted(_nodes(plan) if nodes is None else nodes, key=lambda node: node.level)
        self.edges = [(edge["sourceNodeId"], edge["targetNodeId"]) for edge in plan.get("edges") or ()]
        self.by_id = {node.node_id: node for node in self.nodes}
        self.counts: Counter[str] = Counter(node.status for node in self.nodes)
        self.levels = 1 + max((node.level for node in self.nodes), default=-1)
        self.grouped: dict[tuple[int, str], Counter[str]] = {}
        for node in self.nodes:
            self.grouped.setdefault((node.level, node.type), Counter())[node.status] += 1

    def revise(self, plan: Mapping[str, Any]) -> None:
        """Go on with another plan; what is known of its nodes stays."""
        nodes = _nodes(plan)
        for node in nodes:
            known = self.by_id.get(node.node_id)
            if known is not None:
                node.status, node.started, node.ended = known.status, known.started, known.ended
                node.attempts, node.note = known.attempts, known.note
        self._take(plan, nodes)

    @property
    def total(self) -> int:
        """How many nodes the run has."""
        return len(self.nodes)

    @property
    def done(self) -> int:
        """How many nodes have ended."""
        return sum(count for status, count in self.counts.items() if status in NODE_ENDS)

    @property
    def running(self) -> int:
        """How many nodes are under way."""
        return sum(count for status, count in self.counts.items() if status in UNDER_WAY)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take the next event."""
        at = instant(event.get("at"))
        seconds = at.timestamp() if at else None
        data = event.get("data") or {}
        status = data.get("status")
        node = self.by_id.get(event.get("nodeId") or "")
        if node is not None and isinstance(status, str):
            self._node(node, status, data, event, seconds)
        elif event.get("nodeId") is None and isinstance(status, str):
            self.status = status
            self.reason = str(data.get("reason") or "")
            if status == "RUNNING" and self.started is None:
                self.started = seconds
            if status in RUN_ENDS:
                self.ended = seconds

    def _node(
        self, node: NodeProgress, status: str, data: Mapping[str, Any], event: Mapping[str, Any], at: float | None
    ) -> None:
        group = self.grouped[node.level, node.type]
        for counts in (self.counts, group):
            counts[node.status] -= 1
            counts[status] += 1
        node.status = status
        if status == "RUNNING":
            node.started, node.ended = at, None
        elif status in NODE_ENDS:
            node.ended = at
        if isinstance(data.get("attempt"), int):
            node.attempts = data["attempt"]
        node.note = note_of(event)


def note_of(event: Mapping[str, Any]) -> str:
    """Return what is worth saying of an event beside its type: an error, a reason, repeated attempts."""
    data = event.get("data") or {}
    body = event.get("body")
    if event.get("type") == "HITL_TASK_CREATED":
        return f"dalang tasks show {str(data.get('task'))[:8]}"
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, Mapping):
        return f"{error.get('type', 'ERROR')}: {error.get('message', '')}"
    parts = [str(data[key]) for key in ("errorType", "skipReason", "reason", "request", "action") if data.get(key)]
    if isinstance(data.get("short"), list):
        parts += [str(one) for one in data["short"]]
    if data.get("childRunId"):
        parts.append(f"run {str(data['childRunId'])[:8]}")
    if data.get("iteration"):
        parts.append(f"iteration {data['iteration']}")
    if event.get("type") in ("NODE_WAITING", "EVENT_RECEIVED", "EVENT_DROPPED"):
        parts += [str(data[key]) for key in ("event", "key", "until") if data.get(key)]
    if event.get("type") in ("HITL_TASK_ESCALATED", "HITL_TASK_DELEGATED"):
        parts += [f"to {data['assignee']}"] if data.get("assignee") else []
        parts += [f"to group {data['group']}"] if data.get("group") else []
    if data.get("operator") and not data.get("nodeId"):
        parts.append(f"by {data['operator']}")
    if data.get("completedBy"):
        parts.append(f"by {data['completedBy']}")
    if isinstance(data.get("attempt"), int) and data["attempt"] > 1:
        parts.append(f"attempt {data['attempt']}")
    return ", ".join(parts)


def _nodes(plan: Mapping[str, Any]) -> list[NodeProgress]:
    from dalang.graph import levels

    plain: Sequence[Mapping[str, Any]] = plan.get("nodes") or ()
    final: Sequence[Mapping[str, Any]] = plan.get("finally") or ()
    ids = {node["nodeId"] for node in plain}
    finals = {node["nodeId"] for node in final}
    level: dict[str, int] = {}
    last = 0
    for members in (ids, finals):
        order = [node["nodeId"] for node in (*plain, *final) if node["nodeId"] in members]
        edges = [
            (edge["sourceNodeId"], edge["targetNodeId"])
            for edge in plan.get("edges") or ()
            if edge["sourceNodeId"] in members and edge["targetNodeId"] in members
        ]
        for names in levels(order, edges):
            level.update(dict.fromkeys(names, last))
            last += 1
    return [
        NodeProgress(node["nodeId"], node.get("name") or node["nodeId"], node["type"], level.get(node["nodeId"], 0))
        for node in (*plain, *final)
    ]
