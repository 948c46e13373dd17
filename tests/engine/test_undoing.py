"""Compensation on the real engine: what is undone, with what, and what cannot stop it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import NoResultFound
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from dalang.nesting import undo_run_id
from tests.engine.kit import Engine, Started, body_of, node_events
from tests.engine.test_redrive import redrive
from tests.harness import PATIENCE


def _undo(folder: Path, **more: Any) -> dict[str, Any]:
    return {"compensation": {"type": "t-undo", "inputs": {"folder": str(folder), **more}}}


def _chain(folder: Path, *last: dict[str, Any], **undo: Any) -> dict[str, Any]:
    nodes = [
        {"nodeId": "a", "type": "t-value", "inputs": {"x": 1}, **_undo(folder)},
        {"nodeId": "b", "type": "t-value", "inputs": {"y": 2}, **_undo(folder, **undo)},
        *last,
    ]
    ids = [node["nodeId"] for node in nodes]
    edges = [{"sourceNodeId": one, "targetNodeId": other} for one, other in pairwise(ids)]
    return {"nodes": nodes, "edges": edges}


FAIL = {"nodeId": "c", "type": "t-fail"}


def undone(folder: Path) -> list[str]:
    """Return the keys that were undone, in order."""
    log = folder / "undone"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


async def test_a_failed_run_is_undone_in_reverse_order(shared_engine: Engine, tmp_path: Path) -> None:
    """The undo gets what it undoes and a key of its own; the run ends FAILED after it."""
    started = await shared_engine.start(_chain(tmp_path, FAIL))
    end = await started.end()
    run = started.run_id
    assert undone(tmp_path) == [f"{run}:b:0:0:undo", f"{run}:a:0:0:undo"]
    assert end["run"]["status"] == "FAILED"
    assert isinstance(end["result"], ApplicationError)
    assert {node: row["status"] for node, row in end["nodes"].items()} == {
        "a": "COMPENSATED",
        "b": "COMPENSATED",
        "c": "FAILED",
    }
    assert node_events(end, "a") == ["NODE_STARTED", "NODE_COMPLETED", "NODE_COMPENSATING", "NODE_COMPENSATED"]
    told = body_of(end, "NODE_COMPENSATED", "b")["undoOutputs"]
    assert told["undoes"] == {
        "key": f"{run}:b:0:0",
        "status": "SUCCESS",
        "inputs": {"y": 2, "x": 1},
        "outputs": {"y": 2, "x": 1},
        "error": {},
    }
    assert [row["type"] for row in end["events"]][-1] == "PLAN_FAILED"
    assert await shared_engine.chain_problem(run) is None


async def test_large_inputs_of_an_undo_are_kept_by_its_worker(shared_engine: Engine, tmp_path: Path) -> None:
    """What is too large for a history is stored by the undo's worker and referred to; the node's own stay."""
    plan = _chain(tmp_path, FAIL, padding="x" * 20_000)
    end = await (await shared_engine.start(plan)).end()
    body = body_of(end, "NODE_COMPENSATING", "b")["undoInputs"]
    assert "$ref" in body
    assert end["nodes"]["b"]["status"] == "COMPENSATED"
    assert end["nodes"]["b"]["input_seq"] is not None


async def _compensating(engine: Engine, folder: Path, gate: Path, **plan: Any) -> Started:
    started = await engine.start({**_chain(folder, FAIL, gate=str(gate)), **plan})
    await started.until("NODE_COMPENSATING", "b")
    return started


async def test_a_second_cancel_loses_nothing(shared_engine: Engine, tmp_path: Path) -> None:
    """Update, signal and `temporal workflow cancel` during the undo: refused, recorded, survived; pause likewise."""
    gate = tmp_path / "gate"
    started = await shared_engine.start(
        {**_chain(tmp_path, {"nodeId": "c", "type": "t-hang", **_undo(tmp_path)}, gate=str(gate)), "timeout": "1h"}
    )
    await started.until("NODE_STARTED", "c")
    await started.handle.execute_update("cancel", {"reason": "first"})
    await started.until("NODE_COMPENSATING", "b")
    for update in ("cancel", "pause", "resume"):
        with pytest.raises(WorkflowUpdateFailedError) as refusal:
            await started.handle.execute_update(update, {})
        assert "the run is COMPENSATING" in str(refusal.value.cause)
    await started.handle.signal("cancel", {"reason": "second"})
    await started.until("REQUEST_REJECTED")
    await started.handle.cancel()
    assert (await started.handle.query("status"))["status"] == "COMPENSATING"
    gate.touch()
    end = await started.end()
    assert (end["run"]["status"], end["run"]["reason"]) == ("CANCELLED", "first")
    assert [key.split(":")[1] for key in undone(tmp_path)] == ["c", "b", "a"]
    assert {row["status"] for row in end["nodes"].values()} == {"COMPENSATED"}


async def _fired(started: Started) -> bool:
    events = started.handle.fetch_history_events()
    return any([event.HasField("timer_fired_event_attributes") async for event in events])


async def test_the_runs_timeout_is_like_a_cancel_and_changes_nothing_during_the_undo(
    shared_engine: Engine, tmp_path: Path
) -> None:
    """A run whose time is up is undone; one whose time is up while it is undone goes on."""
    hang = {"nodeId": "c", "type": "t-hang"}
    end = await (await shared_engine.start({**_chain(tmp_path, hang), "timeout": "3s"})).end()
    assert (end["run"]["status"], end["run"]["reason"]) == ("CANCELLED", "TIMEOUT")
    assert len(undone(tmp_path)) == 2
    gate = tmp_path / "gate"
    started = await _compensating(shared_engine, tmp_path, gate, timeout="3s")
    while not await _fired(started):
        await asyncio.sleep(0.1)
    gate.touch()
    end = await started.end()
    assert end["run"]["status"] == "FAILED"
    assert len(undone(tmp_path)) == 4


async def test_an_undo_is_repeated_by_its_own_policy_under_one_key(shared_engine: Engine, tmp_path: Path) -> None:
    """A failed attempt of the undo is repeated; the key is the same, and the node's own attempts are as they were."""
    plan = _chain(tmp_path, FAIL, failures=2)
    plan["nodes"][1]["compensation"]["retryPolicy"] = {"maxAttempts": 3, "initialDelayMs": 10}
    started = await shared_engine.start(plan)
    end = await started.end()
    assert [key.split(":")[1] for key in undone(tmp_path)] == ["b", "a"]
    asked = (tmp_path / "asked").read_text().split()
    assert asked.count(f"{started.run_id}:b:0:0:undo") == 3
    assert end["nodes"]["b"]["attempt"] == 1
    assert [row for row in end["attempts"] if row["node_id"] == "b"] == []


