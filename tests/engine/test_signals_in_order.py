"""Signals that come at once - while no worker is there, or faster than it works - happen in their order."""

from __future__ import annotations

import uuid

from dalang.worker import worker
from tests.engine.kit import Engine


async def test_each_is_judged_by_what_those_before_it_made_of_the_run(shared_engine: Engine) -> None:
    """A resume after a pause that nobody has worked off yet is possible; one too many is refused, in its place."""
    settings = shared_engine.settings.model_copy(update={"task_queue": f"alone-{uuid.uuid4().hex}"})
    alone = Engine(settings, shared_engine.client, shared_engine.db)
    sleeps = {"nodeId": "a", "type": "sleep", "inputs": {"duration": "1s"}}
    async with worker(settings):
        started = await alone.start({"nodes": [sleeps]})
        await started.until("NODE_STARTED", "a")
    for name in ("pause", "resume", "resume", "pause", "resume"):
        await started.handle.signal(name, {"operator": name})
    async with worker(settings):
        end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    told = [row["type"] for row in end["events"]]
    assert told[told.index("PLAN_PAUSED") : -2] == [
        "PLAN_PAUSED",
        "PLAN_RESUMED",
        "REQUEST_REJECTED",
        "PLAN_PAUSED",
        "PLAN_RESUMED",
    ]
