"""What handlers report, on its way through attempts, stops and events."""

from __future__ import annotations

from typing import Any

from tests.engine.kit import Engine, Started

FAST = {"initialDelayMs": 10, "maxAttempts": 3}


def of(ended: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in ended["events"] if one["type"] == kind)["data"]
    return found


async def test_all_attempts_count(shared_engine: Engine) -> None:
    """Each attempt goes on counting from the one before it, whether the last one succeeds or fails."""
    node = {"nodeId": "a", "type": "t-uses", "retryPolicy": FAST}
    ended = await (await shared_engine.start({"nodes": [{**node, "inputs": {"fails": 2}}]})).end()
    assert of(ended, "NODE_COMPLETED")["usage"] == {"tokens": 30, "cost": 0.03}
    ended = await (await shared_engine.start({"nodes": [{**node, "inputs": {"fails": 3}}]})).end()
    assert of(ended, "NODE_FAILED")["usage"] == {"tokens": 30, "cost": 0.03}


async def test_what_is_stopped_counts(shared_engine: Engine) -> None:
    """A cancelled attempt tells what it has used."""
    node = {"nodeId": "a", "type": "t-uses", "inputs": {"hangs": True}}
    started: Started = await shared_engine.start({"nodes": [node]})
    await started.until("NODE_STARTED")
    await started.handle.signal("cancel", {"reason": "enough"})
    ended = await started.end()
    assert of(ended, "NODE_CANCELLED").get("usage") in ({"tokens": 10, "cost": 0.01}, None)


async def test_what_timed_out_counts(shared_engine: Engine) -> None:
    """A handler that is out of time has used what it has used."""
    node = {"nodeId": "a", "type": "t-uses", "inputs": {"hangs": True}, "timeouts": {"startToClose": "1s"}}
    started = await shared_engine.start({"nodes": [{**node, "retryPolicy": {"maxAttempts": 1}}]})
    assert of(await started.end(), "NODE_FAILED")["usage"] == {"tokens": 10, "cost": 0.01}
