"""Small runs: a plan of five nodes over REST, and the same DAG as a workflow by hand, started by a Temporal client.

``python benchmarks/small_runs.py [--rounds 5] [--save]`` starts PostgreSQL, Temporal, the API and two workers with the
same options: Dalang's, and one with the workflow by hand and the same activities. One after the other they get the same
number of runs at the same concurrency: a new run is started as soon as one has ended. A run of Dalang is started by
``POST /orchestrator/execute`` of a published plan with a token, and has ended when the read model says COMPLETED;
one by hand has ended when its client has the result. ``light`` is the plan with ``execution: local``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import asyncpg
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from benchmarks.interpreter import HandWritten
from benchmarks.results import TASK_TIMEOUT, arguments, computed, percentile, pids, ratio, row, save, turns
from dalang.activities.catalogue import node_activities
from dalang.activities.execution import HandlerLoop
from dalang.activities.http import Http
from dalang.activities.projection import StoreRecorder
from dalang.settings import Settings
from dalang.stack.supervisor import Stack, on_free_ports, stack
from dalang.statuses import RunStatus
from dalang.store.blobs import PostgresBlobDriver
from dalang.store.engine import create_engine
from dalang.store.flush_statements import CHANNEL
from dalang.temporal import connect
from dalang.workflows.interceptor import GuardInterceptor

EDGES = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)]
NODES = 5
RUNS = {1: 30, 10: 100, 50: 200}
"""How many runs are measured at each concurrency."""
WAYS = ("by hand", "plan", "light")

One = Callable[[], Awaitable[None]]


def document(name: str, execution: str) -> dict[str, Any]:
    """The plan: one node, three side by side, one that joins them."""
    return {
        "name": name,
        "execution": execution,
        "nodes": [{"nodeId": f"n{i}", "type": "noop"} for i in range(NODES)],
        "edges": [{"sourceNodeId": f"n{a}", "targetNodeId": f"n{b}"} for a, b in EDGES],
    }


class Rest:
    """As little of a client as can be: the time of the measuring process is taken from those that are measured."""

    def __init__(self, url: str, token: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        self._authority = f"{self._host}:{port}"
        self._token = token
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Post JSON on a connection that is idle, or a new one, and return the answer's."""
        sent = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._authority}\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        )
        while self._idle and self._idle[-1][0].at_eof():  # the server closes what was idle for long
            self._idle.pop()[1].close()
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
        writer.write(head.encode() + sent)
        told = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", told, re.IGNORECASE)
        assert length is not None, told
        answer: dict[str, Any] = json.loads(await reader.readexactly(int(length[1])))
        assert told.startswith("HTTP/1.1 2"), answer
        self._idle.append((reader, writer))
        return answer

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._idle:
            writer.close()


class Seen:
    """Watches the read model for the ends of runs: asks when it is told of news, once for all that are awaited."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.require_migration_database_url().replace("+asyncpg", "")
        self._awaited: dict[uuid.UUID, asyncio.Future[None]] = {}
        self._news = asyncio.Event()

    async def end(self, run_id: uuid.UUID) -> None:
        """Return when the run is seen COMPLETED."""
        self._news.set()  # it may have ended before anybody asked for it
        await self._awaited.setdefault(run_id, asyncio.get_running_loop().create_future())

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look for the length of the block."""
        task = asyncio.create_task(self._look())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _look(self) -> None:
        conn = await asyncpg.connect(self._url)
        await conn.add_listener(CHANNEL, lambda *_: self._news.set())
        query = await conn.prepare(
            "SELECT run_id, status FROM execution_runs WHERE run_id = any($1) AND completed_at IS NOT NULL"
        )
        while True:
            await self._news.wait()
            self._news.clear()
            for run_id, status in await query.fetch(list(self._awaited)):
                assert status == RunStatus.COMPLETED, status
                self._awaited.pop(run_id).set_result(None)


async def together(one: One, count: int, at_once: int) -> tuple[float, list[float]]:
    """Do ``one`` so many times, ``at_once`` side by side; return seconds for all and of each."""
    left, times = iter(range(count)), list[float]()

    async def lane() -> None:
        for _ in left:
            begun = time.perf_counter()
            await one()
            times.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(at_once)))
    return time.perf_counter() - begun, times


async def hand_worker() -> None:
    """Serve the workflow written by hand, with the options of Dalang's worker, until told to end."""
    settings = Settings.load()
    db = create_engine(settings)
    client = await connect(settings, storage_driver=PostgresBlobDriver(db))
    loop, http = HandlerLoop(settings.max_concurrent_activities), Http()
    async with Worker(
        client,
        task_queue=settings.task_queue,
        build_id="by hand",
        workflows=[HandWritten],
        activities=node_activities(StoreRecorder(db, "by hand"), loop, http),
        interceptors=[GuardInterceptor()],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_activities=settings.max_concurrent_activities,
        max_cached_workflows=settings.max_cached_workflows,
        max_workflow_task_external_storage_concurrency=1,
        max_eager_activity_reservations_per_workflow_task=settings.max_eager_activities,
    ):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    loop.close()
    await http.close()
    await db.dispose()


