"""What a Cortex knows of runs: a task for each, one below it for each node, and how far they are.

Theory of operation
    It is driven by what is stored, not by what happens: a run whose head has moved since the Cortex was told is told of
    as it stands now. So nothing is lost when this process dies, states that come and go are not told, and several
    processes may do it side by side: who takes a run has it for a minute. Tasks are made under keys that follow from
    run and node, and kept once they have an id; a task that was made twice by a crash in between is the same.

    Nothing waits for it: a Cortex that is away is told later, for a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.cortex import Cortex, CortexError
from dalang.durations import parse_duration
from dalang.graph import critical_path
from dalang.statuses import NodeStatus, RunStatus
from dalang.store import cortex_tasks as store
from dalang.store.cortex_tasks import RUN, ToldNode, ToldRun
from dalang.store.engine import is_connection_error, system_transaction
from dalang.store.flush_statements import CHANNEL
from dalang.store.listening import listen_for_ever
from dalang.store.plans import get_document

MAX_NODE_TASKS = 200
"""A run with more nodes has no tasks for its nodes, only its own: a Cortex takes about a hundred writes a minute."""
LOOK_SECONDS = 2.0
PAUSE_SECONDS = 0.5
"""At least so long between two looks; what happens meanwhile is told as one."""
AT_ONCE = 8
MS_OF_HOUR = 3_600_000
MAX_TITLE = 500
_NAMES = UUID("7a1e8f9c-8f52-5d6d-b6a5-8e2f0c9b3d11")

PENDING, IN_PROGRESS, BLOCKED, DONE, FAILED, CANCELLED = (
    "pending",
    "in_progress",
    "blocked",
    "done",
    "failed",
    "cancelled",
)
ENDED = (DONE, FAILED, CANCELLED)
NODES: Mapping[str, str] = {
    NodeStatus.PENDING: PENDING,
    NodeStatus.QUEUED: PENDING,
    NodeStatus.RUNNING: IN_PROGRESS,
    NodeStatus.RETRYING: IN_PROGRESS,
    NodeStatus.AWAITING_HITL: BLOCKED,
    NodeStatus.SUCCESS: DONE,
    NodeStatus.ERROR: FAILED,
    NodeStatus.FAILED: FAILED,
    NodeStatus.SKIPPED: CANCELLED,
    NodeStatus.CANCELLED: CANCELLED,
    NodeStatus.COMPENSATING: IN_PROGRESS,
    NodeStatus.COMPENSATED: CANCELLED,
    NodeStatus.COMPENSATION_FAILED: FAILED,
}
"""What the status of a node is to a Cortex."""
RUNS: Mapping[str, str] = {
    RunStatus.PENDING: PENDING,
    RunStatus.VALIDATED: PENDING,
    RunStatus.RUNNING: IN_PROGRESS,
    RunStatus.PAUSED: BLOCKED,
    RunStatus.AWAITING_HITL: BLOCKED,
    RunStatus.REPLANNING: IN_PROGRESS,
    RunStatus.COMPENSATING: IN_PROGRESS,
    RunStatus.COMPLETED: DONE,
    RunStatus.FAILED: FAILED,
    RunStatus.CANCELLED: CANCELLED,
}
"""What the status of a run is to a Cortex."""

logger = logging.getLogger("dalang.mirroring")


class Mirror:
    """Tells a Cortex of runs. Several processes may do it side by side."""

    def __init__(self, engine: AsyncEngine, database_url: str, cortex: Cortex) -> None:
        self._engine = engine
        self._url = database_url
        self._cortex = cortex
        self._wake = asyncio.Event()

    async def tell(self) -> int:
        """Tell of all runs that have news; return how many."""
        async with system_transaction(self._engine) as conn:
            runs = await store.take_runs(conn, AT_ONCE)
        await asyncio.gather(*(self._tell_of(run) for run in runs))
        return len(runs)

    async def tell_for_ever(self) -> None:
        """Tell whenever something was stored, and look again every few seconds, until cancelled."""
        hear = listen_for_ever(self._url, [CHANNEL], lambda *_: self._wake.set(), probe_seconds=LOOK_SECONDS)
        listening = asyncio.create_task(hear)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wake.wait()
                self._wake.clear()
                try:
                    while await self.tell() == AT_ONCE:
                        pass
                except Exception as error:
                    if not is_connection_error(error):
                        logger.exception("the Cortex could not be told of runs")
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            listening.cancel()

    async def _tell_of(self, run: ToldRun) -> None:
        try:
            await self._update(run, await self._tasks(run))
        except CortexError as error:
            logger.warning("the Cortex is told of run %s later: %s", run.run_id, error)
            async with system_transaction(self._engine) as conn:
                await store.put_off(conn, run.run_id, error.again_seconds)
            return
        async with system_transaction(self._engine) as conn:
            await store.keep_run(conn, run)

    async def _tasks(self, run: ToldRun) -> dict[str, tuple[str, str]]:
        """Return the tasks of a run and its nodes, with what they were told; those that are missing are made."""
        async with system_transaction(self._engine) as conn:
            known = await store.tasks_of(conn, run.run_id)
            found = {node_id: (task, told) for node_id, (task, told) in known.items() if task is not None}
            wanted = run.total_nodes if run.total_nodes <= MAX_NODE_TASKS else 0
            if len(found) > wanted and RUN in found:
                return found
            document = await get_document(conn, run.tenant_id, run.plan_digest) or {}
            parent = None
            if run.parent_run_id is not None and run.parent_node_id is not None:
                parent = await store.task_of(conn, run.parent_run_id, run.parent_node_id)
        if RUN not in found:
            description = str(document.get("description") or "")
            found[RUN] = await self._make(run, RUN, run.plan_name, description, _hours_of_run(document), parent)
        nodes = planned_nodes(document, run.elements) if wanted else {}
        for node_id, (name, kind, hours) in nodes.items():
            if node_id not in found:
                found[node_id] = await self._make(run, node_id, name, f"Type: {kind}", hours, found[RUN][0])
        return found

    async def _make(
        self, run: ToldRun, node_id: str, title: str, description: str, hours: float, parent: str | None
    ) -> tuple[str, str]:
        key = str(uuid5(_NAMES, f"{run.run_id}\n{node_id}"))
        task = await self._cortex.create_task(key, title[:MAX_TITLE], description[:4_000], hours, parent)
        async with system_transaction(self._engine) as conn:
            await store.keep_task(conn, run, node_id, task)
        return task, ""

    async def _update(self, run: ToldRun, tasks: Mapping[str, tuple[str, str]]) -> None:
        async with system_transaction(self._engine) as conn:
            nodes = await store.nodes_of(conn, run.run_id, MAX_NODE_TASKS + 1) if len(tasks) > 1 else {}
        over = run.completed_at is not None
        for node_id, (task, told) in tasks.items():
            if node_id == RUN:
                continue
            node = nodes.get(node_id)
            status = NODES.get(node.status, PENDING) if node is not None else CANCELLED if over else PENDING
            if not (told == "" and status == PENDING):  # what it was made as
                progress = 1.0 if status == DONE else 0.0
                await self._say(run, node_id, task, told, status, progress, _hours(node))
        await self._say(run, RUN, *tasks[RUN], RUNS.get(run.status, PENDING), _progress(run), _hours(run), _note(run))

    async def _say(
        self,
        run: ToldRun,
        node_id: str,
        task: str,
        told: str,
        status: str,
        progress: float,
        hours: float | None,
        note: str | None = None,
    ) -> None:
        what = f"{status} {progress:.4f}"
        if what == told:
            return
        try:
            await self._cortex.update_task(task, status, progress, hours, note)
        except CortexError as error:
            if error.away:
                raise
            logger.warning("task %s of run %s: %s", task, run.run_id, error)  # it was removed there
        async with system_transaction(self._engine) as conn:
            await store.keep_told(conn, run.run_id, {node_id: what})


def planned_nodes(document: Mapping[str, Any], elements: int | None) -> dict[str, tuple[str, str, float]]:
    """Return name, type and estimated hours of a plan's nodes by id; ``elements`` is a number for the run of a map."""
    nodes = {
        one["nodeId"]: (str(one.get("name") or one["nodeId"]), str(one["type"]), _estimate(one))
        for one in (*document.get("nodes", ()), *document.get("finally", ()))
    }
    if elements is None or not nodes:
        return nodes
    name, kind, hours = next(iter(nodes.values()))
    return {str(at): (f"{name} {at}", kind, hours) for at in range(elements)}


