"""What the generic interpreter costs: one DAG, the same activities, by ``PlanRun`` and by a workflow written by hand.

``python benchmarks/interpreter.py [--rounds 5]`` starts a tuned Temporal server and PostgreSQL, runs both (and PlanRun
without storing its events, and with its nodes ``execution: local``) in turns in one worker process, and prints what
each takes, as wall time and as CPU time of worker, PostgreSQL and Temporal, and the ratio to the hand-written one,
round by round. ``--save`` keeps it in ``benchmarks/results``.

What the workflow by hand does not do: store anything (no events, no read model, nothing to list or to watch), undo,
pause, retry by an operator, continue as new, carry outputs from node to node. It has the same worker, the same
activities with the same payload, and the same bound of activities in flight.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from benchmarks.results import TASK_TIMEOUT, Row, Spread, arguments, computed, pids, ratio, row, save, turns

with workflow.unsafe.imports_passed_through():
    from dalang.activities.catalogue import node_activities
    from dalang.activities.execution import HandlerLoop
    from dalang.activities.http import Http
    from dalang.activities.projection import Projection, StoreRecorder
    from dalang.plan import Plan, with_derived_ids
    from dalang.redaction import Redaction
    from dalang.settings import Settings
    from dalang.stack.supervisor import on_free_ports, stack
    from dalang.store.blobs import PostgresBlobDriver
    from dalang.store.engine import create_engine
    from dalang.temporal import connect
    from dalang.worker_memory import spare_the_collector
    from dalang.workflows.interceptor import GuardInterceptor
    from dalang.workflows.plan_run import PlanRun
    from dalang.workflows.recording import FactFlow
    from tests.engine.kit import Engine

LIMIT = 50
BY_HAND = "by hand"
WAYS = ("unstored", "PlanRun", "local")
NOTES = [
    "By hand: a workflow that starts what is ready, at most 50 activities at once, and nothing else - no events, no "
    "read model, no undo, pause, operators, continue-as-new, and no outputs from node to node. It has the same "
    "activities with the same payload, the same worker, options and servers, in turns within one process.",
    "PlanRun begins with making the run's row, and ends when the last event is stored in PostgreSQL; unstored is the "
    "same without storing events. The plan was stored and compiled before, as the API does once for many runs.",
    "Replaying the history of the layered plan takes the worker 0.27 ms of CPU a node by hand and 0.33 ms by PlanRun: "
    "deciding costs 0.07 ms a node, all else is the storing of events and what the server does for it.",
    "Before (22 Nov 2026): wall times 1.12 (chain 100), 1.34 (fan 500), 1.52 (layered 1,000) by hand's; CPU of all "
    "processes 1.14, 1.36, 1.47; making and compiling the plan counted then.",
    "Tried and kept: intervals between batches that double while they are full, JSON of events written once (a flush "
    "took 0.29 ms of the worker's CPU a node, then 0.13), no summary for nodes without a name (25 us of encoding).",
    "Tried and kept: a batch of events stored by one statement that is written out once (twelve events took 3.9 ms of "
    "the worker's CPU in eight statements, then 1.7); events that no rule of redaction concerns written once, where "
    "there are rules, too (1,000 light nodes took 0.49 s, then 0.37); payloads of a workflow task one after the other, "
    "where the SDK makes a task for each by default (1,000 durable nodes took 2.5 s, then 2.1; by hand gains as much).",
    "Tried, and taken out: a workflow task that brings few of many ends waits 5 ms, so that fewer follow. Layered "
    "1.11 and 1.46 without, 1.19 and 1.29 with it (four rounds each, in turns); fan 1.18 and 1.23, 1.27 and 1.19.",
    "Tried, of little use: orjson alone in place of the standard library's encoder, once every part of an event is "
    "written only once (within the noise); two statements less in each flush (within the noise).",
]
Edges = list[tuple[int, int]]


def chain(count: int) -> tuple[int, Edges]:
    """A chain of nodes."""
    return count, [(i, i + 1) for i in range(count - 1)]


def fan(count: int) -> tuple[int, Edges]:
    """Nodes without edges."""
    return count, []


def layered(layers: int, width: int, degree: int) -> tuple[int, Edges]:
    """Layers of nodes, each with ``degree`` edges from the layer before."""
    chosen = random.Random(7)  # the same graph in every run
    edges = []
    for layer in range(1, layers):
        for node in range(width):
            for source in chosen.sample(range(width), degree):
                edges.append(((layer - 1) * width + source, layer * width + node))
    return layers * width, edges


GRAPHS = {"chain 100": chain(100), "fan 500": fan(500), "layered 1,000": layered(20, 50, 3)}


@workflow.defn(name="HandWritten")
class HandWritten:
    """The DAG as somebody would write it who needs nothing but this DAG: start what is ready, at most 50 at once."""

    @workflow.run
    async def run(self, count: int, edges: list[list[int]]) -> int:
        """Run all nodes in the order of the edges."""
        targets: list[list[int]] = [[] for _ in range(count)]
        waiting = [0] * count
        for source, target in edges:
            targets[source].append(target)
            waiting[target] += 1
        slots = asyncio.Semaphore(LIMIT)
        done = 0
        finished = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def start(node: int) -> None:
            task = asyncio.create_task(one(node))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async def one(node: int) -> None:
            nonlocal done
            async with slots:
                task = {
                    "runId": workflow.info().workflow_id,
                    "tenantId": "bench",
                    "nodeId": f"n{node}",
                    "type": "noop",
                    "inputs": {},
                    "key": f"n{node}",
                    "generation": 0,
                    "startToCloseMs": 600_000,
                    "retry": {"attempts": 3, "retryOn": [], "strategy": "FIXED", "jitter": False},
                    "run": {},
                }
                await workflow.execute_activity(
                    "noop",
                    task,
                    result_type=dict,
                    start_to_close_timeout=timedelta(minutes=10),
                    heartbeat_timeout=timedelta(seconds=5),
                    retry_policy=RetryPolicy(maximum_attempts=3),
                )
            done += 1
            for target in targets[node]:
                waiting[target] -= 1
                if not waiting[target]:
                    start(target)
            if done == count:
                finished.set()

        for node in [node for node in range(count) if not waiting[node]]:
            start(node)
        await finished.wait()
        return done


def plan_of(name: str, graph: tuple[int, Edges], execution: str = "durable") -> Plan:
    """The same DAG as a plan."""
    count, edges = graph
    document = {
        "name": name,
        "execution": execution,
        "nodes": [{"nodeId": f"n{i}", "type": "noop"} for i in range(count)],
        "edges": [{"sourceNodeId": f"n{a}", "targetNodeId": f"n{b}"} for a, b in edges],
    }
    return with_derived_ids(Plan.model_validate(document))


async def _by_hand(client: Client, queue: str, graph: tuple[int, Edges]) -> None:
    count, edges = graph
    await client.execute_workflow(
        "HandWritten",
        args=[count, [list(edge) for edge in edges]],
        id=uuid.uuid4().hex,
        task_queue=queue,
        task_timeout=TASK_TIMEOUT,
    )


Prepared = tuple[str, dict[str, Any]]


async def _by_plan(engine: Engine, plan: Plan, prepared: Prepared) -> None:
    started = await engine.start_prepared(plan, prepared, {})
    await started.handle.result()


async def _unrecorded(engine: Engine, plan: Plan, prepared: Prepared) -> None:
    async def forget(self: FactFlow, batch: list[tuple[Any, str]]) -> None:
        self.head = {"epoch": 0, "seq": batch[-1][0]["seq"], "hash": ""}

    kept = FactFlow._store
    FactFlow._store = forget  # type: ignore[method-assign]
    try:
        await _by_plan(engine, plan, prepared)
    finally:
        FactFlow._store = kept  # type: ignore[method-assign]


Costs = dict[str, float]
"""Seconds of one round: ``wall``, and computed by ``worker`` (this process, which is client too) and servers."""


async def _measured(work: Callable[[], Awaitable[None]], processes: Mapping[str, int]) -> Costs:
    begin = time.perf_counter()
    with computed(processes) as spent:
        await work()
        wall = time.perf_counter() - begin
    return {"wall": wall, "all CPU": spent.total, **spent}


async def compare(
    client: Client, engine: Engine, processes: Mapping[str, int], rounds: int, chosen: Sequence[str]
) -> list[Row]:
    """Run the graphs in turns, print medians and ratios, and return them as rows of a result."""
    rows: list[Row] = []
    print(f"{'graph':<14} {'way':<9} {'wall s':>7} {'times by hand':>18} {'nodes/s':>8}  CPU ms/node (times by hand)")
    for name, graph in GRAPHS.items():
        plan, light = plan_of(name, graph), plan_of(name, graph, "local")
        known, local = await engine.prepare(plan), await engine.prepare(light)
        works: dict[str, Callable[[], Awaitable[None]]] = {
            BY_HAND: lambda graph=graph: _by_hand(client, engine.settings.task_queue, graph),  # type: ignore[misc]
            "unstored": lambda plan=plan, known=known: _unrecorded(engine, plan, known),  # type: ignore[misc]
            "PlanRun": lambda plan=plan, known=known: _by_plan(engine, plan, known),  # type: ignore[misc]
            "local": lambda plan=light, known=local: _by_plan(engine, plan, known),  # type: ignore[misc]
        }
        taken: dict[str, list[Costs]] = {way: [] for way in [BY_HAND, *chosen]}
        for number in range(rounds + 1):
            for way in turns(taken, number):
                cost = await _measured(works[way], processes)
                if number:  # the first round warms up
                    taken[way].append(cost)
        for way, costs in taken.items():
            print(_line(name, way, graph[0], costs, taken[BY_HAND]), flush=True)
            rows += _rows(name, way, graph[0], costs, taken[BY_HAND])
    return rows


def _line(name: str, way: str, nodes: int, costs: list[Costs], by_hand: list[Costs]) -> str:
    parts = []
    for what in costs[0]:
        if what != "wall":
            ms = Spread.of([cost[what] * 1000 / nodes for cost in costs]).median
            by = f" ({_ratio(costs, by_hand, what).median:.2f})" if what != "postgres" else ""
            parts.append(f"{what} {ms:.2f}{by}")
    wall = Spread.of([cost["wall"] for cost in costs]).median
    times = str(_ratio(costs, by_hand, "wall"))
    return f"{name:<14} {way:<9} {wall:>7.2f} {times:>18} {nodes / wall:>8.0f}  {', '.join(parts)}"


def _ratio(costs: list[Costs], by_hand: list[Costs], what: str) -> Spread:
    return ratio([cost[what] for cost in costs], [max(cost[what], 1e-6) for cost in by_hand])


def _rows(name: str, way: str, nodes: int, costs: list[Costs], by_hand: list[Costs]) -> list[Row]:
    """Return wall time and CPU time by process, and both by that of the workflow by hand."""
    rows = [row(name, way, "s", [cost["wall"] for cost in costs])]
    for what in costs[0]:
        if what != "wall":
            rows.append(row(name, way, f"CPU ms/node: {what}", [cost[what] * 1000 / nodes for cost in costs]))
    if way != BY_HAND:
        for what, unit in (("wall", "times by hand"), ("all CPU", "times CPU by hand")):
            both = zip(costs, by_hand, strict=True)
            rows.append(row(name, way, unit, [cost[what] / other[what] for cost, other in both]))
    return rows


async def main(rounds: int, chosen: Sequence[str], keep: bool) -> None:
    """Start servers and a worker and compare."""
    with tempfile.TemporaryDirectory() as folder:
        settings = on_free_ports(Settings(home=Path(folder)))
        async with stack(settings, frozenset({"postgres", "temporal"}), durable=False) as running:
            db = create_engine(running.settings)
            client = await connect(running.settings, storage_driver=PostgresBlobDriver(db))
            client.start_workflow = partial(client.start_workflow, task_timeout=TASK_TIMEOUT)  # type: ignore[method-assign]
            loop, http = HandlerLoop(200), Http()
            activities = node_activities(StoreRecorder(db, "bench"), loop, http)
            async with Worker(
                client,
                task_queue=running.settings.task_queue,
                workflows=[PlanRun, HandWritten],
                activities=[Projection(db, client, redaction=Redaction()).record, *activities],
                interceptors=[GuardInterceptor()],
                workflow_runner=UnsandboxedWorkflowRunner(),
                max_concurrent_activities=200,
                max_cached_workflows=1000,
                max_workflow_task_external_storage_concurrency=1,
                max_eager_activity_reservations_per_workflow_task=100,
            ):
                spare_the_collector()  # as a worker does
                names = {"here": "worker"}
                processes = {names.get(name, name): pid for name, pid in pids(running).items()}
                rows = await compare(client, Engine(running.settings, client, db), processes, rounds, chosen)
            loop.close()
            await http.close()
            await db.dispose()
    if keep:
        save("interpreter", "Against the limit: PlanRun and a workflow written by hand", rows, NOTES)


if __name__ == "__main__":
    parser = arguments(__doc__, rounds=5, ways=",".join(WAYS))
    given = parser.parse_args()
    asyncio.run(main(given.rounds, given.ways.split(","), given.save))
