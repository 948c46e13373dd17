"""Signing in as a browser does it, with its cookies and its own word on where a request comes from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn
import yaml

from dalang.api.app import create_app
from dalang.stack.ports import free_port
from tests.api import world
from tests.identity_provider import AUDIENCE, CLIENT, IdentityProvider, identity_provider
from tests.ui.conftest import Looking, Stack, accessible, fits, shot


@pytest.fixture(scope="module")
async def peer() -> AsyncIterator[IdentityProvider]:
    """On another site: the browser sends it none of our cookies, nor ours what it brings but for links."""
    async with identity_provider("localhost") as made:
        yield made


@pytest.fixture(scope="module")
async def trusting(
    stack: Stack, peer: IdentityProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The address of an API server, of the same stack, that trusts the provider."""
    folder = tmp_path_factory.mktemp("identity")
    (folder / "secret").write_text(CLIENT[1])
    client = {"id": CLIENT[0], "secret": f"file:{folder / 'secret'}"}
    entry = {"name": "company", "title": "your company's account", "issuer": peer.issuer, "audience": [AUDIENCE]}
    rules = {"subject": {"claim": "preferred_username"}, "tenant": {"fixed": "acme"}, "client": client}
    file = folder / "providers.yaml"
    file.write_text(yaml.safe_dump({"providers": [{**entry, **rules, "roles": {"claim": "realm_access.roles"}}]}))
    port = free_port()
    own = {"identity_providers_file": str(file), "public_url": f"http://127.0.0.1:{port}"}
    app = create_app(stack.settings.model_copy(update=own))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    yield own["public_url"]
    server.should_exit = True
    await running


async def test_by_the_account_of_a_company_and_out_again(look: Looking, trusting: str) -> None:
    """To another site and back, to the page that was asked for; after signing out it is asked for again."""
    async with look(None, as_=None) as page:
        await page.goto(f"{trusting}/ui/runs?status=FAILED")
        assert await page.locator("h1").inner_text() == "Sign in to Dalang"
        await accessible(page)
        await shot(page, "sign-in")
        await page.get_by_role("link", name="Sign in with your company's account").click()
        await page.wait_for_url(f"{trusting}/ui/runs?status=FAILED")
        assert "ann" in await page.locator("header").inner_text()
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url(f"{trusting}/ui/sign-in")
        await page.goto(f"{trusting}/ui/runs")
        assert "/ui/sign-in" in page.url


async def test_by_a_token(look: Looking) -> None:
    """A wrong one is told; on a phone too."""
    async with look("/ui/sign-in", as_=None, dark=True, width=390) as page:
        await page.get_by_label("API token").fill("dalang_wrong")
        await page.get_by_role("button", name="Sign in").click()
        assert "unknown" in await page.get_by_role("alert").inner_text()
        await accessible(page)
        await fits(page)
        await shot(page, "sign-in-refused")
        await page.get_by_label("API token").fill(world.TOKENS["acme", "viewer"])
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/ui/")


async def test_a_link_signs_in_at_once_but_not_from_a_page_of_others(
    look: Looking, stack: Stack, peer: IdentityProvider
) -> None:
    """Whoever opened it himself is in; whoever was led to it is asked."""
    for way in ("own", "others"):
        link = (await stack("POST", "/orchestrator/sign-in-tickets")).json()["url"]
        async with look(None, as_=None) as page:
            if way == "own":
                await page.goto(link)
            else:
                peer.page = f'<a href="{link}">a prize</a>'
                await page.goto(f"{peer.issuer}/link")
                await page.get_by_role("link").click()
                await page.get_by_role("button", name="Sign in with this link").click()
            await page.wait_for_url("**/ui/")
            assert "operator@acme" in await page.locator("header").inner_text()


async def test_a_form_of_others_does_nothing(look: Looking, stack: Stack, peer: IdentityProvider) -> None:
    """Neither with the cookie of who visits them, nor to sign him in as somebody else."""
    fields = f'<input name="token" value="{world.TOKENS["acme", "viewer"]}"><button>a prize</button>'
    async with look("/ui/") as page:
        for address, status in (("/ui/sign-in", 403), ("/ui/sign-out", 303), ("/orchestrator/sign-in-tickets", 401)):
            peer.page = f'<form method="post" action="{stack.url}{address}">{fields}</form>'
            await page.goto(f"{peer.issuer}/link")
            async with page.expect_response(f"{stack.url}{address}") as answered:
                await page.get_by_role("button").click()
            assert (await answered.value).status == status
        await page.goto(f"{stack.url}/ui/")
        assert "operator@acme" in await page.locator("header").inner_text()
