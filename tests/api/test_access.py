"""Tokens, roles and tenants; request ids; health without a token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI

from dalang.api.app import create_app
from dalang.settings import Settings
from dalang.store.engine import system_transaction
from dalang.store.tokens import create_token, revoke_token
from tests.api.world import Api, chain, problem

RUN = "/orchestrator/runs/3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11"


async def test_nothing_is_open_but_health_and_docs(app: FastAPI, api: Api) -> None:
    """Every route of the document asks for a token, before it looks at anything else."""
    for path, item in app.openapi()["paths"].items():
        for method in item:
            address = path.replace("{runId}", "x").replace("{planId}", "x").replace("{nodeId}", "x")
            response = await api(method.upper(), address, as_=None, content=b"{" if method == "post" else None)
            if path.startswith("/health"):
                assert response.status_code in (200, 503)
                continue
            if "/callbacks/" in path:  # the address itself is the token
                problem(response, 404)
                continue
            problem(response, 401)
            assert response.headers["www-authenticate"] == 'Bearer realm="dalang"'


@pytest.mark.parametrize("given", ["Bearer wrong", "Bearer " + "x" * 5_000, "Basic YTpi", "Bearer", "Bearer \xe9"])
async def test_a_wrong_token_is_401(api: Api, given: str) -> None:
    """Whatever is wrong with it."""
    headers = {"Authorization": given.encode("latin-1")}
    response = await api("GET", "/orchestrator/runs", as_=None, headers=headers)
    problem(response, 401)
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_expired_and_revoked_tokens_are_401(app: FastAPI, api: Api) -> None:
    """As soon as the short memory of the process has passed; expiry at once."""
    services = app.state.services
    services.tokens.seconds = 0
    async with system_transaction(services.engine) as conn:
        past = datetime.now(UTC) - timedelta(seconds=1)
        expired, _ = await create_token(conn, "acme", "old", ["admin"], expires_at=past)
        plain, token = await create_token(conn, "acme", "bob", ["viewer"])
    headers = {"Authorization": f"Bearer {expired}"}
    problem(await api("GET", "/orchestrator/runs", as_=None, headers=headers), 401)
    headers = {"Authorization": f"Bearer {plain}"}
    assert (await api("GET", "/orchestrator/runs", as_=None, headers=headers)).status_code == 200
    async with system_transaction(services.engine) as conn:
        await revoke_token(conn, "acme", token.token_id)
    problem(await api("GET", "/orchestrator/runs", as_=None, headers=headers), 401)


async def test_roles(api: Api) -> None:
    """Everybody reads and validates; only operators and admins start, store and control."""
    writes = [("POST", "/orchestrator/execute"), ("POST", "/orchestrator/plans")]
    writes += [("POST", f"{RUN}/{control}") for control in ("pause", "resume", "cancel")]
    for role in ("viewer", "approver"):
        await api.get("/orchestrator/runs", as_=("acme", role))
        assert (await api.get("/orchestrator/plans", as_=("acme", role)))["items"] == []
        for method, path in writes:
            response = await api(method, path, as_=("acme", role), json={})
            problem(response, 403)
            assert "insufficient_scope" in response.headers["www-authenticate"]
    for role in ("operator", "admin"):
        body = {"plan": chain("noop")}
        assert (await api("POST", "/orchestrator/execute", as_=("acme", role), json=body)).status_code == 202


async def test_another_tenants_things_are_not_there(api: Api) -> None:
    """404 for everything of theirs, whatever the body says, and lists without them."""
    run_id = await api.execute(chain("noop"))
    stored = (await api("POST", "/orchestrator/plans", json=chain("noop"))).json()
    theirs = ("globex", "admin")
    run, plan = f"/orchestrator/runs/{run_id}", f"/orchestrator/plans/{stored['planId']}"
    reads = [run, *(f"{run}/{part}" for part in ("plan", "graph", "verify", "nodes", "nodes/n1", "events"))]
    reads += [f"{run}/events/stream", plan, f"{plan}/versions", f"{plan}/graph"]
    for path in reads:
        problem(await api("GET", path, as_=theirs), 404)
        assert (await api("GET", path.replace("/stream", ""))).status_code == 200
    for control in ("pause", "resume", "cancel"):
        problem(await api("POST", f"{run}/{control}", as_=theirs, json={}), 404)
    body = {"planId": stored["planId"], "tenantId": "acme"}
    problem(await api("POST", "/orchestrator/execute", as_=theirs, json=body), 404)
    assert (await api.get("/orchestrator/runs", as_=theirs))["items"] == []
    assert (await api.get("/orchestrator/plans", as_=theirs))["items"] == []
    assert (await api.get("/orchestrator/runs/counts", as_=theirs))["total"] == 0
    assert 'dalang_runs{status="PENDING",tenant="globex"} 0.0' in (await api("GET", "/metrics", as_=theirs)).text


async def test_request_ids(api: Api) -> None:
    """One that is given comes back, also in problems; one that could forge a log line does not."""
    response = await api("GET", "/orchestrator/nothing", headers={"X-Request-ID": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    assert problem(response, 404)["requestId"] == "abc-1"
    response = await api("GET", "/health/live", headers={"X-Request-ID": "a b"})
    assert len(response.headers["x-request-id"]) == 32


async def test_an_unexpected_error_tells_nothing(app: FastAPI, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 500 has the request's id and no text of the exception."""

    async def fail(*_: object, **__: object) -> None:
        raise KeyError("secret of the house")

    monkeypatch.setattr("dalang.api.runs.count_by_status", fail)
    response = await api("GET", "/orchestrator/runs/counts")
    assert "secret" not in response.text
    assert problem(response, 500)["requestId"] == response.headers["x-request-id"]


