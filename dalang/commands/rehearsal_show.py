"""A rehearsal for people: figures, tables and the Gantt chart of the median rehearsal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dalang.commands.output import STATUS_STYLES, estimate, safe, styled, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from dalang.rehearsal import Summary, Trace
    from dalang.rehearsal.simulation import NodeTrace

MAX_ROWS = 60
"""Of a larger plan only the most critical nodes are shown."""
MAX_UNDONE = 10
"""So many nodes are named that are undone."""
WIDTH = 100
"""Of a chart that is not written to a terminal."""


def show(out: Console, summary: Summary) -> None:
    """Print everything."""
    from rich.text import Text

    plan = summary.scenario.plan
    out.print(Text.assemble((safe(plan.name), "bold"), f"  {safe(plan.version)}"), soft_wrap=True)
    out.print()
    for name, value in _facts(summary):
        out.print(Text.assemble((f"{name:<15}", "dim"), value), soft_wrap=True)
    if summary.causes:
        out.print()
        rows = [[_share(one.share), one.node_id or "-", one.type, one.message] for one in summary.causes]
        table(out, [">ENDS SO", "NODE", "ERROR", "MESSAGE"], rows)
    if summary.resources:
        out.print()
        _resources(out, summary)
    out.print()
    _nodes(out, summary)
    out.print()
    chart(out, summary, summary.median)


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    options = summary.scenario.options
    if summary.random:
        less = "" if summary.complete else f" of {options.runs:,}"
        yield "rehearsals", f"{summary.runs:,}{less}, seeds {options.seed} to {options.seed + summary.runs - 1}"
    else:
        yield "rehearsals", "1: nothing is left to chance, each would be the same"
    yield "ends", ", ".join(f"{end} {_share(share)}" for end, share in summary.ends.items())
    for name, spread in (("makespan", summary.makespan), ("if COMPLETED", summary.completed)):
        if spread is None or (name == "if COMPLETED" and len(summary.ends) == 1):
            continue
        if spread.least == spread.most:
            yield name, estimate(spread.p50)
        else:
            times = f"p5 {estimate(spread.p5)}, p50 {estimate(spread.p50)}, p95 {estimate(spread.p95)}"
            yield name, f"{times}, max {estimate(spread.most)}"
    if summary.random:
        yield "worst", f"{estimate(summary.worst.makespan)} with --runs 1 --seed {summary.worst.seed}"
    if summary.compensations:
        undone = [f"{safe(one.node_id)} {_share(one.share)}" for one in summary.compensations[:MAX_UNDONE]]
        more = len(summary.compensations) - len(undone)
        yield "undone", ", ".join(undone) + (f" and {more:,} more" if more else "")
    first = summary.bottleneck
    if first is not None:
        used = f"{_share(first.utilisation)} in use"
        yield "bottleneck", f"{safe(first.name)}: {used}, nodes wait {estimate(first.waiting)} for it in all"


def _resources(out: Console, summary: Summary) -> None:
    rows = [
        [one.name, f"{one.capacity:g}", _share(one.utilisation), _figure(one.waits), estimate(one.waiting)]
        for one in summary.resources
    ]
    table(out, ["RESOURCE", ">CAPACITY", ">IN USE", ">WAITS", ">WAITING"], rows, flexible="RESOURCE")


def _nodes(out: Console, summary: Summary) -> None:
    nodes = list(summary.nodes)
    shown = nodes
    if len(nodes) > MAX_ROWS:
        kept = sorted(range(len(nodes)), key=lambda at: -nodes[at].criticality)[:MAX_ROWS]
        shown = [nodes[at] for at in sorted(kept)]
    rows = []
    for one in shown:
        ended = {name: share for name, share in one.statuses.items() if name != "SUCCESS"}
        rows.append(
            [
                one.node_id,
                _share(one.run),
                _time(one.start),
                _time(one.end),
                estimate(one.wait) if one.wait else "-",
                _figure(one.retries),
                _share(one.criticality),
                ", ".join(f"{name} {_share(share)}" for name, share in ended.items()) or "-",
            ]
        )
    heads = ["NODE", ">RUNS", ">START", ">END", ">WAITS", ">RETRIES", ">CRITICAL", "OTHERWISE"]
    table(out, heads, rows, flexible="NODE")
    if len(shown) < len(nodes):
        out.print(f"... and {len(nodes) - len(shown):,} less critical nodes (--json lists all)")


def chart(out: Console, summary: Summary, trace: Trace) -> None:
    """Print one rehearsal as a Gantt chart that fits the terminal."""
    from rich.text import Text

    which = "the median rehearsal" if summary.random else "the rehearsal"
    seed = f", seed {trace.seed}" if summary.random else ""
    begun = list(trace.nodes.items())
    if not begun:
        return
    ids = summary.scenario.program.ids
    shown = begun
    if len(begun) > MAX_ROWS:
        path = set(trace.path)
        longest = sorted(begun, key=lambda one: (one[0] not in path, one[1].begun - one[1].end))[:MAX_ROWS]
        chosen = {node for node, _ in longest}
        shown = [one for one in begun if one[0] in chosen]
    width = out.width if out.is_terminal else WIDTH
    names = min(max(len(safe(ids[node])) for node, _ in shown), max(width // 3, 8))
    room = max(width - names - 22, 10)
    out.print(Text(f"{which}{seed}: {trace.status} after {estimate(trace.makespan)}", style="bold"), soft_wrap=True)
    plain = out.options.ascii_only
    for node, one in shown:
        status = str(trace.statuses[node])
        line = Text(safe(ids[node]))
        line.truncate(names, overflow="ellipsis", pad=True)
        line.append("  ")
        line.append_text(_bar(one, trace.makespan, room, STATUS_STYLES.get(status, ""), plain))
        line.append(f" {estimate(one.end - (one.end if one.start is None else one.start)):>7}")
        if status != "SUCCESS":
            line.append(" ")
            line.append_text(styled(status))
        line.rstrip()
        out.print(line, no_wrap=True, overflow="ignore", crop=False)
    if len(shown) < len(begun):
        out.print(f"... and {len(begun) - len(shown):,} more (--json lists all)")
    waits, works, fails, pauses = _marks(plain)
    key = f"{works} works  {waits} waits for a slot, an agent or a pool  {fails} fails  {pauses} before a retry"
    out.print(Text(key, style="dim"), soft_wrap=True)


def _marks(plain: bool) -> tuple[str, str, str, str]:
    """Return how waiting, working, failing and the pause before a retry are drawn."""
    return ("~", "#", "x", ".") if plain else ("░", "█", "▒", "·")


def _bar(one: NodeTrace, makespan: int, room: int, style: str, plain: bool) -> Text:
    """Return what a node did as one character per moment; each attempt has one at least."""
    from rich.text import Text

    waits, works, fails, pauses = _marks(plain)
    cells = [" "] * room

    def cell(at: int) -> int:
        return min(at * room // max(makespan, 1), room - 1)

    def fill(start: int, end: int, mark: str) -> None:
        for at in range(cell(start), max(cell(start) + 1, -(-end * room // max(makespan, 1)) if makespan else 1)):
            if at < room:
                cells[at] = mark

    work_began = one.end if one.start is None else one.start
    if work_began > one.ready:
        fill(one.ready, work_began, waits)
    if one.start is not None and one.end > one.start:
        fill(one.start, one.end, pauses)
    for start, end, error in one.work.attempts if one.work is not None else ():
        if start <= one.end:
            fill(start, min(end, one.end), fails if error is not None else works)
    text = Text()
    for mark in cells:
        text.append(mark, style="bright_black" if mark in (waits, pauses) else "red" if mark == fails else style)
    return text


def _share(value: float) -> str:
    if value in (0, 1):
        return f"{value:.0%}"
    text = f"{value:.1%}"
    return "<0.1%" if text == "0.0%" else ">99.9%" if text == "100.0%" else text


def _figure(value: float) -> str:
    return f"{value:.2f}" if value else "-"


def _time(value: float | None) -> str:
    return "-" if value is None else estimate(value)
