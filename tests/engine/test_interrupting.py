"""A pause that interrupts, on real Temporal: handlers are stopped, and go on from their checkpoints."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError

from tests.engine.kit import Engine, Started, body_of, node_events
from tests.engine.test_checkpoints import steps_done, steps_node
from tests.engine.test_containers import child_of
from tests.harness import PATIENCE

FAST = {"initialDelayMs": 10, "maxDelayMs": 20}
INTERRUPT = {"operator": "ann", "reason": "deploy", "mode": "interrupt"}


async def pause(started: Started, **more: Any) -> Any:
    """Pause by interrupt."""
    return await started.handle.execute_update("pause", {**INTERRUPT, **more})


async def resume(started: Started) -> None:
    """Go on."""
    await started.handle.execute_update("resume", {"operator": "ann"})


async def until_file(path: Path, lines: int) -> None:
    """Wait until a handler has written so many lines."""
    async with asyncio.timeout(PATIENCE):
        while not path.exists() or len(path.read_text().splitlines()) < lines:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kilobytes", [0, 100])
async def test_an_interrupted_node_goes_on_from_its_checkpoint(
    shared_engine: Engine, tmp_path: Path, kilobytes: int
) -> None:
    """No step is done twice, under one key, whether the state travelled through the workflow or by reference."""
    path = tmp_path / "log"
    started = await shared_engine.start({"nodes": [steps_node(path, wait_at=3, kilobytes=kilobytes)]})
    await until_file(path, 3)
    assert (await pause(started))["status"] == "PAUSED"
    await started.until("NODE_INTERRUPTED", "a")
    stored = await started.stored()
    assert (stored["run"]["status"], stored["nodes"]["a"]["status"]) == ("PAUSED", "PENDING")
    path.with_suffix(".gate").touch()
    await resume(started)
    end = await started.end()
    assert steps_done(path) == [0, 1, 2, 3, 4]
    outputs = body_of(end, "NODE_COMPLETED", "a")["outputs"]
    assert (outputs["begun"], outputs["attempt"], outputs["key"]) == (3, 1, f"{started.run_id}:a:0:0")
    assert node_events(end, "a") == ["NODE_STARTED", "NODE_INTERRUPTED", "NODE_STARTED", "NODE_COMPLETED"]
    assert end["attempts"] == []
    assert await shared_engine.chain_problem(started.run_id) is None


async def test_a_handler_may_save_its_work_when_it_is_stopped(shared_engine: Engine) -> None:
    """What it leaves in its ``finally`` is restored."""
    started = await shared_engine.start({"nodes": [{"nodeId": "a", "type": "t-saves"}]})
    await started.until("NODE_STARTED", "a")
    await pause(started)
    await started.until("NODE_INTERRUPTED", "a")
    await resume(started)
    assert body_of(await started.end(), "NODE_COMPLETED", "a")["outputs"]["restored"] == {"saved": True}


async def test_a_node_that_waits_for_its_next_attempt_is_interrupted(shared_engine: Engine) -> None:
    """Nothing runs then, and Temporal forgets the heartbeat: the checkpoint comes from the database."""
    retry = {"initialDelayMs": 60_000, "maxAttempts": 5}
    node = {"nodeId": "a", "type": "t-saves", "inputs": {"failing": True}, "retryPolicy": retry}
    started = await shared_engine.start({"nodes": [node]})
    async with asyncio.timeout(PATIENCE):
        while not (await started.stored())["attempts"]:
            await asyncio.sleep(0.05)
    await pause(started)
    await started.until("NODE_INTERRUPTED", "a")
    await resume(started)
    async with asyncio.timeout(PATIENCE):
        while len((await started.stored())["attempts"]) < 2:
            await asyncio.sleep(0.05)
    attempts = (await started.stored())["attempts"]
    assert [(row["starts"], row["attempt"]) for row in attempts] == [(0, 1), (1, 1)]
    await started.handle.execute_update("cancel", {"reason": "seen"})
    assert (await started.end())["run"]["status"] == "CANCELLED"


async def test_a_thread_that_does_not_stop_is_not_joined_by_another(shared_engine: Engine, tmp_path: Path) -> None:
    """Resumed at once, the node starts again only when the first handler's time is over."""
    node = {"nodeId": "a", "type": "t-deaf", "inputs": {"path": str(tmp_path / "x")}, "retryPolicy": FAST}
    started = await shared_engine.start({"nodes": [{**node, "timeouts": {"startToClose": "5s"}}]})
    await until_file(tmp_path / "x.log", 1)
    await pause(started)
    await started.until("NODE_INTERRUPTED", "a")
    await resume(started)
    (tmp_path / "x").touch()
    end = await started.end()
    assert (tmp_path / "x.log").read_text().splitlines() == ["begin None", "end", "begin begun", "end"]
    events = {row["type"]: row["at"] for row in end["events"] if row["node_id"] == "a"}
    first = min(row["at"] for row in end["events"] if row["type"] == "NODE_STARTED")
    assert (events["NODE_STARTED"] - first).total_seconds() >= 4.5


