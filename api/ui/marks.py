"""How a status looks: an icon, a word and a tone, so that no status is told by its colour alone.

Tones are the colours of ``ui.css``: good, bad, warn, busy, ask, undo and idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dalang.api.ui.icons import icon
from dalang.api.ui.telling import number
from dalang.breaker import BreakerState
from dalang.statuses import NodeStatus, RunStatus, TaskKind, TaskStatus
from dalang.store.agents import AgentStatus

TONES = ("good", "bad", "warn", "busy", "ask", "undo", "idle")


@dataclass(frozen=True)
class Mark:
    """What a status looks like."""

    word: str
    icon: str
    tone: str


_R, _N, _T = RunStatus, NodeStatus, TaskStatus

RUN_MARKS: dict[RunStatus, Mark] = {
    _R.PENDING: Mark("Pending", "circle", "idle"),
    _R.VALIDATED: Mark("Validated", "circle", "busy"),
    _R.RUNNING: Mark("Running", "play", "busy"),
    _R.PAUSED: Mark("Paused", "pause", "warn"),
    _R.AWAITING_HITL: Mark("Waits for a person", "person", "ask"),
    _R.REPLANNING: Mark("Replanning", "plan", "busy"),
    _R.COMPENSATING: Mark("Undoing", "undo", "undo"),
    _R.COMPLETED: Mark("Completed", "check", "good"),
    _R.FAILED: Mark("Failed", "cross", "bad"),
    _R.CANCELLED: Mark("Cancelled", "stop", "idle"),
}
NODE_MARKS: dict[NodeStatus, Mark] = {
    _N.PENDING: Mark("Pending", "circle", "idle"),
    _N.QUEUED: Mark("Queued", "queue", "busy"),
    _N.RUNNING: Mark("Running", "play", "busy"),
    _N.RETRYING: Mark("Retrying", "retry", "warn"),
    _N.AWAITING_HITL: Mark("Waits for a person", "person", "ask"),
    _N.SUCCESS: Mark("Success", "check", "good"),
    _N.ERROR: Mark("Error, handled", "alert", "warn"),
    _N.FAILED: Mark("Failed", "cross", "bad"),
    _N.SKIPPED: Mark("Skipped", "skip", "idle"),
    _N.CANCELLED: Mark("Cancelled", "stop", "idle"),
    _N.COMPENSATING: Mark("Undoing", "undo", "undo"),
    _N.COMPENSATED: Mark("Undone", "undo", "idle"),
    _N.COMPENSATION_FAILED: Mark("Undo failed", "alert", "bad"),
}
TASK_MARKS: dict[TaskStatus, Mark] = {
    _T.PENDING: Mark("Open", "circle", "ask"),
    _T.IN_PROGRESS: Mark("Claimed", "person", "busy"),
    _T.COMPLETED: Mark("Decided", "check", "good"),
    _T.CANCELLED: Mark("Withdrawn", "stop", "idle"),
    _T.EXPIRED: Mark("Expired", "clock", "bad"),
}
KIND_MARKS: dict[TaskKind, Mark] = {
    TaskKind.APPROVAL: Mark("Approval", "check", "ask"),
    TaskKind.INPUT: Mark("Question", "edit", "busy"),
    TaskKind.FAILURE: Mark("Failure", "alert", "bad"),
    TaskKind.COMPENSATION: Mark("Failed undo", "undo", "undo"),
}

AGENT_MARKS: dict[AgentStatus, Mark] = {
    AgentStatus.IDLE: Mark("Idle", "circle", "good"),
    AgentStatus.WORKING: Mark("Working", "play", "busy"),
    AgentStatus.OFFLINE: Mark("Offline", "cross", "bad"),
    AgentStatus.DRAINING: Mark("Draining", "pause", "warn"),
}
BREAKER_MARKS: dict[BreakerState, Mark] = {
    BreakerState.CLOSED: Mark("Closed", "check", "good"),
    BreakerState.OPEN: Mark("Open", "breaker", "bad"),
    BreakerState.HALF_OPEN: Mark("On trial", "retry", "warn"),
}


def badge(mark: Mark, title: str = "") -> Markup:
    """Return a mark as HTML."""
    told = Markup(' title="{}"').format(title) if title else ""
    return Markup('<span class="badge {}"{}>{}<span>{}</span></span>').format(
        mark.tone, told, icon(mark.icon), mark.word
    )


def _badge(marks: Mapping[Any, Mark], status: str) -> Markup:
    mark = marks.get(status, Mark(status, "circle", "idle"))  # a status of a newer worker
    return badge(mark, str(status))


def run_badge(status: str) -> Markup:
    """Return the badge of a run's status."""
    return _badge(RUN_MARKS, status)


def node_badge(status: str) -> Markup:
    """Return the badge of a node's status."""
    return _badge(NODE_MARKS, status)


def task_badge(status: str) -> Markup:
    """Return the badge of a human task's status."""
    return _badge(TASK_MARKS, status)


def kind_badge(kind: str) -> Markup:
    """Return the badge of what a human task asks for."""
    return _badge(KIND_MARKS, kind)


def agent_badge(status: str) -> Markup:
    """Return the badge of what an agent is doing."""
    return _badge(AGENT_MARKS, status)


def breaker_badge(state: str) -> Markup:
    """Return the badge of a circuit breaker's state."""
    return _badge(BREAKER_MARKS, state)


def meter(used: float, total: float) -> Markup:
    """Return how much of something is in use, as a bar and as figures."""
    share = used / total if total else float(used > 0)
    tone = "bad" if share >= 1 else "warn" if share >= 0.8 else "busy"
    bar = _PART.format(tone, "0", f"{min(100 * share, 100):.2f}")
    return Markup(
        '<span class="progress"><svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/>{}</svg><span>{}<span class="quiet">/{}</span></span></span>'
    ).format(bar, number(used), number(total))


def progress(counts: dict[str, int], total: int) -> Markup:
    """Return a bar of how many nodes of a run have which status, the ended ones first, and the figure as text."""
    order = [*(one for one in NodeStatus if one in _DONE), *(one for one in NodeStatus if one not in _DONE)]
    parts, at = [], 0.0
    for status in order:
        count = counts.get(status, 0)
        if count and total:
            width = 100 * count / total
            tone = NODE_MARKS[status].tone + ("" if status in _DONE else " undone")
            parts.append(_PART.format(tone, f"{at:.2f}", f"{width:.2f}"))
            at += width
    done = sum(counts.get(one, 0) for one in _DONE)
    told = ", ".join(f"{counts[one]} {one.replace('_', ' ').lower()}" for one in order if counts.get(one))
    return Markup(
        '<span class="progress" title="{}"><svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/>{}</svg><span>{}<span class="quiet">/{}</span></span></span>'
    ).format(told, Markup().join(parts), number(done), number(total))


_PART = Markup('<rect class="part {}" x="{}" width="{}" height="6"/>')
_DONE = (_N.SUCCESS, _N.COMPENSATED, _N.ERROR, _N.SKIPPED, _N.CANCELLED, _N.FAILED, _N.COMPENSATION_FAILED)


def words(marks: Mapping[Any, Mark]) -> list[tuple[str, str]]:
    """Return the names of statuses with their words, for the choices of a filter."""
    return [(str(one), mark.word) for one, mark in marks.items()]