@pytest.mark.parametrize("kind", ["t-late", "t-late-thread", "t-late-block"])
async def test_no_effect_lands_after_its_undo(shared_engine: Engine, tmp_path: Path, kind: str) -> None:
    """A handler that is out of time but does not stop is waited for: its undo comes after the effect (trap 11)."""
    node = {
        "nodeId": "a",
        "type": kind,
        "inputs": {"folder": str(tmp_path), "seconds": 4},
        "timeouts": {"startToClose": "1s"},
        "retryPolicy": {"maxAttempts": 1},
        **_undo(tmp_path),
    }
    started = await shared_engine.start({"nodes": [node]})
    end = await started.end()
    assert end["nodes"]["a"]["status"] == "COMPENSATED"
    assert (tmp_path / "undone").stat().st_mtime > (tmp_path / "effect").stat().st_mtime


async def test_a_stopped_handler_is_undone_when_it_has_ended(shared_engine: Engine, tmp_path: Path) -> None:
    """A thread cannot be stopped: after a cancel its undo waits for its end."""
    node = {"nodeId": "a", "type": "t-late-thread", "inputs": {"folder": str(tmp_path), "seconds": 4}}
    started = await shared_engine.start({"nodes": [{**node, **_undo(tmp_path)}]})
    await started.until("NODE_STARTED", "a")
    await started.handle.signal("cancel")
    end = await started.end()
    assert end["run"]["status"] == "CANCELLED"
    assert (tmp_path / "undone").stat().st_mtime > (tmp_path / "effect").stat().st_mtime


