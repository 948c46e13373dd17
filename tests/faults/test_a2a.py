"""Work of agents behind A2A outlives the worker that waited for it."""

from __future__ import annotations

import asyncio

from dalang.stack.ports import free_port
from tests.engine.kit import body_of
from tests.engine.test_a2a import Doer
from tests.faults.site import RETRY, Site
from tests.harness import PATIENCE


async def test_a_worker_that_is_killed_sends_no_second_task(workers: Site) -> None:
    """kill -9 as soon as the agent has the message: the next worker finds its task, by its id or by its message."""
    doer = Doer(free_port())
    await doer.start()
    inputs = {"url": f"{doer.address}/plain", "pollInterval": "50ms", "seconds": 2, "a": 1, "b": 1}
    node = {"nodeId": "call", "type": "a2a", "inputs": inputs, "retryPolicy": RETRY, "timeouts": {"heartbeat": "2s"}}
    started = await workers.start({"nodes": [node]})
    async with asyncio.timeout(PATIENCE):
        while not await doer.seen():
            await asyncio.sleep(0.02)
    await workers.stack.kill("worker")
    await workers.stack.start("worker")
    end = await started.end()
    seen = await doer.seen()
    await doer.kill()
    assert body_of(end, "NODE_COMPLETED")["outputs"]["sum"] == 2
    assert end["nodes"]["call"]["attempt"] == 2
    assert len(seen) == 1
