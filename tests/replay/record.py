"""Record the histories that are missing: ``python -m tests.replay.record [NAME ...]`` (names given are made anew)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from temporalio.client import ScheduleActionExecutionStartWorkflow, WorkflowFailureError

from dalang.nesting import child_run_id
from dalang.plan import Plan
from dalang.scheduling import Schedules, identity
from dalang.settings import Settings
from dalang.stack.supervisor import on_free_ports, stack
from dalang.store.engine import transaction
from dalang.store.plans import put_plan
from dalang.store.pools import put_pool
from dalang.store.schedules import NewSchedule, create_schedule
from dalang.wire import WORKFLOW_ID_PREFIX
from tests.engine.kit import TENANT, Engine, engine
from tests.harness import LOOPBACK_ALLOWED
from tests.model_peer import models_file, provider
from tests.replay.plans import PLANS, SCHEDULED, Recorded, Scheduled

HISTORIES = Path(__file__).parent / "histories"


def path_of(name: str, execution: int) -> Path:
    """Return where the history of the n-th execution of a plan's run is kept."""
    return HISTORIES / (f"{name}.json" if execution == 1 else f"{name}.{execution}.json")


def _anonymous(value: Any) -> Any:
    """Return a history without what names the machine it was made on; replay does not look at it."""
    if isinstance(value, dict):
        return {key: "" if key == "stackTrace" else _anonymous(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_anonymous(item) for item in value]
    return value.replace(socket.gethostname(), "worker") if isinstance(value, str) else value


async def _record(running: Engine, name: str, recorded: Recorded) -> None:
    for pool, size in recorded.pools.items():
        row = {"tenant_id": TENANT, "name": pool, "size": size, "rate": None, "burst": None, "description": ""}
        async with transaction(running.db, TENANT) as conn:
            await put_pool(conn, {**row, "updated_by": "tester"})
    running.delay = recorded.delay
    started = await running.start({"name": name, **recorded.plan}, recorded.inputs, **recorded.state)
    await recorded.act(started)
    with contextlib.suppress(WorkflowFailureError):  # how it ended is in the history
        await started.handle.result()
    await _keep(running, name, started.handle.id)
    if recorded.below is not None:
        child = child_run_id(started.run_id, recorded.below, 0, 0)
        await _keep(running, f"{name}.child", f"{WORKFLOW_ID_PREFIX}{child}")


async def _record_scheduled(running: Engine, name: str, recorded: Scheduled) -> None:
    plan = Plan.model_validate({"name": name, **recorded.plan})
    async with transaction(running.db, TENANT) as conn:
        stored, _ = await put_plan(conn, TENANT, plan, created_by="tester")
        timing = {"spec": {"cron": ["0 0 1 1 *"]}}
        new = NewSchedule(TENANT, name, stored.plan_id, None, timing, "tester", inputs=recorded.inputs)
        row = await create_schedule(conn, new)
        schedules = Schedules(running.client, running.settings)
        await schedules.create(row)
    await schedules.trigger(row, None)
    schedule = running.client.get_schedule_handle(identity(TENANT, name, row.key))
    while not (actions := (await schedule.describe()).info.recent_actions):
        await asyncio.sleep(0.05)
    action = actions[0].action
    assert isinstance(action, ScheduleActionExecutionStartWorkflow)
    handle = running.client.get_workflow_handle(action.workflow_id)
    if recorded.cancel:
        while (await handle.query("status"))["runId"] is None:
            await asyncio.sleep(0.05)
        await handle.cancel()
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()
    await schedule.delete()
    await _keep(running, name, action.workflow_id)


async def _keep(running: Engine, name: str, workflow_id: str) -> None:
    executions = [one async for one in running.client.list_workflows(f"WorkflowId = '{workflow_id}'")]
    executions.sort(key=lambda one: one.start_time)
    for number, execution in enumerate(executions, start=1):
        handle = running.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        document = _anonymous(json.loads((await handle.fetch_history()).to_json()))
        path_of(name, number).write_text(json.dumps(document, separators=(",", ":")) + "\n")
    print(f"{name}: {len(executions)} execution(s)")


async def main(names: list[str]) -> None:
    """Record what is named, or what is missing."""
    missing = [name for name in (*PLANS, *SCHEDULED) if not path_of(name, 1).exists()]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as parts:
        models = str(models_file(Path(folder), parts.enter_context(provider())))
        settings = on_free_ports(Settings(home=Path(folder), egress_allow=LOOPBACK_ALLOWED, models_file=models))
        async with (
            stack(settings, frozenset({"postgres", "temporal"}), durable=False) as running,
            engine(running.settings) as ready,
        ):
            for name in names or missing:
                if name in SCHEDULED:
                    await _record_scheduled(ready, name, SCHEDULED[name])
                else:
                    await _record(ready, name, PLANS[name])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