def _hours_of_run(document: Mapping[str, Any]) -> float:
    """Return how long a run may take: its longest chain of estimates, else its timeout."""
    nodes = document.get("nodes", ())
    at = {one["nodeId"]: place for place, one in enumerate(nodes)}
    ends = [(one["sourceNodeId"], one["targetNodeId"]) for one in document.get("edges", ())]
    edges = [(at[source], at[target]) for source, target in ends if source in at]
    length = critical_path(range(len(nodes)), edges, lambda place: _estimate(nodes[place])).length
    return length or _in_hours(document.get("timeout"))


def _estimate(node: Mapping[str, Any]) -> float:
    return _in_hours((node.get("requirements") or {}).get("estimatedDuration"))


def _in_hours(duration: Any) -> float:
    try:
        return 0.0 if duration is None else parse_duration(duration) / MS_OF_HOUR
    except ValueError:
        return 0.0


def _hours(one: ToldRun | ToldNode | None) -> float | None:
    if one is None or one.started_at is None:
        return None
    return max(((one.completed_at or datetime.now(UTC)) - one.started_at).total_seconds(), 0.0) / 3600


def _progress(run: ToldRun) -> float:
    """Return how much of a run is done: the share of its nodes that have ended."""
    if run.status == RunStatus.COMPLETED:
        return 1.0
    total = run.elements if run.elements is not None else run.total_nodes
    over = [count for status, count in run.node_status_counts.items() if NODES.get(status) in ENDED]
    return min(sum(over) / total, 1.0) if total else 0.0


def _note(run: ToldRun) -> str | None:
    if run.completed_at is None:
        return None
    return run.error_message[:2_000] if run.error_message else None
