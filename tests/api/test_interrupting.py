"""Pause by interrupt over REST, and what is told of checkpoints."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from dalang.nodes import NodeContext, node
from tests.api.world import Api, chain, gates, problem
from tests.harness import PATIENCE

RUNS = "/orchestrator/runs"


@node("api-test-checkpoint")
async def checkpoint(ctx: NodeContext, name: str) -> dict[str, Any]:
    """Leave a state and wait until the test opens the gate, of which this is told by progress."""
    ctx.checkpoint({"n": 1})
    ctx.progress("left")
    while not gates[name].is_set():
        await asyncio.sleep(0.02)
    return {"restored": ctx.restored}


@pytest.fixture
def gate() -> Iterator[str]:
    """The name of a gate that is closed, and opened after the test whatever happens."""
    name = uuid.uuid4().hex
    gates[name] = asyncio.Event()
    yield name
    gates[name].set()


@pytest.mark.usefixtures("working")
async def test_interrupt_and_resume(api: Api, gate: str) -> None:
    """The node goes back to PENDING and on from its checkpoint, whose size and time are shown, not the state itself."""
    plan = chain("api-test-checkpoint")
    plan["nodes"][0]["inputs"] = {"name": gate}
    run_id = await api.execute(plan)
    address = f"{RUNS}/{run_id}"
    async with asyncio.timeout(PATIENCE):
        while (live := (await api.get(f"{address}/nodes/n1"))["live"]) is None or not (
            live["checkpoint"] and live["progress"]  # one heartbeat may bring the one, and the next the other
        ):
            await asyncio.sleep(0.05)
    assert (live["checkpoint"]["size"], live["checkpoint"]["attempt"], live["progress"]["message"]) == (7, 1, "left")
    for bad in ("freeze", 1, None):
        problem(await api("POST", f"{address}/pause", json={"mode": bad}), 422)
    paused = await api("POST", f"{address}/pause", json={"mode": "interrupt", "reason": "deploy"})
    assert (paused.status_code, paused.json()["status"]) == (200, "PAUSED"), paused.text
    node = await api.reached(run_id, "n1", "PENDING")
    assert (node["checkpoint"]["size"], node["live"]) == (7, None)
    (event,) = (await api.get(f"{address}/events", params={"type": "NODE_INTERRUPTED"}))["items"]
    assert event["data"] == {"status": "PENDING", "checkpointBytes": 7}
    (event,) = (await api.get(f"{address}/events", params={"type": "PLAN_PAUSED"}))["items"]
    assert event["data"]["mode"] == "interrupt"
    gates[gate].set()
    assert (await api("POST", f"{address}/resume")).status_code == 200
    assert (await api.ended(run_id))["status"] == "COMPLETED"
    assert (await api.get(f"{address}/nodes/n1"))["outputs"] == {"restored": {"n": 1}}


@pytest.mark.usefixtures("working")
async def test_what_drains_too_long_is_interrupted(api: Api, gate: str) -> None:
    """The second pause says interrupt; a third one has nothing to add and is taken all the same."""
    plan = chain("api-test-gate", "noop")
    plan["nodes"][0]["inputs"] = {"name": gate}
    run_id = await api.execute(plan)
    await api.reached(run_id, "n1", "RUNNING")
    address = f"{RUNS}/{run_id}"
    assert (await api("POST", f"{address}/pause", json={"mode": "drain"})).status_code == 200
    problem(await api("POST", f"{address}/pause"), 409)
    for _ in range(2):
        assert (await api("POST", f"{address}/pause", json={"mode": "interrupt"})).status_code == 200
    await api.reached(run_id, "n1", "PENDING")
    assert (await api("POST", f"{address}/cancel")).status_code == 200
    run = await api.ended(run_id)
    assert (run["status"], run["nodeStatusCounts"]) == ("CANCELLED", {"CANCELLED": 2})
