"""Fixtures of the pages: a stack that is served over HTTP, and one chromium, for all tests of one test process."""

from __future__ import annotations

import asyncio
import importlib.resources
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from dalang.settings import Settings
from tests.api import world
from tests.api.site import site
from tests.harness import PATIENCE, Servers

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-gpu",
]
MILLISECONDS = PATIENCE * 1000 / 2
"""So long a test waits for what a page must come to show."""
expect.set_options(timeout=MILLISECONDS)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


class Stack:
    """Where the pages are, and the REST API beside them; ``as_`` is (tenant, role) of ``world.TOKENS``."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.http = httpx.AsyncClient(base_url=url, timeout=60)

    async def __call__(
        self, method: str, path: str, *, as_: tuple[str, str] = ("acme", "operator"), **more: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {world.TOKENS[as_]}", **more.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **more)

    async def execute(self, plan: dict[str, Any], *, as_: tuple[str, str] = ("acme", "operator"), **body: Any) -> str:
        """Start a run; return its id."""
        response = await self("POST", "/orchestrator/execute", json={"plan": plan, **body}, as_=as_)
        assert response.status_code == 202, response.text
        return str(response.json()["runId"])

    async def until(self, path: str, wanted: Any, **more: Any) -> Any:
        """GET until ``wanted(answer)`` holds; return the answer."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = (await self("GET", path, **more)).json()
                if wanted(found):
                    return found
                await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
async def stack(
    servers: Servers, superuser: asyncpg.Connection, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """One database, one worker and one API, with tokens for every tenant and role of ``world.TOKENS``."""
    async with site(servers, superuser, tmp_path_factory.mktemp("ui"), "ui") as (settings, _):
        made = Stack(settings.public_url, settings)
        yield made
        await made.http.aclose()


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The machine's chromium, without a window."""
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


class Looking:
    """Opens pages as somebody; what a page complains of in its console fails the test at its end."""

    def __init__(self, browser: Browser, stack: Stack) -> None:
        self.browser = browser
        self.stack = stack
        self.complaints: list[str] = []

    @asynccontextmanager
    async def __call__(
        self,
        path: str | None = "/ui/",
        *,
        as_: tuple[str, str] | None = ("acme", "operator"),
        dark: bool = False,
        width: int = 1440,
        **more: Any,
    ) -> AsyncIterator[Page]:
        """Open a page in a fresh browser profile, signed in as ``as_``; ``path`` None: open none."""
        context = await self.browser.new_context(
            base_url=self.stack.url,
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": 900 if width > 600 else 844},
            reduced_motion="reduce",
            **more,
        )
        context.set_default_timeout(MILLISECONDS)
        try:
            if as_ is not None:
                await sign_in(context, world.TOKENS[as_])
            page = await context.new_page()
            page.on("console", self._heard)
            page.on("pageerror", lambda error: self.complaints.append(str(error)))
            if path is not None:
                await page.goto(path)
            yield page
        finally:
            await context.close()

    def _heard(self, message: Any) -> None:
        # What a test provokes is told by the browser too: a refused act is no fault of the page.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)


async def sign_in(context: BrowserContext, token: str) -> None:
    """Give this browser profile a session, as the page of signing in does."""
    response = await context.request.post("/ui/sign-in", form={"token": token}, max_redirects=0)
    assert response.status == 303, await response.text()


@pytest.fixture
async def look(browser: Browser, stack: Stack) -> AsyncIterator[Looking]:
    """``async with look("/ui/runs", as_=("acme", "viewer"), dark=True, width=390) as page``."""
    looking = Looking(browser, stack)
    yield looking
    assert looking.complaints == []


_AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


async def accessible(page: Page, *, contrast: bool = False) -> None:
    """Check the page as it is now against WCAG 2.2 AA, or its ``contrast`` alone: all that other colours change.

    A script of the devtools is not subject to the page's Content-Security-Policy.
    """
    if not await page.evaluate("typeof axe !== 'undefined'"):
        await page.evaluate(_AXE)
    only = {"type": "rule", "values": ["color-contrast"]} if contrast else {"type": "tag", "values": RULES}
    options = {"runOnly": only, "resultTypes": ["violations"]}
    found = await page.evaluate("options => axe.run(document, options)", options)
    told = [
        f"{one['id']}: {one['help']}: " + "; ".join(f"{node['html'][:160]}" for node in one["nodes"][:5])
        for one in found["violations"]
    ]
    assert not told, "\n".join([page.url, *told])


async def fits(page: Page) -> None:
    """Check that nothing is wider than the window: on a phone a page scrolls in one direction."""
    wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} is {wide} px too wide"


async def shot(page: Page, name: str) -> None:
    """Keep a picture where the environment names a folder for them (SHOTS), for people who look at pages."""
    folder = os.environ.get("SHOTS")
    if folder:
        await page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
