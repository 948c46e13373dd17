"""What being watched costs: the same plans by workers that tell nothing, that have metrics, and that trace as well.

``python benchmarks/watching.py [--rounds 5] [--nodes 500]`` starts a tuned Temporal server and PostgreSQL and three
workers, gives them the plan in turns, and prints the processor time of each for a node, and how much more that is than
of the one that tells nothing, round by round. Metrics are asked for every five seconds; traces are thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx

from benchmarks.results import Spread, arguments, computed, ratio, row, save
from dalang import tracing
from dalang.plan import Plan, with_derived_ids
from dalang.settings import Settings
from dalang.stack import ports, python_process
from dalang.stack.supervisor import Stack, on_free_ports, stack
from dalang.store.blobs import PostgresBlobDriver
from dalang.store.engine import create_engine
from dalang.temporal import connect
from tests.engine.kit import Engine

WAYS = ("nothing", "metrics", "metrics and traces")


class _Nowhere(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.asynccontextmanager
async def asking(port: int) -> AsyncIterator[None]:
    """Ask for metrics every five seconds."""

    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            while True:
                await client.get(f"http://127.0.0.1:{port}/metrics")
                await asyncio.sleep(5)

    task = asyncio.create_task(ask())
    try:
        yield
    finally:
        task.cancel()


@dataclass
class Watched:
    """A worker process, and who starts its runs."""

    pid: int
    engine: Engine
    traced: bool

    async def spent(self, plan: Plan) -> float:
        """Run the plan; return milliseconds of the process's time for each node."""
        with computed({"worker": self.pid}) as spent:
            with tracing.span("start") if self.traced else contextlib.nullcontext():
                started = await self.engine.start_plan(plan, {})
            await started.handle.result()
        return spent.total * 1000 / len(plan.nodes)


@contextlib.asynccontextmanager
async def watched(running: Stack, way: str, collector: str) -> AsyncIterator[Watched]:
    """Have a worker that is watched this way, for the length of the block."""
    port = ports.free_port()
    changes: dict[str, object] = {"task_queue": way.replace(" ", "-")}
    if way != WAYS[0]:
        changes["worker_metrics_port"] = str(port)
    if way == WAYS[2]:
        changes["otel_endpoint"] = collector
    settings = running.settings.model_copy(update=changes)
    part = python_process.worker(settings, f"worker-{settings.task_queue}")
    running.add(part)
    await running.start(part.name)
    assert part.pid is not None
    # Runs are traced if whoever starts them is; those who connected before are not.
    tracing.start(settings, "benchmark")
    db = create_engine(settings)
    engine = Engine(settings, await connect(settings, storage_driver=PostgresBlobDriver(db)), db)
    async with asking(port) if way != WAYS[0] else contextlib.nullcontext():
        yield Watched(part.pid, engine, way == WAYS[2])
    await db.dispose()


async def main(rounds: int, nodes: int) -> dict[str, list[float]]:
    """Start servers and workers and compare: milliseconds of processor time for each node, by way and round."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    chains = [{"nodeId": f"n{i}", "type": "noop"} for i in range(nodes)]
    edges = [{"sourceNodeId": f"n{i}", "targetNodeId": f"n{i + 25}"} for i in range(nodes - 25)]
    plan = with_derived_ids(Plan.model_validate({"name": "watched", "nodes": chains, "edges": edges}))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Nowhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    collector = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    with tempfile.TemporaryDirectory() as folder:
        settings = on_free_ports(Settings(home=Path(folder)))
        async with (
            stack(settings, frozenset({"postgres", "temporal"}), durable=False) as running,
            contextlib.AsyncExitStack() as workers,
        ):
            ways = {way: await workers.enter_async_context(watched(running, way, collector)) for way in WAYS}
            for number in range(rounds + 1):
                for way, worker in ways.items():
                    spent = await worker.spent(plan)
                    if number:  # the first round warms up
                        found[way].append(spent)
        await asyncio.to_thread(tracing.stop)
    server.shutdown()
    return found


if __name__ == "__main__":
    wanted = arguments(__doc__, rounds=5, nodes=500).parse_args()
    measured = asyncio.run(main(wanted.rounds, wanted.nodes))
    print(f"{'a worker tells':<20} {'ms of CPU a node':>20} {'ratio':>20}")
    for way, times in measured.items():
        print(f"{way:<20} {Spread.of(times)!s:>20} {ratio(times, measured[WAYS[0]])!s:>20}")
    if wanted.save:
        note = f"One plan of {wanted.nodes} noop nodes in turns; no node is shorter, so no share is larger."
        rows = [row(f"{wanted.nodes} noop nodes", way, "CPU ms/node", times) for way, times in measured.items()]
        save("watching", "What being watched costs a worker", rows, [note])
