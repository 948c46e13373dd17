"""People and programs of an identity provider: with its tokens at REST, and signed in to the pages by its codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import yaml
from fastapi import FastAPI

from dalang.api.sessions import COOKIE, csrf_of
from dalang.settings import Settings
from tests.api.world import Api, chain, problem
from tests.identity_provider import AUDIENCE, CLIENT, IdentityProvider, identity_provider

RUNS = "/orchestrator/runs"
START = "/ui/sign-in/company?next=/ui/inbox"
BACK = "/ui/sign-in/company/callback"


@pytest.fixture(scope="module")
async def peer() -> AsyncIterator[IdentityProvider]:
    async with identity_provider() as made:
        yield made


@pytest.fixture
def settings(settings: Settings, peer: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """With a file that names the provider."""
    peer.broken = None
    monkeypatch.setenv("OIDC_CLIENT_SECRET", CLIENT[1])
    entry = {
        "name": "company",
        "title": "your company's account",
        "issuer": peer.issuer,
        "audience": [AUDIENCE],
        "subject": {"claim": "preferred_username"},
        "tenant": {"claim": "organization", "map": {"acme-corp": "acme"}},
        "roles": {"claim": "realm_access.roles"},
        "groups": {"claim": "groups", "map": {"/finance": "finance"}},
        "client": {"id": CLIENT[0], "secret": "env:OIDC_CLIENT_SECRET"},
    }
    file = settings.home.with_name("providers.yaml")
    file.write_text(yaml.safe_dump({"providers": [entry]}))
    return settings.model_copy(update={"identity_providers_file": str(file)})


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test", timeout=60) as client:
        yield client


def bearer(token: str) -> dict[str, Any]:
    return {"as_": None, "headers": {"Authorization": f"Bearer {token}"}}


async def test_a_providers_token_asks_as_its_owner(api: Api, peer: IdentityProvider) -> None:
    """With his tenant, roles and name; roles hold as for API tokens."""
    body = {"plan": chain("noop"), "tenantId": "globex", "createdBy": "somebody else"}
    started = await api("POST", "/orchestrator/execute", json=body, **bearer(peer.token()))
    assert started.status_code == 202, started.text
    run = await api.get(f"{RUNS}/{started.json()['runId']}")
    assert run["createdBy"] == "ann"
    viewer = peer.token(realm_access={"roles": ["dalang-viewer", "admin"]})
    assert (await api("GET", RUNS, **bearer(viewer))).status_code == 200
    problem(await api("POST", "/orchestrator/execute", json=body, **bearer(viewer)), 403)
    problem(await api("GET", RUNS, **bearer(peer.token(realm_access=None))), 403)
    for bad in (peer.token(organization="evil"), peer.token(aud="shop"), peer.token(kid="nobody's")):
        refused = await api("GET", RUNS, **bearer(bad))
        problem(refused, 401)
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]


async def test_a_provider_that_is_away_is_503_for_its_tokens_alone(api: Api, peer: IdentityProvider) -> None:
    """API tokens go on to work."""
    peer.broken = "status"
    problem(await api("GET", RUNS, **bearer(peer.token())), 503)
    assert (await api("GET", RUNS)).status_code == 200


async def away(browser: httpx.AsyncClient) -> str:
    """Begin to sign in; return the address of the provider."""
    response = await browser.get(START)
    assert response.status_code == 303, response.text
    return response.headers["location"]


async def test_signing_in_with_a_code(browser: httpx.AsyncClient, peer: IdentityProvider) -> None:
    """There and back, then a session as for a token; what was used is of no use again."""
    page = (await browser.get("/ui/sign-in?next=/ui/inbox")).text
    assert 'href="/ui/sign-in/company?next=/ui/inbox"' in page
    address = await away(browser)
    assert address.startswith(f"{peer.issuer}/authorize?")
    asked = parse_qs(urlsplit(address).query)
    assert asked["redirect_uri"] == ["http://127.0.0.1:8400/ui/sign-in/company/callback"]
    assert browser.cookies["dalang_sign_in"] not in address
    way_back = peer.authorize(address)
    response = await browser.get(BACK, params=way_back)
    assert (response.status_code, response.headers["location"]) == (303, "/ui/inbox"), response.text
    assert "dalang_sign_in" not in browser.cookies
    headers = {"X-Dalang-CSRF": csrf_of(browser.cookies[COOKIE]), "Sec-Fetch-Site": "same-origin"}
    started = await browser.post("/orchestrator/execute", json={"plan": chain("noop")}, headers=headers)
    assert started.status_code == 202, started.text
    assert (await browser.get(f"{RUNS}/{started.json()['runId']}")).json()["createdBy"] == "ann"
    browser.cookies.clear()
    assert (await browser.get(BACK, params=way_back)).status_code == 401
    assert COOKIE not in browser.cookies


@pytest.mark.parametrize(
    ("claims", "answer"),
    [
        ({}, {"state": "another"}),
        ({}, {"iss": "https://evil.example"}),
        ({}, {"code": "invented"}),
        ({"nonce": "another"}, {}),
        ({"aud": "another-client"}, {}),
        ({"aud": ["dalang-pages", "another-client"]}, {}),
        ({"azp": "another-client"}, {}),
        ({"exp": 1}, {}),
        ({"organization": "evil"}, {}),
        ({"kid": "nobody's"}, {}),
    ],
)
async def test_a_way_back_that_is_not_right_signs_nobody_in(
    browser: httpx.AsyncClient, peer: IdentityProvider, claims: dict[str, Any], answer: dict[str, str]
) -> None:
    """Neither another's, nor one that was tampered with, nor a token that is not for us."""
    response = await browser.get(BACK, params={**peer.authorize(await away(browser), **claims), **answer})
    assert response.status_code == 401, response.text
    assert COOKIE not in browser.cookies
    assert "dalang_sign_in" not in browser.cookies


async def test_a_code_of_another_browser_signs_nobody_in(browser: httpx.AsyncClient, peer: IdentityProvider) -> None:
    """Somebody who sends his own way back to another gets him into nobody's session."""
    way_back = peer.authorize(await away(browser))
    browser.cookies.clear()
    assert (await browser.get(BACK, params=way_back)).status_code == 401
    await away(browser)
    assert (await browser.get(BACK, params=way_back)).status_code == 401
    browser.cookies.set("dalang_sign_in", "W10=", path="/ui/sign-in")
    assert (await browser.get(BACK, params=way_back)).status_code == 401
    assert (await browser.get(BACK, params={"error": "access_denied", "state": "x"})).status_code == 401
    assert COOKIE not in browser.cookies


async def test_who_has_no_role_is_told_so(browser: httpx.AsyncClient, peer: IdentityProvider) -> None:
    """Everybody of the company can sign in there; not everybody has something to do here."""
    way_back = peer.authorize(await away(browser), realm_access={"roles": []})
    response = await browser.get(BACK, params=way_back)
    assert response.status_code == 403
    assert "no role here" in response.text


async def test_a_provider_that_is_away_signs_nobody_in(browser: httpx.AsyncClient, peer: IdentityProvider) -> None:
    """The page says so, and offers the other ways; a provider that is none is 404."""
    peer.broken = "status"
    response = await browser.get(START)
    assert response.status_code == 503
    assert "does not answer" in response.text
    assert "API token" in response.text
    nobody = await browser.get("/ui/sign-in/nobody")
    assert nobody.status_code == 404
    assert "<h1>" in nobody.text