async def test_http_without_a_connection_had_no_effect(shared_engine: Engine, tmp_path: Path) -> None:
    """Nothing was sent, so nothing is undone; with a second attempt nobody knows any more."""
    node = {"nodeId": "a", "type": "http", "inputs": {"url": "http://127.0.0.1:9/"}, **_undo(tmp_path)}
    end = await (await shared_engine.start({"nodes": [{**node, "retryPolicy": {"maxAttempts": 1}}]})).end()
    assert end["nodes"]["a"]["status"] == "FAILED"
    assert body_of(end, "NODE_FAILED", "a")["error"]["noEffect"] is True
    retry = {"retryPolicy": {"maxAttempts": 2, "initialDelayMs": 10}}
    end = await (await shared_engine.start({"nodes": [{**node, **retry}]})).end()
    assert end["nodes"]["a"]["status"] == "COMPENSATED"


async def test_continue_as_new_in_the_middle_of_an_undo(shared_engine: Engine, tmp_path: Path) -> None:
    """Effects are carried over: every key is undone once, in order."""
    count = 12
    nodes = [{"nodeId": f"n{i}", "type": "t-value", "inputs": {"i": i}, **_undo(tmp_path)} for i in range(count)]
    edges = [{"sourceNodeId": f"n{i}", "targetNodeId": f"n{i + 1}"} for i in range(count - 1)]
    plan = {"nodes": [*nodes, FAIL], "edges": [*edges, {"sourceNodeId": f"n{count - 1}", "targetNodeId": "c"}]}
    started = await shared_engine.start(plan, historyLimit=40)
    end = await started.end()
    assert [key.split(":")[1] for key in undone(tmp_path)] == [f"n{i}" for i in reversed(range(count))]
    assert end["run"]["status"] == "FAILED"
    first = await started.engine.client.get_workflow_handle(
        started.handle.id, run_id=started.handle.first_execution_run_id
    ).describe()
    assert first.status is not None
    assert first.status.name == "CONTINUED_AS_NEW"


async def _task(started: Started, node: str) -> dict[str, Any]:
    """Wait until a person is asked about an undo, and return the task as the event tells it."""
    await started.until("HITL_TASK_CREATED", node)
    rows = [row for row in (await started.stored())["events"] if row["type"] == "HITL_TASK_CREATED"]
    return {**rows[-1]["data"], **rows[-1]["body"]}


async def _decide(started: Started, task: dict[str, Any], action: str, **more: Any) -> None:
    decision = {"taskId": task["task"], "action": action, "operator": "ann", "digest": task["digest"], **more}
    await started.handle.execute_update("complete_human_task", decision)


async def test_a_person_repeats_an_undo_that_failed_for_good(shared_engine: Engine, tmp_path: Path) -> None:
    """The run stays COMPENSATING; a retry with other inputs has the same key, and then the rest is undone."""
    plan = _chain(tmp_path, FAIL, failures=100)
    plan["nodes"][1]["compensation"]["retryPolicy"] = {"maxAttempts": 1}
    started = await shared_engine.start(plan)
    task = await _task(started, "b")
    assert (task["kind"], task["actions"]) == ("compensation", ["retry", "resolve", "abandon"])
    assert (task["context"]["failures"], task["error"]["message"]) == (100, "attempt 1")
    held = await started.stored()
    assert (held["run"]["status"], held["nodes"]["b"]["status"]) == ("COMPENSATING", "COMPENSATION_FAILED")
    assert undone(tmp_path) == []
    await _decide(started, task, "retry", inputs={"failures": 0})
    end = await started.end()
    assert undone(tmp_path) == [f"{started.run_id}:b:0:0:undo", f"{started.run_id}:a:0:0:undo"]
    assert {node: row["status"] for node, row in end["nodes"].items()}["b"] == "COMPENSATED"
    assert await shared_engine.chain_problem(started.run_id) is None


