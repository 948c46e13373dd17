"""Runs that wait for people: what so many cost at rest, how quickly some are decided, and a worker that starts anew.

The part ``waiting`` of ``many_runs.py``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import psutil

from benchmarks.results import Row, computed, percentile, pids, row
from dalang.stack.supervisor import Stack

TASKS = "/orchestrator/human-tasks"
AT_ONCE = 16
"""Runs that are being started at a time."""
PLAN = {
    "name": "waits-for-a-person",
    "nodes": [
        {
            "nodeId": "review",
            "type": "human",
            "inputs": {"text": "${inputs.text}"},
            "task": {"title": "Publish ${inputs.text}"},
        },
    ],
    "inputs": {"type": "object", "properties": {"text": {"type": "string"}}},
}


async def waiting(running: Stack, options: Any) -> list[Row]:
    """Start runs until so many wait, for so long at most; look at them at rest, decide some, start the worker anew."""
    headers = {"Authorization": f"Bearer {running.settings.read_token()}"}
    async with httpx.AsyncClient(
        base_url=running.settings.api_url, headers=headers, trust_env=False, timeout=60
    ) as client:
        rows = await _started(running, client, options)
        count = await _open(client)
        case = f"{count:,} waiting"
        rows += await _at_rest(running, options, f"{case}, at rest")
        rows += await _decided(running, client, f"{case}, decided")
        begun = time.monotonic()
        await running.stop("worker")
        await running.start("worker")
        rows.append(row(f"{case}, worker restarted", "ready after", "s", time.monotonic() - begun))
        rows += await _at_rest(running, options, f"{case}, after a restart of the worker")
        rows += await _decided(running, client, f"{case}, decided after a restart of the worker")
        left = await _open(client)
    for one in rows:
        print(f"{one['case']:55} {one['subject']:25} {one['median']:10.1f} {one['unit']}")
    print(f"{left} wait still")
    return rows


async def _open(client: httpx.AsyncClient) -> int:
    answer = await client.get(f"{TASKS}/counts")
    return int(answer.raise_for_status().json()["open"])


async def _started(running: Stack, client: httpx.AsyncClient, options: Any) -> list[Row]:
    before = await _open(client)
    wanted, until = options.waiting - before, time.monotonic() + options.seconds
    stored = await client.post("/orchestrator/plans", json=PLAN)
    plan = stored.raise_for_status().json()["planId"]
    started = 0

    async def start() -> None:
        nonlocal started
        while started < wanted and time.monotonic() < until:
            started += 1
            body = {"planId": plan, "inputs": {"text": f"announcement {before + started}"}}
            (await client.post("/orchestrator/execute", json=body)).raise_for_status()

    begun = time.monotonic()
    with computed(pids(running)) as spent:
        await asyncio.gather(*(start() for _ in range(AT_ONCE)))
        while await _open(client) < before + started and time.monotonic() < until + 120:  # noqa: ASYNC110 - elsewhere
            await asyncio.sleep(0.5)
    if started < 100:
        return []
    seconds = time.monotonic() - begun
    print(f"{started} runs were started and wait, {started / seconds:.0f} a second")
    cost = [
        row("a run started until it waits", name, "CPU ms", 1000 * value / started) for name, value in spent.items()
    ]
    return [row("runs started until they wait", "runs", "runs/s", started / seconds), *cost]


async def _at_rest(running: Stack, options: Any, case: str) -> list[Row]:
    await asyncio.sleep(5)
    begun = time.monotonic()
    with computed(pids(running)) as spent:
        await asyncio.sleep(options.rest)
    seconds = time.monotonic() - begun
    rows = [row(case, name, "% of a core", 100 * value / seconds) for name, value in spent.items() if name != "here"]
    for name, pid in pids(running).items():
        if name in ("worker", "api", "temporal"):
            rows.append(row(case, f"{name}, memory", "MB", psutil.Process(pid).memory_info().rss / 1e6))
    return rows


async def _decided(running: Stack, client: httpx.AsyncClient, case: str) -> list[Row]:
    """Decide 50 tasks one after the other, and 100 at once, of all ages; all others go on waiting."""
    page = (await client.get(TASKS, params={"open": True, "limit": 1000})).raise_for_status().json()["items"]
    step = max(len(page) // 150, 1)
    chosen = [{"taskId": one["taskId"], "digest": one["digest"]} for one in page[::step]][:150]
    single, bulk = chosen[: len(chosen) // 3], chosen[len(chosen) // 3 :]
    took = []
    with computed(pids(running)) as spent:
        for one in single:
            begun = time.perf_counter()
            answer = await client.post(f"{TASKS}/{one['taskId']}/approve", json={"digest": one["digest"]})
            took.append(1000 * (time.perf_counter() - begun))
            if answer.status_code != 200:
                raise RuntimeError(answer.text)
    begun = time.perf_counter()
    decisions = [{**one, "action": "approve"} for one in bulk]
    answer = await client.post(f"{TASKS}/bulk", json={"decisions": decisions})
    seconds = time.perf_counter() - begun
    if answer.raise_for_status().json()["taken"] != len(bulk):
        raise RuntimeError(answer.text[:2000])
    return [
        row(case, "one, p50", "ms", percentile(took, 0.5)),
        row(case, "one, p99", "ms", percentile(took, 0.99)),
        *(row(case, f"one, {name}", "CPU ms", 1000 * spent[name] / len(single)) for name in spent),
        row(case, f"{len(bulk)} in bulk, each", "ms", 1000 * seconds / len(bulk)),
    ]
