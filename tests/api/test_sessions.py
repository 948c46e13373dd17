"""Signing in with a browser: the cookie, what it is good for, and who cannot make use of it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from dalang.api.rates import Rates
from dalang.api.sessions import COOKIE, csrf_of
from dalang.api.ui.sign_in import local_path
from dalang.settings import Settings
from dalang.store.engine import transaction
from dalang.store.tokens import create_token, revoke_token
from tests.api.world import TOKENS, Api, chain, problem

RUNS = "/orchestrator/runs"
SIGN_IN = "/ui/sign-in"
OURS = {"Sec-Fetch-Site": "same-origin"}
OPERATOR = TOKENS["acme", "operator"]


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """What keeps cookies and follows no redirect by itself."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test", timeout=60) as client:
        yield client


async def sign_in(browser: httpx.AsyncClient, token: str = OPERATOR, **form: str) -> httpx.Response:
    return await browser.post(SIGN_IN, data={"token": token, **form}, headers=OURS)


async def ticket_of(api: Api) -> str:
    response = await api("POST", "/orchestrator/sign-in-tickets")
    assert response.status_code == 201, response.text
    made = response.json()
    assert made["url"].endswith(f"/ui/sign-in?ticket={made['ticket']}")
    return str(made["url"].partition("//")[2].partition("/")[2])


