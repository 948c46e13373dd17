"""A worker that dies while it prepares the next revision of a plan."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from dalang.plan import Plan, with_derived_ids
from dalang.revision import revise
from dalang.store.engine import transaction
from dalang.store.plans import put_document
from tests.engine.kit import TENANT, node_events
from tests.faults.site import Site, Watch, chain, effect, storing_process
from tests.harness import PATIENCE

PREPARING = "prepare_revision"


async def test_a_revision_survives_the_worker_that_prepared_it(workers: Site, folder: Path) -> None:
    """Another worker prepares it again, once; who asked is answered, and nodes went on meanwhile."""
    plan = chain(effect(folder, "a"), effect(folder, "b", gate=str(folder / "gate")))
    started = await workers.start(plan)
    await workers.stack.add_worker()
    await started.until("NODE_COMPLETED", "a")
    patch = {
        "addNodes": [effect(folder, "c")],
        "addEdges": [{"sourceNodeId": "b", "targetNodeId": "c"}],
    }
    document = with_derived_ids(Plan.model_validate({"name": "test", **plan})).wire()
    revision, problems = revise(document, {"patch": patch})
    assert revision is not None, problems
    try:
        async with transaction(workers.engine.db, TENANT) as blocker:
            await put_document(blocker, TENANT, revision.plan)  # whoever stores the same one waits for our end
            asked = asyncio.create_task(started.handle.execute_update("replan", {"patch": patch}))
            victim = await storing_process(started, kind=PREPARING)
            watch = Watch()
            os.kill(victim, signal.SIGKILL)
            raise _Enough
    except _Enough:
        pass
    answer = await asyncio.wait_for(asked, PATIENCE)
    print(f"\nrevised {watch.seconds():.1f} s after the worker was killed")
    assert answer["revision"] == 2
    (folder / "gate").touch()
    end = await workers.check(
        started, {"nodes": plan["nodes"] + patch["addNodes"], "edges": plan["edges"] + patch["addEdges"]}
    )
    assert [row["type"] for row in end["events"]].count("PLAN_REVISED") == 1
    assert node_events(end, "c") == ["NODE_STARTED", "NODE_COMPLETED"]


class _Enough(Exception):
    """Ends a transaction without keeping anything of it."""
