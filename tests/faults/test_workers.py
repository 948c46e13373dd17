"""Workers that are killed, drained and poisoned in mid-run."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
from collections import Counter
from pathlib import Path

import pytest

from dalang.settings import Settings
from tests.engine.kit import body_of
from tests.faults.site import Site, Watch, chain, effect, lock_run, mixed_plan, site, storing_process, until


async def test_another_worker_takes_over_from_one_that_was_killed(
    workers: Site, folder: Path, record_property: pytest.RecordProperty
) -> None:
    """After kill -9 in mid-run it completes, in order, each effect once per key; what was lost is back in seconds."""
    plan = mixed_plan(folder, seed=1)
    await workers.stack.add_worker()
    started = await workers.start(plan)
    effects, run = workers.effects, started.run_id
    await workers.until_effects(started, 8)
    victim = workers.busiest(run)
    old = workers.stack.parts[victim].pid
    await workers.until_effects(started, 9, old)
    watch = Watch()
    await workers.stack.kill(victim)
    lost, before = effects.under_way(run, old), effects.done(run).keys()
    end = await workers.check(started, plan)
    done = effects.done(run)
    recovery = max((watch.seconds(done[node]) for node in lost), default=0.0)
    next_effect = min(watch.seconds(done[node]) for node in done.keys() - before)
    record_property("recovery_seconds", round(recovery, 1))
    print(f"\nlost {len(lost)} nodes; next effect after {next_effect:.1f} s, all lost ones after {recovery:.1f} s")
    print(f"run ended {watch.seconds(end['run']['completed_at'].timestamp()):.1f} s after the kill")
    print(await workers.delays(started))
    assert lost
    assert recovery < 30
    assert {end["nodes"][node]["attempt"] for node in lost} <= {2, 3}


async def test_a_worker_that_is_told_to_end_drains(workers: Site, folder: Path) -> None:
    """SIGTERM: what runs there ends there, no attempt is lost, the exit code is 0, and another worker goes on."""
    gate = folder / "gate"
    plan = chain(*(effect(folder, f"n{at}", seconds=0.05) for at in range(40)))
    plan["nodes"] += [effect(folder, f"slow{at}", gate=str(gate)) for at in range(4)]
    await workers.stack.add_worker()
    started = await workers.start(plan)
    effects, run = workers.effects, started.run_id
    await workers.until_effects(started, 5)
    victim = workers.busiest(run)
    old = workers.stack.parts[victim].pid
    await until(lambda: len(effects.under_way(run)) >= 4 and any("slow" in x for x in effects.under_way(run, old)))
    ending = asyncio.create_task(workers.sigterm(victim))
    await until(lambda: "draining" in workers.stack.parts[victim].log.read_text())
    held = {node for node in effects.under_way(run, old) if "slow" in node}
    await until(lambda: any(pid != old for attempts in effects.asked(run).values() for _, pid in attempts[-1:]))
    gate.touch()
    assert await ending == 0
    await workers.check(started, plan)
    asked = effects.asked(run)
    assert {len(attempts) for attempts in asked.values()} == {1}
    assert held
    assert {effects.done_by(run, node) for node in held} == {old}
    assert any(pid != old for attempts in asked.values() for _, pid in attempts)


@pytest.mark.parametrize("execution", ["durable", pytest.param("local", marks=pytest.mark.soak)])
async def test_a_handler_that_kills_its_worker_fails_as_its_policy_says(
    settings: Settings, folder: Path, execution: str
) -> None:
    """It is tried maxAttempts times in workers that start anew, then fails with TIMEOUT; others keep their effects.

    A segment that was lost with its worker is none of the attempts: nobody knows which node it was at.
    """
    poison = {
        "nodeId": "poison",
        "type": "t-kill",
        "inputs": {"folder": str(folder), "times": 100},
        "retryPolicy": {"maxAttempts": 2, "backoffStrategy": "FIXED", "initialDelayMs": 50, "jitter": False},
        "timeouts": {"heartbeat": "2s"},
    }
    others = chain(*(effect(folder, f"n{at}", {"maxAttempts": 5}, seconds=0.2) for at in range(15)))
    plan = {**others, "nodes": [poison, *others["nodes"]], "failurePolicy": "continue", "execution": execution}
    async with site(settings, folder, supervised=True) as made:
        first = made.stack.parts["worker"].pid
        started = await made.start(plan)
        end = await started.end()
        run, node = end["run"], end["nodes"]["poison"]
        error = body_of(end, "NODE_FAILED", "poison")["error"]
        assert (run["status"], node["status"]) == ("FAILED", "FAILED")
        assert run["error"] == error == (await made.node_error(started, "poison"))
        assert (error["type"], error["originNode"], error["maxAttempts"]) == ("TIMEOUT", "poison", 2)
        assert len(list(folder.glob("killed-*"))) == 2 + (execution == "local")
        assert made.effects.done(started.run_id).keys() == {f"n{at}" for at in range(15)}
        assert Counter(row["status"] for row in end["nodes"].values()) == {"SUCCESS": 15, "FAILED": 1}
        assert await made.engine.chain_problem(started.run_id) is None
        await until(lambda: made.stack.parts["worker"].running)
        assert made.stack.parts["worker"].pid != first


async def test_a_killed_worker_is_not_needed_for_the_last_events(workers: Site, folder: Path) -> None:
    """The worker that was storing events when it was killed holds up the end of the run for seconds, not for long."""
    plan = chain(effect(folder, "a"), effect(folder, "b", gate=str(folder / "gate")))
    started = await workers.start(plan)
    await workers.stack.add_worker()
    await started.until("NODE_COMPLETED", "a")
    async with workers.engine.db.connect() as blocker:
        await lock_run(blocker, started.run_id)
        (folder / "gate").touch()
        await until(lambda: "b" in workers.effects.done(started.run_id))
        storing = await storing_process(started)
        watch = Watch()
        os.kill(storing, signal.SIGKILL)
    await workers.check(started, plan)
    print(f"\nended {watch.seconds():.1f} s after the worker that stored was killed", await workers.delays(started))
    assert watch.seconds() < 12


@pytest.mark.soak
async def test_recovery_from_many_kills(workers: Site, folder: Path) -> None:
    """However the kill meets a run - in a node, in a workflow task, while it stores - it goes on within seconds."""
    choice = random.Random(7)
    await workers.stack.add_worker()
    pauses, recoveries = [], []
    for seed in range(12):
        plan = mixed_plan(folder, seed=seed)
        started = await workers.start(plan)
        await workers.until_effects(started, choice.randint(2, 20))
        victim = workers.busiest(started.run_id)
        pid = workers.stack.parts[victim].pid
        watch = Watch()
        await workers.stack.kill(victim)
        lost = workers.effects.under_way(started.run_id, pid)
        end = await workers.check(started, plan)
        done = workers.effects.done(started.run_id)
        began = [row["at"].timestamp() for row in end["events"] if row["type"] == "NODE_STARTED"]
        pauses.append(min((watch.seconds(at) for at in began if watch.seconds(at) > 0.05), default=0))
        recoveries.append(max((watch.seconds(done[node]) for node in lost), default=0))
        print(f"\nnext node after {pauses[-1]:.1f} s, all of {len(lost)} lost ones after {recoveries[-1]:.1f} s")
        await workers.stack.start(victim)
    for what, found in (("next node", pauses), ("lost ones", recoveries)):
        print(f"{what}: median {statistics.median(found):.1f} s, longest {max(found):.1f} s")
    assert max(pauses + recoveries) < 30
