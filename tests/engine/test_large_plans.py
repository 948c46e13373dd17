"""Plans whose first workflow task computes for longer than the SDK allows by itself."""

from __future__ import annotations

from temporalio.worker import Worker

from dalang.worker import ACTIVATION_SECONDS, allow_long_activations
from tests.engine import handlers
from tests.engine.kit import Engine, noop_chain


async def test_the_sdk_still_calls_its_deadlock_limit_what_we_set(shared_engine: Engine) -> None:
    """The limit is private to the SDK: a version that names it otherwise must not pass unnoticed."""
    from dalang.workflows.plan_run import PlanRun

    other = Worker(shared_engine.client, task_queue="nobody", workflows=[PlanRun])
    assert other._workflow_worker is not None
    assert other._workflow_worker._deadlock_timeout_seconds == 2
    allow_long_activations(other)
    assert other._workflow_worker._deadlock_timeout_seconds == ACTIVATION_SECONDS


async def test_a_plan_of_thousands_of_nodes_begins_and_is_cancelled(shared_engine: Engine) -> None:
    """20,000 nodes behind one that hangs: the run begins, answers, and ends with every node accounted for."""
    plan = noop_chain(20_000)
    plan["nodes"][0]["type"] = "t-hang"
    assert "t-hang" in handlers.node_types()
    started = await shared_engine.start(plan)
    await started.until("NODE_STARTED", "n0")
    await started.handle.signal("cancel", {"reason": "seen enough"})
    end = await started.end(120)
    assert end["run"]["node_status_counts"] == {"CANCELLED": 20_000}
    assert len(end["nodes"]) == 20_000
    assert await shared_engine.chain_problem(started.run_id) is None
