"""Workers that are killed or cut off while a run is undone: nothing is lost, nothing is undone before its effect."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from tests.engine.kit import Started, body_of
from tests.faults.site import Effects, Site, chain, effect, until
from tests.harness import PATIENCE


def undoable(folder: Path, node_id: str, **undo: Any) -> dict[str, Any]:
    """A node with an effect, and its undo, which leaves its marks in a folder of its own."""
    node = effect(folder, node_id)
    inputs = {"folder": str(folder / "undo"), **undo}
    node["compensation"] = {"type": "f-effect", "inputs": inputs, "retryPolicy": node["retryPolicy"]}
    return node


async def test_a_worker_that_is_killed_during_the_undo_loses_nothing(workers: Site, folder: Path) -> None:
    """After kill -9 in the middle, and a second cancel, every node is undone once, in reverse order."""
    (folder / "undo").mkdir()
    undos = Effects(folder / "undo")
    count = 12
    nodes = [undoable(folder, f"n{at}", seconds=0.3) for at in range(count)]
    plan = chain(*nodes, {"nodeId": "last", "type": "t-fail"})
    await workers.stack.add_worker()
    started = await workers.start(plan)
    run = started.run_id
    await until(lambda: len(undos.done(run)) >= 3 and undos.under_way(run))
    pids = {part.pid: name for name, part in workers.stack.parts.items()}
    victim = next(attempts[-1][1] for node, attempts in undos.asked(run).items() if node in undos.under_way(run))
    await workers.stack.kill(pids[victim])
    await started.handle.signal("cancel", {"reason": "hurry"})
    end = await started.end()
    assert end["run"]["status"] == "FAILED"
    done = undos.done(run)
    assert done.keys() == {f"n{at}" for at in range(count)}
    assert sorted(done, key=lambda node: done[node]) == [f"n{at}" for at in reversed(range(count))]
    assert {end["nodes"][node]["status"] for node in done} == {"COMPENSATED"}
    assert max(len(attempts) for attempts in undos.asked(run).values()) == 2, "the one that was lost was repeated"
    assert "REQUEST_REJECTED" in [row["type"] for row in end["events"]]
    assert await workers.engine.chain_problem(run) is None


async def _given_up(started: Started) -> bool:
    events = started.handle.fetch_history_events()
    return any([event.HasField("activity_task_timed_out_event_attributes") async for event in events])


async def test_the_undo_waits_for_a_worker_that_was_cut_off(workers: Site, folder: Path) -> None:
    """A silent worker is given up by Temporal, but its handler goes on later: its effect comes before the undo."""
    (folder / "undo").mkdir()
    node: dict[str, Any] = {
        "nodeId": "a",
        "type": "t-late-thread",
        "inputs": {"folder": str(folder), "seconds": 10},
        "timeouts": {"startToClose": "20s", "heartbeat": "2s"},
        "retryPolicy": {"maxAttempts": 1},
        "compensation": {"type": "f-effect", "inputs": {"folder": str(folder / "undo")}},
    }
    await workers.stack.add_worker()
    started = await workers.start({"nodes": [node, {"nodeId": "b", "type": "noop"}]})
    await until(lambda: (folder / "begun").exists())
    silent = int((folder / "begun").read_text())
    os.kill(silent, signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE):
            while not await _given_up(started):
                await asyncio.sleep(0.1)
        assert not (folder / "effect").exists()
    finally:
        os.kill(silent, signal.SIGCONT)
    end = await started.end()
    undos = Effects(folder / "undo")
    assert body_of(end, "NODE_FAILED", "a")["error"]["details"] == {"timeout": "HEARTBEAT"}
    assert undos.done(started.run_id)["a"] > (folder / "effect").stat().st_mtime
    assert end["nodes"]["a"]["status"] == "COMPENSATED"
