"""The page of a run in a browser: it lives, acts, shows the past and what changed, and is walked through with keys."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, expect

from dalang.api.ui.run_scenes import MAX_WIDTH
from dalang.nodes import NodeContext
from dalang.nodes import node as handler
from dalang.recently_used import RecentlyUsed
from tests.harness import PATIENCE
from tests.ui.conftest import Looking, Stack, accessible, fits, shot

HOLD: dict[str, Any] = {"nodeId": "ask", "type": "human", "name": "Ask", "task": {"title": "Go on?"}}
DECIDER = ("acme", "admin")


def noop(name: str) -> dict[str, Any]:
    return {"nodeId": name, "type": "noop", "inputs": {"n": 1}}


def edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"sourceNodeId": source, "targetNodeId": target, **more}


async def held(stack: Stack, name: str, **more: Any) -> str:
    """Start a -> ask -> b, which waits for a person; return the run."""
    plan = {"name": name, "nodes": [noop("a"), HOLD, noop("b")], "edges": [edge("a", "ask"), edge("ask", "b")], **more}
    run = await stack.execute(plan)
    await stack.until(f"/orchestrator/runs/{run}", lambda found: found["status"] == "AWAITING_HITL")
    return run


async def approve(stack: Stack, run: str) -> None:
    tasks = (await stack("GET", f"/orchestrator/human-tasks?runId={run}", as_=DECIDER)).json()["items"]
    task = (await stack("GET", f"/orchestrator/human-tasks/{tasks[0]['taskId']}", as_=DECIDER)).json()
    path = f"/orchestrator/human-tasks/{task['taskId']}/approve"
    response = await stack("POST", path, json={"digest": task["digest"]}, as_=DECIDER)
    assert response.status_code == 200, response.text


def node(page: Page, name: str) -> Any:
    return page.locator(f'[data-node-id="{name}"]')


async def test_the_picture_lives(stack: Stack, look: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statuses, counts and the run's own status change by its events, without the page being loaded again.

    It is a large plan here: the page is there before its picture.
    """
    monkeypatch.setattr("dalang.api.ui.run_scenes.LARGE_NODES", 0)
    run = await held(stack, "lives")
    assert 'class="dag' not in (await stack("GET", f"/ui/runs/{run}")).text
    async with look(f"/ui/runs/{run}") as page:
        await expect(node(page, "a")).to_have_attribute("data-status", "SUCCESS")
        await expect(node(page, "ask").locator(".word")).to_have_text("Waits for a person")
        await expect(node(page, "b")).to_have_attribute("data-status", "PENDING")
        await expect(page.locator(".note.ask a")).to_have_text("Go on?")
        assert await page.locator("#seq").evaluate("one => one.max !== '0' && one.value === one.max")
        await page.evaluate("window.here = true")
        await approve(stack, run)
        await expect(node(page, "b")).to_have_attribute("data-status", "SUCCESS")
        await expect(page.locator("#run-badge")).to_have_text("Completed")
        await expect(page.locator(".run-counts .done")).to_have_text("3")
        assert await page.evaluate("window.here") is True
        await accessible(page)
        await shot(page, "run-graph")


async def test_a_failed_node_is_run_again_by_its_button(stack: Stack, look: Looking) -> None:
    """Click the node, press Retry: it runs, and so does what waited for it. Who may only look has no such button."""
    answers = [500, 200]
    async with service(answers) as url:
        failing = {"nodeId": "call", "type": "http", "inputs": {"url": url}, "retryPolicy": {"maxAttempts": 1}}
        plan = {"name": "again", "failurePolicy": "pause", "nodes": [failing, noop("b")], "edges": [edge("call", "b")]}
        run = await stack.execute(plan)
        await stack.until(f"/orchestrator/runs/{run}", lambda found: found["status"] == "PAUSED")
        async with look(f"/ui/runs/{run}#node=call", as_=("acme", "viewer")) as page:
            await expect(page.locator("#panel .message").first).to_contain_text("500")
            await expect(page.get_by_role("button", name="Retry")).to_have_count(0)
        async with look(f"/ui/runs/{run}") as page:
            await node(page, "call").click()
            await expect(page.locator("#panel h3").first).to_contain_text("Inputs")
            await accessible(page)
            await page.locator("#panel").get_by_role("button", name="Retry").click()
            await expect(node(page, "b")).to_have_attribute("data-status", "SUCCESS")
            await expect(page.locator("#panel .badge").first).to_have_text("Success")
            await shot(page, "run-retried")
    assert answers == []


