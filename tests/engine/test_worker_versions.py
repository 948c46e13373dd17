"""Versioned workers: what becomes of runs that began on one build when another becomes current."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.service import RPCError, RPCStatusCode

from dalang.settings import Settings
from dalang.worker import worker
from tests.engine.kit import Engine, Started, engine
from tests.harness import PATIENCE

PLAN = {
    "nodes": [
        {"nodeId": "before", "type": "t-value"},
        {"nodeId": "wait", "type": "event", "inputs": {"name": "go"}},
        {"nodeId": "after", "type": "t-value"},
    ],
    "edges": [
        {"sourceNodeId": "before", "targetNodeId": "wait"},
        {"sourceNodeId": "wait", "targetNodeId": "after"},
    ],
}


@pytest.fixture
async def idle(settings: Settings) -> AsyncIterator[Engine]:
    async with engine(settings, with_worker=False) as ready:
        yield ready


async def make_current(it: Engine, build: str) -> None:
    """Make a build the current one, as soon as Temporal has heard of it."""
    name = it.settings.task_queue
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=it.client.namespace, deployment_name=name, build_id=build
    )
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await it.client.workflow_service.set_worker_deployment_current_version(request)
            except RPCError as error:
                if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                    raise
                await asyncio.sleep(0.05)
            else:
                return


def builds(stored: dict[str, object]) -> dict[str, str]:
    events: list[dict[str, object]] = stored["events"]  # type: ignore[assignment]
    return {
        str(one["node_id"]): one["data"]["made"]["build"]  # type: ignore[index]
        for one in events
        if "made" in one["data"]  # type: ignore[operator]
    }


@pytest.mark.parametrize("versioning", ["pinned", "auto-upgrade"])
async def test_a_run_that_began_on_one_build_ends_when_another_is_current(idle: Engine, versioning: str) -> None:
    """Pinned it ends on its build, though others begin on the new one; else it goes on with the new build."""
    versioned = {"worker_deployment": idle.settings.task_queue, "worker_versioning": versioning}
    async with AsyncExitStack() as parts:
        first = await parts.enter_async_context(AsyncExitStack())
        await first.enter_async_context(worker(idle.settings.model_copy(update={**versioned, "build_id": "1"})))
        await make_current(idle, "1")
        old = await idle.start(PLAN)
        await old.until("NODE_WAITING", "wait")
        second = idle.settings.model_copy(update={**versioned, "build_id": "2"})
        await parts.enter_async_context(worker(second))
        await make_current(idle, "2")
        if versioning == "auto-upgrade":
            await first.aclose()  # nobody needs it any more
        new = await idle.start(PLAN)
        for one in (old, new):
            await go(one)
        ends = [await one.end() for one in (old, new)]
    assert [end["run"]["status"] for end in ends] == ["COMPLETED", "COMPLETED"]
    went_on = "1" if versioning == "pinned" else "2"
    assert [builds(end) for end in ends] == [{"before": "1", "after": went_on}, {"before": "2", "after": "2"}]


async def go(run: Started) -> None:
    await run.until("NODE_WAITING", "wait")
    await run.handle.signal("external_event", {"name": "go"})
