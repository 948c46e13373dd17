"""How human tasks are shown: the inbox as a table, one task with everything that a person decides by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dalang.commands.output import age, moment, safe, safe_lines, styled, table, to_json

if TYPE_CHECKING:
    from rich.console import Console

_DUE_STYLE = "red"


def inbox(out: Console, items: Sequence[dict[str, Any]]) -> None:
    """Print tasks as a table."""
    from rich.text import Text

    if not items:
        return
    rows = [
        [
            one["taskId"][:8],
            styled(one["status"]),
            str(one["priority"]),
            one["title"],
            _whose(one),
            Text(_due(one), style=_DUE_STYLE if one["overdue"] else ""),
            one["runId"][:8],
            age(one["createdAt"]),
        ]
        for one in items
    ]
    heads = ["TASK", "STATUS", ">PRIO", "TITLE", "FOR", "DUE", "RUN", ">AGE"]
    table(out, heads, rows, flexible="TITLE")


def whole(out: Console, task: dict[str, Any]) -> None:
    """Print one task: facts, its text, what is proposed, the form, the error, the decision, what happened."""
    from rich.text import Text

    for name, value in _facts(task):
        if value:
            out.print(Text.assemble((f"{name:<9} ", "dim"), value), soft_wrap=True)
    if task.get("description"):
        out.print()
        _markdown(out, task["description"])
    out.print()
    shown = "proposed" if task["kind"] == "approval" else "inputs"
    for name, key in ((shown, "context"), ("form", "form"), ("error", "error"), ("decision", "decision")):
        if task.get(key):
            out.print(Text(name, style="bold"))
            for line in to_json(task[key]).splitlines():
                out.print(Text("  " + line), soft_wrap=True)
    if len(task["history"]) > 1:
        out.print(Text("history", style="bold"))
        for one in task["history"]:
            what = one["type"].removeprefix("HITL_TASK_").lower()
            out.print(Text.assemble(f"  {moment(one['at'])}  {safe(what):<10}", _who(one["data"])), soft_wrap=True)


def _facts(task: dict[str, Any]) -> list[tuple[str, Any]]:
    quorum = ""
    if task["quorum"] > 1:
        voters = ", ".join(safe(vote["operator"] or "?") for vote in task["votes"]) or "nobody yet"
        quorum = f"{task['quorum']} must approve; so far {voters}"
    ended = f"{moment(task['completedAt'])} by {safe(task['completedBy'] or 'nobody')}" if task["completedAt"] else ""
    return [
        ("task", task["taskId"]),
        ("title", safe(task["title"])),
        ("status", styled(task["status"])),
        ("kind", safe(task["kind"])),
        ("plan", f"{safe(task['planName'])}, node {safe(task['nodeId'])}"),
        ("run", f"{task['runId']} ({task['runStatus']}, started by {safe(task['createdBy'])})"),
        ("for", safe(_whose(task))),
        ("closed to", safe(", ".join(task["excluded"]))),
        ("quorum", quorum),
        ("due", _due(task)),
        ("ended", ended),
        ("notes", safe(task["notes"] or "")),
        ("actions", safe(", ".join(task["actions"]))),
        ("digest", task["digest"]),
    ]


def _whose(task: dict[str, Any]) -> str:
    if task["assignedTo"]:
        return str(task["assignedTo"])
    if task.get("candidates"):
        return ", ".join(task["candidates"])
    return f"group {task['candidateGroup']}" if task["candidateGroup"] else "anybody"


def _due(task: dict[str, Any]) -> str:
    if task["dueAt"] is None:
        return ""
    return moment(task["dueAt"]) + (" (overdue)" if task["overdue"] else "")


def _who(data: dict[str, Any]) -> str:
    parts = []
    by = data.get("operator") or data.get("completedBy")
    if by:
        parts.append(f"by {safe(by)}")
    if data.get("action"):
        parts.append(safe(data["action"]))
    to = data.get("assignee") or data.get("group")
    if to and to != by:
        parts.append(f"for {safe(to)}")
    return ", ".join(parts)


def _markdown(out: Console, text: str) -> None:
    """Print Markdown: rendered on a terminal, else as it is. Links are shown with their address, never hidden."""
    from rich.markdown import Markdown
    from rich.text import Text

    if out.is_terminal:
        out.print(Markdown(safe_lines(text), hyperlinks=False))
    else:
        for line in safe_lines(text).splitlines():
            out.print(Text(line), soft_wrap=True)