async def test_the_slider_shows_the_past(stack: Stack, look: Looking) -> None:
    """At event 0 nothing had happened; at each later one the picture is as it was; and back to now."""
    run = await held(stack, "past")
    events = (await stack("GET", f"/orchestrator/runs/{run}/events")).json()["items"]
    begun = next(one["seq"] for one in events if one["type"] == "NODE_STARTED" and one["nodeId"] == "a")
    async with look(f"/ui/runs/{run}") as page:
        await page.locator("#seq").fill("0")
        await expect(node(page, "a")).to_have_attribute("data-status", "PENDING")
        await page.locator("#seq").fill(str(begun))
        await expect(node(page, "a")).to_have_attribute("data-status", "RUNNING")
        await expect(page.locator("#when")).to_contain_text("NODE_STARTED a")
        await page.get_by_role("button", name="Now").click()
        await expect(node(page, "ask")).to_have_attribute("data-status", "AWAITING_HITL")
    await stack("POST", f"/orchestrator/runs/{run}/cancel", json={})


async def test_a_revision_is_drawn_with_what_it_changed(stack: Stack, look: Looking) -> None:
    """What was added and removed is marked in the picture, and listed; before it the slider shows the plan of then."""
    run = await held(stack, "revised")
    patch = {"removeEdges": ["ask->b"], "removeNodes": ["b"], "addNodes": [noop("c")], "addEdges": [edge("ask", "c")]}
    response = await stack("POST", f"/orchestrator/runs/{run}/replan", json={"patch": patch, "reason": "better"})
    assert response.status_code == 200, response.text
    await stack.until(f"/orchestrator/runs/{run}/revisions", lambda found: len(found["items"]) == 2)
    async with look(f"/ui/runs/{run}/revisions") as page:
        await expect(node(page, "c")).to_have_attribute("data-change", "added")
        await expect(node(page, "b")).to_have_attribute("data-change", "removed")
        await expect(node(page, "a")).not_to_have_attribute("data-change", "changed")
        assert await page.locator('.edge[data-change="added"]').count() == 1
        await accessible(page)
        await shot(page, "run-revision")
        await page.goto(f"/ui/runs/{run}")
        await expect(node(page, "b")).to_have_count(0)
        await page.locator("#seq").fill("0")
        await expect(node(page, "b")).to_have_count(1)
    await stack("POST", f"/orchestrator/runs/{run}/cancel", json={})


GO_ON = threading.Event()


@handler("ui-test-logs")
def logs(ctx: NodeContext) -> None:
    """Log a line, and later what looks like markup, and an error."""
    logging.getLogger("shop").info("shelf 1 is full")
    GO_ON.wait(PATIENCE)
    logging.getLogger("shop").warning("<b>shelf 2</b> does not answer")
    try:
        raise ValueError("no shelf 3")
    except ValueError:
        logging.getLogger("shop").exception("shelf 3 is gone")


async def test_what_a_handler_logged_stands_beside_its_node(
    stack: Stack, look: Looking, caplog: pytest.LogCaptureFixture
) -> None:
    """While it works, and in order, as text, with the stack of an exception to open."""
    caplog.set_level(logging.INFO)
    run = await stack.execute({"name": "logged", "nodes": [{"nodeId": "stock", "type": "ui-test-logs"}]})
    await stack.until(f"/orchestrator/runs/{run}/logs", lambda found: len(found["items"]) == 1)
    async with look(f"/ui/runs/{run}#node=stock") as page:
        said = page.locator("#panel .log .said")
        await expect(said).to_have_text(["shelf 1 is full"])
        GO_ON.set()
        await expect(said).to_have_text(["shelf 1 is full", "<b>shelf 2</b> does not answer", "shelf 3 is gone"])
        await page.locator("#panel .log summary").click()
        await expect(page.locator("#panel .log pre")).to_contain_text("ValueError: no shelf 3")
        await accessible(page)
        await shot(page, "run-logged")


