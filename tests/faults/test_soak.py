"""Several runs side by side while workers, PostgreSQL and Temporal are killed at random; seeds are printed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dalang.stack.supervisor import SERVERS, Stack
from tests.engine.kit import Started
from tests.faults.site import Site, edge, effect, mixed_plan

# Not a DALANG_ name: those are settings of the product, and unknown ones are refused.
SEED = int(os.environ.get("PYTEST_SOAK_SEED") or time.time())
SECONDS = 120
RUNS = 4
MANY = 200
"""Attempts of a node: kills use them up as fast as they come."""


def plan_of(folder: Path, seed: int) -> dict[str, Any]:
    """A long plan with large outputs here and there."""
    plan = mixed_plan(folder, seed=seed, layers=60, width=4, attempts=MANY)
    for layer in range(0, 60, 6):
        node_id = f"large{layer}"
        plan["nodes"].append(effect(folder, node_id, {"maxAttempts": MANY}, kilobytes=100 + layer))
        plan["edges"] += [edge(f"n{layer}x0", node_id), edge(node_id, f"n{layer + 1}x0")]
    return plan


class Chaos:
    """Kills one thing after another and starts it again a moment later."""

    def __init__(self, site: Site, servers: Stack, seed: int) -> None:
        self.site, self.servers = site, servers
        self.choice = random.Random(seed)
        self.kills: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Go on for so long; everything runs again at the end."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(self.choice.uniform(1, 5))
            where, name = self._victim()
            self.kills[name.split("-")[0]] += 1
            if name.startswith("worker") and self.choice.random() < 0.3:
                await where.stop(name)
            else:
                await where.kill(name)
            await asyncio.sleep(self.choice.choice([0, 0.5, 2, 8]))
            await where.start(name)

    def _victim(self) -> tuple[Stack, str]:
        if self.choice.random() < 0.6:
            return self.site.stack, self.choice.choice(list(self.site.stack.parts))
        return self.servers, self.choice.choice(SERVERS)


@pytest.mark.soak
async def test_random_kills(exposed: Site, servers_up: Stack, folder: Path) -> None:
    """All runs complete, in order; every effect is there, once per key; all chains verify."""
    print(f"\nPYTEST_SOAK_SEED={SEED}")
    for _ in range(2):
        await exposed.stack.add_worker()
    plans = [plan_of(folder, SEED + at) for at in range(RUNS)]
    runs = [await exposed.start(plan) for plan in plans]
    chaos = Chaos(exposed, servers_up, SEED)
    ends = [asyncio.create_task(end_of(run)) for run in runs]
    began = time.monotonic()
    await chaos.run(SECONDS)
    print(f"killed {dict(chaos.kills)}; {sum(end.done() for end in ends)} of {RUNS} runs ended meanwhile")
    await asyncio.wait_for(asyncio.gather(*ends), 240)
    print(f"all ended after {time.monotonic() - began:.0f} s")
    repeated: Counter[int] = Counter()
    for run, plan in zip(runs, plans, strict=True):
        await exposed.check(run, plan)
        repeated.update(len(attempts) for attempts in exposed.effects.asked(run.run_id).values())
    print(f"attempts of a node, and how many nodes had so many: {dict(sorted(repeated.items()))}")


async def end_of(run: Started) -> None:
    """Wait for the end of a run through outages of Temporal."""
    while True:
        with contextlib.suppress(Exception):
            if (await run.handle.describe()).close_time is not None:
                return
        await asyncio.sleep(0.5)
