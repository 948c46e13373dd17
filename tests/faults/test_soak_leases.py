"""A thousand leases for fifty runs while workers are killed: never more than there is, and all of it given back."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dalang.store.engine import system_transaction
from dalang.store.pools import put_pool
from tests.engine.kit import TENANT
from tests.faults.site import Site, effect

SEED = int(os.environ.get("PYTEST_SOAK_SEED") or time.time())
RUNS, NODES = 50, 20
CREW, KEYS = 6, 4
MANY = 200
"""Attempts of a node: kills use them up as fast as they come."""
_IN_USE = text(
    "SELECT amount.key AS name, sum(amount.value::float) AS held FROM leases, jsonb_each_text(amounts) AS amount"
    " WHERE state = 'GRANTED' AND tenant_id = :tenant GROUP BY amount.key"
)


def plan_of(folder: Path, choice: random.Random) -> dict[str, Any]:
    """Nodes in a few layers, each of which takes of the crew, of one database, or of both."""
    nodes, edges = [], []
    for at in range(NODES):
        needs: dict[str, Any] = {}
        if choice.random() < 0.8:
            needs["crew"] = choice.choice((1, 1, 1, 2, 3))
        if not needs or choice.random() < 0.4:
            needs["db"] = {"key": f"k{choice.randrange(KEYS)}"}
        retry = {"maxAttempts": MANY}
        node = effect(folder, f"n{at}", retry, seconds=0.05, failures=int(choice.random() < 0.1))
        nodes.append({**node, "requirements": {"pools": needs}})
        if at >= 5:
            edges.append({"sourceNodeId": f"n{choice.randrange(at - 4)}", "targetNodeId": f"n{at}", "mapping": {}})
    return {"nodes": nodes, "edges": edges}


class Watch:
    """Looks at the table all the while: what is granted at one moment is never more than there is."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.looks = 0
        self.most: Counter[str] = Counter()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            async with system_transaction(self.site.engine.db) as conn:
                for name, held in await conn.execute(_IN_USE, {"tenant": TENANT}):
                    self.most[name] = max(self.most[name], held)
            self.looks += 1
            await asyncio.sleep(0.01)


async def kill_workers(site: Site, choice: random.Random, kills: Counter[str]) -> None:
    """Kill one worker after another with SIGKILL, and start it again, until cancelled."""
    while True:
        await asyncio.sleep(choice.uniform(2, 6))
        name = choice.choice(list(site.stack.parts))
        kills[name] += 1
        await site.stack.kill(name)
        await asyncio.sleep(choice.choice((0, 0.5, 2)))
        await site.stack.start(name)


@pytest.mark.soak
async def test_leases_through_kills(workers: Site, folder: Path) -> None:
    """All runs complete; at no moment more is granted than there is; at the end nothing is held or waited for."""
    print(f"\nPYTEST_SOAK_SEED={SEED}")
    choice = random.Random(SEED)
    async with system_transaction(workers.engine.db) as conn:
        for name, size in (("crew", CREW), ("db", 1)):
            row = {"tenant_id": TENANT, "name": name, "size": float(size), "rate": None, "burst": None}
            await put_pool(conn, {**row, "description": "", "updated_by": "test"})
    for _ in range(2):
        await workers.stack.add_worker()
    began, kills, watch = time.monotonic(), Counter[str](), Watch(workers)
    watching = asyncio.create_task(watch.run())
    plans = [plan_of(folder, choice) for _ in range(RUNS)]
    runs = [await workers.engine.start(plan, limits=["crew", "db"]) for plan in plans]
    chaos = asyncio.create_task(kill_workers(workers, choice, kills))
    ends = await asyncio.gather(*(run.handle.result() for run in runs), return_exceptions=True)
    chaos.cancel()
    await asyncio.gather(chaos, return_exceptions=True)
    for name, part in workers.stack.parts.items():
        if not part.running:
            await workers.stack.start(name)
    watching.cancel()
    print(f"{RUNS * NODES} nodes in {time.monotonic() - began:.0f} s, killed {sum(kills.values())} workers,")
    print(f"looked {watch.looks:,} times, most in use {dict(watch.most)}")
    assert [end for end in ends if isinstance(end, BaseException)] == []
    assert watch.most["crew"] <= CREW
    assert {watch.most[f"db/k{key}"] for key in range(KEYS)} == {1}
    async with system_transaction(workers.engine.db) as conn:
        rows = await conn.execute(text("SELECT state, count(*) FROM leases GROUP BY state"))
        states: dict[str, int] = {state: count for state, count in rows}
        nodes = text("SELECT count(DISTINCT (run_id, node_id)) FROM leases WHERE state = 'RELEASED'")
        released = (await conn.execute(nodes)).scalar_one()
    print(f"leases: {states}")
    assert set(states) <= {"RELEASED", "WITHDRAWN"}
    assert released == RUNS * NODES
    for run in runs:
        assert len(workers.effects.done(run.run_id)) == NODES
        assert await workers.engine.chain_problem(run.run_id) is None