async def test_a_token_signs_in_and_the_session_asks_as_its_owner(app: FastAPI, browser: httpx.AsyncClient) -> None:
    """The cookie is out of reach for scripts and other sites; the database does not know it."""
    response = await sign_in(browser, next="/ui/runs?status=FAILED")
    assert (response.status_code, response.headers["location"]) == (303, "/ui/runs?status=FAILED")
    cookie = browser.cookies[COOKIE]
    assert re.search(r"HttpOnly.*SameSite=lax", response.headers["set-cookie"])
    assert "Secure" not in response.headers["set-cookie"]
    assert (await browser.get(RUNS)).status_code == 200
    started = await browser.post(
        "/orchestrator/execute", json={"plan": chain("noop")}, headers={**OURS, "X-Dalang-CSRF": csrf_of(cookie)}
    )
    assert started.status_code == 202, started.text
    run = (await browser.get(f"{RUNS}/{started.json()['runId']}")).json()
    assert run["createdBy"] == "operator@acme"
    async with transaction(app.state.services.engine, "acme") as conn:
        stored = (await conn.execute(text("SELECT * FROM browser_sessions"))).all()
    assert len(stored) == 1
    assert cookie not in str(stored)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Dalang-CSRF": "0" * 64},
        {"X-Dalang-CSRF": "right", "Sec-Fetch-Site": "same-site"},
        {"X-Dalang-CSRF": "right", "Sec-Fetch-Site": "cross-site", "Origin": "http://api.test"},
        {"X-Dalang-CSRF": "right", "Origin": "https://evil.example"},
        {"X-Dalang-CSRF": "right", "Origin": "null"},
    ],
)
async def test_a_cookie_alone_changes_nothing(browser: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """A page of others makes the browser send the cookie; it has neither the value nor the origin."""
    await sign_in(browser)
    if headers.get("X-Dalang-CSRF") == "right":
        headers = {**headers, "X-Dalang-CSRF": csrf_of(browser.cookies[COOKIE])}
    problem(await browser.post("/orchestrator/execute", json={"plan": chain("noop")}, headers=headers), 403)
    assert (await browser.get(RUNS)).json()["items"] == []


async def test_roles_and_tenants_hold_for_sessions(browser: httpx.AsyncClient, api: Api) -> None:
    """A viewer's session starts nothing; another tenant's sees nothing; a bad token is not saved by a good cookie."""
    run_id = await api.execute(chain("noop"))
    await sign_in(browser, TOKENS["acme", "viewer"])
    assert (await browser.get(f"{RUNS}/{run_id}")).status_code == 200
    headers = {**OURS, "X-Dalang-CSRF": csrf_of(browser.cookies[COOKIE])}
    problem(await browser.post("/orchestrator/execute", json={"plan": chain("noop")}, headers=headers), 403)
    problem(await browser.get(RUNS, headers={"Authorization": "Bearer wrong"}), 401)
    await sign_in(browser, TOKENS["globex", "admin"])
    problem(await browser.get(f"{RUNS}/{run_id}"), 404)


async def test_signing_out_ends_the_session(browser: httpx.AsyncClient) -> None:
    """For a copy of the cookie too; nobody else can do it to you."""
    await sign_in(browser)
    cookie = browser.cookies[COOKIE]
    problem(await browser.post("/ui/sign-out", data={"csrf": "x"}, headers=OURS), 403)
    assert (await browser.get(RUNS)).status_code == 200
    response = await browser.post("/ui/sign-out", data={"csrf": csrf_of(cookie)}, headers=OURS)
    assert (response.status_code, response.headers["location"]) == (303, SIGN_IN)
    assert COOKIE not in browser.cookies
    browser.cookies.set(COOKIE, cookie)
    problem(await browser.get(RUNS), 401)


async def test_a_session_ends_with_its_token(app: FastAPI, browser: httpx.AsyncClient) -> None:
    """Revoked, at once; and it ends when the token would."""
    engine = app.state.services.engine
    soon = datetime.now(UTC) + timedelta(minutes=5)
    async with transaction(engine, "acme") as conn:
        plain, token = await create_token(conn, "acme", "bob", ["viewer"], expires_at=soon)
    await sign_in(browser, plain)
    assert (await browser.get(RUNS)).status_code == 200
    async with transaction(engine, "acme") as conn:
        ends = (await conn.execute(text("SELECT expires_at FROM browser_sessions"))).scalar_one()
        assert ends == token.expires_at
        await revoke_token(conn, "acme", token.token_id)
    problem(await browser.get(RUNS), 401)


async def test_an_admin_signs_somebody_out(browser: httpx.AsyncClient, api: Api) -> None:
    """Out of all browsers and by all links; nobody else, and nobody of another tenant."""
    link = await ticket_of(api)
    await sign_in(browser)
    mine = browser.cookies[COOKIE]
    browser.cookies.clear()
    await sign_in(browser, TOKENS["acme", "viewer"])
    shown = await api.get("/orchestrator/sessions", as_=("acme", "admin"))
    assert [(one["subject"], one["byToken"]) for one in shown["items"]] == [
        ("viewer@acme", True),
        ("operator@acme", True),
    ]
    assert mine not in str(shown)
    path = "/orchestrator/sessions?subject=operator@acme"
    problem(await api("DELETE", path, as_=("acme", "operator")), 403)
    problem(await api("DELETE", "/orchestrator/sessions", as_=("acme", "admin")), 422)
    assert (await api("DELETE", path, as_=("globex", "admin"))).json() == {"ended": 0}
    assert (await api("DELETE", path, as_=("acme", "admin"))).json() == {"ended": 1}
    assert (await browser.get(RUNS)).status_code == 200
    browser.cookies.clear()
    browser.cookies.set(COOKIE, mine)
    problem(await browser.get(RUNS), 401)
    assert (await browser.get(f"/{link}")).status_code == 401


@pytest.mark.parametrize("column", ["expires_at", "seen_at"])
async def test_a_session_ends_by_itself(app: FastAPI, browser: httpx.AsyncClient, column: str) -> None:
    """After its longest time, and when nobody uses it."""
    await sign_in(browser)
    engine = app.state.services.engine
    async with transaction(engine, "acme") as conn:
        await conn.execute(text(f"UPDATE browser_sessions SET {column} = {column} - interval '1 day'"))
    problem(await browser.get(RUNS), 401)


async def test_who_uses_a_session_keeps_it(app: FastAPI, browser: httpx.AsyncClient) -> None:
    """Its idle time begins anew; signing in again leaves nothing of the session before."""
    await sign_in(browser)
    before = browser.cookies[COOKIE]
    engine = app.state.services.engine
    async with transaction(engine, "acme") as conn:
        await conn.execute(text("UPDATE browser_sessions SET seen_at = seen_at - interval '1 hour'"))
    assert (await browser.get(RUNS)).status_code == 200
    async with transaction(engine, "acme") as conn:
        idle = (await conn.execute(text("SELECT now() - seen_at FROM browser_sessions"))).scalar_one()
        assert idle < timedelta(minutes=30)
    await sign_in(browser)
    browser.cookies.clear()
    browser.cookies.set(COOKIE, before)
    problem(await browser.get(RUNS), 401)


async def test_a_ticket_signs_in_once(browser: httpx.AsyncClient, api: Api) -> None:
    """As the token's owner; the second time it is too late."""
    address = await ticket_of(api)
    response = await browser.get(f"/{address}&next=/ui/inbox", headers={"Sec-Fetch-Site": "none"})
    assert (response.status_code, response.headers["location"]) == (303, "/ui/inbox")
    assert (await browser.get(RUNS)).status_code == 200
    browser.cookies.clear()
    again = await browser.get(f"/{address}")
    assert again.status_code == 401
    assert "used before" in again.text
    assert COOKIE not in browser.cookies


async def test_a_ticket_on_a_page_of_others_is_asked_about(browser: httpx.AsyncClient, api: Api) -> None:
    """Nobody is signed in as somebody else by a link that he happened to follow."""
    address = await ticket_of(api)
    response = await browser.get(f"/{address}", headers={"Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 200
    assert COOKIE not in browser.cookies
    form = {"ticket": address.partition("ticket=")[2], "next": "/ui/"}
    problem(await browser.post(SIGN_IN, data=form, headers={"Sec-Fetch-Site": "cross-site"}), 403)
    assert (await browser.post(SIGN_IN, data=form, headers=OURS)).status_code == 303


async def test_a_ticket_is_short_and_a_session_makes_none(app: FastAPI, browser: httpx.AsyncClient, api: Api) -> None:
    """Two minutes are enough; and a session begets no other."""
    address = await ticket_of(api)
    async with transaction(app.state.services.engine, "acme") as conn:
        left = (await conn.execute(text("SELECT max(expires_at) - now() FROM sign_in_tickets"))).scalar_one()
    assert timedelta(0) < left <= timedelta(minutes=2)
    assert (await browser.get(f"/{address}")).status_code == 303
    headers = {**OURS, "X-Dalang-CSRF": csrf_of(browser.cookies[COOKIE])}
    problem(await browser.post("/orchestrator/sign-in-tickets", headers=headers), 403)


async def test_the_sign_in_page(app: FastAPI, browser: httpx.AsyncClient) -> None:
    """It runs nothing of others, repeats nothing unescaped, and forms of other sites do not reach it."""
    page = await browser.get(f'{SIGN_IN}?next=/"><script>alert(1)</script>')
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    problem(await browser.post(SIGN_IN, data={"token": OPERATOR}, headers={"Origin": "https://evil.example"}), 403)
    problem(await browser.post(SIGN_IN, json={"token": OPERATOR}), 415)
    refused = await sign_in(browser, "dalang_wrong", next="//evil.example")
    assert refused.status_code == 401
    assert "unknown, expired or revoked" in refused.text
    assert "evil.example" not in refused.text


async def test_guessing_is_slow(app: FastAPI, browser: httpx.AsyncClient) -> None:
    """After some wrong tokens from one address even the right one has to wait; right ones are not counted."""
    app.state.services.failed_sign_ins = Rates(0.3, now=lambda: 0.0, message="Too many attempts.")
    for _ in range(5):
        assert (await sign_in(browser)).status_code == 303
    for _ in range(3):
        assert (await sign_in(browser, "dalang_wrong")).status_code == 401
    refused = await sign_in(browser)
    assert refused.status_code == 429
    assert "Too many attempts" in refused.text


@pytest.mark.parametrize(
    "wanted",
    ["//evil.example", "/\\evil.example", "https://evil.example/", "evil", "", "/a\nb", "/ä", "/" + "x" * 3_000],
)
def test_only_paths_of_this_server_are_gone_to(wanted: str) -> None:
    """Everything else leads to the first page."""
    assert local_path(wanted) == "/ui/"


def test_a_path_of_this_server_is_kept() -> None:
    """With its query."""
    assert local_path("/ui/runs?a=%2F&b=//c") == "/ui/runs?a=%2F&b=//c"


async def test_over_https_the_cookie_is_secure(settings: Settings, app: FastAPI) -> None:
    """Also when it is a proxy that speaks it."""
    app.state.services.settings = settings.model_copy(update={"public_url": "https://dalang.example"})
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.5:8400") as client:
        headers = {"Origin": "https://dalang.example"}
        response = await client.post(SIGN_IN, data={"token": OPERATOR}, headers=headers)
        assert response.status_code == 303
        assert "Secure" in response.headers["set-cookie"]