@pytest.mark.parametrize(("action", "statuses"), [("resolve", "COMPENSATED"), ("abandon", "SUCCESS")])
async def test_a_person_ends_an_undo_that_failed_for_good(
    shared_engine: Engine, tmp_path: Path, action: str, statuses: str
) -> None:
    """Resolved it was done by hand and what it depends on is undone; abandoned that stays."""
    plan = _chain(tmp_path, FAIL, failures=100)
    plan["nodes"][1]["compensation"]["retryPolicy"] = {"maxAttempts": 1}
    started = await shared_engine.start(plan)
    await _decide(started, await _task(started, "b"), action, notes="called them")
    end = await started.end()
    assert end["run"]["status"] == "FAILED"
    assert end["nodes"]["a"]["status"] == statuses
    told = end["events"][-1]["data"]
    assert told.get("notUndone") == (None if action == "resolve" else ["a", "b"])


async def test_after_a_pivot_failures_wait_for_an_operator(shared_engine: Engine, tmp_path: Path) -> None:
    """Nothing it depends on is undone any more: the run is held, and goes on as an operator decides."""
    nodes = _chain(tmp_path, {"nodeId": "p", "type": "noop", "pivot": True}, {**FAIL, **_undo(tmp_path)})
    started = await shared_engine.start(nodes)
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("cancel", {})
    end = await started.end()
    assert [key.split(":")[1] for key in undone(tmp_path)] == ["c"]
    assert [end["nodes"][node]["status"] for node in "abpc"] == ["SUCCESS", "SUCCESS", "SUCCESS", "COMPENSATED"]


async def _exists(started: Started) -> bool:
    try:
        await started.stored()
    except NoResultFound:
        return False
    return True


async def _status_of(engine: Engine, run_id: str) -> tuple[str, dict[str, str]]:
    stored = await engine.stored(run_id)
    return stored["run"]["status"], {node: row["status"] for node, row in stored["nodes"].items()}


async def test_a_finished_sub_plan_is_undone_by_a_run_of_its_own(shared_engine: Engine, tmp_path: Path) -> None:
    """What it did is undone under its own keys, in reverse order, before what the node depends on."""
    nodes = [{"nodeId": node, "type": "t-value", **_undo(tmp_path)} for node in ("x", "y")]
    inner = {"nodes": nodes, "edges": [{"sourceNodeId": "x", "targetNodeId": "y"}]}
    deep = {"nodes": [{"nodeId": "in", "type": "plan", "plan": inner}]}
    plan = {
        "nodes": [
            {"nodeId": "a", "type": "t-value", **_undo(tmp_path)},
            {"nodeId": "sub", "type": "plan", "plan": deep},
            FAIL,
        ],
        "edges": [{"sourceNodeId": "a", "targetNodeId": "sub"}, {"sourceNodeId": "sub", "targetNodeId": "c"}],
    }
    started = await shared_engine.start(plan)
    end = await started.end()
    run = started.run_id
    root = f"{run}/sub:0:0/in:0:0"
    assert undone(tmp_path) == [f"{root}:y:0:0:undo", f"{root}:x:0:0:undo", f"{run}:a:0:0:undo"]
    assert [end["nodes"][node]["status"] for node in ("a", "sub", "c")] == ["COMPENSATED", "COMPENSATED", "FAILED"]
    undo = body_of(end, "NODE_COMPENSATED", "sub")["undoOutputs"]["runId"]
    assert await _status_of(shared_engine, undo) == ("CANCELLED", {"in": "COMPENSATED"})
    assert await shared_engine.chain_problem(undo) is None
    child = next(row["data"]["childRunId"] for row in end["events"] if row["type"] == "NODE_COMPENSATING")
    assert (await _status_of(shared_engine, child))[0] == "COMPLETED", (
        "it had ended, and what has ended does not change"
    )


