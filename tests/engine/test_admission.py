"""Pools, quotas and agents over real runs: who waits is woken, and what ends gives back, whatever ends it."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text

from dalang.store.engine import system_transaction
from tests.engine.kit import Engine, Started
from tests.harness import PATIENCE

TIGHT = {"initialDelayMs": 50, "maxDelayMs": 50}


async def _execute(engine: Engine, statement: str, **values: Any) -> Any:
    async with system_transaction(engine.db) as conn:
        return await conn.execute(text(statement), values)


async def _pool(engine: Engine, name: str, size: float) -> None:
    row = "INSERT INTO resource_pools (tenant_id, name, size, updated_by) VALUES ('', :name, :size, 'test')"
    await _execute(engine, row, name=name, size=size)


async def _held(engine: Engine, started: Started) -> list[str]:
    rows = await _execute(engine, "SELECT state FROM leases WHERE run_id = :r AND ended_at IS NULL", r=started.run_id)
    return [row.state for row in rows]


def _spans(stored: dict[str, Any]) -> list[tuple[Any, Any]]:
    """(started, ended) of each node, in order."""
    begun = {row["node_id"]: row["at"] for row in stored["events"] if row["type"] == "NODE_STARTED"}
    ended = {row["node_id"]: row["at"] for row in stored["events"] if row["type"] == "NODE_COMPLETED"}
    return sorted((begun[node], ended[node]) for node in begun)


async def test_one_after_the_other_through_a_pool_of_one(shared_engine: Engine) -> None:
    """Two runs of three nodes each share one place, and nobody polls for it."""
    await _pool(shared_engine, "narrow", 1)
    needs = {"requirements": {"pools": {"narrow": 1}}}
    nodes = [{"nodeId": f"n{at}", "type": "t-value", **needs} for at in range(3)]
    plan = {"nodes": [*nodes, {"nodeId": "free", "type": "t-value"}]}
    runs = [await shared_engine.start(plan, limits=["narrow"]) for _ in range(2)]
    ends = [await run.end() for run in runs]
    assert [end["run"]["status"] for end in ends] == ["COMPLETED", "COMPLETED"]
    for end in ends:
        queued = [row["node_id"] for row in end["events"] if row["type"] == "NODE_QUEUED"]
        assert set(queued) == {"n0", "n1", "n2"}
    for run in runs:
        assert await _held(shared_engine, run) == []


async def test_a_failed_attempt_waits_without_holding_anything(shared_engine: Engine) -> None:
    """While a node waits to be repeated another has its place; its attempts are counted over all its leases."""
    await _pool(shared_engine, "single", 1)
    needs = {"requirements": {"pools": {"single": 1}}}
    flaky = {"nodeId": "flaky", "type": "t-flaky", "inputs": {"failures": 2}, "retryPolicy": TIGHT, **needs}
    started = await shared_engine.start({"nodes": [flaky]}, limits=["single"])
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    kinds = [row["type"] for row in end["events"] if row["node_id"] == "flaky"]
    assert kinds.count("NODE_RETRYING") == 2
    attempts = [row["data"]["attempt"] for row in end["events"] if row["type"] == "NODE_STARTED"]
    assert attempts == [1, 2, 3]
    assert [row["attempt"] for row in end["attempts"]] == [1, 2]
    assert await _held(shared_engine, started) == []


async def test_pause_gives_the_place_to_others_and_cancel_gives_everything_back(shared_engine: Engine) -> None:
    await _pool(shared_engine, "desk", 1)
    needs = {"requirements": {"pools": {"desk": 1}}}
    hang = await shared_engine.start({"nodes": [{"nodeId": "h", "type": "t-hang", **needs}]}, limits=["desk"])
    await hang.until("NODE_STARTED", "h")
    waiting = await shared_engine.start({"nodes": [{"nodeId": "w", "type": "t-value", **needs}]}, limits=["desk"])
    await waiting.until("NODE_QUEUED", "w")
    await waiting.handle.execute_update("pause", {})
    assert await _held(shared_engine, waiting) == []
    await hang.handle.execute_update("cancel", {})
    assert (await hang.end())["run"]["status"] == "CANCELLED"
    await waiting.handle.execute_update("resume", {})
    assert (await waiting.end())["run"]["status"] == "COMPLETED"


async def test_more_than_there_is_fails_at_once(shared_engine: Engine) -> None:
    await _pool(shared_engine, "small", 1)
    node = {"nodeId": "n", "type": "t-value", "requirements": {"pools": {"small": 2}}}
    end = await (await shared_engine.start({"nodes": [node]}, limits=["small"])).end()
    assert end["run"]["error"]["type"] == "RESOURCE_EXHAUSTED"
    assert "it needs 2 of pool small, which has 1 in all" in end["run"]["error"]["message"]


async def test_a_terminated_run_gives_back_when_its_nodes_must_have_ended(shared_engine: Engine) -> None:
    await _pool(shared_engine, "lost", 1)
    needs = {"requirements": {"pools": {"lost": 1}}}
    hang = await shared_engine.start({"nodes": [{"nodeId": "h", "type": "t-hang", **needs}]}, limits=["lost"])
    await hang.until("NODE_STARTED", "h")
    await hang.handle.terminate("test")
    gone = "UPDATE execution_runs SET status = 'FAILED', completed_at = now() WHERE run_id = :r"
    await _execute(shared_engine, gone, r=hang.run_id)
    await _execute(shared_engine, "UPDATE leases SET lasts_ms = 1 WHERE run_id = :r", r=hang.run_id)
    after = await shared_engine.start({"nodes": [{"nodeId": "a", "type": "t-value", **needs}]}, limits=["lost"])
    assert (await after.end())["run"]["status"] == "COMPLETED"


async def test_a_signal_that_says_nonsense_of_leases_is_recorded(shared_engine: Engine) -> None:
    started = await shared_engine.start({"nodes": [{"nodeId": "h", "type": "t-hang"}]})
    await started.until("NODE_STARTED", "h")
    for payload in (
        None,
        5,
        {"leases": 5},
        {"leases": [{}]},
        {"leases": [{"nodeId": "x", "ask": 1, "state": "GRANTED"}]},
    ):
        await started.handle.signal("leases", payload)
    async with asyncio.timeout(PATIENCE):
        while [row["type"] for row in (await started.stored())["events"]].count("REQUEST_REJECTED") < 5:
            await asyncio.sleep(0.05)
    await started.handle.execute_update("cancel", {})
    await started.end()
