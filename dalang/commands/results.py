"""What is said of a run when it is looked at, and when it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalang.commands.limits import queued_note
from dalang.commands.live import symbol
from dalang.commands.output import STATUS_STYLES, moment, safe, seconds, span, styled, table, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from dalang.commands.client import ApiClient

EXIT_CODES = {"COMPLETED": 0, "FAILED": 1, "CANCELLED": 3}
MAX_OUTPUT_LINES = 40
MAX_FAILED = 10


SHOWN_QUEUED = 10
SHOWN_CHILDREN = 10
"""Runs below nodes that `dalang status` names."""


def outcome(out: Console, client: ApiClient, run: dict[str, Any]) -> None:
    """Print how a run ended: outputs, or what failed and where to look."""
    from rich.text import Text

    status = run["status"]
    mark = symbol({"COMPLETED": "SUCCESS"}.get(status, status), out.options.ascii_only)
    lasted = span(run.get("startedAt"), run["completedAt"]) if run.get("startedAt") and run.get("completedAt") else ""
    reason = f" ({safe(run['reason'])})" if run.get("reason") else ""
    style = f"bold {STATUS_STYLES.get(status, '')}"
    line = Text.assemble(
        (f"{mark} {status}{reason}", style), f" in {lasted}" if lasted else "", f"  run {run['runId']}"
    )
    out.print(line, soft_wrap=True)
    if status == "FAILED":
        failed(out, client, run)
    outputs(out, run.get("outputs"), run["runId"])


def failed(out: Console, client: ApiClient, run: dict[str, Any]) -> None:
    """Print which nodes failed, each with its error."""
    from rich.text import Text

    error = run.get("error") or {}
    items = client.get(f"/runs/{run['runId']}/nodes", status="FAILED", limit=MAX_FAILED)["items"]
    for node in items:
        detail = client.get(f"/runs/{run['runId']}/nodes/{_quoted(node['nodeId'])}")
        cause = detail.get("error") or {}
        attempts = f", {detail['attempt']} attempts" if detail.get("attempt", 0) > 1 else ""
        out.print(
            Text.assemble(
                (f"  {safe(node['nodeId'])}", "bold"),
                (f"  {safe(cause.get('type', 'FAILED'))}{attempts}: ", "red"),
                safe(cause.get("message", "")),
            ),
            soft_wrap=True,
        )
    if not items and (error or run.get("errorMessage")):
        message = safe(error.get("message") or run.get("errorMessage"))
        out.print(Text.assemble((f"  {safe(error.get('type', 'error'))}: ", "red"), message), soft_wrap=True)
    if items:
        out.print(
            Text(f"  dalang nodes {run['runId'][:8]} NODE shows inputs, attempts and errors", style="dim"),
            soft_wrap=True,
        )


def outputs(out: Console, value: Any, run_id: str) -> None:
    """Print a run's outputs, cut when they are long."""
    from rich.text import Text

    if not value:
        return
    out.print(Text("outputs", style="bold"))
    lines = to_json(value).splitlines()
    for line in lines[:MAX_OUTPUT_LINES]:
        out.print(Text("  " + line), soft_wrap=not out.is_terminal, overflow="ellipsis", no_wrap=True)
    if len(lines) > MAX_OUTPUT_LINES:
        rest = len(lines) - MAX_OUTPUT_LINES
        out.print(Text(f"  ... {rest} more lines: dalang status {run_id[:8]} --json", style="dim"), soft_wrap=True)


