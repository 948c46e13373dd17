"""What fault tests share: workers as processes that can be killed, plans full of effects, and what must hold after."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.api.enums.v1 import EventType, PendingActivityState

from dalang.settings import Settings
from dalang.stack.supervisor import Stack, stack
from dalang.store.engine import transaction
from dalang.store.nodes import get_node
from dalang.workflows.dispatch import BASE_TASK_SECONDS
from tests.engine.kit import TENANT, Engine, Started, engine
from tests.harness import PATIENCE

NODE_MODULES = ("tests.engine.handlers", "tests.engine.remembering", "tests.faults.handlers")
STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
RETRY = {"backoffStrategy": "FIXED", "initialDelayMs": 100, "maxDelayMs": 100, "jitter": False}


@dataclass(frozen=True)
class Effects:
    """The marks that ``f-effect`` nodes leave in a folder."""

    folder: Path

    def asked(self, run_id: str) -> dict[str, list[tuple[int, int]]]:
        """Attempts that began, by node: their numbers and processes."""
        found = {}
        for mark in sorted(self.folder.glob(f"{run_id}_*.asked")):
            lines = [line.split() for line in mark.read_text().splitlines()]
            if lines:  # a mark that is being made is empty for a moment
                found[_node(mark)] = [(int(attempt), int(pid)) for attempt, pid in lines]
        return found

    def done(self, run_id: str) -> dict[str, float]:
        """Nodes that had their effect, with the time of it."""
        marks = self.folder.glob(f"{run_id}_*.done")
        return {_node(mark): mark.stat().st_mtime for mark in marks}

    def done_by(self, run_id: str, node_id: str) -> int:
        """The process in which a node had its effect."""
        return int((self.folder / f"{run_id}_{node_id}_0_0.done").read_text())

    def under_way(self, run_id: str, pid: int | None = None) -> set[str]:
        """Nodes that began, in the process ``pid`` at last (None: in any), and had no effect yet."""
        asked = self.asked(run_id)
        done = self.done(run_id)
        return {node for node, attempts in asked.items() if node not in done and pid in (None, attempts[-1][1])}


def _node(mark: Path) -> str:
    return mark.stem.split("_")[1]


@dataclass
class Site:
    """Workers of one test (``stack``), a client and a database (``engine``), and the folder of effects."""

    stack: Stack
    engine: Engine
    effects: Effects

    async def start(self, plan: Mapping[str, Any]) -> Started:
        """Start a run of ``plan``."""
        return await self.engine.start(plan)

    async def sigterm(self, name: str = "worker") -> int:
        """Ask a worker to end and return its exit code."""
        part = self.stack.parts[name]
        assert part.pid is not None
        os.kill(part.pid, signal.SIGTERM)
        return await asyncio.wait_for(part._child.wait(), PATIENCE)  # type: ignore[attr-defined]

    async def node_error(self, started: Started, node_id: str) -> Any:
        """Return a node's error as the read model has it."""
        async with transaction(self.engine.db, TENANT) as conn:
            node = await get_node(conn, TENANT, uuid.UUID(started.run_id), node_id)
        return None if node is None else node.error

    def busiest(self, run_id: str) -> str:
        """Return the worker in which most attempts began: the one that knows the run."""
        asked = self.effects.asked(run_id)
        pids = Counter(pid for attempts in asked.values() for _, pid in attempts)
        return max(self.stack.parts, key=lambda name: pids[self.stack.parts[name].pid or 0])

    async def until_effects(
        self, started: Started, count: int, pid: int | None = None, within: float = PATIENCE
    ) -> None:
        """Wait until so many nodes had their effect and others are under way (in the process ``pid``)."""
        effects, run = self.effects, started.run_id
        await until(lambda: len(effects.done(run)) >= count and effects.under_way(run, pid), within)

    async def delays(self, started: Started, longer: float = 1) -> list[str]:
        """What Temporal's history says about the times in which nothing happened: the event that ended each."""
        found, last = [], None
        async for event in started.handle.fetch_history_events():
            at = event.event_time.ToDatetime()
            if last is not None and (at - last).total_seconds() > longer:
                found.append(f"{(at - last).total_seconds():.1f} s until {EventType.Name(event.event_type)[11:]}")
            last = at
        return found

    async def check(self, started: Started, plan: Mapping[str, Any], within: float = PATIENCE) -> dict[str, Any]:
        """Wait for the run's end and check what must hold whatever happened; return what is stored."""
        end = await started.end(within)
        assert end["run"]["status"] == "COMPLETED", end["result"]
        check_order(plan, end)
        effects = {node["nodeId"] for node in plan["nodes"] if node["type"] == "f-effect"}
        assert self.effects.done(started.run_id).keys() == effects
        statuses = {node["nodeId"]: end["nodes"][node["nodeId"]]["status"] for node in plan["nodes"]}
        assert set(statuses.values()) == {"SUCCESS"}, statuses
        assert end["run"]["head_hash"] == end["result"]["head"]["hash"] == end["events"][-1]["hash"]
        assert await self.engine.chain_problem(started.run_id) is None
        return end


