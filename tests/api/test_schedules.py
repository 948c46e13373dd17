"""Schedules on a real Temporal and a real worker: times, overlaps, pauses, what is started, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from temporalio.client import Client, ScheduleActionStartWorkflow, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from dalang import temporal
from dalang.activities import scheduled_run
from dalang.launch import Launcher
from dalang.settings import Settings
from dalang.store.engine import system_transaction
from dalang.worker import worker
from tests.api import world
from tests.api.schedule_kit import HOURLY, created, stored
from tests.api.world import Api, chain
from tests.harness import PATIENCE


async def until(
    api: Api, address: str, holds: Callable[[dict[str, Any]], Any], within: float = PATIENCE
) -> dict[str, Any]:
    """Wait until a schedule is as it should be; return it."""
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(within):
            while not found or not holds(found):
                found = await api.get(address)
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {within} s: {found}")
    return found


def ended(count: int) -> Callable[[dict[str, Any]], bool]:
    """So many runs were started, and all of them have ended."""
    return lambda found: len(found["lastRuns"]) == count and all(run["completedAt"] for run in found["lastRuns"])


async def idle(api: Api, temporal_client: Client, address: str) -> dict[str, Any]:
    """Wait until Temporal's schedule, too, knows that nothing runs any more; return the schedule."""
    name = unquote((await api.get(address))["links"]["temporal"].rpartition("/")[2])
    async with asyncio.timeout(PATIENCE):
        while (await temporal_client.get_schedule_handle(name).describe()).info.running_actions:
            await asyncio.sleep(0.05)
    found: dict[str, Any] = await api.get(address)
    return found


def running(count: int) -> Callable[[dict[str, Any]], bool]:
    """So many runs are RUNNING."""
    return lambda found: sum(run["status"] == "RUNNING" for run in found["lastRuns"]) == count


async def trigger(api: Api, address: str, **body: Any) -> None:
    """Start by hand. Temporal names what it starts by the second, so two starts are a second apart."""
    await asyncio.sleep(1 - datetime.now(UTC).microsecond / 1e6)
    response = await api("POST", f"{address}/trigger", json=body)
    assert response.status_code == 202, response.text


@pytest.fixture
def gate() -> str:
    """A gate that is shut."""
    name = uuid.uuid4().hex
    world.gates[name] = asyncio.Event()
    return name


async def gated(api: Api, gate: str, **more: Any) -> str:
    """A schedule whose runs wait at the gate."""
    plan = chain("api-test-gate", name=f"gated-{gate[:8]}")
    plan["nodes"][0]["inputs"] = {"name": gate}
    response = await api("POST", "/orchestrator/plans", json=plan)
    return await created(api, response.json()["planId"], **more)


# -- what is started, and when -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("working")
async def test_an_interval_starts_runs_of_the_plan(api: Api) -> None:
    """Each at its time, once, with the schedule's inputs and priority, and findable by the schedule; then no more."""
    plan = await stored(api, "api-test-echo", inputs={"type": "object", "properties": {"n": {"default": 1}}})
    address = await created(
        api, plan, {"every": "1s"}, remainingActions=2, inputs={"who": "x"}, priority="high", metadata={"team": "red"}
    )
    found = await until(api, address, ended(2))
    assert (found["remainingActions"], found["counts"]["started"], found["nextTimes"]) == (0, 2, [])
    name = address.rpartition("/")[2]
    listed = (await api.get(f"/orchestrator/runs?scheduleId={name}"))["items"]
    assert [run["runId"] for run in listed] == [run["runId"] for run in found["lastRuns"]]
    run = await api.get(f"/orchestrator/runs/{listed[0]['runId']}")
    assert (run["status"], run["createdBy"], run["priority"]) == ("COMPLETED", f"schedule:{name}", 1)
    assert run["inputs"] == {"who": "x", "n": 1}
    times = {one["metadata"]["scheduledFor"] for one in listed}
    assert len(times) == 2
    assert run["metadata"] == {"team": "red", "scheduleId": name, "scheduledFor": found["lastRun"]["scheduledFor"]}
    assert (await api.get(f"/orchestrator/runs?scheduleId={name}&createdBy=ann"))["items"] == []


