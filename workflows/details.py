"""The run's progress in Markdown, as Temporal's Web UI shows it under "current details"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.human_task import OpenTask
from dalang.run import Run
from dalang.statuses import IN_FLIGHT, NODE_ENDS, NodeStatus

MAX_SHOWN = 10


def current_details(run: Run, state: Mapping[str, Any]) -> str:
    """Return a heading, a bar, counts by status, and the nodes that are in flight or failed (at most ten of each)."""
    total = len(run.statuses)
    ended = sum(count for status, count in run.counts.items() if status in NODE_ENDS)
    share = ended / total if total else 1.0
    filled = round(share * 20)
    lines = [
        f"### {run.status}: {ended} of {total} nodes have ended",
        "",
        f"`{'█' * filled}{'░' * (20 - filled)}` {share:.0%}",
        "",
        "| status | nodes |",
        "| --- | ---: |",
    ]
    lines += [f"| {status} | {count:,} |" for status, count in run.counts.items() if count]
    flying = sum(run.counts.get(status, 0) for status in IN_FLIGHT)
    if flying:
        lines += ["", "**In flight:** " + _names(run, IN_FLIGHT, flying)]
    failed = run.counts.get(NodeStatus.FAILED, 0)
    if failed:
        lines += ["", "**Failed:** " + _names(run, frozenset({NodeStatus.FAILED}), failed)]
    for title, status in (("Being undone", NodeStatus.COMPENSATING), ("Not undone", NodeStatus.COMPENSATION_FAILED)):
        if run.counts.get(status, 0):
            lines += ["", f"**{title}:** " + _names(run, frozenset({status}), run.counts[status])]
    if run.tasks:
        lines += ["", f"**Waiting for people** ({len(run.tasks):,} open):", ""]
        lines += [_task(task) for task in list(run.tasks.values())[:MAX_SHOWN]]
    holding = run.holding
    if holding:
        waiting = ", ".join(f"`{run.program.ids[node]}`" for node in holding[:MAX_SHOWN])
        lines += ["", f"**Waiting for a decision (retry or skip):** {waiting}"]
    if run.reason:
        lines += ["", f"Ending: {run.reason}"]
    pages = state.get("pages")
    if isinstance(pages, str):  # a run that was started before there were pages knows of none
        address = f"{pages}/{state['runId']}"
        lines += ["", f"[Look at it and control it]({address})"]
    return "\n".join(lines)


def _task(task: OpenTask) -> str:
    asked = task.assignee or task.group
    title = " ".join(task.title.replace("`", "'").split())[:100]
    return f"- `{task.node}`: `{title}`" + (f", asked of `{asked.replace('`', '')}`" if asked else "")


def _names(run: Run, statuses: frozenset[NodeStatus], count: int) -> str:
    names: list[str] = []
    for node, status in enumerate(run.statuses):
        if status in statuses:
            names.append(f"`{run.program.ids[node]}`")
            if len(names) == MAX_SHOWN:
                break
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    return ", ".join(names) + more
