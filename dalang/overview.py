"""A plan at a glance: its levels, its critical path, how long it takes and how parallel it is, as plain data.

Durations are milliseconds: what ``requirements.estimatedDuration`` says; else, for a sleep, how long it is told to;
else 0. ``finally`` nodes are listed apart: they run after everything else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dalang.durations import parse_duration
from dalang.graph import critical_path, levels
from dalang.plan import Node, Plan


@dataclass(frozen=True, slots=True)
class PlanOverview:
    """What :func:`overview` finds; durations are milliseconds, nodes are given by nodeId in plan order."""

    name: str
    version: str
    nodes: int
    edges: int
    levels: tuple[tuple[str, ...], ...]
    """Nodes by the length of the longest path to them; those of one level never wait for each other."""
    widest_level: int
    """The number of nodes of the widest level, the largest number that may run at once by levels."""
    critical_path: tuple[str, ...]
    slack: dict[str, int]
    """By how much a node may be late without the plan taking longer; 0 on the critical path."""
    estimated_duration: int
    """The length of the critical path: the time the plan takes if nothing it needs is scarce."""
    total_work: int
    """The sum of all durations: the time it takes one node after the other."""
    without_estimate: int
    """How many nodes count as 0 because nothing says how long they take."""
    types: dict[str, int]
    roots: tuple[str, ...]
    leaves: tuple[str, ...]
    finally_nodes: tuple[str, ...]
    timeout: int | None

    @property
    def depth(self) -> int:
        """The number of levels."""
        return len(self.levels)

    @property
    def parallelism(self) -> float:
        """Work per time on the critical path: how many nodes run at once on average; 1 without durations."""
        return self.total_work / self.estimated_duration if self.estimated_duration else 1.0


def duration_of(node: Node) -> int | None:
    """Return how long ``node`` takes in milliseconds as the plan says, or None when it does not."""
    if node.requirements.estimated_duration is not None:
        return node.requirements.estimated_duration
    if node.type in ("sleep", "timer"):
        try:
            return parse_duration(node.inputs.get("duration"))
        except ValueError:
            return None
    return None


def overview(plan: Plan) -> PlanOverview:
    """Return what a person wants to know of ``plan`` before it runs.

    Raises:
        dalang.graph.GraphError: an edge leads nowhere or there is a cycle; a validated plan has neither.
    """
    finals = {node.node_id for node in plan.finally_}
    ids = [node.node_id for node in plan.nodes]
    pairs = [
        (edge.source_node_id, edge.target_node_id)
        for edge in plan.edges
        if edge.source_node_id not in finals and edge.target_node_id not in finals
    ]
    durations = {node.node_id: duration_of(node) for node in plan.nodes}
    path = critical_path(ids, pairs, lambda node: durations[node] or 0)
    by_level = levels(ids, pairs)
    targets = {target for _, target in pairs}
    sources = {source for source, _ in pairs}
    return PlanOverview(
        name=plan.name,
        version=plan.version,
        nodes=len(ids),
        edges=len(plan.edges),
        levels=tuple(tuple(level) for level in by_level),
        widest_level=max((len(level) for level in by_level), default=0),
        critical_path=path.path,
        slack={node: round(slack) for node, slack in path.slack.items()},
        estimated_duration=round(path.length),
        total_work=sum(duration or 0 for duration in durations.values()),
        without_estimate=sum(duration is None for duration in durations.values()),
        types=dict(Counter(node.type for node in plan.all_nodes()).most_common()),
        roots=tuple(node for node in ids if node not in targets),
        leaves=tuple(node for node in ids if node not in sources),
        finally_nodes=tuple(node.node_id for node in plan.finally_),
        timeout=plan.timeout,
    )
