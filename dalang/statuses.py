"""Every status of runs and nodes, and which moves between them are possible.

These two tables are the only place that says so: the state machine refuses any other move, the database repeats the
names as CHECK constraints, and the diagrams of the docs are drawn from them. DESIGN section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

S = TypeVar("S", bound=StrEnum)


class _Status(StrEnum):
    """A status. It is looked up in a table at each move, and an Enum's own hash is a function in Python."""

    __hash__ = str.__hash__


class RunStatus(_Status):
    """Where a run is in its life."""

    PENDING = "PENDING"
    """Its row is written; the workflow has not begun."""
    VALIDATED = "VALIDATED"
    """The workflow accepted its input."""
    RUNNING = "RUNNING"
    """Nodes are being run, or stopped because the run is ending early."""
    PAUSED = "PAUSED"
    """An operator holds it: what is in flight ends or is interrupted, nothing new starts."""
    AWAITING_HITL = "AWAITING_HITL"
    """Nothing can move until a person decides."""
    REPLANNING = "REPLANNING"
    """A planner is making the next revision of its plan."""
    COMPENSATING = "COMPENSATING"
    """What it did is being undone."""
    COMPLETED = "COMPLETED"
    """It ended and no failure was left unhandled."""
    FAILED = "FAILED"
    """It ended and a failure was left unhandled."""
    CANCELLED = "CANCELLED"
    """It was ended by an operator or by its timeout."""


class NodeStatus(_Status):
    """Where a node is in its life."""

    PENDING = "PENDING"
    """Its join is not decided, or no slot is free."""
    QUEUED = "QUEUED"
    """It waits for a lease or a breaker."""
    RUNNING = "RUNNING"
    """Its activity or timer is under way; Temporal repeats failed attempts meanwhile."""
    RETRYING = "RETRYING"
    """An attempt failed; the next one is waited for."""
    AWAITING_HITL = "AWAITING_HITL"
    """It waits for a person."""
    SUCCESS = "SUCCESS"
    """It ended with outputs."""
    ERROR = "ERROR"
    """It failed for good and an error edge took the failure."""
    FAILED = "FAILED"
    """It failed for good and nothing took the failure."""
    SKIPPED = "SKIPPED"
    """Its join can no longer be met, or an operator skipped it."""
    CANCELLED = "CANCELLED"
    """It was stopped, or never started, because the run ended early."""
    COMPENSATING = "COMPENSATING"
    """Its effect is being undone."""
    COMPENSATED = "COMPENSATED"
    """Its effect is undone."""
    COMPENSATION_FAILED = "COMPENSATION_FAILED"
    """Undoing it failed for good; a person has to decide."""


class TaskStatus(StrEnum):
    """Where a human task is in its life."""

    PENDING = "PENDING"
    """Nobody has claimed it; it may be assigned to somebody."""
    IN_PROGRESS = "IN_PROGRESS"
    """Somebody claimed it: whoever else may decide leaves it alone."""
    COMPLETED = "COMPLETED"
    """It was decided."""
    CANCELLED = "CANCELLED"
    """Its node or its run ended without it."""
    EXPIRED = "EXPIRED"
    """Nobody decided in time; what then happens is declared by the plan and is never approval."""


class TaskKind(StrEnum):
    """What a human task asks for."""

    INPUT = "input"
    """The handler of a node asks something, and goes on with the answer."""
    APPROVAL = "approval"
    """A human node: whether what is proposed may go on, as it is or edited."""
    FAILURE = "failure"
    """A node failed for good: run it again, skip it, or end the run."""
    COMPENSATION = "compensation"
    """Undoing a node failed for good: try again, declare it done by hand, or give it up."""


TASK_ENDS = frozenset({TaskStatus.COMPLETED, TaskStatus.CANCELLED, TaskStatus.EXPIRED})
"""Statuses that a human task never leaves."""

_R = RunStatus
_N = NodeStatus
_T = TaskStatus

RUN_MOVES: dict[RunStatus, tuple[RunStatus, ...]] = {
    _R.PENDING: (_R.VALIDATED, _R.FAILED, _R.CANCELLED),
    _R.VALIDATED: (_R.RUNNING, _R.FAILED, _R.CANCELLED),
    _R.RUNNING: (_R.PAUSED, _R.AWAITING_HITL, _R.REPLANNING, _R.COMPENSATING, _R.COMPLETED, _R.FAILED, _R.CANCELLED),
    _R.PAUSED: (_R.RUNNING, _R.COMPENSATING, _R.FAILED, _R.CANCELLED),
    _R.AWAITING_HITL: (_R.RUNNING, _R.PAUSED, _R.COMPENSATING, _R.FAILED, _R.CANCELLED),
    _R.REPLANNING: (_R.RUNNING, _R.PAUSED, _R.COMPENSATING, _R.FAILED, _R.CANCELLED),
    _R.COMPENSATING: (_R.COMPLETED, _R.FAILED, _R.CANCELLED),
    _R.COMPLETED: (),
    _R.FAILED: (),
    _R.CANCELLED: (),
}

