"""Scaling out: 1, 2 and 4 worker and API processes against one Temporal and one PostgreSQL.

``python benchmarks/scale_out.py [--save]`` shows that nothing of ours makes processes wait for each other. On few cores
the nodes a second of *computing* cannot grow with processes. So: nodes that wait, in workers with few places, whose
number bounds the throughput; the processor time of a node and of a start, which must not grow with processes; and what
PostgreSQL's connections wait for, looked at while all processes work, where a hot row or a lock would show.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import asyncpg

from benchmarks.results import Row, arguments, computed, pids, row, save
from benchmarks.small_runs import Rest, Seen, together
from benchmarks.waiting_node import SECONDS as SECONDS_OF_NODE
from dalang.settings import Settings
from dalang.stack import ports, python_process
from dalang.stack.postgres import SUPERUSER, EmbeddedPostgres
from dalang.stack.supervisor import Stack, on_free_ports, stack

ROOT = str(Path(__file__).resolve().parent.parent)
COUNTS = (1, 2, 4)
PLACES = 8
WAIT_SECONDS = SECONDS_OF_NODE
SECONDS = 10
"""How long the waiting nodes keep all workers busy."""
STARTS, STARTS_AT_ONCE = 100, 16
NOOPS, NOOP_RUNS = 50, 8
LOOK_SECONDS = 0.02
_WAITS = """
SELECT wait_event_type || ':' || wait_event AS what, count(*) FROM pg_stat_activity
WHERE application_name = 'dalang' AND state <> 'idle' AND wait_event_type IN ('Lock', 'LWLock', 'BufferPin') GROUP BY 1
UNION ALL
SELECT 'working', count(*) FROM pg_stat_activity WHERE application_name = 'dalang' AND state = 'active'
"""


class Waits:
    """What connections were seen waiting for, and how often one was seen at work."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._url = postgres.url(SUPERUSER).replace("+asyncpg", "")
        self.seen: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[Counter[str]]:
        """Look for the length of the block."""
        self.seen = Counter()
        task = asyncio.create_task(self._look())
        yield self.seen
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _look(self) -> None:
        conn = await asyncpg.connect(self._url)
        query = await conn.prepare(_WAITS)
        while True:
            self.seen.update({what: count for what, count in await query.fetch()})
            await asyncio.sleep(LOOK_SECONDS)


def locked(seen: Counter[str]) -> float:
    """The share of the looks at working connections that found one waiting for a lock of a row or table."""
    waiting = sum(count for what, count in seen.items() if what.startswith("Lock:"))
    return waiting / max(seen["working"] + waiting, 1)


def flat(name: str, nodes: int, node: dict[str, Any]) -> dict[str, Any]:
    """A plan of nodes without edges."""
    return {"name": name, "nodes": [{"nodeId": f"n{i}", **node} for i in range(nodes)]}


