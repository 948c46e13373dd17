"""Plans of 1,000, 10,000 and 100,000 nodes: does a node of a large plan cost what a node of a small one does?

``python benchmarks/large_plans.py [--sizes 1000,10000] [--ways local,durable] [--shape layered] [--save]`` starts
PostgreSQL and a tuned Temporal server, and for every case a new worker and a new API. A plan is started over REST;
while it runs, and when it has ended, the routes that people and pages ask are timed. Told are: what a node cost in wall
and in processor time, how large the worker became, and how near the histories came to Temporal's limits.
``--instance FILE`` runs a recorded scientific workflow (WfFormat), its tasks as sleeps of no length.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import Client

from benchmarks.results import Computed, Row, arguments, computed, percentile, pids, row, save
from dalang.importers.wfformat import import_wfformat
from dalang.settings import Settings
from dalang.stack.supervisor import Stack, on_free_ports, stack
from dalang.statuses import RUN_ENDS
from dalang.temporal import connect

MAX_EVENTS, MAX_BYTES = 51_200, 50 * 1024 * 1024
"""Temporal's own limits of one execution's history."""
ASKED = {
    "run": "/orchestrator/runs/{run}",
    "nodes": "/orchestrator/runs/{run}/nodes?limit=100",
    "nodes running": "/orchestrator/runs/{run}/nodes?status=RUNNING&limit=100",
    "nodes succeeded": "/orchestrator/runs/{run}/nodes?status=SUCCESS&limit=100",
    "node": "/orchestrator/runs/{run}/nodes/{node}",
    "events": "/orchestrator/runs/{run}/events?limit=100",
    "events of a type": "/orchestrator/runs/{run}/events?type=NODE_FAILED&limit=100",
    "retries": "/orchestrator/runs/{run}/retries",
    "budget": "/orchestrator/runs/{run}/budget",
    "page": "/ui/runs/{run}",
    "page: picture": "/ui/runs/{run}/picture",
    "page: state": "/ui/runs/{run}/state",
    "page: nodes": "/ui/runs/{run}/nodes",
    "page: node": "/ui/runs/{run}/node?node={node}",
    "page: critical path": "/ui/runs/{run}/critical-path",
    "page: bars": "/ui/runs/{run}/bars",
    "events of a node": "/orchestrator/runs/{run}/events?nodeId={node}",
    "provenance of a node": "/orchestrator/runs/{run}/nodes/{node}/provenance?limit=20",
    "provenance": "/orchestrator/runs/{run}/provenance?limit=100",
    "OpenLineage": "/orchestrator/runs/{run}/provenance/openlineage?limit=100",
}
AFTERWARDS = ("provenance", "provenance of a node", "OpenLineage")
"""Asked for when the run has ended."""
NOTE = "Layers of 500 nodes with two edges each; a new worker and a new API for every size."
TIMES, SECONDS = 20, 5
"""How often each is asked for when the run has ended, and for how long at most."""

TYPED = {
    "dalang status": ("status", "{run}"),
    "dalang nodes": ("nodes", "{run}", "--limit", "100"),
    "dalang watch": ("watch", "{run}"),
    "dalang events": ("events", "{run}"),
    "dalang provenance": ("provenance", "{run}"),
}
"""What people type in a terminal, for a run that has ended."""

Times = dict[str, list[float]]


def layered(count: int, width: int = 500, degree: int = 2) -> list[tuple[int, int]]:
    """Layers of nodes, each with some edges from the layer before."""
    chosen, width = random.Random(7), min(width, count // 4)
    return [
        ((node // width - 1) * width + source, node)
        for node in range(width, count)
        for source in chosen.sample(range(width), degree)
    ]


SHAPES: Mapping[str, Callable[[int], list[tuple[int, int]]]] = {
    "layered": layered,
    "chain": lambda count: [(node, node + 1) for node in range(count - 1)],
    "fan": lambda count: [],
}


def generated(shape: str, count: int, way: str) -> dict[str, Any]:
    """Return a plan of nodes that do nothing."""
    return {
        "name": f"{shape} {count}",
        "execution": way,
        "nodes": [{"nodeId": f"n{node}", "type": "noop"} for node in range(count)],
        "edges": [
            {"sourceNodeId": f"n{source}", "targetNodeId": f"n{target}"} for source, target in SHAPES[shape](count)
        ],
    }


@dataclass
class Case:
    """What was measured of one run."""

    name: str
    way: str
    nodes: int
    accepted: float = 0
    """Seconds from POST to the answer."""
    seconds: float = 0
    """From the run's beginning to its end."""
    spent: Computed = field(default_factory=Computed)
    peak_mb: float = 0
    end_mb: float = 0
    executions: int = 0
    events: int = 0
    bytes: int = 0
    longest_task: float = 0
    during: Times = field(default_factory=lambda: defaultdict(list))
    after: Times = field(default_factory=lambda: defaultdict(list))
    cold: Times = field(default_factory=lambda: defaultdict(list))
    typed: dict[str, float] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Return it for ``results.save``."""
        own = f"{self.name}, {self.way}"
        rows = [
            row(own, "time", "nodes/s", self.nodes / self.seconds),
            row(own, "time", "ms/node", self.seconds * 1000 / self.nodes),
            row(own, "accepted after", "s", self.accepted),
            *(row(own, f"CPU: {who}", "ms/node", spent * 1000 / self.nodes) for who, spent in self.spent.items()),
            row(own, "worker's memory", "MB at most", self.peak_mb),
            row(own, "worker's memory", "MB at the end", self.end_mb),
            row(own, "history events", "% of the limit", 100 * self.events / MAX_EVENTS),
            row(own, "history bytes", "% of the limit", 100 * self.bytes / MAX_BYTES),
            row(own, "executions", "continue-as-new and the first", self.executions),
            row(own, "longest workflow task", "s", self.longest_task),
        ]
        rows += [row(own, words, "s", seconds) for words, seconds in self.typed.items()]
        for when, times in (("during", self.during), ("after", self.after), ("first", self.cold)):
            for route, found in times.items():
                rows.append(row(own, f"{route} ({when})", "ms p50", percentile(found, 0.5)))
                rows.append(row(own, f"{route} ({when})", "ms p99", percentile(found, 0.99)))
        return rows


class Asking:
    """Asks the API of one run."""

    def __init__(self, http: httpx.AsyncClient, run: str, node: str) -> None:
        self._http, self._run, self._node = http, run, node

    async def answer(self, route: str, times: Times) -> httpx.Response:
        """Ask for a route and note how long it took, in milliseconds."""
        began = time.perf_counter()
        response = await self._http.get(ASKED[route].format(run=self._run, node=self._node))
        times[route].append((time.perf_counter() - began) * 1000)
        response.raise_for_status()
        return response

    async def now_and_then(self, times: Times, every: float) -> None:
        """Ask for one route after the other until cancelled."""
        while True:
            for route in ASKED:
                if route not in AFTERWARDS and route != "run":
                    await self.answer(route, times)
                    await asyncio.sleep(every)

    async def until_end(self, times: Times) -> dict[str, Any]:
        """Ask how the run stands until it has ended; return the last answer."""
        while True:
            found: dict[str, Any] = (await self.answer("run", times)).json()
            if found["status"] in RUN_ENDS:
                return found
            await asyncio.sleep(0.5)


async def measured(running: Stack, client: Client, case: Case, plan: Mapping[str, Any], options: Any) -> None:
    """Run a plan with a worker and an API of its own."""
    for name in ("worker", "api"):
        await running.stop(name)
        await running.start(name)
    settings = running.settings
    headers = {"Authorization": f"Bearer {settings.read_token()}"}
    async with httpx.AsyncClient(base_url=settings.api_url, headers=headers, trust_env=False, timeout=300) as http:
        # The first run of a process loads what it needs.
        warm = generated("chain", 20, "durable" if case.way == "sleep" else case.way)
        await _run(http, warm, defaultdict(list))
        first = str(plan["nodes"][len(plan["nodes"]) // 2]["nodeId"])
        with computed(pids(running)) as case.spent:
            began = time.perf_counter()
            run = await _started(http, plan)
            case.accepted = time.perf_counter() - began
            asking = Asking(http, run, first)
            beside = [] if options.quiet else [asyncio.create_task(asking.now_and_then(case.during, 0.5))]
            ended = await asking.until_end(case.during)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        assert ended["status"] == "COMPLETED", ended
        times = [datetime.fromisoformat(ended[name]) for name in ("startedAt", "completedAt")]
        case.seconds = (times[1] - times[0]).total_seconds()
        case.peak_mb, case.end_mb = (_memory(running.parts["worker"].pid, what) for what in ("VmHWM", "VmRSS"))
        await _look_at_histories(client, case, run)
        show(case)
        _keep(case, options)  # what follows takes its time, too
        await running.stop("api")
        await running.start("api")  # what an API that has never seen the plan answers with
        for route in ASKED:
            await asking.answer(route, case.cold)
            until = time.monotonic() + SECONDS
            for _ in range(TIMES):
                if time.monotonic() < until:
                    await asking.answer(route, case.after)
        for name, words in TYPED.items():
            case.typed[name] = await _typed(settings, [word.format(run=run) for word in words])


async def _typed(settings: Settings, words: Sequence[str]) -> float:
    """Return how long a command took."""
    environment = {**os.environ, **settings.environment()}
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dalang.cli", *words), env=environment, stdout=DEVNULL, stderr=DEVNULL
    )
    await process.wait()
    assert process.returncode == 0, words
    return time.monotonic() - began


async def _started(http: httpx.AsyncClient, plan: Mapping[str, Any]) -> str:
    response = await http.post("/orchestrator/execute", json={"plan": plan})
    assert response.status_code == 202, response.text[:2000]
    return str(response.json()["runId"])


async def _run(http: httpx.AsyncClient, plan: Mapping[str, Any], times: Times) -> None:
    await Asking(http, await _started(http, plan), "").until_end(times)


def _memory(pid: int | None, what: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


async def _look_at_histories(client: Client, case: Case, run: str) -> None:
    workflow_id = f"run-{run}"
    executions: list[str] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(15):  # visibility comes a moment later
            last = (await client.get_workflow_handle(workflow_id).describe()).run_id
            while last not in executions:
                found = [one async for one in client.list_workflows(f"WorkflowId = '{workflow_id}'")]
                executions = [one.run_id for one in found]
    case.executions = len(executions)
    for one in executions:
        described = await client.get_workflow_handle(workflow_id, run_id=one).describe()
        info = described.raw_description.workflow_execution_info
        case.events, case.bytes = max(case.events, info.history_length), max(case.bytes, info.history_size_bytes)
        case.longest_task = max(case.longest_task, await _longest_task(client, workflow_id, one))


async def _longest_task(client: Client, workflow_id: str, run: str) -> float:
    """Return the seconds from the beginning to the end of the longest workflow task of an execution."""
    request = GetWorkflowExecutionHistoryRequest(
        namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id, run_id=run)
    )
    longest, began = 0.0, {}
    while True:
        page = await client.workflow_service.get_workflow_execution_history(request)
        for event in page.history.events:
            at = event.event_time.ToNanoseconds() / 1e9
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
                began[event.event_id] = at
            elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                started = event.workflow_task_completed_event_attributes.started_event_id
                longest = max(longest, at - began.get(started, at))
        if not page.next_page_token:
            return longest
        request.next_page_token = page.next_page_token


def show(case: Case) -> None:
    """Print what was measured."""
    memory = f"at most {case.peak_mb:.0f}, at the end {case.end_mb:.0f} MB"
    cpu = ", ".join(f"{who} {spent * 1000 / case.nodes:.2f}" for who, spent in case.spent.items())
    print(
        f"{case.name}, {case.way}: {case.nodes / case.seconds:.0f} nodes/s ({case.seconds:.1f} s, accepted after"
        f" {case.accepted:.1f} s); CPU ms/node: {cpu}; worker {memory}; {case.executions} executions,"
        f" longest {case.events} events ({case.events / MAX_EVENTS:.0%}), {case.bytes / 2**20:.1f} MB"
        f" ({case.bytes / MAX_BYTES:.0%}); longest workflow task {case.longest_task:.2f} s",
        flush=True,
    )


def show_answers(case: Case) -> None:
    """Print how long the API took."""
    for route in ASKED:
        parts = []
        for when, times in (("during", case.during), ("first", case.cold), ("after", case.after)):
            if times.get(route):
                parts.append(f"{when} {percentile(times[route], 0.5):.0f}/{percentile(times[route], 0.99):.0f}")
        print(f"    {route:<20} ms p50/p99: {', '.join(parts)}", flush=True)
    print("    " + ", ".join(f"{words} {seconds:.1f} s" for words, seconds in case.typed.items()), flush=True)


def plans(options: Any) -> list[tuple[Case, dict[str, Any]]]:
    """Return the cases that are asked for."""
    if options.instance:
        document = json.loads(Path(options.instance).read_text(encoding="utf-8"))
        (plan,) = import_wfformat(document, time_scale=0.0)
        return [(Case(Path(options.instance).stem, "sleep", len(plan["nodes"])), plan)]
    sizes: Sequence[int] = [int(one) for one in options.sizes.split(",")]
    return [
        (Case(f"{options.shape} {size:,}", way, size), generated(options.shape, size, way))
        for way in options.ways.split(",")
        for size in sizes
    ]


def _keep(case: Case, options: Any) -> None:
    if options.save:
        save("large_plans", "Large plans", case.rows(), [NOTE], keep=True)


async def main(options: Any) -> None:
    """Measure every case that is asked for."""
    with tempfile.TemporaryDirectory(dir=options.folder or None) as folder:
        settings = on_free_ports(Settings(home=Path(folder)))
        async with stack(settings, durable=False) as running:
            client = await connect(running.settings)
            for case, plan in plans(options):
                await measured(running, client, case, plan, options)
                show_answers(case)
                _keep(case, options)


if __name__ == "__main__":
    parser = arguments(__doc__, sizes="1000,10000", ways="local,durable", shape="layered", instance="", folder="")
    parser.add_argument("--quiet", action="store_true", help="Ask only for the run while it runs.")
    asyncio.run(main(parser.parse_args()))