async def test_the_picture_is_walked_through_with_the_keys(stack: Stack, look: Looking) -> None:
    """Arrows go along edges, Enter opens the panel, Escape closes it; wide levels open, and every page fits a phone."""
    wide = [noop(f"w{n:02}") for n in range(40)]
    plan = {"name": "walked", "nodes": [noop("a"), *wide], "edges": [edge("a", one["nodeId"]) for one in wide]}
    run = await stack.execute(plan)
    await stack.until(f"/orchestrator/runs/{run}", lambda found: found["status"] == "COMPLETED")
    async with look(f"/ui/runs/{run}", width=390, dark=True) as page:
        await node(page, "a").focus()
        await page.keyboard.press("ArrowRight")
        group = page.locator("[data-group]")
        await expect(group).to_be_focused()
        await expect(group).to_have_accessible_name("40 × noop, w, 40 of 40 done")
        await page.keyboard.press("Enter")
        await expect(page.locator("#panel .members li")).to_have_count(40)
        await accessible(page)
        await page.get_by_role("button", name="Draw them one by one").click()
        await expect(node(page, "w07")).to_be_attached()
        await node(page, "w07").focus()
        await page.keyboard.press("ArrowLeft")
        await expect(node(page, "a")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#panel h2")).to_have_text("a")
        await page.keyboard.press("Escape")
        await expect(page.locator("#panel")).to_be_hidden()
        for tab in ("timeline", "nodes", "events", "data"):
            await page.goto(f"/ui/runs/{run}/{tab}")
            await fits(page)
            await accessible(page)
            if tab == "timeline":
                await expect(page.locator("#gantt .doing.running").first).to_be_attached()
            await shot(page, f"run-{tab}-phone")


@asynccontextmanager
async def service(answers: list[int]) -> AsyncIterator[str]:
    """Serve HTTP that answers with these statuses, one after the other."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}" % answers.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_of_a_large_run_the_same_is_told_from_what_is_stored(
    stack: Stack, look: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its picture is read from its columns by whoever is asked first, and its bars come by windows."""
    wide = [noop(f"n{at:02}") for at in range(MAX_WIDTH + 2)]
    last = {**noop("last"), "name": "The <last>"}
    plan = {"nodes": [*wide, last], "finally": [noop("z")], "edges": [edge(one["nodeId"], "last") for one in wide]}
    run = await stack.execute({"name": "wide", **plan})
    address = f"/ui/runs/{run}"
    await stack.until(f"/orchestrator/runs/{run}", lambda found: found["status"] == "COMPLETED")

    async def asked(what: str) -> Any:
        found = (await stack("GET", f"{address}/{what}")).json()
        found.pop("now", None)
        return found

    small = [await asked(what) for what in ("picture", "critical-path", "bars")]
    monkeypatch.setattr("dalang.api.ui.run_scenes.LARGE_NODES", 0)
    monkeypatch.setattr("dalang.api.ui.run_bars.WINDOW", 10)
    monkeypatch.setattr(RecentlyUsed, "get", lambda kept, key: None)  # as in a process that has just begun
    for how in ("drawn", "read"):
        assert [await asked(what) for what in ("picture", "critical-path")] == small[:2], how
    windows = [await asked(f"bars?first={first}") for first in range(0, len(wide) + 2, 10)]
    rows = [row for window in windows for row in window["rows"]]
    assert sorted(rows) == sorted(small[2]["rows"])
    assert {window["total"] for window in windows} == {len(rows)}
    named = await asked("bars?order=name&q=LAST")
    assert [row[:2] for row in named["rows"]] == [["last", "The <last>"]]
    async with look(f"{address}/timeline") as page:
        await page.locator("#gantt-order").select_option("name")
        await page.locator("#gantt-rows").evaluate("one => { one.scrollTop = 1e6 }")
        await expect(page.locator('[data-node="z"]')).to_be_attached()