NODE_MOVES: dict[NodeStatus, tuple[NodeStatus, ...]] = {
    _N.PENDING: (_N.QUEUED, _N.RUNNING, _N.AWAITING_HITL, _N.ERROR, _N.FAILED, _N.SKIPPED, _N.CANCELLED),
    _N.QUEUED: (_N.PENDING, _N.RUNNING, _N.ERROR, _N.FAILED, _N.SKIPPED, _N.CANCELLED),
    _N.RUNNING: (
        _N.PENDING,
        _N.RETRYING,
        _N.QUEUED,
        _N.AWAITING_HITL,
        _N.SUCCESS,
        _N.ERROR,
        _N.FAILED,
        _N.SKIPPED,
        _N.CANCELLED,
    ),
    _N.RETRYING: (_N.PENDING, _N.RUNNING, _N.QUEUED, _N.SUCCESS, _N.ERROR, _N.FAILED, _N.SKIPPED, _N.CANCELLED),
    _N.AWAITING_HITL: (_N.PENDING, _N.RUNNING, _N.SUCCESS, _N.ERROR, _N.FAILED, _N.SKIPPED, _N.CANCELLED),
    _N.SUCCESS: (_N.COMPENSATING,),
    _N.ERROR: (_N.COMPENSATING,),
    _N.FAILED: (_N.PENDING, _N.ERROR, _N.SKIPPED, _N.COMPENSATING),
    _N.SKIPPED: (_N.COMPENSATING,),
    _N.CANCELLED: (_N.COMPENSATING,),
    _N.COMPENSATING: (_N.COMPENSATED, _N.COMPENSATION_FAILED),
    _N.COMPENSATED: (),
    _N.COMPENSATION_FAILED: (_N.COMPENSATING, _N.COMPENSATED),
}

TASK_MOVES: dict[TaskStatus, tuple[TaskStatus, ...]] = {
    _T.PENDING: (_T.PENDING, _T.IN_PROGRESS, _T.COMPLETED, _T.CANCELLED, _T.EXPIRED),
    _T.IN_PROGRESS: (_T.PENDING, _T.COMPLETED, _T.CANCELLED, _T.EXPIRED),
    _T.COMPLETED: (),
    _T.CANCELLED: (),
    _T.EXPIRED: (),
}

RUN_ENDS = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
"""Statuses that a run never leaves."""

NODE_ENDS = frozenset(
    {
        NodeStatus.SUCCESS,
        NodeStatus.ERROR,
        NodeStatus.FAILED,
        NodeStatus.SKIPPED,
        NodeStatus.CANCELLED,
        NodeStatus.COMPENSATED,
        NodeStatus.COMPENSATION_FAILED,
    }
)
"""Statuses in which a node waits for nothing."""

IN_FLIGHT = frozenset({NodeStatus.RUNNING, NodeStatus.RETRYING, NodeStatus.AWAITING_HITL, NodeStatus.QUEUED})
"""Statuses of a node that somebody or something outside the state machine is working on."""

HOLDS_SLOT = IN_FLIGHT - {NodeStatus.QUEUED, NodeStatus.RETRYING}
"""Statuses in which a node takes one of the run's slots, where its plan does not set ``maxInFlight`` itself."""


class ImpossibleMove(Exception):
    """The event does not fit the status it met; nothing was changed. ``event`` names it: ``pause``, ``node failed``."""

    def __init__(self, event: str, subject: str, status: str) -> None:
        self.event = event
        self.subject = subject
        self.status = status
        super().__init__(f"{event} is not possible: {subject} is {status}")


class UnacceptableContent(ImpossibleMove):
    """What was asked for fits the status, but not what it holds: a form that is not filled in, outputs that lack."""

    def __init__(self, event: str, message: str) -> None:
        super().__init__(event, "the request", "incomplete")
        self.args = (f"{event} is not possible: {message}",)


def mermaid(moves: Mapping[S, tuple[S, ...]]) -> str:
    """Return a table of moves as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> PENDING"]
    for source, targets in moves.items():
        lines += [f"    {source} --> {target}" for target in targets]
        if not targets:
            lines.append(f"    {source} --> [*]")
    return "\n".join(lines) + "\n"