@pytest.mark.usefixtures("working")
async def test_ready_when_all_parts_are(api: Api) -> None:
    """Postgres, its migrations, Temporal and a worker."""
    response = await api("GET", "/health/ready", as_=None)
    parts = ("database", "migrations", "temporal", "workers", "backlog", "publisher", "reconciler", "reaper", "keys")
    assert response.json() == {"status": "ready", "checks": dict.fromkeys(parts, "ok")}
    assert response.status_code == 200
    assert (await api("GET", "/health/live", as_=None)).json() == {"status": "up"}


async def test_ready_says_which_part_is_ill(api: Api) -> None:
    """Here it is the worker; an admin also learns what is wrong, since when, and what to do about it."""
    response = await api("GET", "/health/ready", as_=None)
    assert response.status_code == 503
    found = response.json()
    assert [name for name, state in found["checks"].items() if state != "ok"] == ["workers"]
    assert found.keys() == {"status", "checks"}
    assert (await api("GET", "/health/ready")).json() == found
    told = (await api("GET", "/health/ready", as_=("acme", "admin"))).json()["parts"]
    (ill,) = [part for part in told if part["status"] == "ill"]
    assert ill["detail"].startswith("no worker asks for work on the task queue")
    assert "dalang worker" in ill["whatToDo"]
    assert ill["since"]


async def test_without_postgres_everything_is_503(settings: Settings) -> None:
    """A problem with Retry-After, soon, and readiness says so; the process stays alive."""
    away = settings.model_copy(update={"database_url": "postgresql+asyncpg://a:b@127.0.0.1:1/x"})
    app = create_app(away)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api.test") as client,
    ):
        response = await client.get("/orchestrator/runs", headers={"Authorization": "Bearer whatever"})
        problem(response, 503)
        assert int(response.headers["retry-after"]) > 0
        assert "127.0.0.1" not in response.text
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "ill")
        assert (await client.get("/health/live")).status_code == 200


async def test_docs_need_nothing_from_elsewhere(app: FastAPI, api: Api) -> None:
    """The page and its parts come from here, under a policy that forbids anything else."""
    page = await api("GET", "/docs", as_=None)
    assert page.status_code == 200
    assert "http" not in page.text.replace("https://www.w3.org", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for part in ("docs.js", "docs.css"):
        assert f"docs/{part}" in page.text
        assert (await api("GET", f"/docs/{part}", as_=None)).status_code == 200
    document = (await api("GET", "/openapi.json", as_=None)).json()
    assert document["info"]["title"] == "Dalang"
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    body = document["paths"]["/orchestrator/execute"]["post"]["requestBody"]["content"]["application/json"]
    name = body["schema"]["$ref"].rsplit("/", 1)[1]
    assert "planId" in document["components"]["schemas"][name]["properties"]
