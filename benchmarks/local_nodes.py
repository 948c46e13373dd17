"""Light nodes: what a node of a plan costs that is run together with others (``execution: local``).

``python benchmarks/local_nodes.py [--rounds 3] [--cases NAMES] [--ways NAMES] [--save]`` starts PostgreSQL and a tuned
Temporal server, and runs in turns, in one worker process:

- ``local``: the plan with ``execution: local``, its events stored, the read model on;
- ``local, functions``: the same with functions registered with ``@node`` in place of the node type ``noop``;
- ``durable``: the same plan with an activity for each node;
- ``by hand``: a workflow written for this DAG, with an activity for each node, that stores nothing;
- ``loop``: a workflow with one activity that goes through all nodes in a loop, and stores nothing: no plan can be
  faster, and none would lose so much when it fails.

``--profile WAY`` prints where the worker's event loop spends its time instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import os
import pstats
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

with workflow.unsafe.imports_passed_through():
    from benchmarks.interpreter import Edges, HandWritten, chain, layered
    from benchmarks.results import Row, Spread, arguments, computed, figure, pids, row, save
    from dalang.activities.catalogue import node_activities
    from dalang.activities.execution import HandlerLoop
    from dalang.activities.http import Http
    from dalang.activities.projection import Projection, StoreRecorder
    from dalang.nodes import node
    from dalang.plan import Plan, with_derived_ids
    from dalang.redaction import Redaction
    from dalang.settings import Settings
    from dalang.stack.supervisor import Stack, on_free_ports, stack
    from dalang.store.blobs import PostgresBlobDriver
    from dalang.store.engine import create_engine
    from dalang.temporal import connect
    from dalang.worker_memory import spare_the_collector
    from dalang.workflows.interceptor import GuardInterceptor
    from dalang.workflows.plan_run import PlanRun
    from tests.engine.kit import Engine

CASES = {"chain 1,000": chain(1_000), "layered 1,000": layered(20, 50, 3), "layered 5,000": layered(50, 100, 3)}
WAYS = ("local", "local, functions", "durable", "by hand", "loop")
NOTES = (
    "Worker and client are one process on the machine that PostgreSQL and Temporal run on; neither of those two waits "
    "for its disk. The layered plans have 3 edges per node.",
    "All Python of a worker shares the time of one core: with two cores it is the worker that is full, PostgreSQL and "
    "Temporal have time left. 1 / (CPU ms per node, here) is the most that one worker process can do.",
    "Before (quiet machine, 22 Nov 2026 16:00): chain 1,000 at 1,281 nodes/s with 0.56 CPU ms per node here, 0.09 in "
    "PostgreSQL, 0.18 in Temporal; layered 5,000 at 1,185 with 0.71, 0.12, 0.17.",
    "What helped: each part of an event is serialised once (store: 93 to 66 us per event), an attempt is one task and "
    "not four (62 to 40 us), batches of 1,500 events and segments of 1,024 nodes that travel folded (Temporal: 0.18 to "
    "0.09 ms), modules and plans out of the garbage collector's way (layered 5,000: 0.45 to 0.37).",
    "What did not help: rows as one JSON parameter or as joined text instead of arrays (the client wins 2 us an event, "
    "PostgreSQL loses as much or more), the database driver without SQLAlchemy (2 us of 20), a higher threshold of the "
    "garbage collector once modules are frozen, segments as local activities from 100 nodes on (5 nodes: a quarter "
    "less CPU, so small segments are).",
)

One = Callable[[], Awaitable[Any]]


@node("bench-step")
def step(**inputs: Any) -> dict[str, Any]:
    """Do nothing, as a function of a user's."""
    return {}


@activity.defn(name="bench_loop")
async def go_through(edges: list[list[int]], count: int) -> int:
    """Go through a DAG in order, as a function would that needs no orchestrator."""
    targets: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for source, target in edges:
        targets[source].append(target)
        waiting[target] += 1
    ready = [one for one in range(count) if not waiting[one]]
    outputs: dict[int, dict[str, Any]] = {}
    for one in ready:
        outputs[one] = step()
        for target in targets[one]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return len(outputs)


@workflow.defn(name="BenchLoop")
class Loop:
    """One activity for everything."""

    @workflow.run
    async def run(self, edges: list[list[int]], count: int) -> int:
        """Call it."""
        result: int = await workflow.execute_activity(
            "bench_loop", args=[edges, count], result_type=int, start_to_close_timeout=timedelta(minutes=1)
        )
        return result


def plan_of(graph: tuple[int, Edges], execution: str, kind: str = "noop") -> Plan:
    """Return a DAG as a plan."""
    count, edges = graph
    document = {
        "name": "light nodes",
        "execution": execution,
        "nodes": [{"nodeId": f"n{i}", "type": kind} for i in range(count)],
        "edges": [{"sourceNodeId": f"n{a}", "targetNodeId": f"n{b}"} for a, b in edges],
    }
    return with_derived_ids(Plan.model_validate(document))


