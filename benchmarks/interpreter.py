"""What the generic interpreter costs: one DAG, the same activities, by ``PlanRun`` and by a workflow written by hand.

``python benchmarks/interpreter.py [--rounds 5]`` starts a tuned Temporal server and PostgreSQL, runs both (and PlanRun
without storing its events, and with its nodes ``execution: local``) in turns in one worker process, and prints the
ratio of wall times, round by round.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

with workflow.unsafe.imports_passed_through():
    from dalang.activities.catalogue import node_activities
    from dalang.activities.execution import HandlerLoop
    from dalang.activities.http import Http
    from dalang.activities.projection import Projection, StoreRecorder
    from dalang.plan import Plan, with_derived_ids
    from dalang.settings import Settings
    from dalang.stack.supervisor import on_free_ports, stack
    from dalang.store.blobs import PostgresBlobDriver
    from dalang.store.engine import create_engine
    from dalang.temporal import connect
    from dalang.workflows.interceptor import GuardInterceptor
    from dalang.workflows.plan_run import PlanRun
    from dalang.workflows.recording import FactFlow
    from tests.engine.kit import Engine

LIMIT = 50
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
        "HandWritten", args=[count, [list(edge) for edge in edges]], id=uuid.uuid4().hex, task_queue=queue
    )


async def _by_plan(engine: Engine, plan: Plan) -> None:
    started = await engine.start_plan(plan, {})
    await started.handle.result()


async def _unrecorded(engine: Engine, plan: Plan) -> None:
    async def forget(self: FactFlow, facts: list[Any]) -> None:
        self.head = {"epoch": 0, "seq": facts[-1]["seq"], "hash": ""}

    kept = FactFlow._store
    FactFlow._store = forget  # type: ignore[method-assign]
    try:
        await _by_plan(engine, plan)
    finally:
        FactFlow._store = kept  # type: ignore[method-assign]


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    begin = time.perf_counter()
    await work()
    return time.perf_counter() - begin


async def compare(client: Client, engine: Engine, queue: str, rounds: int) -> None:
    """Run every graph in turns and print medians and ratios."""
    print(f"{'':<14} {'seconds':>36} {'times by hand':>62} {'nodes/s':>18}")
    print(
        f"{'graph':<14} {'by hand':>8} {'PlanRun':>8} {'recorded':>9} {'local':>8}"
        f" {'PlanRun':>20} {'recorded':>20} {'local':>20} {'recorded':>9} {'local':>8}"
    )
    for name, graph in GRAPHS.items():
        plan, light = plan_of(name, graph), plan_of(name, graph, "local")
        runs: list[tuple[float, float, float, float]] = []
        for number in range(rounds + 1):
            hand = await _timed(lambda graph=graph: _by_hand(client, queue, graph))  # type: ignore[misc]
            plain = await _timed(lambda plan=plan: _unrecorded(engine, plan))  # type: ignore[misc]
            full = await _timed(lambda plan=plan: _by_plan(engine, plan))  # type: ignore[misc]
            local = await _timed(lambda plan=light: _by_plan(engine, plan))  # type: ignore[misc]
            if number:  # the first round warms up
                runs.append((hand, plain, full, local))
        hand, plain, full, local = (statistics.median(times) for times in zip(*runs, strict=True))
        ratios = [_spread([run[way] / run[0] for run in runs]) for way in (1, 2, 3)]
        print(
            f"{name:<14} {hand:>8.2f} {plain:>8.2f} {full:>9.2f} {local:>8.2f} {ratios[0]:>20} {ratios[1]:>20}"
            f" {ratios[2]:>20} {graph[0] / full:>9.0f} {graph[0] / local:>8.0f}"
        )


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


async def main(rounds: int) -> None:
    """Start servers and a worker and compare."""
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
                workflows=[PlanRun, HandWritten],
                activities=[Projection(db, client).record, *activities],
                interceptors=[GuardInterceptor()],
                workflow_runner=UnsandboxedWorkflowRunner(),
                max_concurrent_activities=200,
                max_cached_workflows=1000,
                max_eager_activity_reservations_per_workflow_task=100,
            ):
                await compare(client, Engine(running.settings, client, db), running.settings.task_queue, rounds)
            loop.close()
            await http.close()
            await db.dispose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(main(parser.parse_args().rounds))
