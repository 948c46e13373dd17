"""A run while it goes on: a picture that is drawn again and again on a terminal, else one line per event."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dalang.commands.output import STATUS_STYLES, clock, safe, seconds
from dalang.commands.progress import NodeProgress, RunProgress, note_of
from dalang.commands.terminal_graph import MAX_NAME, MAX_NODES, TerminalGraph

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SYMBOLS = {
    "PENDING": "·",
    "QUEUED": "◌",
    "RETRYING": "↻",
    "AWAITING_HITL": "?",
    "SUCCESS": "✓",
    "ERROR": "!",
    "FAILED": "✗",
    "SKIPPED": "–",
    "CANCELLED": "⊘",
    "COMPENSATING": "↶",
    "COMPENSATED": "↶",
    "COMPENSATION_FAILED": "✗",
}
ASCII = {"PENDING": ".", "SUCCESS": "+", "FAILED": "x", "SKIPPED": "-", "CANCELLED": "o", "RETRYING": "~"}
ROOM = 11
"""Columns of a node in the graph beside its name: its mark, and how long it took."""


class Dashboard:
    """What stands on the terminal: a heading and, below it, one line per node or per group of nodes."""

    def __init__(self, run: RunProgress, run_id: str) -> None:
        self.run = run
        self.run_id = run_id
        self.ended = False
        self._drawn: tuple[Any, TerminalGraph | None] = (None, None)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the run as it is now, so that it fits the terminal."""
        plain = options.ascii_only
        if self.ended and self.run.ended is not None:
            yield _text((safe(self.run.name), "bold"), (f"  {safe(self.run.version)}", "bright_black"))
        else:
            yield self._heading(plain)
        room = room_for_nodes(options.size.height)
        graph = self._graph(room, options.max_width)
        if graph is not None:
            for row in range(graph.height):
                yield self._row(graph, row, plain)
            room -= graph.height
            told = [node for node in self.run.nodes if node.note][: max(room - 1, 0)]
            if told:
                width = min(max(len(safe(node.name)) for node in told), options.max_width // 2)
                yield _text(("", ""))
                for node in told:
                    yield self._node(node, width, 0, plain, options.max_width)
        elif len(self.run.nodes) <= room:
            if self.run.total > len(self.run.nodes):
                yield self._all(plain, options.max_width)
            width = min(max((len(safe(node.name)) for node in self.run.nodes), default=0), options.max_width // 2)
            kinds = min(max((len(node.type) for node in self.run.nodes), default=0), 16)
            for node in list(self.run.nodes):
                yield self._node(node, width, kinds, plain, options.max_width)
        else:
            yield from self._groups(room, plain, options.max_width)
        if self.run.away:
            yield _text((f"  {self.run.away}", "yellow"))

    def _graph(self, room: int, width: int) -> TerminalGraph | None:
        """Return the graph of the plan, if it has edges and fits; it is laid out once."""
        from rich.cells import cell_len

        run = self.run
        if not run.edges or len(run.nodes) > MAX_NODES:
            return None
        if self._drawn[0] is not run.edges:
            names = {node.node_id: min(cell_len(safe(node.name)), MAX_NAME) + ROOM for node in run.nodes}
            graph = TerminalGraph({node.node_id: node.level for node in run.nodes}, names, run.edges)
            self._drawn = (run.edges, graph)
        drawn = self._drawn[1]
        return drawn if drawn is not None and drawn.height <= room and drawn.width <= width else None

    def _row(self, graph: TerminalGraph, row: int, plain: bool) -> Text:
        from rich.cells import cell_len

        parts: list[tuple[str, str]] = []
        column = 0
        here = sorted((place.column, name) for name, place in graph.places.items() if place.row == row)
        for _, name in here:
            place, node = graph.places[name], self.run.by_id[name]
            parts.append((graph.line(row, column, place.column, plain), "bright_black"))
            style = STATUS_STYLES.get(node.status, "cyan")
            mark = _spin(plain) if node.status == "RUNNING" and not self.ended else symbol(node.status, plain)
            quiet = "bright_black" if node.status in ("PENDING", "SKIPPED") else ""
            lasted = "" if node.started is None else seconds(max((node.ended or time.time()) - node.started, 0))
            name = safe(node.name)
            label = _fit(name, min(cell_len(name), MAX_NAME))
            rest = place.width - cell_len(label) - 4
            column = place.column + place.width
            goes_on = graph.line(row, column, column + 1, plain).strip() and len(lasted) < rest
            told = f"{lasted} " if lasted and goes_on else lasted
            filled = told.ljust(rest, "-" if plain else "─") if goes_on else _fit(told, rest)
            parts += [(f" {mark} ", style), (f"{label} ", quiet), (filled, "bright_black")]
        parts.append((graph.line(row, column, graph.width, plain), "bright_black"))
        return _text(*parts)

    def _heading(self, plain: bool) -> Text:
        run = self.run
        now = run.ended or time.time()
        lasted = seconds(max(now - run.started, 0)) if run.started else ""
        status = run.status if run.status != "RUNNING" or not run.reason else f"{run.status} ({safe(run.reason)})"
        return _text(
            ("" if self.ended else f"{_spin(plain)} ", "cyan"),
            (safe(run.name), "bold"),
            (f"  {status}", STATUS_STYLES.get(run.status, "")),
            (f"  {run.done:,}/{run.total:,} nodes  {lasted}", ""),
            (f"  {self.run_id[:8]}", "bright_black"),
        )

    def _node(self, node: NodeProgress, width: int, kinds: int, plain: bool, room: int) -> Text:
        style = STATUS_STYLES.get(node.status, "cyan")
        mark = _spin(plain) if node.status == "RUNNING" and not self.ended else symbol(node.status, plain)
        lasted = ""
        if node.started is not None:
            lasted = seconds(max((node.ended or time.time()) - node.started, 0))
        quiet = "bright_black" if node.status in ("PENDING", "SKIPPED") else ""
        line = _text(
            (f"  {mark} ", style),
            (_fit(safe(node.name), width), quiet),
            (f"  {_fit(safe(node.type), kinds)}", "bright_black"),
            (f"  {lasted:>7}", ""),
            (
                f"  {safe(node.note)}" if node.note else "",
                style if node.status in ("FAILED", "ERROR") else "bright_black",
            ),
        )
        line.truncate(room, overflow="ellipsis")
        return line

    def _all(self, plain: bool, width: int) -> Text:
        return _text(("  all".ljust(22), "bold"), *_bar(self.run.counts, _bar_width(width), plain))

    def _groups(self, room: int, plain: bool, width: int) -> Iterator[Text]:
        run = self.run
        bar_width = _bar_width(width)
        yield self._all(plain, width)
        groups = dict(run.grouped)
        names = [(f"level {level + 1}", kind, counts) for (level, kind), counts in groups.items()]
        if len(names) > room - 2:
            by_type: dict[str, Any] = {}
            for (_, kind), counts in groups.items():
                by_type.setdefault(kind, type(run.counts)()).update(counts)
            names = [("", kind, counts) for kind, counts in by_type.items()]
        for level, kind, counts in names[: room - 2]:
            label = f"  {level:<9} {safe(kind)}"[:21]
            yield _text((label.ljust(22), ""), *_bar(counts, bar_width, plain))


def room_for_nodes(height: int) -> int:
    """Return how many lines below the heading a terminal of this height has."""
    return max(height - 4, 5)


@contextlib.contextmanager
def shown(out: Console, run: RunProgress, run_id: str, *, transient: bool = False) -> Iterator[Any]:
    """Show a run for the time of the block; yields what takes each event, after ``run`` took it.

    ``transient``: nothing of it stays on a terminal.
    """
    if not out.is_terminal:
        yield lambda event: out.file.write(event_line(event) + "\n") and out.file.flush()
        return
    from rich.live import Live

    dashboard = Dashboard(run, run_id)
    with Live(dashboard, console=out, refresh_per_second=10, transient=transient, vertical_overflow="crop") as live:
        try:
            yield lambda event: None
        finally:
            dashboard.ended = True
            live.refresh()


def event_line(event: dict[str, Any]) -> str:
    """Return an event as one line: time, number, type, node, and what is worth saying."""
    number = f"{event.get('epoch', 0)}.{event.get('seq', 0)}"
    line = f"{clock(event.get('at'))}  {number:<7} {safe(event.get('type', '')):<22} {safe(event.get('nodeId') or '')}"
    note = safe(note_of(event))
    return f"{line}  {note}".rstrip() if note else line.rstrip()


def symbol(status: str, plain: bool = False) -> str:
    """Return the sign of a node's status."""
    return ASCII.get(status, "*") if plain else SYMBOLS.get(status, "•")


def _bar_width(width: int) -> int:
    return max(min(width - 50, 40), 10)


def _bar(counts: Any, width: int, plain: bool) -> Iterator[tuple[str, str]]:
    total = max(sum(counts.values()), 1)
    good = counts["SUCCESS"] + counts["ERROR"] + counts["COMPENSATED"]
    bad = counts["FAILED"] + counts["COMPENSATION_FAILED"]
    idle = counts["SKIPPED"] + counts["CANCELLED"]
    running = total - good - bad - idle - counts["PENDING"]
    used = 0
    for count, style, letter in (
        (good, "green", "#"),
        (bad, "red", "x"),
        (idle, "magenta", "-"),
        (running, "cyan", ">"),
    ):
        cells = min(round(count / total * width) or (1 if count else 0), width - used)
        used += cells
        yield (letter if plain else "█") * cells, style
    yield ("." if plain else "░") * (width - used), "bright_black"
    yield f" {total - counts['PENDING'] - running:>6,}/{total:,}", ""
    if running:
        yield f"  {running:,} running", "cyan"
    if bad:
        yield f"  {bad:,} failed", "red"
    if idle:
        yield f"  {idle:,} skipped", "magenta"


def _spin(plain: bool) -> str:
    frames = "|/-\\" if plain else SPINNER
    return frames[int(time.monotonic() * 10) % len(frames)]


def _fit(text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _text(*parts: tuple[str, str]) -> Text:
    from rich.text import Text

    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