@dataclass
class Bench:
    """Everything that runs are started with."""

    running: Stack
    client: Client
    engine: Engine

    def way(self, name: str, graph: tuple[int, Edges]) -> One:
        """Return what runs a graph once, that way."""
        count, edges = graph
        pairs = [list(edge) for edge in edges]
        queue = self.running.settings.task_queue
        if name == "by hand":
            return lambda: self.client.execute_workflow(
                "HandWritten", args=[count, pairs], id=uuid.uuid4().hex, task_queue=queue
            )
        if name == "loop":
            return lambda: self.client.execute_workflow(
                "BenchLoop", args=[pairs, count], id=uuid.uuid4().hex, task_queue=queue
            )
        kind = "bench-step" if name.endswith("functions") else "noop"
        plan = plan_of(graph, name.partition(",")[0], kind)
        return lambda: self._plan(plan)

    async def _plan(self, plan: Plan) -> None:
        started = await self.engine.start_plan(plan, {})
        await started.handle.result()

    async def measure(self, cases: list[str], ways: list[str], rounds: int) -> list[Row]:
        """Run all cases in all ways in turns; the first round warms up."""
        rows: list[Row] = []
        print(f"{'case':<14} {'way':<17} {'nodes/s':>22}   CPU ms per node")
        for case in cases:
            count = CASES[case][0]
            works = {way: self.way(way, CASES[case]) for way in ways}
            walls: dict[str, list[float]] = {way: [] for way in ways}
            costs: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
            for number in range(rounds + 1):
                for way, work in works.items():
                    begin = time.perf_counter()
                    with computed(pids(self.running)) as spent:
                        await work()
                    if number:
                        walls[way].append(time.perf_counter() - begin)
                        for part, seconds in {**spent, "all": spent.total}.items():
                            costs[way].setdefault(part, []).append(seconds * 1000 / count)
            for way in ways:
                rates = [count / wall for wall in walls[way]]
                told = ", ".join(f"{part} {figure(Spread.of(ms).median)}" for part, ms in costs[way].items())
                print(f"{case:<14} {way:<17} {Spread.of(rates)!s:>22}   {told}", flush=True)
                rows.append(row(case, way, "nodes/s", rates))
                rows += [row(case, f"{way}: {part}", "CPU ms/node", ms) for part, ms in costs[way].items()]
        return rows

    async def profile(self, way: str, case: str) -> None:
        """Print what the event loop's thread spends its time with."""
        work, profile = self.way(way, CASES[case]), cProfile.Profile()
        await work()
        with profile:
            for _ in range(3):
                await work()
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Start servers and a worker."""
    with tempfile.TemporaryDirectory() as folder:
        settings = on_free_ports(Settings(home=Path(folder)))
        async with stack(settings, frozenset({"postgres", "temporal"}), durable=False) as running:
            db = create_engine(running.settings)
            client = await connect(running.settings, storage_driver=PostgresBlobDriver(db))
            loop, http = HandlerLoop(200), Http()
            activities = node_activities(StoreRecorder(db, "bench"), loop, http)
            async with Worker(
                client,
                task_queue=running.settings.task_queue,
                workflows=[PlanRun, HandWritten, Loop],
                activities=[Projection(db, client, redaction=Redaction()).record, go_through, *activities],
                interceptors=[GuardInterceptor()],
                workflow_runner=UnsandboxedWorkflowRunner(),
                max_concurrent_activities=200,
                max_cached_workflows=1000,
                max_workflow_task_external_storage_concurrency=1,
                max_eager_activity_reservations_per_workflow_task=100,
            ):
                spare_the_collector()  # as a worker does
                yield Bench(running, client, Engine(running.settings, client, db))
            loop.close()
            await http.close()
            await db.dispose()


async def main(rounds: int, cases: list[str], ways: list[str], profiled: str, *, keep: bool) -> None:
    """Measure, or profile."""
    async with bench() as made:
        if profiled:
            await made.profile(profiled, cases[0])
            return
        rows = await made.measure(cases, ways, rounds)
    if keep:
        print(save("local_nodes", "Light nodes, run together", rows, [*NOTES, *_busy()], keep=True))


def _busy() -> list[str]:
    load = os.getloadavg()[0]
    busy = load > 2 * (os.cpu_count() or 1)
    return [f"The machine was busy (load {load:.0f}): nodes/s say little, CPU ms per node more."] if busy else []


if __name__ == "__main__":
    parser = arguments(__doc__, rounds=3, cases=";".join(CASES), ways=";".join(WAYS), profile="")
    given = parser.parse_args()
    asyncio.run(main(given.rounds, given.cases.split(";"), given.ways.split(";"), given.profile, keep=given.save))
