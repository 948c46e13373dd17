"""What a handler leaves with ``ctx.checkpoint`` reaches the attempt that goes on with its work."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dalang.nesting import child_run_id
from dalang.store.engine import transaction
from dalang.store.nodes import list_attempts
from tests.engine.kit import TENANT, Engine, body_of
from tests.harness import PATIENCE

FAST = {"initialDelayMs": 10, "maxDelayMs": 20}


def steps_node(path: Path, kind: str = "t-steps", **inputs: Any) -> dict[str, Any]:
    """A node that notes its steps in ``path``."""
    return {"nodeId": "a", "type": kind, "inputs": {"path": str(path), **inputs}, "retryPolicy": FAST}


def steps_done(path: Path) -> list[int]:
    """The steps that were done, in order."""
    return [int(line.split()[0]) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("kind", "kilobytes"), [("t-steps", 0), ("t-steps", 100), ("t-steps-thread", 0)])
async def test_the_attempt_after_a_failed_one_goes_on(
    shared_engine: Engine, tmp_path: Path, kind: str, kilobytes: int
) -> None:
    """A state left right before the failure is there at the next attempt: small, large, from a coroutine, a thread."""
    more = {"kilobytes": kilobytes} if kilobytes else {}
    node = steps_node(tmp_path / "log", kind, fail_at=3, **more)
    end = await (await shared_engine.start({"nodes": [node]})).end()
    outputs = body_of(end, "NODE_COMPLETED", "a")["outputs"]
    assert (outputs["begun"], outputs["attempt"]) == (3, 2)
    assert steps_done(tmp_path / "log") == [0, 1, 2, 3, 4]


async def test_a_run_below_a_node_keeps_them_before_its_first_events(shared_engine: Engine, tmp_path: Path) -> None:
    """Its row comes with those; until then a large state waits for it, and so does the failed attempt."""
    inner = {"name": "inner", "nodes": [steps_node(tmp_path / "log", fail_at=3, kilobytes=100)]}
    started = await shared_engine.start({"nodes": [{"nodeId": "below", "type": "plan", "plan": inner}]})
    await started.end()
    assert steps_done(tmp_path / "log") == [0, 1, 2, 3, 4]
    below = UUID(str(child_run_id(started.run_id, "below", 0, 0)))
    async with asyncio.timeout(PATIENCE):
        while True:
            async with transaction(shared_engine.db, TENANT) as conn:
                attempts = await list_attempts(conn, TENANT, below)
            if attempts:
                break
            await asyncio.sleep(0.05)
    assert [one.attempt for one in attempts] == [1]


async def test_a_checkpoint_that_is_no_json_fails_the_node(shared_engine: Engine) -> None:
    """VALIDATION_ERROR names the place; nothing is tried again."""
    end = await (await shared_engine.start({"nodes": [{"nodeId": "a", "type": "t-bad-checkpoint"}]})).end()
    error = body_of(end, "NODE_FAILED", "a")["error"]
    assert (error["type"], error["attempt"]) == ("VALIDATION_ERROR", 1)
    assert "state/list/1 is NaN" in error["message"]