class Scale:
    """The stack, and how many workers and API processes of it run."""

    def __init__(self, running: Stack) -> None:
        self._running = running
        self.settings = running.settings
        token = self.settings.read_token()
        assert token is not None
        self.apis = {"api": Rest(self.settings.api_url, token)}
        self._token = token
        self.seen = Seen(self.settings)
        postgres = running.parts["postgres"]
        assert isinstance(postgres, EmbeddedPostgres)
        self.waits = Waits(postgres)

    async def have(self, workers: int, apis: int = 1) -> None:
        """Have exactly so many workers, new ones, and at least so many API processes."""
        for name in [name for name in self._running.parts if name.startswith("worker")]:
            await self._running.stop(name)
            del self._running.parts[name]
        for number in range(workers):
            part = python_process.worker(self.settings, f"worker-{number}")
            self._running.add(part)
            await self._running.start(part.name)
        while len(self.apis) < apis:
            port = ports.free_port()
            settings = self.settings.model_copy(update={"api_port": port, "api_url": f"http://127.0.0.1:{port}"})
            part = python_process.api(settings, f"api-{len(self.apis) + 1}")
            self._running.add(part)
            await self._running.start(part.name)
            self.apis[part.name] = Rest(settings.api_url, self._token)

    def spent(self, spent: dict[str, float], part: str) -> float:
        """CPU seconds of all processes whose names begin so."""
        return sum(seconds for name, seconds in spent.items() if name.startswith(part))

    def pids(self) -> dict[str, int]:
        """The processes of now."""
        return pids(self._running)

    async def published(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Publish a plan; return what starts it."""
        return {"planId": (await self.apis["api"].post("/orchestrator/plans", plan))["planId"]}

    async def run(self, wanted: dict[str, Any], rest: Rest) -> None:
        """Run a plan to its end."""
        await self.seen.end(uuid.UUID((await rest.post("/orchestrator/execute", wanted))["runId"]))


async def waiting_nodes(scale: Scale) -> list[Row]:
    """Nodes that wait, in workers with few places: twice the workers, twice the nodes."""
    rows: list[Row] = []
    base = scale.settings
    scale.settings = base.model_copy(
        update={"max_concurrent_activities": PLACES, "node_modules": ("benchmarks.waiting_node",)}
    )
    first = 0.0
    for count in COUNTS:
        await scale.have(count)
        capacity = count * PLACES / WAIT_SECONDS
        nodes = round(capacity * SECONDS / 8)
        wanted = await scale.published(flat(f"waiting {count}", nodes, {"type": "wait-a-moment"}))
        await scale.run(await scale.published(flat("warm", 20, {"type": "noop"})), scale.apis["api"])
        begun = time.perf_counter()
        async with scale.waits.looking() as seen:
            with computed(scale.pids()) as spent:
                await asyncio.gather(*(scale.run(wanted, scale.apis["api"]) for _ in range(8)))
        seconds = time.perf_counter() - begun
        speed = 8 * nodes / seconds
        first = first or speed
        case = f"{count} worker{'s' if count > 1 else ''}"
        cpu = scale.spent(spent, "worker") * 1000 / (8 * nodes)
        rows += [
            row(case, f"waiting nodes, {PLACES} places", "nodes/s", speed),
            row(case, f"waiting nodes, {PLACES} places", "of the places", speed / capacity),
            row(case, f"waiting nodes, {PLACES} places", "CPU ms of workers a node", cpu),
            row(case, f"waiting nodes, {PLACES} places", "share waiting for locks", locked(seen)),
        ]
        show(case, f"waiting nodes {speed:.1f}/s ({speed / first:.2f} times one), {cpu:.2f} ms of workers a node", seen)
    scale.settings = base
    return rows


async def working_nodes(scale: Scale) -> list[Row]:
    """Nodes that do nothing, as fast as they go: what one costs with more and more workers."""
    rows: list[Row] = []
    wanted = await scale.published(flat("working", NOOPS, {"type": "noop"}))
    for count in COUNTS:
        await scale.have(count)
        await asyncio.gather(*(scale.run(wanted, scale.apis["api"]) for _ in range(2)))
        begun = time.perf_counter()
        async with scale.waits.looking() as seen:
            with computed(scale.pids()) as spent:
                await asyncio.gather(*(scale.run(wanted, scale.apis["api"]) for _ in range(NOOP_RUNS)))
        nodes = NOOPS * NOOP_RUNS
        speed, case = nodes / (time.perf_counter() - begun), f"{count} worker{'s' if count > 1 else ''}"
        rows.append(row(case, "nodes that do nothing", "nodes/s", speed))
        parts = {part: scale.spent(spent, part) * 1000 / nodes for part in ("worker", "postgres", "temporal")}
        rows += [row(case, "nodes that do nothing", f"CPU ms of {part} a node", ms) for part, ms in parts.items()]
        rows.append(row(case, "nodes that do nothing", "share waiting for locks", locked(seen)))
        told = ", ".join(f"{part} {ms:.2f} ms" for part, ms in parts.items())
        show(case, f"nodes that do nothing {speed:.0f}/s, a node: {told}", seen)
    return rows


async def starts(scale: Scale) -> list[Row]:
    """Runs that are started, over more and more API processes, while nobody works on them."""
    rows: list[Row] = []
    wanted = await scale.published(flat("started", 5, {"type": "noop"}))
    for count in COUNTS:
        await scale.have(0, count)
        used = list(scale.apis.values())[:count]
        turns = iter(range(10**9))

        async def start(used: list[Rest] = used, turns: Iterable[int] = turns) -> None:
            await used[next(iter(turns)) % len(used)].post("/orchestrator/execute", wanted)

        await together(start, 8 * count, STARTS_AT_ONCE)
        async with scale.waits.looking() as seen:
            with computed(scale.pids()) as spent:
                seconds, _ = await together(start, STARTS, STARTS_AT_ONCE)
        case = f"{count} API process{'es' if count > 1 else ''}"
        parts = {part: scale.spent(spent, part) * 1000 / STARTS for part in ("api", "postgres", "temporal")}
        rows.append(row(case, "starts of runs", "runs/s", STARTS / seconds))
        rows += [row(case, "starts of runs", f"CPU ms of {part} a start", ms) for part, ms in parts.items()]
        rows.append(row(case, "starts of runs", "share waiting for locks", locked(seen)))
        told = ", ".join(f"{part} {ms:.2f} ms" for part, ms in parts.items())
        show(case, f"starts {STARTS / seconds:.0f}/s, a start: {told}", seen)
    return rows


def show(case: str, text: str, seen: Counter[str]) -> None:
    """Print a line."""
    waits = ", ".join(f"{what} {count}" for what, count in seen.most_common(4) if what != "working")
    print(f"{case:<15} {text}; at work {seen['working']}, waits: {waits or 'none'}", flush=True)


async def main(keep: bool) -> None:
    """Start everything, measure, keep."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))  # of the workers
    with tempfile.TemporaryDirectory() as folder:
        settings = on_free_ports(Settings(home=Path(folder), node_modules=("benchmarks.waiting_node",)))
        async with stack(settings) as running:
            scale = Scale(running)
            async with scale.seen.looking():
                rows = [*await waiting_nodes(scale), *await working_nodes(scale), *await starts(scale)]
            for rest in scale.apis.values():
                rest.close()
    if keep:
        notes = [
            f"All processes on {os.cpu_count()} cores. Waiting nodes sleep for {WAIT_SECONDS:g} s in a worker with "
            "few places: what bounds them is the number of places, not of cores.",
            "What connections wait for was looked at every 20 ms: the share is that of working connections which "
            "waited for a lock of a row, a table or an advisory one.",
            "On so few cores this shows that processes do not wait for each other, not how many nodes a second many "
            "machines do: there Temporal's and PostgreSQL's own limits come first (docs/scale.md).",
        ]
        save("scale_out", "Scaling out", rows, notes)


if __name__ == "__main__":
    asyncio.run(main(arguments(__doc__).parse_args().save))