@contextlib.asynccontextmanager
async def by_hand(settings: Settings) -> AsyncIterator[int]:
    """Have that worker for the length of the block; its pid."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--hand-worker"),
        env={**os.environ, **settings.environment()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readuntil(b"ready")
    yield process.pid
    process.stdin.close()
    await process.wait()


async def ways(rest: Rest, client: Client, hand_queue: str, seen: Seen) -> dict[str, One]:
    """How one run is done, by each of the ways."""

    async def hand() -> None:
        edges = [list(edge) for edge in EDGES]
        await client.execute_workflow(
            "HandWritten",
            args=[NODES, edges],
            id=uuid.uuid4().hex,
            task_queue=hand_queue,
            task_timeout=TASK_TIMEOUT,
        )

    async def published(name: str, execution: str) -> One:
        wanted = {"planId": (await rest.post("/orchestrator/plans", document(name, execution)))["planId"]}

        async def run() -> None:
            started = await rest.post("/orchestrator/execute", wanted)
            await seen.end(uuid.UUID(started["runId"]))

        return run

    return {
        "by hand": hand,
        "plan": await published("small", "durable"),
        "light": await published("small and light", "local"),
    }


class Measured:
    """What was seen at one concurrency, round by round."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.speed: dict[str, list[float]] = {way: [] for way in WAYS}
        self.times: dict[str, list[float]] = {way: [] for way in WAYS}
        self.spent: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}

    def show(self) -> None:
        """Print it."""
        for way in WAYS:
            spent = {part: statistics.median(values) for part, values in self.spent[way].items()}
            parts = "  ".join(f"{part} {value:.1f}" for part, value in spent.items() if value >= 0.05)
            half, most = (percentile(self.times[way], share) * 1000 for share in (0.5, 0.99))
            print(
                f"{self.at_once:>3} {way:<8} {statistics.median(self.speed[way]):>7.1f} runs/s"
                f"  {ratio(self.speed[way], self.speed['by hand'])!s:>18}  p50 {half:>5.0f} ms  p99 {most:>5.0f} ms"
                f"  CPU {sum(spent.values()):>5.1f} ms: {parts}"
            )

    def rows(self) -> list[Any]:
        """Return it as rows of results."""
        case = f"{self.at_once} in flight"
        found = []
        for way in WAYS:
            found.append(row(case, way, "runs/s", self.speed[way]))
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                found.append(row(case, way, f"{name} ms", percentile(self.times[way], share) * 1000))
            for part, values in self.spent[way].items():
                found.append(row(case, way, f"CPU ms of {part} a run", values))
        return found


async def measure(way: dict[str, One], roots: dict[str, int], rounds: int, only: int, share: float) -> list[Measured]:
    """Do the ways in turns, at each concurrency."""
    found = []
    for at_once, most in RUNS.items():
        if only and at_once != only:
            continue
        count = max(round(most * share), at_once)
        measured = Measured(at_once)
        for number in range(rounds + 1):
            for name, one in turns(way.items(), number):
                with computed(roots) as spent:
                    seconds, times = await together(one, count if number else at_once, at_once)
                    await asyncio.sleep(0.3)  # what is still written behind belongs to these runs
                if number:  # the first round warms up
                    measured.speed[name].append(count / seconds)
                    measured.times[name] += times
                    for part, value in spent.items():
                        measured.spent[name].setdefault(part, []).append(value * 1000 / count)
        measured.show()
        found.append(measured)
    return found


@contextlib.asynccontextmanager
async def serving(folder: str) -> AsyncIterator[tuple[Stack, dict[str, One], dict[str, int]]]:
    """Have everything running: the stack, the ways to run, and the processes whose time is counted."""
    async with stack(on_free_ports(Settings(home=Path(folder))), durable=False) as running:
        settings, token = running.settings, running.settings.read_token()
        hands = settings.model_copy(update={"task_queue": "by-hand"})
        seen = Seen(settings)
        client = await connect(settings)
        assert token is not None
        rest = Rest(settings.api_url, token)
        async with by_hand(hands) as pid, seen.looking():
            roots = {**pids(running), "worker by hand": pid}
            yield running, await ways(rest, client, hands.task_queue, seen), roots
        rest.close()


async def main(rounds: int, only: int, share: float, keep: bool) -> None:
    """Start everything and compare."""
    with tempfile.TemporaryDirectory() as folder:
        async with serving(folder) as (_, way, roots):
            found = await measure(way, roots, rounds, only, share)
    if keep:
        notes = [
            "Five nodes: one, three side by side, one that joins them; all `noop`. All processes share the cores.",
            "`here` is the process that measures: it starts runs and waits for them, over HTTP and a question to the "
            "read model whenever it is told of news, or with Temporal's client.",
            "Latencies are from the request until the end is seen.",
            "When a run stored its events by two or three activities and a start took five transactions, the plan did "
            "0.38 of the runs by hand, with 224 ms of processor time for a run of 71 ms by hand.",
            "Tried: uvloop and httptools in the API: 9.7 ms of processor time a start with them, 9.5 ms without.",
            "Tried and kept: the first events of a run wait ten times as long as its first task had to, 2 s at most. "
            "It was meant so before, but the delay was measured from the first task itself, and always none: with 50 "
            "in flight each run stored its events three times, with 118 ms of processor time; now once, with 74.",
            "Tried: a first batch after 0.6 or 1 s instead of 0.2 s where workers keep up: the same processor time.",
        ]
        save("small_runs", "Small runs", [one for each in found for one in each.rows()], notes, keep=True)


if __name__ == "__main__":
    parser = arguments(__doc__, rounds=5, only=0, share=1.0)
    parser.add_argument("--hand-worker", action="store_true", help="For the benchmark itself.")
    given = parser.parse_args()
    asyncio.run(hand_worker() if given.hand_worker else main(given.rounds, given.only, given.share, given.save))