def status(out: Console, client: ApiClient, run: dict[str, Any]) -> None:
    """Print a run with everything."""
    from rich.text import Text

    counts = ", ".join(f"{count:,} {safe(name)}" for name, count in (run.get("nodeStatusCounts") or {}).items())
    facts = [
        ("run", run["runId"]),
        ("plan", f"{safe(run.get('planName', ''))} {safe(run.get('planVersion', ''))}"),
        ("status", styled(run["status"])),
        ("nodes", f"{run.get('totalNodes', 0):,}: {counts}" if counts else f"{run.get('totalNodes', 0):,}"),
        ("created", f"{moment(run.get('createdAt'))} by {safe(run.get('createdBy', ''))}"),
        ("started", moment(run.get("startedAt"))),
        ("ended", moment(run.get("completedAt"))),
        ("lasted", span(run.get("startedAt"), run.get("completedAt"))),
    ]
    if run.get("reason"):
        facts.append(("reason", safe(run["reason"])))
    names = {"redriveOf": "redrives", "redrivenBy": "redriven", "undoOf": "undoes", "undoneBy": "undone"}
    facts += [(name, f"{'by ' if key.endswith('By') else ''}{run[key]}") for key, name in names.items() if run.get(key)]
    if run.get("parentRunId"):
        facts.append(("below", _place_below(run)))
    below = client.get("/runs", parentRunId=run["runId"], limit=SHOWN_CHILDREN + 1)["items"]
    if below:
        more = " ..." if len(below) > SHOWN_CHILDREN else ""
        shown = [f"{one['runId'][:8]} {safe(one['status'])}" for one in reversed(below[:SHOWN_CHILDREN])]
        facts.append(("runs", ", ".join(shown) + more))
    temporal = (run.get("links") or {}).get("temporal")
    if temporal:
        facts.append(("temporal", safe(temporal)))
    for name, value in facts:
        if str(value) not in ("-", ""):
            out.print(Text.assemble((f"{name:<9}", "dim"), value), soft_wrap=True)
    if (run.get("nodeStatusCounts") or {}).get("QUEUED"):
        _queued(out, client, run["runId"])
    if run["status"] == "FAILED":
        failed(out, client, run)
    for line in _asked(run):
        out.print(Text(f"  {line}", style="dim"), soft_wrap=True)
    outputs(out, run.get("outputs"), run["runId"])


def _asked(run: dict[str, Any]) -> list[str]:
    """Say what a run wants of people that waits for them."""
    name, counts = run["runId"][:8], run.get("nodeStatusCounts") or {}
    if run["status"] == "PAUSED":
        if counts.get("FAILED"):
            return [f"`dalang retry {name} NODE` or `dalang skip {name} NODE` decides about a failed node"]
        return [f"`dalang resume {name}` ends the pause"]
    if run["status"] == "AWAITING_HITL" or counts.get("AWAITING_HITL"):
        return [f"`dalang tasks list --run {name}` shows what people are asked"]
    return []


def _queued(out: Console, client: ApiClient, run_id: str) -> None:
    """Print which nodes are QUEUED, and what they wait for."""
    from rich.text import Text

    items = client.get(f"/runs/{run_id}/queue")["items"]
    for one in items[:SHOWN_QUEUED]:
        line = Text.assemble((f"  {safe(one['nodeId'])}", "bold"), "  ", safe(queued_note({"queue": one})))
        out.print(line, soft_wrap=True)
    if len(items) > SHOWN_QUEUED:
        out.print(Text(f"  dalang queue {run_id[:8]} shows {len(items):,}", style="dim"), soft_wrap=True)


def _place_below(run: dict[str, Any]) -> str:
    """Return where a run is that a node of another run started."""
    iteration = f", iteration {run['iteration']}" if run.get("iteration") else ""
    return f"node {safe(run.get('parentNodeId') or '')} of run {run['parentRunId']}{iteration}"


