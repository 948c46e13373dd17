"""Work that goes on from its checkpoint after the worker it ran in was killed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dalang.settings import Settings
from tests.engine.kit import Started, body_of
from tests.faults.site import Site, site, until
from tests.harness import PATIENCE


def steps_node(path: Path, **inputs: Any) -> dict[str, Any]:
    """A node that notes its numbered steps in ``path`` and waits for a gate before one of them."""
    retry = {"backoffStrategy": "FIXED", "initialDelayMs": 100, "maxAttempts": 5}
    node = {"nodeId": "a", "type": "t-steps", "inputs": {"path": str(path), **inputs}, "retryPolicy": retry}
    return {**node, "timeouts": {"heartbeat": "2s"}}


def steps_done(path: Path) -> list[tuple[int, int]]:
    """The steps that were done, with the processes that did them."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(step), int(pid)) for step, pid in (line.split() for line in lines)]


async def until_heartbeat(started: Started, done: int, within: float = PATIENCE) -> None:
    """Wait until Temporal has the checkpoint of so many steps: the second detail of the last heartbeat."""
    async with asyncio.timeout(within):
        while True:
            for one in (await started.handle.describe()).raw_description.pending_activities:
                details = await started.engine.client.data_converter.decode(one.heartbeat_details.payloads)
                if one.activity_type.name == "t-steps" and len(details) > 1 and details[1]["number"] >= done:
                    return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kilobytes", [0, 300])
async def test_the_attempt_after_a_kill_goes_on(workers: Site, folder: Path, kilobytes: int) -> None:
    """kill -9: another worker restores what the first left, in the heartbeat or in Postgres; no step is repeated."""
    path = folder / "steps"
    started = await workers.start({"nodes": [steps_node(path, count=8, wait_at=4, kilobytes=kilobytes)]})
    await until(lambda: len(steps_done(path)) == 4)
    await until_heartbeat(started, 4)
    old = workers.stack.parts["worker"].pid
    await workers.stack.kill("worker")
    path.with_suffix(".gate").touch()
    await workers.stack.start("worker")
    end = await started.end()
    done = steps_done(path)
    assert [step for step, _ in done] == list(range(8))
    assert [pid == old for _, pid in done] == [True] * 4 + [False] * 4
    outputs = body_of(end, "NODE_COMPLETED", "a")["outputs"]
    assert (outputs["begun"], outputs["attempt"]) == (4, 2)


async def test_a_run_is_interrupted_while_the_worker_of_its_node_is_dead(workers: Site, folder: Path) -> None:
    """Nobody answers for the killed attempt: once it is noticed the node is PENDING, and goes on from its heartbeat."""
    path = folder / "steps"
    started = await workers.start({"nodes": [steps_node(path, count=8, wait_at=4)]})
    await until(lambda: len(steps_done(path)) == 4)
    await until_heartbeat(started, 4)
    old = workers.stack.parts["worker"].pid
    await workers.stack.add_worker()
    await workers.stack.kill("worker")
    await started.handle.execute_update("pause", {"mode": "interrupt"})
    await started.until("NODE_INTERRUPTED", "a")
    path.with_suffix(".gate").touch()
    await started.handle.execute_update("resume", {})
    end = await started.end()
    done = steps_done(path)
    assert [step for step, _ in done] == list(range(8))
    assert [pid == old for _, pid in done] == [True] * 4 + [False] * 4
    assert body_of(end, "NODE_COMPLETED", "a")["outputs"]["begun"] == 4
    assert end["attempts"] == []


async def test_a_worker_that_ends_hands_its_work_on(settings: Settings, folder: Path) -> None:
    """SIGTERM, and the handler does not end in the time for draining: another worker goes on from its checkpoint."""
    path = folder / "steps"
    short = settings.model_copy(update={"graceful_shutdown_seconds": 1})
    async with site(short, folder) as made:
        started = await made.start({"nodes": [steps_node(path, count=8, wait_at=4)]})
        await until(lambda: len(steps_done(path)) == 4)
        old = made.stack.parts["worker"].pid
        await made.stack.add_worker()
        assert await made.sigterm() == 0
        path.with_suffix(".gate").touch()
        end = await started.end()
        done = steps_done(path)
        assert [step for step, _ in done] == list(range(8))
        assert [pid == old for _, pid in done] == [True] * 4 + [False] * 4
        assert body_of(end, "NODE_COMPLETED", "a")["outputs"]["begun"] == 4
