"""Watching a run of many nodes: how many stand where, and as many of those under way as fit; no events, no plan."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dalang.commands.failures import Unreachable
from dalang.commands.output import clock, instant
from dalang.commands.progress import UNDER_WAY, NodeProgress, RunProgress
from dalang.commands.watching import looks
from dalang.statuses import RUN_ENDS, NodeStatus

if TYPE_CHECKING:
    from dalang.commands.client import ApiClient
    from dalang.commands.session import Session

LARGE = 2_000
"""From so many nodes on a run is looked at, instead of being told event by event."""
LINE_SECONDS = 5.0
"""How often a line is written where there is no terminal."""
_FAILED = (NodeStatus.FAILED, NodeStatus.COMPENSATION_FAILED)
_WINDOW = (_FAILED, tuple(status for status in NodeStatus if status in UNDER_WAY))
"""Which nodes are shown, the first first."""


class CountedProgress(RunProgress):
    """A run by its counts; ``nodes`` are those that are worth a line now."""

    def __init__(self) -> None:
        super().__init__({})
        self._total = 0

    @property
    def total(self) -> int:
        """How many nodes the run has."""
        return self._total

    def take(self, run: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> None:
        """Take how the run stands, and nodes of it."""
        self.name, self.version = str(run.get("planName", "")), str(run.get("planVersion", ""))
        self.status, self.reason = str(run["status"]), str(run.get("reason") or "")
        self.started, self.ended = _seconds(run.get("startedAt")), _seconds(run.get("completedAt"))
        self._total = int(run["totalNodes"])
        self.counts = Counter(run.get("nodeStatusCounts") or {})
        self.nodes = [_progress(node) for node in nodes]

    def line(self) -> str:
        """Return it as a line."""
        told = f"{self.done:,}/{self.total:,} nodes" + (f"  {self.running:,} running" if self.running else "")
        failed = sum(self.counts[status] for status in _FAILED)
        return f"{self.status:<10} {told}" + (f"  {failed:,} failed" if failed else "")


def watch_large(session: Session, run_id: str, *, transient: bool) -> None:
    """Show a large run until it has ended."""
    from dalang.commands.live import room_for_nodes, shown

    client, progress = session.client, CountedProgress()
    is_drawn = session.out.is_terminal

    def say(text: str | None) -> None:
        if not is_drawn and text != progress.away:
            session.note(text or "connected again")
        progress.away = text

    shown_nodes: list[dict[str, Any]] = []

    def look(run: Mapping[str, Any]) -> None:
        with suppress(Unreachable):  # it went away since it told of the run: the next look waits for it
            shown_nodes[:] = window(client, run, room_for_nodes(session.out.size.height) - 1)
        progress.take(run, shown_nodes)

    runs = looks(client, run_id, say=say)
    if not is_drawn:
        for line in _lines(progress, runs):
            session.out.file.write(line + "\n")
            session.out.file.flush()
        return
    look(next(runs))
    with shown(session.out, progress, run_id, transient=transient):
        for run in runs:
            look(run)


def window(client: ApiClient, run: Mapping[str, Any], room: int) -> list[dict[str, Any]]:
    """Return the nodes of a run that are worth one of ``room`` lines: what failed, then what is under way."""
    counts = run.get("nodeStatusCounts") or {}
    found: list[dict[str, Any]] = []
    for statuses in _WINDOW:
        wanted = [str(status) for status in statuses if counts.get(status)]
        if wanted and len(found) < room:
            found += client.get(f"/runs/{run['runId']}/nodes", status=wanted, limit=room - len(found))["items"]
    return found


def _lines(progress: CountedProgress, runs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line whenever the run's status has changed, and now and then while its counts do."""
    told, status, at = "", "", 0.0
    for run in runs:
        progress.take(run, ())
        line, now = progress.line(), time.monotonic()
        if progress.status != status or (line != told and now - at >= LINE_SECONDS):
            told, status, at = line, progress.status, now
            yield f"{clock(run.get('completedAt') if status in RUN_ENDS else time.time() * 1000)}  {line}"


def _progress(node: Mapping[str, Any]) -> NodeProgress:
    from dalang.commands.attempts import told

    found = NodeProgress(node["nodeId"], node.get("name") or node["nodeId"], node["type"], 0, node["status"])
    found.started, found.ended = _seconds(node.get("startedAt")), _seconds(node.get("completedAt"))
    found.note = told(node)
    return found


def _seconds(value: Any) -> float | None:
    at = instant(value)
    return None if at is None else at.timestamp()