@pytest.mark.usefixtures("working")
async def test_a_backfill_starts_the_times_that_have_no_run(api: Api, temporal_client: Client) -> None:
    """Both ends are included, zones keep their summer time, and the same times again start nothing."""
    plan = await stored(api, "noop")
    address = await created(api, plan, {"cron": ["0 9 * * *"], "timezone": "Europe/Berlin"}, paused=True)
    body = {"from": "2025-03-29T08:00:00Z", "to": "2025-03-31T07:00:00Z", "overlap": "allowAll"}
    assert (await api("POST", f"{address}/backfill", json=body)).status_code == 202
    found = await until(api, address, ended(3))
    times = sorted(run["scheduledFor"] for run in found["lastRuns"])
    assert times == ["2025-03-29T08:00:00Z", "2025-03-30T07:00:00Z", "2025-03-31T07:00:00Z"]
    assert {run["status"] for run in found["lastRuns"]} == {"COMPLETED"}
    assert (await api("POST", f"{address}/backfill", json={**body, "to": "2025-04-01T12:00:00Z"})).status_code == 202
    found = await until(api, address, ended(4))
    # Temporal counts a start of what was there already, or does not.
    await until(api, address, lambda now: now["counts"]["started"] >= 4)
    found = await idle(api, temporal_client, address)
    assert len(found["lastRuns"]) == 4


def _matches(at: datetime, minutes: set[int], hours: set[int], day: Callable[[datetime], bool]) -> bool:
    return at.minute in minutes and at.hour in hours and day(at)