async def test_resumed_before_it_has_stopped(shared_engine: Engine, tmp_path: Path) -> None:
    """Pause, resume, pause, resume without waiting: nothing runs twice, and the run completes."""
    path = tmp_path / "log"
    started = await shared_engine.start({"nodes": [steps_node(path, wait_at=3)]})
    await until_file(path, 3)
    for _ in range(2):
        await started.handle.signal("pause", INTERRUPT)
        await started.handle.signal("resume", {})
    path.with_suffix(".gate").touch()
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert steps_done(path) == [0, 1, 2, 3, 4]


async def test_cancelled_while_it_is_being_interrupted(shared_engine: Engine) -> None:
    """The run ends; the node is CANCELLED, once."""
    started = await shared_engine.start(
        {"nodes": [{"nodeId": "a", "type": "t-saves"}, {"nodeId": "s", "type": "sleep", "inputs": {"seconds": 60}}]}
    )
    await started.until("NODE_STARTED", "a")
    await started.handle.signal("pause", INTERRUPT)
    await started.handle.signal("cancel", {"operator": "ann", "reason": "enough"})
    end = await started.end()
    assert end["run"]["status"] == "CANCELLED"
    assert {row["status"] for row in end["nodes"].values()} == {"CANCELLED"}
    assert end["result"]["reason"] == "enough"


async def test_a_paused_run_continues_as_new_with_what_was_interrupted(shared_engine: Engine, tmp_path: Path) -> None:
    """Over the threshold while it is paused, it carries inputs and checkpoints into the next execution."""
    path = tmp_path / "log"
    plan = {"nodes": [steps_node(path, wait_at=3), *({"nodeId": f"n{i}", "type": "noop"} for i in range(10))]}
    started = await shared_engine.start(plan, historyLimit=40)
    await until_file(path, 3)
    for number in range(9):
        await started.until("NODE_COMPLETED", f"n{number}")
    await pause(started)
    await started.until("NODE_INTERRUPTED", "a")
    first = started.handle.first_execution_run_id  # it may be over already
    for _ in range(10):
        await started.handle.signal("nonsense", "x")
    async with asyncio.timeout(PATIENCE):
        while (await started.engine.client.get_workflow_handle(started.handle.id).describe()).run_id == first:
            await asyncio.sleep(0.05)
    path.with_suffix(".gate").touch()
    handle = started.engine.client.get_workflow_handle(started.handle.id)
    await handle.execute_update("resume", {})
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert steps_done(path) == [0, 1, 2, 3, 4]
    assert body_of(end, "NODE_COMPLETED", "a")["outputs"]["begun"] == 3


async def test_runs_below_are_interrupted_with_the_run_above(shared_engine: Engine, tmp_path: Path) -> None:
    """A pause reaches the child in its mode, also when it only drained before; its node itself goes on."""
    path = tmp_path / "log"
    body = {"nodes": [steps_node(path, wait_at=3)]}
    started = await shared_engine.start({"nodes": [{"nodeId": "sub", "type": "plan", "plan": body}]})
    await until_file(path, 3)
    await started.handle.execute_update("pause", {})
    child = child_of(started, "sub")
    await child.until("PLAN_PAUSED")
    await pause(started)
    await child.until("NODE_INTERRUPTED", "a")
    assert (await started.stored())["nodes"]["sub"]["status"] == "RUNNING"
    path.with_suffix(".gate").touch()
    await resume(started)
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert steps_done(path) == [0, 1, 2, 3, 4]


async def test_a_mode_that_there_is_not_is_refused(shared_engine: Engine) -> None:
    """422 for an update, a recorded rejection for a signal; the run goes on."""
    started = await shared_engine.start({"nodes": [{"nodeId": "a", "type": "sleep", "inputs": {"seconds": 1}}]})
    await started.until("NODE_STARTED", "a")
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await pause(started, mode="freeze")
    assert "mode is drain or interrupt" in str(refused.value.cause)
    await started.handle.signal("pause", {"mode": 5})
    end = await started.end()
    assert "REQUEST_REJECTED" in [row["type"] for row in end["events"]]
    assert end["run"]["status"] == "COMPLETED"
