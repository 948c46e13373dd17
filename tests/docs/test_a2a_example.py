"""The example plan for A2A, done by the example agent on the real a2a-sdk server."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import httpx

from dalang.loading import load_plan
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.validation import with_input_defaults
from tests.docs.test_examples import EXAMPLES, running
from tests.docs.test_human_examples import decide, event
from tests.engine.kit import Engine
from tests.harness import PATIENCE

__all__ = ["running"]


@contextlib.asynccontextmanager
async def agent(port: int) -> Any:
    """The example agent, a process of its own."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(EXAMPLES / "a2a_agent.py"), str(port))
    try:
        async with asyncio.timeout(PATIENCE), httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{port}/.well-known/agent-card.json")
                    break
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def test_the_a2a_example_asks_and_books(running: Engine, settings: Settings) -> None:
    """The agent's question is a human task for travellers, and its ticket the run's output."""
    plan = load_plan((EXAMPLES / "a2a.yaml").read_bytes(), name="a2a.yaml").require()
    async with agent(free_port()) as address:
        started = await running.start_plan(plan, dict(with_input_defaults(plan, {"agent": address})))
        assert (await event(started, "HITL_TASK_CREATED", "book"))["group"] == "travellers"
        await decide(started, "book", "answer", "kim", values={"seat": "window"})
        ended = await started.end()
    assert ended["result"]["outputs"] == {"ticket": "window seat, night train"}
    assert await running.chain_problem(started.run_id) is None