async def test_finished_iterations_and_elements_are_undone(shared_engine: Engine, tmp_path: Path) -> None:
    """Of a loop the last iteration first; of a map every element."""
    body = {"type": "t-value", **_undo(tmp_path)}
    plan = {
        "nodes": [
            {"nodeId": "l", "type": "loop", "loop": {"body": body, "until": "iteration == 2", "maxIterations": 5}},
            {"nodeId": "m", "type": "map", "map": {"items": [1, 2, 3], "body": body, "maxConcurrency": 1}},
            FAIL,
        ],
        "edges": [{"sourceNodeId": "l", "targetNodeId": "m"}, {"sourceNodeId": "m", "targetNodeId": "c"}],
    }
    started = await shared_engine.start(plan)
    end = await started.end()
    assert [end["nodes"][node]["status"] for node in ("l", "m")] == ["COMPENSATED", "COMPENSATED"]
    keys = [key.removeprefix(started.run_id) for key in undone(tmp_path)]
    assert sorted(keys[:3]) == [f"/m:0:0:{element}:0:0:undo" for element in range(3)]
    assert keys[3:] == [f"/l:{iteration}:0:body:0:0:undo" for iteration in (2, 1, 0)]


async def test_an_undo_below_that_people_gave_up_is_told_above(shared_engine: Engine, tmp_path: Path) -> None:
    """Below a person abandons it, so the node is COMPENSATION_FAILED and a person decides what that means above."""
    failing = _undo(tmp_path, failures=100)
    failing["compensation"]["retryPolicy"] = {"maxAttempts": 1}
    inner = {"nodes": [{"nodeId": "x", "type": "t-value", **failing}]}
    plan = {
        "nodes": [{"nodeId": "sub", "type": "plan", "plan": inner}, FAIL],
        "edges": [{"sourceNodeId": "sub", "targetNodeId": "c"}],
    }
    started = await shared_engine.start(plan)
    await started.until("NODE_COMPENSATING", "sub")
    child = next(
        row["data"]["childRunId"] for row in (await started.stored())["events"] if row["type"] == "NODE_COMPENSATING"
    )
    undo = undo_run_id(child)
    below = Started(shared_engine, undo, shared_engine.client.get_workflow_handle(f"run-{undo}"))
    async with asyncio.timeout(PATIENCE):
        while not await _exists(below):
            await asyncio.sleep(0.1)
    await _decide(below, await _task(below, "x"), "abandon")
    task = await _task(started, "sub")
    assert task["actions"] == ["resolve", "abandon"]
    await _decide(started, task, "resolve")
    end = await started.end()
    assert end["nodes"]["sub"]["status"] == "COMPENSATED"


async def test_a_redrive_takes_over_the_undo_of_finished_runs_below(shared_engine: Engine, tmp_path: Path) -> None:
    """What a kept loop did is known from the events of the run before, and undone when the redrive is cancelled."""
    body = {"type": "t-value", **_undo(tmp_path)}
    plan = {
        "compensate": "onCancel",
        "nodes": [
            {"nodeId": "l", "type": "loop", "loop": {"body": body, "until": "iteration == 1", "maxIterations": 5}},
            {"nodeId": "c", "type": "t-needs", "inputs": {"x": 1}, "retryPolicy": {"maxAttempts": 1}},
            {"nodeId": "d", "type": "t-hang"},
        ],
        "edges": [
            {"sourceNodeId": "l", "targetNodeId": "c", "mapping": {}},
            {"sourceNodeId": "c", "targetNodeId": "d", "mapping": {}},
        ],
    }
    started = await shared_engine.start(plan)
    assert (await started.end())["run"]["status"] == "FAILED"
    assert undone(tmp_path) == []
    again = await redrive(shared_engine, started.run_id, c={"x": 2})
    await again.until("NODE_STARTED", "d")
    await again.handle.execute_update("cancel", {})
    end = await again.end()
    assert end["nodes"]["l"]["status"] == "COMPENSATED"
    assert undone(tmp_path) == [f"{started.run_id}/l:{iteration}:0:body:0:0:undo" for iteration in (1, 0)]
