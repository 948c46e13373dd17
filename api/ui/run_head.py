"""What stands at the head of every page of a run: what it is, how far it is, what keeps it, and what may be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.runs import found_run, node_counts, temporal_link
from dalang.api.ui.marks import NODE_MARKS
from dalang.api.ui.pages import Visitor
from dalang.api.ui.run_drawing import BAR
from dalang.statuses import NODE_ENDS, RUN_ENDS, NodeStatus, RunStatus
from dalang.store.human_tasks import TaskFilter, TaskSummary, list_tasks
from dalang.store.nodes import list_nodes
from dalang.store.revisions import list_revisions
from dalang.store.runs import LinkedRuns, Run, linked_runs

_S = RunStatus
MAX_NAMED = 5
"""Nodes that failed, and tasks, that are named above the picture."""


@dataclass(frozen=True)
class Part:
    """How many nodes have a status, and where its part of the bar lies, in per cent."""

    status: str
    word: str
    tone: str
    count: int
    start: float
    width: float


@dataclass(frozen=True)
class Head:
    """See the module."""

    run: Run
    links: LinkedRuns
    parts: Sequence[Part]
    done: int
    total: int
    failed: Sequence[str]
    tasks: Sequence[TaskSummary]
    revisions: int
    temporal: str | None
    took: timedelta | None
    controls: frozenset[str]

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.run.status in RUN_ENDS

    @property
    def error(self) -> Mapping[str, Any]:
        """What it failed with, or nothing."""
        return self.run.error if isinstance(self.run.error, dict) else {}


async def head_of(page: Visitor, conn: AsyncConnection, run_id: UUID) -> Head:
    """Return the head of a run's pages.

    Raises:
        NotFound: there is no such run.
    """
    tenant = page.who.tenant_id
    run = await found_run(conn, page.who, run_id, resolved=True)
    links = await linked_runs(conn, tenant, run_id)
    counts = node_counts(run)
    failed: list[str] = []
    if counts.get(NodeStatus.FAILED) or counts.get(NodeStatus.COMPENSATION_FAILED):
        statuses = (NodeStatus.FAILED, NodeStatus.COMPENSATION_FAILED)
        failed = [one.node_id for one in await list_nodes(conn, tenant, run_id, statuses=statuses, limit=MAX_NAMED)]
    tasks = await list_tasks(conn, tenant, TaskFilter(run_id=run_id, open=True), limit=MAX_NAMED)
    revisions = await list_revisions(conn, tenant, run_id)
    return Head(
        run=run,
        links=links,
        parts=_parts(counts),
        done=sum(count for status, count in counts.items() if status in NODE_ENDS),
        total=sum(counts.values()),
        failed=failed,
        tasks=tasks.items,
        revisions=max(len(revisions), 1),
        temporal=temporal_link(run, page.it),
        took=None if run.started_at is None else (run.completed_at or datetime.now(UTC)) - run.started_at,
        controls=_controls(RunStatus(run.status)) if page.may_operate else frozenset(),
    )


def _controls(status: RunStatus) -> frozenset[str]:
    """Return what an operator may ask of a run with this status."""
    if status in RUN_ENDS:
        return frozenset({"redrive"})
    found = {"terminate"}
    if status is not _S.COMPENSATING:
        found |= {"cancel", "replan"}
    if status in (_S.RUNNING, _S.AWAITING_HITL):
        found.add("pause")
    if status is _S.PAUSED:
        found.add("resume")
    return frozenset(found)


def _parts(counts: Mapping[str, int]) -> list[Part]:
    total, at, parts = sum(counts.values()), 0.0, []
    for status in BAR:
        count = counts.get(status, 0)
        if count:
            mark, width = NODE_MARKS[status], 100 * count / total
            parts.append(Part(str(status), mark.word, mark.tone, count, at, width))
            at += width
    return parts
