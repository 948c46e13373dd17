"""Schedules are changed, listed and refused."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from datetime import datetime
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from temporalio.client import Client
from temporalio.service import RPCError

from dalang.store.engine import system_transaction
from tests.api.schedule_kit import NEVER, SCHEDULES, created, stored
from tests.api.world import Api, chain, problem


async def test_change_and_delete(api: Api, temporal_client: Client) -> None:
    """What is left out stays, null is the default; after the delete it is gone from Temporal too."""
    plan = await stored(api, "noop")
    spec = {"cron": ["0 9 * * *"], "timezone": "Asia/Jakarta"}
    address = await created(api, plan, spec, overlap="bufferAll", catchupWindow="1h", note="first", remainingActions=5)
    problem(
        await api("POST", SCHEDULES, json={"scheduleId": address.rpartition("/")[2], "planId": plan, "spec": spec}), 409
    )
    changed = await api("PATCH", address, json={"spec": {"every": "2h", "offset": "5m"}, "catchupWindow": None})
    assert changed.status_code == 200, changed.text
    found = changed.json()
    assert (found["overlap"], found["catchupWindow"], found["note"]) == ("bufferAll", None, "first")
    assert (found["spec"]["every"], found["spec"]["cron"], found["spec"]["timezone"]) == ("2h", [], "UTC")
    assert found["remainingActions"] == 5
    assert {datetime.fromisoformat(one).minute for one in found["nextTimes"]} == {5}
    assert found["updatedBy"] == "operator@acme"
    assert (await api("PATCH", address, json={"remainingActions": None})).json()["remainingActions"] is None
    assert (await api("DELETE", address)).status_code == 204
    problem(await api("GET", address), 404)
    problem(await api("DELETE", address), 404)
    problem(await api("PATCH", address, json={}), 404)
    name = address.rpartition("/")[2]
    async for one in await temporal_client.list_schedules():
        assert f"/{name}/" not in one.id


async def test_lists_page_and_filter(api: Api) -> None:
    """By id, a page at a time, by plan if wanted, each with its next times."""
    first, second = await stored(api, "noop"), await stored(api, "noop")
    for name, plan in (("c", first), ("a", first), ("b", second)):
        await created(api, plan, {"every": "1h"}, scheduleId=name)
    page = await api.get(f"{SCHEDULES}?limit=2")
    assert [one["scheduleId"] for one in page["items"]] == ["a", "b"]
    assert all(len(one["nextTimes"]) == 10 for one in page["items"])
    rest = await api.get(f"{SCHEDULES}?limit=2&cursor={page['next']}")
    assert ([one["scheduleId"] for one in rest["items"]], rest["next"]) == (["c"], None)
    assert [one["scheduleId"] for one in (await api.get(f"{SCHEDULES}?planId={first}"))["items"]] == ["a", "c"]
    problem(await api("GET", f"{SCHEDULES}?limit=1000"), 422)
    problem(await api("GET", f"{SCHEDULES}?cursor=x"), 422)


async def test_every_problem_is_told_at_once(api: Api) -> None:
    """Each with its pointer: times, zone, plan, and whatever is unknown."""
    spec = {"cron": ["0 9 * * *", "61 * * *", "0 0 31 2 *"], "every": "1500ms", "timezone": "Europe/Jakarta"}
    body = {"scheduleId": "a b", "planId": str(uuid.uuid4()), "spec": spec, "overlap": "terminateOther", "x": 1}
    found = problem(await api("POST", SCHEDULES, json={**body, "catchupWindow": "1s"}), 422)
    told = {one["pointer"]: one for one in found["problems"]}
    assert told.keys() == {
        "/scheduleId", "/planId", "/spec/cron/1", "/spec/cron/2", "/spec/every", "/spec/timezone", "/overlap", "/x",
        "/catchupWindow",
    }  # fmt: skip
    assert told["/planId"]["code"] == "UNKNOWN_PLAN"
    assert "Asia/Jakarta" in told["/spec/timezone"]["message"]
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    plan = await stored(api, "noop", inputs=schema)
    body = {"scheduleId": "s", "planId": plan, "inputs": {"n": "x"}, "spec": {"calendar": {"hour": 24}}}
    found = problem(await api("POST", SCHEDULES, json=body), 422)
    assert {one["pointer"] for one in found["problems"]} >= {"/inputs/n", "/spec/calendar/0/hour"}
    found = problem(
        await api("POST", SCHEDULES, json={**body, "inputs": {"n": 1}, "planVersion": "7", "spec": NEVER}), 422
    )
    assert [(one["pointer"], one["code"]) for one in found["problems"]] == [("/planVersion", "UNKNOWN_VERSION")]
    problem(await api("POST", SCHEDULES, json={"scheduleId": "s", "planId": plan, "inputs": {"n": 1}, "spec": {}}), 422)
    assert (await api.get(SCHEDULES))["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"from": "2025-01-02T00:00:00Z", "to": "2025-01-01T00:00:00Z"},
        {"from": "2025-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z"},
        {"from": "2025-01-01", "to": "2025-01-01T00:00:00"},
        {"from": 5, "to": 6},
        {"from": "2999-01-01T00:00:00Z"},
        {},
    ],
)
async def test_a_wrong_backfill_is_refused(api: Api, body: dict[str, Any]) -> None:
    """Backwards, of the future, without a zone, or without times."""
    address = await created(api, await stored(api, "noop"))
    problem(await api("POST", f"{address}/backfill", json=body), 422)


async def test_roles_and_tenants(api: Api) -> None:
    """Viewers read, operators and admins write; another tenant's schedule is not there, and its id is free."""
    plan = await stored(api, "noop")
    address = await created(api, plan, scheduleId="mine")
    calls: list[tuple[str, str, Any]] = [("PATCH", address, {"note": "x"}), ("DELETE", address, None)]
    backfill = {"from": "2025-01-01T00:00:00Z", "to": "2025-01-02T00:00:00Z"}
    calls += [("POST", f"{address}/{part}", {}) for part in ("pause", "resume", "trigger")]
    calls += [("POST", f"{address}/backfill", backfill)]
    for method, path, body in calls:
        more = {} if body is None else {"json": body}
        for role in ("viewer", "approver"):
            problem(await api(method, path, as_=("acme", role), **more), 403)
        problem(await api(method, path, as_=("globex", "admin"), **more), 404)
    problem(await api("POST", SCHEDULES, as_=("acme", "viewer"), json={}), 403)
    assert (await api.get(address, as_=("acme", "viewer")))["scheduleId"] == "mine"
    assert len((await api.get(SCHEDULES, as_=("acme", "viewer")))["items"]) == 1
    problem(await api("GET", address, as_=("globex", "admin")), 404)
    assert (await api.get(SCHEDULES, as_=("globex", "admin")))["items"] == []
    body = {"scheduleId": "mine", "planId": plan, "spec": {"every": "1h"}}
    found = problem(await api("POST", SCHEDULES, as_=("globex", "admin"), json=body), 422)
    assert found["problems"][0]["code"] == "UNKNOWN_PLAN"
    theirs = await api("POST", "/orchestrator/plans", as_=("globex", "admin"), json=chain("noop"))
    body["planId"] = theirs.json()["planId"]
    assert (await api("POST", SCHEDULES, as_=("globex", "admin"), json=body)).status_code == 201
    assert (await api.get(address))["planId"] == plan
    assert (await api("DELETE", address, as_=("acme", "admin"))).status_code == 204
    assert (await api.get(address, as_=("globex", "viewer")))["scheduleId"] == "mine"