async def until(holds: Callable[[], Any], within: float = PATIENCE) -> None:
    """Wait until ``holds()``: for what other processes do to files and processes."""
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def site(settings: Settings, folder: Path, *, supervised: bool = False) -> AsyncIterator[Site]:
    """A worker process on servers that run already, and what is needed to start runs and count effects."""
    folder.mkdir()
    settings = settings.model_copy(update={"node_modules": NODE_MODULES, "log_level": "INFO"})
    async with (
        stack(settings, {"worker"}, migrate=False, supervised=supervised) as running,
        engine(settings, with_worker=False) as client,
    ):
        # As the API starts runs of ordinary size: what a worker holds when it is killed is given up after this time.
        seconds = timedelta(seconds=BASE_TASK_SECONDS)
        client.client.start_workflow = partial(client.client.start_workflow, task_timeout=seconds)  # type: ignore[method-assign]
        yield Site(running, client, Effects(folder))


def effect(folder: Path, node_id: str, retry: Mapping[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    """A node with an effect."""
    return {
        "nodeId": node_id,
        "type": "f-effect",
        "inputs": {"folder": str(folder), **inputs},
        "retryPolicy": {**RETRY, "maxAttempts": 3, **(retry or {})},
    }


def chain(*nodes: Mapping[str, Any]) -> dict[str, Any]:
    """A plan of these nodes, one after the other; nothing but the order flows along its edges."""
    ids = [node["nodeId"] for node in nodes]
    return {"nodes": list(nodes), "edges": [edge(a, b) for a, b in itertools.pairwise(ids)]}


def edge(source: str, target: str) -> dict[str, Any]:
    """An edge that carries no values."""
    return {"sourceNodeId": source, "targetNodeId": target, "mapping": {}}


def mixed_plan(folder: Path, *, seed: int, layers: int = 10, width: int = 6, attempts: int = 3) -> dict[str, Any]:
    """A layered plan of effects, short and longer, with failures that are repeated, sleeps, and nodes without work."""
    choice = random.Random(seed)
    nodes, edges, before = [], [], list[str]()
    for layer in range(layers):
        ids = [f"n{layer}x{place}" for place in range(width)]
        for node_id in ids:
            retry = {"maxAttempts": attempts}
            kind = choice.random()
            if kind < 0.6:
                nodes.append(effect(folder, node_id, retry, seconds=round(choice.uniform(0.02, 0.4), 2)))
            elif kind < 0.75:
                nodes.append(effect(folder, node_id, retry, failures=1))
            elif kind < 0.9:
                nodes.append({"nodeId": node_id, "type": "sleep", "inputs": {"seconds": choice.uniform(0.1, 0.4)}})
            else:
                nodes.append({"nodeId": node_id, "type": "noop"})
            edges += [edge(source, node_id) for source in choice.sample(before, min(len(before), choice.randint(1, 3)))]
        before = ids
    return {"nodes": nodes, "edges": edges}


def check_order(plan: Mapping[str, Any], end: Mapping[str, Any]) -> None:
    """Assert that every node started after all that it depends on, once, and that events have no gaps."""
    current = [row for row in end["events"] if not row["superseded"]]
    assert [row["seq"] for row in current] == list(range(1, len(current) + 1))
    places: dict[tuple[str, str], int] = {}
    for row in current:
        if row["node_id"] is not None:
            assert (row["type"], row["node_id"]) not in places, row
            places[row["type"], row["node_id"]] = row["seq"]
    for one in plan["edges"]:
        source, target = one["sourceNodeId"], one["targetNodeId"]
        assert places["NODE_COMPLETED", source] < places["NODE_STARTED", target], one


async def lock_run(conn: AsyncConnection, run_id: str) -> None:
    """Lock the run's row until the connection's transaction ends: what stores events waits."""
    await conn.execute(text("select set_config('app.tenant_id', :tenant, true)"), {"tenant": TENANT})
    await conn.execute(text("select 1 from execution_runs where run_id = :run for update"), {"run": run_id})


async def storing_process(started: Started, within: float = PATIENCE, kind: str = "record") -> int:
    """Wait until a worker stores events of the run (or is at another activity, ``kind``) and return its pid."""
    async with asyncio.timeout(within):
        while True:
            for pending in (await started.handle.describe()).raw_description.pending_activities:
                if pending.activity_type.name == kind and pending.state == STARTED:
                    return int(pending.last_worker_identity.rpartition("-")[2])
            await asyncio.sleep(0.05)


class Watch:
    """Seconds since it was made, in the clock of files."""

    def __init__(self) -> None:
        self.began = time.time()

    def seconds(self, at: float | None = None) -> float:
        """Seconds until ``at``, by default until now."""
        return (time.time() if at is None else at) - self.began
