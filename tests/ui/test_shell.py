"""The frame of all pages: headers, files, errors, marks, the switch of colours."""

from __future__ import annotations

import re
import uuid
from enum import StrEnum
from pathlib import Path

import httpx
import pytest
from playwright.async_api import expect

from dalang.api.app import create_app
from dalang.api.ui import files, marks
from dalang.api.ui.pages import NAVIGATION, OPERATIONS
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.statuses import NodeStatus, RunStatus, TaskKind, TaskStatus
from tests.ui.conftest import Looking, Stack, accessible, fits


async def test_pages_let_in_nothing_from_elsewhere(stack: Stack) -> None:
    """The policy of every page names this server alone, without inline scripts, and nobody may frame it."""
    response = await stack("GET", "/ui/")
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert re.findall(r"(?:src|href)=\"(?!/|#)", response.text) == []


async def test_files_are_kept_for_good_and_asked_for_once(stack: Stack) -> None:
    """Their address changes with them; another version's address answers what is there now, kept by nobody."""
    now = await stack.http.get(files.static("ui.css"))
    assert "immutable" in now.headers["cache-control"]
    again = await stack.http.get(files.static("ui.css"), headers={"If-None-Match": now.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await stack.http.get("/ui/static/old/ui.css")).headers["cache-control"] == "no-cache"
    assert (await stack.http.get("/ui/static/old/pages.py")).status_code == 404


async def test_errors_are_pages(stack: Stack, look: Looking) -> None:
    """Unknown addresses, and what the API refuses, are told as pages with a way on."""
    async with look("/ui/nothing") as page:
        assert await page.locator("h1").inner_text() == "There is no such page"
        await accessible(page)
    response = await stack("GET", "/ui/runs?cursor=nonsense")
    assert response.status_code == 422
    assert "<h1>" in response.text


async def test_a_part_that_is_away_is_told_on_a_page(tmp_path: Path) -> None:
    """Also when it is the database, without which nobody is known: what the page says needs nothing of it."""
    nowhere = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/none"
    app = create_app(Settings(home=tmp_path, database_url=nowhere, temporal_address=f"127.0.0.1:{free_port()}"))
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://pages.test", cookies={"dalang_session": "x"}
    )
    async with app.router.lifespan_context(app), client:
        response = await client.get("/ui/runs")
    assert response.status_code == 503
    assert "A part of Dalang does not answer" in response.text
    assert "secret" not in response.text
    assert int(response.headers["retry-after"]) > 0


async def test_who_is_not_signed_in_is_led_to_it_and_back(stack: Stack) -> None:
    """With the page that was asked for."""
    response = await stack.http.get("/ui/runs?q=a%26b")
    assert response.status_code == 303
    assert response.headers["location"] == "/ui/sign-in?next=%2Fui%2Fruns%3Fq%3Da%2526b"


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (RunStatus, marks.RUN_MARKS),
        (NodeStatus, marks.NODE_MARKS),
        (TaskStatus, marks.TASK_MARKS),
        (TaskKind, marks.KIND_MARKS),
    ],
)
def test_every_status_has_its_own_mark(kind: type[StrEnum], known: dict[StrEnum, marks.Mark]) -> None:
    """Icon and tone from those there are, and a word that no other status of its kind has."""
    assert set(known) == set(kind)
    assert len({mark.word for mark in known.values()}) == len(kind)
    assert {mark.tone for mark in known.values()} <= set(marks.TONES)
    for mark in known.values():
        html = marks.badge(mark)
        assert "<path" in html
        assert mark.word in html


def test_a_status_of_a_newer_worker_is_shown() -> None:
    """By its own name, escaped."""
    assert "NEW&lt;b&gt;" in marks.run_badge("NEW<b>")


async def test_the_colours_can_be_switched(look: Looking) -> None:
    """System, light, dark; the choice outlives the page."""
    async with look("/ui/") as page:
        paper = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(paper)
        switch = page.locator("[data-theme-switch]")
        await switch.click()
        assert await page.evaluate(paper) == light
        await switch.click()
        dark = await page.evaluate(paper)
        assert dark != light
        await page.reload()
        assert await page.evaluate(paper) == dark


async def test_every_page_is_accessible_while_there_is_nothing(look: Looking) -> None:
    """WCAG 2.2 AA, light and dark, and no wider than a phone."""
    async with look(None, as_=("globex", "admin"), dark=True) as page:
        for entry in (*NAVIGATION, *OPERATIONS):
            await page.emulate_media(color_scheme="dark")
            await page.goto(entry.address)
            await expect(page.locator("nav [aria-current=page]")).to_contain_text(entry.title)
            await accessible(page)
            await page.emulate_media(color_scheme="light")
            await accessible(page, contrast=True)
            await page.set_viewport_size({"width": 390, "height": 844})
            await fits(page)
            await page.set_viewport_size({"width": 1440, "height": 900})


async def test_the_keyboard_alone_reaches_the_content(look: Looking) -> None:
    """The first stop of the tabulator skips the navigation."""
    async with look("/ui/") as page:
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"


async def test_a_run_of_another_tenant_is_found_by_nobody(stack: Stack) -> None:
    """The search answers that there is none."""
    response = await stack("GET", f"/ui/runs?q={uuid.uuid4()}")
    assert response.status_code == 200
    assert "No run is like this" in response.text
