"""``dalang plan show``: a plan at a glance, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dalang.commands.output import estimate, safe, table

if TYPE_CHECKING:
    from rich.console import Console

    from dalang.overview import PlanOverview
    from dalang.plan import Node, Plan

MAX_NODES = 60
"""A plan of more nodes is shown by levels, one line each."""
MAX_LEVELS = 60
MAX_AFTER = 4


def wire(plan: Plan, found: PlanOverview) -> dict[str, Any]:
    """Return the overview as JSON; durations are milliseconds."""
    return {
        "planId": str(plan.plan_id),
        "name": found.name,
        "version": found.version,
        "description": plan.description,
        "digest": plan.digest(),
        "nodes": found.nodes,
        "edges": found.edges,
        "depth": found.depth,
        "widestLevel": found.widest_level,
        "levels": [list(level) for level in found.levels],
        "criticalPath": list(found.critical_path),
        "slackMs": found.slack,
        "estimatedDurationMs": found.estimated_duration,
        "totalWorkMs": found.total_work,
        "withoutEstimate": found.without_estimate,
        "parallelism": round(found.parallelism, 3),
        "types": found.types,
        "roots": list(found.roots),
        "leaves": list(found.leaves),
        "finally": list(found.finally_nodes),
        "timeoutMs": found.timeout,
    }


def show(out: Console, plan: Plan, found: PlanOverview) -> None:
    """Print the overview."""
    from rich.text import Text

    out.print(Text.assemble((safe(found.name), "bold"), f"  {safe(found.version)}"), soft_wrap=True)
    if plan.description:
        out.print(Text(safe(plan.description), style="dim"), soft_wrap=True)
    out.print()
    for name, value in _facts(plan, found):
        out.print(Text.assemble((f"{name:<15}", "dim"), value), soft_wrap=True)
    out.print()
    if found.nodes <= MAX_NODES:
        _nodes(out, plan, found)
    else:
        _levels(out, plan, found)


def _facts(plan: Plan, found: PlanOverview) -> Iterator[tuple[str, str]]:
    widest = next((at for at, level in enumerate(found.levels, 1) if len(level) == found.widest_level), 0)
    yield "nodes", f"{found.nodes:,} ({', '.join(f'{count:,} {safe(kind)}' for kind, count in found.types.items())})"
    yield "edges", f"{found.edges:,}"
    yield "levels", f"{found.depth:,}, the widest is level {widest} with {found.widest_level:,} at once"
    if found.without_estimate < found.nodes:
        known = "" if not found.without_estimate else f" ({found.without_estimate:,} nodes without an estimate)"
        together = f", {estimate(found.total_work)} one after the other" if found.total_work else ""
        yield "estimated", f"{estimate(found.estimated_duration)}{together}{known}"
    else:
        yield "estimated", "unknown: no node has an estimatedDuration"
    if found.timeout is not None:
        yield "timeout", estimate(found.timeout)
    yield "critical path", _path(found)
    if found.finally_nodes:
        yield "finally", ", ".join(map(safe, found.finally_nodes))
    if plan.inputs is not None:
        required = plan.inputs.get("required") or ()
        names = [
            f"{safe(name)}{' (required)' if name in required else ''}" for name in plan.inputs.get("properties", {})
        ]
        yield "inputs", ", ".join(names) or "any"


def _path(found: PlanOverview) -> str:
    path = [safe(node) for node in found.critical_path]
    if len(path) > 12:
        path = [*path[:6], f"... {len(path) - 11} more ...", *path[-5:]]
    return " -> ".join(path) or "-"


def _nodes(out: Console, plan: Plan, found: PlanOverview) -> None:
    from rich.text import Text

    from dalang.overview import duration_of

    nodes = {node.node_id: node for node in plan.all_nodes()}
    waits: dict[str, list[str]] = {}
    for edge in plan.edges:
        before = waits.setdefault(edge.target_node_id, [])
        if edge.source_node_id not in before:
            before.append(edge.source_node_id)
    critical = set(found.critical_path)
    rows = []

    def row(level: str, node: Node, slack: Text | str) -> None:
        duration = duration_of(node)
        lasts = "-" if duration is None else estimate(duration)
        after = waits.get(node.node_id, [])
        shown = after if len(after) <= MAX_AFTER else [*after[:2], f"{len(after) - 2} more"]
        rows.append([level, node.node_id, node.type, lasts, slack, ", ".join(shown) or "-"])

    for at, level in enumerate(found.levels, 1):
        for place, node_id in enumerate(level):
            slack = found.slack.get(node_id, 0)
            text = Text("critical", style="bold yellow") if node_id in critical else Text(estimate(slack))
            row(str(at) if place == 0 else "", nodes[node_id], text)
    for place, node_id in enumerate(found.finally_nodes):
        row("finally" if place == 0 else "", nodes[node_id], "-")
    table(out, ["LEVEL", "NODE", "TYPE", ">DURATION", ">SLACK", "AFTER"], rows)


def _levels(out: Console, plan: Plan, found: PlanOverview) -> None:
    from collections import Counter

    from dalang.overview import duration_of

    nodes = {node.node_id: node for node in plan.nodes}
    critical = {node: at for at, node in enumerate(found.critical_path)}
    rows = []
    for at, level in enumerate(found.levels[:MAX_LEVELS], 1):
        kinds = Counter(nodes[node].type for node in level)
        longest = max((duration_of(nodes[node]) or 0 for node in level), default=0)
        names = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        rows.append([at, f"{len(level):,}", names, estimate(longest), next((n for n in level if n in critical), "-")])
    table(out, ["LEVEL", ">NODES", "TYPES", ">LONGEST", "CRITICAL NODE"], rows)
    if found.depth > MAX_LEVELS:
        out.print(f"... and {found.depth - MAX_LEVELS:,} more levels (--json lists all)")