@pytest.mark.parametrize(
    ("spec", "minutes", "hours", "day"),
    [
        ({"cron": ["*/20 9-17/4 * * MON-FRI"]}, {0, 20, 40}, {9, 13, 17}, lambda at: at.weekday() < 5),
        ({"cron": ["0 9 13 * FRI"]}, {0}, {9}, lambda at: at.day == 13 or at.weekday() == 4),
        ({"cron": ["5,6 0 1-7 1,JUL *"]}, {5, 6}, {0}, lambda at: at.month in (1, 7) and at.day <= 7),
        ({"cron": ["@weekly"]}, {0}, {0}, lambda at: at.weekday() == 6),
        ({"cron": ["30 4 * * 5-7"]}, {30}, {4}, lambda at: at.weekday() >= 4),
        (
            {"calendar": {"hour": "8,20", "dayOfMonth": 29, "month": "feb"}},
            {0},
            {8, 20},
            lambda at: (at.month, at.day) == (2, 29),
        ),
        (
            {"calendar": [{"minute": 15, "hour": 6, "dayOfWeek": "SAT-SUN", "year": "2020-2090"}]},
            {15},
            {6},
            lambda at: at.weekday() > 4,
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_next_times_are_what_the_expression_says(
    api: Api, spec: dict[str, Any], minutes: set[int], hours: set[int], day: Callable[[datetime], bool]
) -> None:
    """Temporal's next times are those that looking at every minute finds, in the schedule's time zone."""
    zone = ZoneInfo("America/New_York")
    plan = await stored(api, "noop")
    start = datetime(2035, 1, 1, tzinfo=UTC)
    address = await created(api, plan, {**spec, "timezone": "America/New_York", "startAt": start.isoformat()})
    next_times = [datetime.fromisoformat(one) for one in (await api.get(address))["nextTimes"]]
    assert len(next_times) == 10
    at, found = start, []
    while len(found) < 10:
        local = at.astimezone(zone)
        if not day(local):
            at = (local + timedelta(days=1)).replace(hour=0, minute=0).astimezone(UTC)
            continue
        if _matches(local, minutes, hours, day):
            found.append(at)
        at += timedelta(minutes=1)
    assert next_times == found


@pytest.mark.usefixtures("working")
async def test_the_highest_version_is_that_of_the_moment(api: Api) -> None:
    """Without a version each start takes the highest there is; with one it stays with that."""
    plan = await stored(api, "noop", name="grows", version="1.0.0")
    newest, fixed = await created(api, plan), await created(api, plan, planVersion="1.0.0")
    await trigger(api, newest)
    await until(api, newest, ended(1))
    assert await stored(api, "noop", "noop", name="grows", version="1.1.0") == plan
    await trigger(api, newest)
    await trigger(api, fixed)
    found = await until(api, newest, ended(2))
    assert [run["planVersion"] for run in found["lastRuns"]] == ["1.1.0", "1.0.0"]
    assert (await until(api, fixed, ended(1)))["lastRun"]["planVersion"] == "1.0.0"


@pytest.mark.usefixtures("working")
async def test_inputs_that_do_not_fit_any_more_are_told_by_the_schedule(api: Api) -> None:
    """No run is made, the schedule shows why and pauses if it is to; the next good start clears it."""
    plan = await stored(api, "noop", name="asks", version="1.0.0")
    address = await created(api, plan, pauseOnFailure=True)
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    await stored(api, "noop", name="asks", version="2.0.0", inputs=schema)
    await trigger(api, address)
    found = await until(api, address, lambda now: now["lastError"] and now["paused"])
    error = found["lastError"]
    assert (error["type"], [one["pointer"] for one in error["problems"]]) == ("VALIDATION_ERROR", ["/inputs"])
    assert "city" in error["message"]
    assert (found["lastRuns"], found["nextTimes"]) == ([], [])
    assert "paused" in found["pausedReason"]
    assert (await api("PATCH", address, json={"inputs": {"city": "Solo"}})).status_code == 200
    assert (await api("POST", f"{address}/resume")).json()["paused"] is False
    await trigger(api, address)
    found = await until(api, address, ended(1))
    assert (found["lastError"], found["lastRun"]["status"], found["paused"]) == (None, "COMPLETED", False)


# -- overlap, pause, failure -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("working")
async def test_skip_starts_nothing_while_a_run_goes_on(api: Api, temporal_client: Client, gate: str) -> None:
    """The scheduled workflow lasts as long as the run, so Temporal's policy is about runs."""
    address = await gated(api, gate)
    await trigger(api, address)
    await until(api, address, running(1))
    await trigger(api, address)
    await until(api, address, lambda now: now["counts"]["skipped"] == 1)
    world.gates[gate].set()
    await until(api, address, ended(1))
    found = await idle(api, temporal_client, address)
    assert found["counts"] == {"started": 1, "running": 0, "skipped": 1, "missed": 0}


@pytest.mark.usefixtures("working")
async def test_buffer_one_starts_one_more_when_the_run_has_ended(api: Api, gate: str) -> None:
    """Of three starts during a run one is kept, and it begins after the end of the run."""
    address = await gated(api, gate, spec={"cron": ["0 9 * * *"]}, overlap="bufferOne")
    await trigger(api, address)
    await until(api, address, running(1))
    body = {"from": "2025-01-01T00:00:00Z", "to": "2025-01-03T12:00:00Z", "overlap": "bufferOne"}
    assert (await api("POST", f"{address}/backfill", json=body)).status_code == 202
    await until(api, address, lambda now: now["counts"]["skipped"] == 2)
    assert len((await api.get(address))["lastRuns"]) == 1
    world.gates[gate].set()
    second, first = (await until(api, address, ended(2)))["lastRuns"]
    assert first["completedAt"] <= second["createdAt"]
    assert second["scheduledFor"] == "2025-01-01T09:00:00Z"


@pytest.mark.usefixtures("working")
async def test_allow_all_runs_side_by_side(api: Api, gate: str) -> None:
    """Three times at once are three runs at once."""
    address = await gated(api, gate, spec=HOURLY, overlap="allowAll")
    body = {"from": "2025-01-01T00:00:00Z", "to": "2025-01-01T02:00:00Z", "overlap": "allowAll"}
    assert (await api("POST", f"{address}/backfill", json=body)).status_code == 202
    found = await until(api, address, running(3))
    assert found["counts"]["running"] == 3
    world.gates[gate].set()
    assert {run["status"] for run in (await until(api, address, ended(3)))["lastRuns"]} == {"COMPLETED"}


@pytest.mark.usefixtures("working")
async def test_cancel_other_ends_the_run_in_order_first(api: Api, temporal_client: Client, gate: str) -> None:
    """The run before ends CANCELLED, told by whom, its finally nodes run, and only then the next one begins."""
    plan = chain("api-test-gate", name=f"gated-{gate[:8]}")
    plan["nodes"][0]["inputs"] = {"name": gate}
    plan["finally"] = [{"nodeId": "clean", "type": "noop"}]
    stored_plan = (await api("POST", "/orchestrator/plans", json=plan)).json()["planId"]
    address = await created(api, stored_plan, overlap="cancelOther", pauseOnFailure=True)
    await trigger(api, address)
    await until(api, address, running(1))
    await trigger(api, address)
    found = await until(api, address, lambda now: len(now["lastRuns"]) == 2 and running(1)(now))
    second, first = found["lastRuns"]
    assert (first["status"], second["status"]) == ("CANCELLED", "RUNNING")
    assert first["completedAt"] <= second["createdAt"]
    run = f"/orchestrator/runs/{first['runId']}"
    asked = (await api.get(f"{run}/events?type=PLAN_CANCEL_REQUESTED"))["items"]
    assert asked[0]["data"]["operator"] == f"schedule:{address.rpartition('/')[2]}"
    assert (await api.get(f"{run}/nodes/clean"))["status"] == "SUCCESS"
    world.gates[gate].set()
    await until(api, address, ended(2))
    found = await idle(api, temporal_client, address)
    assert (found["lastRun"]["status"], found["paused"]) == ("COMPLETED", False)


@pytest.mark.usefixtures("working")
async def test_pause_on_failure(api: Api, temporal_client: Client) -> None:
    """A run that FAILED pauses the schedule; one that an operator cancelled does not."""
    address = await created(api, await stored(api, "api-test-broken"), pauseOnFailure=True)
    await trigger(api, address)
    found = await until(api, address, lambda now: now["paused"])
    assert (found["lastRun"]["status"], found["lastRun"]["errorMessage"]) == ("FAILED", "it is broken")
    assert found["lastError"] is None
    nap = {"name": "naps", "nodes": [{"nodeId": "n", "type": "sleep", "inputs": {"seconds": 90}}]}
    plan = (await api("POST", "/orchestrator/plans", json=nap)).json()["planId"]
    other = await created(api, plan, pauseOnFailure=True)
    await trigger(api, other)
    run = (await until(api, other, running(1)))["lastRun"]["runId"]
    assert (await api("POST", f"/orchestrator/runs/{run}/cancel")).status_code == 200
    found = await idle(api, temporal_client, other)
    assert (found["lastRun"]["status"], found["paused"]) == ("CANCELLED", False)


@pytest.mark.usefixtures("working")
async def test_pause_and_resume(api: Api) -> None:
    """While it is paused nothing is due and what is triggered runs; afterwards it goes on. The reason is shown."""
    address = await created(api, await stored(api, "noop"), {"every": "1s"}, paused=True, overlap="allowAll")
    assert (await api.get(address))["nextTimes"] == []
    await trigger(api, address)
    found = await until(api, address, ended(1))
    assert found["counts"]["started"] == 1
    response = await api("POST", f"{address}/pause", json={"reason": "migration"})
    assert (response.json()["paused"], response.json()["pausedReason"]) == (True, "paused by operator@acme: migration")
    resumed = (await api("POST", f"{address}/resume")).json()
    assert (resumed["paused"], resumed["pausedReason"]) == (False, None)
    assert resumed["nextTimes"]
    await until(api, address, lambda now: len(now["lastRuns"]) >= 3)
    assert (await api("POST", f"{address}/pause")).status_code == 200


# -- crashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("working")
async def test_a_crash_between_row_and_workflow_makes_no_second_run(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt finds the row by its scheduled time, though the schedule was changed meanwhile."""
    crashed = asyncio.Event()
    go_on = asyncio.Event()
    real = Launcher.start

    async def start(self: Launcher, run: Any, prepared: Any = None) -> bool:
        if not crashed.is_set():
            crashed.set()
            await go_on.wait()
            raise RuntimeError("the worker is gone")
        return await real(self, run, prepared)

    monkeypatch.setattr(Launcher, "start", start)
    address = await created(api, await stored(api, "noop"), inputs={"x": 1})
    await trigger(api, address)
    await crashed.wait()
    assert [run["status"] for run in (await api.get(address))["lastRuns"]] == ["PENDING"]
    assert (await api("PATCH", address, json={"inputs": {"x": 2}})).status_code == 200
    go_on.set()
    found = await until(api, address, ended(1))
    assert (await api.get(f"/orchestrator/runs/{found['lastRun']['runId']}"))["inputs"] == {"x": 1}
    assert found["counts"]["started"] == 1


async def test_another_worker_goes_on_waiting(api: Api, settings: Settings, temporal_client: Client) -> None:
    """A worker that ends hands over what it waits for; the schedule learns of the end from the next one."""
    plan = {"name": "naps", "nodes": [{"nodeId": "n", "type": "sleep", "inputs": {"seconds": 2}}]}
    stored_plan = (await api("POST", "/orchestrator/plans", json=plan)).json()["planId"]
    address = await created(api, stored_plan)
    async with worker(settings):
        await trigger(api, address)
        await until(api, address, running(1))
    async with worker(settings):
        await until(api, address, ended(1))
        found = await idle(api, temporal_client, address)
    assert found["lastRun"]["status"] == "COMPLETED"


@pytest.mark.usefixtures("working")
async def test_a_schedule_without_a_row_removes_itself(
    app: FastAPI, api: Api, temporal_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crash left in Temporal starts nothing."""
    monkeypatch.setattr(scheduled_run, "SETTLE_SECONDS", 0.3)
    address = await created(api, await stored(api, "noop"))
    async with system_transaction(app.state.services.engine) as conn:
        (key,) = (await conn.execute(text("DELETE FROM schedules RETURNING key"))).one()
    handle = temporal_client.get_schedule_handle(f"acme/{address.rpartition('/')[2]}/{key}")
    await handle.trigger()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await handle.describe()
            except RPCError:
                break
            await asyncio.sleep(0.05)
    assert (await api.get("/orchestrator/runs"))["items"] == []


@pytest.mark.usefixtures("working")
async def test_a_schedule_that_is_not_as_its_row_is_put_right(
    app: FastAPI, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that Temporal took and a crash kept from being stored does not last, and its start is not lost."""
    monkeypatch.setattr(scheduled_run, "SETTLE_SECONDS", 0.3)
    address = await created(api, await stored(api, "noop"), {"cron": ["0 9 * * *"]})
    before = await api.get(address)
    async with system_transaction(app.state.services.engine) as conn:
        row = (await conn.execute(text("SELECT revision, timing FROM schedules"))).one()
    changed = await api("PATCH", address, json={"spec": {"cron": ["30 4 * * *"]}})
    assert changed.json()["nextTimes"] != before["nextTimes"]
    async with system_transaction(app.state.services.engine) as conn:
        undone = text("UPDATE schedules SET revision = :revision, timing = CAST(:timing AS jsonb)")
        await conn.execute(undone, {"revision": row.revision, "timing": json.dumps(row.timing)})
    await trigger(api, address)
    await until(api, address, ended(1))
    assert (await api.get(address))["nextTimes"] == before["nextTimes"]


async def test_waiting_takes_no_slot_of_the_worker(api: Api, settings: Settings) -> None:
    """More scheduled runs than a worker has slots go on for long, and others are served meanwhile."""
    plan = {"name": "long", "nodes": [{"nodeId": "n", "type": "sleep", "inputs": {"seconds": 600}}]}
    stored_plan = (await api("POST", "/orchestrator/plans", json=plan)).json()["planId"]
    address = await created(api, stored_plan, HOURLY, overlap="allowAll")
    async with worker(settings.model_copy(update={"max_concurrent_activities": 2})):
        body = {"from": "2025-01-01T00:00:00Z", "to": "2025-01-01T04:00:00Z", "overlap": "allowAll"}
        assert (await api("POST", f"{address}/backfill", json=body)).status_code == 202
        found = await until(api, address, running(5))
        assert (await api.ended(await api.execute(chain("noop", "noop"))))["status"] == "COMPLETED"
        for run in found["lastRuns"]:
            assert (await api("POST", f"/orchestrator/runs/{run['runId']}/cancel")).status_code == 200
        await until(api, address, ended(5))


async def test_a_schedule_that_temporal_lost_is_made_anew(app: FastAPI, api: Api, temporal_client: Client) -> None:
    """When it is looked at; the row says how."""
    address = await created(api, await stored(api, "noop"), {"cron": ["0 9 * * *"]})
    before = await api.get(address)
    async with system_transaction(app.state.services.engine) as conn:
        (key,) = (await conn.execute(text("SELECT key FROM schedules"))).one()
    handle = temporal_client.get_schedule_handle(f"acme/{address.rpartition('/')[2]}/{key}")
    made = await handle.describe()
    starts = made.schedule.action
    assert isinstance(starts, ScheduleActionStartWorkflow)
    for attributes in (made.typed_search_attributes, starts.typed_search_attributes):
        assert attributes.get(temporal.TENANT) == "acme"
    await handle.delete()
    assert (await api.get(address))["nextTimes"] == before["nextTimes"]


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize("given", [(), (None,), ({"tenantId": 5},), (1, 2, 3)], ids=str)
async def test_a_scheduled_workflow_with_other_input_ends(
    temporal_client: Client, settings: Settings, given: tuple[Any, ...]
) -> None:
    """Whoever starts it by hand with nonsense gets an answer, not a workflow task that fails for ever."""
    handle = await temporal_client.start_workflow(
        "ScheduledRun",
        args=given,
        id=f"x-{uuid.uuid4()}",
        task_queue=settings.task_queue,
    )
    with contextlib.suppress(RPCError):  # it may have ended by then
        await handle.signal("nonsense", args=[1, 2])
    with pytest.raises(WorkflowFailureError) as failed:
        await asyncio.wait_for(handle.result(), PATIENCE)
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "INVALID_INPUT"