async def test_without_temporal_nothing_is_changed(app: FastAPI, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 for whatever needs it, and no row is left."""
    plan = await stored(api, "noop")
    services = app.state.services
    away = services.settings.model_copy(update={"temporal_address": "127.0.0.1:1"})
    monkeypatch.setattr(services.temporal, "settings", away)
    monkeypatch.setattr(services.temporal, "_client", None)  # whatever runs in the background may have connected
    body = {"scheduleId": "s", "planId": plan, "spec": {"every": "1h"}}
    problem(await api("POST", SCHEDULES, json=body), 503)
    problem(await api("GET", SCHEDULES), 503)
    async with system_transaction(services.engine) as conn:
        assert (await conn.execute(text("SELECT count(*) FROM schedules"))).scalar_one() == 0


async def test_what_temporal_refuses_leaves_no_row(app: FastAPI, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal while the row is being written takes it back."""
    plan = await stored(api, "noop")

    async def refuse(*_: Any, **__: Any) -> Awaitable[None]:
        raise RPCError("no", 14, b"")  # type: ignore[arg-type]  # UNAVAILABLE

    monkeypatch.setattr(Client, "create_schedule", refuse)
    problem(await api("POST", SCHEDULES, json={"scheduleId": "s", "planId": plan, "spec": {"every": "1h"}}), 503)
    async with system_transaction(app.state.services.engine) as conn:
        assert (await conn.execute(text("SELECT count(*) FROM schedules"))).scalar_one() == 0
