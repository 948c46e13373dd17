"""What the API refuses, and who administers what, stands in the tenant's second chain, and nobody can fill it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from dalang.settings import Settings
from dalang.signing import new_key
from dalang.store.engine import transaction
from dalang.store.tokens import create_token, revoke_token
from tests.api.world import Api, chain, problem

SYSTEM = "/orchestrator/audit/system"
ADMIN = ("acme", "admin")


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    path = tmp_path / "keys.pem"
    path.write_text(new_key())
    return settings.model_copy(update={"audit_key_file": str(path)})


async def told(app: FastAPI, api: Api, *, as_: tuple[str, str] = ADMIN) -> list[dict[str, Any]]:
    """Return what is recorded so far, the oldest first."""
    await app.state.services.system.write()
    return list(reversed((await api.get(SYSTEM, as_=as_))["items"]))


async def test_refusals_are_told_and_counted(app: FastAPI, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once at once, then counted by the minute; a token that was revoked has an owner, one that never was has none."""
    services = app.state.services
    async with transaction(services.engine, "acme") as conn:
        plain, made = await create_token(conn, "acme", "eve", ["viewer"])
        await revoke_token(conn, "acme", made.token_id)
    for token in (plain, plain, "dalang_never"):
        problem(await api("GET", "/orchestrator/runs", as_=None, headers={"Authorization": f"Bearer {token}"}), 401)
    for _ in range(20):
        problem(await api("POST", "/orchestrator/execute", json={"plan": chain("noop")}, as_=("acme", "viewer")), 403)
    failed, forbidden = await told(app, api)
    assert (failed["type"], failed["actor"]["id"]) == ("AUTHENTICATION_FAILED", "eve")
    assert (forbidden["type"], forbidden["level"]) == ("FORBIDDEN", "WARN")
    assert forbidden["actor"] == {"type": "human", "id": "viewer@acme", "role": "viewer", "tenant": None}
    assert forbidden["data"]["route"] == "/orchestrator/execute"
    monkeypatch.setattr("dalang.system_log.monotonic", lambda: 10.0**9)
    counted = [(one["type"], one["data"]["count"]) for one in (await told(app, api))[2:]]
    assert counted == [("AUTHENTICATION_FAILED", 1), ("FORBIDDEN", 19)]
    assert (await api.get(f"{SYSTEM}/verify", as_=("acme", "viewer")))["valid"]


async def test_a_foreign_thing_is_told_to_its_owner_only(app: FastAPI, api: Api) -> None:
    """Who asked for another tenant's run cannot find out from his own chain that it is there."""
    run_id = await api.execute(chain("noop"))
    problem(await api("GET", f"/orchestrator/runs/{run_id}", as_=("globex", "viewer")), 404)
    [one] = [one for one in await told(app, api) if one["type"] == "FOREIGN_TENANT"]
    assert (one["actor"]["id"], one["actor"]["tenant"]) == ("viewer@globex", "globex")
    assert one["data"]["runId"] == run_id
    assert await told(app, api, as_=("globex", "admin")) == []


async def test_acts_are_recorded_before_they_are_answered(app: FastAPI, api: Api) -> None:
    """Who made which token, and what else is administered; the chain is signed, anchored, and for admins only."""
    token = await api("POST", "/orchestrator/tokens", json={"subject": "kim", "roles": ["admin"]}, as_=ADMIN)
    assert token.status_code == 201, token.text
    done = await api("PUT", "/orchestrator/pools/gpu", json={"size": 2}, as_=ADMIN)
    assert done.status_code in (200, 201), done.text
    problem(await api("PUT", "/orchestrator/pools/gpu", json={"size": "x"}, as_=ADMIN), 422)
    items = list(reversed((await api.get(SYSTEM, as_=ADMIN))["items"]))
    assert [one["data"]["what"] for one in items] == ["tokens", "pools"]
    assert (items[0]["data"]["subject"], items[0]["data"]["roles"]) == ("kim", ["admin"])
    assert token.json()["token"] not in str(items)
    assert items[1]["data"]["name"] == "gpu"
    found = await api.get(f"{SYSTEM}/verify", as_=ADMIN)
    assert (found["valid"], found["signature"], found["events"]) == (True, "VALID", 2)
    problem(await api("GET", SYSTEM, as_=("acme", "operator")), 403)


async def test_a_flood_is_bounded(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """More different refusals than are told apart are counted together; what a database that is away cannot take
    is bounded, too."""
    from dalang.store.system_events import SystemEventType
    from dalang.system_log import Known

    monkeypatch.setattr("dalang.system_log.MAX_WINDOWS", 10)
    monkeypatch.setattr("dalang.system_log.MAX_WAITING", 5)
    log = app.state.services.system
    for number in range(100):
        actor = {"type": "human", "id": f"p{number}", "role": "viewer"}
        log.refused(SystemEventType.FORBIDDEN, Known("acme"), actor, {}, "x")
    assert len(log._windows) == 11
    assert len(log._waiting) == 5
    await asyncio.gather(log.write(), log.write())
    assert log._waiting == []