def nodes(out: Console, items: list[dict[str, Any]], *, headed: bool = True) -> None:
    """Print nodes, one line each; without a heading when they go on a list."""
    rows = []
    for node in items:
        live = node.get("live") or {}
        attempt = max(node.get("attempt") or 0, live.get("attempt") or 0)
        most = node.get("maxAttempts") or 0
        note = node.get("skipReason") or queued_note(node) or (live.get("lastFailure") or {}).get("message") or ""
        attempts = "-" if not attempt else f"{attempt}/{most}" if most else str(attempt)
        lasted = span(node.get("startedAt"), node.get("completedAt"))
        name = node["nodeId"] if node.get("name") in (None, node["nodeId"]) else f"{node['nodeId']}  ({node['name']})"
        rows.append([name, node.get("type", ""), styled(node["status"]), attempts, lasted, note])
    heads = ["NODE", "TYPE", "STATUS", ">ATTEMPT", ">TIME", "NOTE"]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    table(out, heads, rows, flexible="NODE" if len(heads) == 5 else "NOTE", headed=headed)


def node(out: Console, found: dict[str, Any]) -> None:
    """Print a node with inputs, outputs, attempts and error."""
    from rich.text import Text

    live = found.get("live") or {}
    facts: list[tuple[str, Any]] = [
        ("node", safe(found["nodeId"])),
        ("name", safe(found.get("name") or "")),
        ("type", safe(found.get("type", ""))),
        ("status", styled(found["status"])),
        ("attempt", f"{live.get('attempt') or found.get('attempt') or 0} of {found.get('maxAttempts') or '?'}"),
        ("started", moment(found.get("startedAt"))),
        ("ended", moment(found.get("completedAt"))),
        ("lasted", span(found.get("startedAt"), found.get("completedAt"))),
        ("skipped", safe(found.get("skipReason") or "")),
        ("progress", safe(to_json(live["progress"], indent=None)) if live.get("progress") is not None else ""),
        ("next try", moment(live.get("nextAttemptAt"))),
        ("queued", safe(queued_note(found))),
        ("retries", _retries(found)),
        ("runs", ", ".join(found.get("childRunIds") or ())),
    ]
    for name, value in facts:
        if str(value) not in ("-", "", "0 of ?"):
            out.print(Text.assemble((f"{name:<9}", "dim"), value), soft_wrap=True)
    for failure in found.get("attempts") or ():
        cause = failure.get("error") or {}
        line = f"  attempt {failure.get('attempt')}: {safe(cause.get('type', ''))}: {safe(cause.get('message', ''))}"
        out.print(Text(line, style="yellow"), soft_wrap=True)
    for name in ("inputs", "outputs", "error"):
        if found.get(name):
            out.print(Text(name, style="bold red" if name == "error" else "bold"))
            for line in to_json(found[name]).splitlines():
                out.print(Text("  " + line), soft_wrap=True)


def _retries(found: dict[str, Any]) -> str:
    """Return how often a node was tried again, and how long was waited for that."""
    retries = found.get("retries") or {}
    if not retries.get("totalRetries"):
        return ""
    waited = seconds(retries["totalDelayMs"] / 1000)
    last = f", last at {moment(retries['lastRetryAt'])}" if retries.get("lastRetryAt") else ""
    return f"{retries['totalRetries']:,}, waited {waited} before them{last}"


def runs(out: Console, items: list[dict[str, Any]]) -> None:
    """Print runs, one line each."""
    from dalang.commands.output import age

    rows = []
    for run in items:
        counts = run.get("nodeStatusCounts") or {}
        done = sum(counts.get(name, 0) for name in ("SUCCESS", "ERROR", "SKIPPED"))
        failures = counts.get("FAILED", 0)
        nodes_text = f"{done:,}/{run.get('totalNodes', 0):,}" + (f" ({failures} failed)" if failures else "")
        lasted = span(run.get("startedAt"), run.get("completedAt"))
        version = run.get("planVersion", "")
        rows.append(
            [
                run["runId"][:8],
                styled(run["status"]),
                run.get("planName", ""),
                version,
                nodes_text,
                lasted,
                age(run["createdAt"]),
            ]
        )
    table(out, ["RUN", "STATUS", "PLAN", "VERSION", ">NODES", ">TIME", ">AGE"], rows, flexible="PLAN")


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


__all__ = ["EXIT_CODES", "failed", "node", "nodes", "outcome", "outputs", "runs", "seconds", "status"]
