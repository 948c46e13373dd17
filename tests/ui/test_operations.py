"""What operators look after: every act of the pages ends in the REST API, and is offered to the role that it takes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from playwright.async_api import expect

from dalang.api.ui.telling import duration, number, relative
from tests.ui.conftest import Looking, Stack, accessible, fits, shot


async def test_a_pool_is_made_changed_and_removed(stack: Stack, look: Looking) -> None:
    """By a dialog, which shows what the API has against it and is filled in with what there is."""
    name = f"gpu-{uuid.uuid4().hex[:6]}"
    async with look("/ui/limits") as page:
        await page.get_by_role("button", name="New pool").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Name").fill(name)
        await dialog.get_by_role("button", name="Set").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("a size, a rate, or both", ignore_case=True)
        await accessible(page)
        await dialog.get_by_label("Size").fill("2")
        await dialog.get_by_role("button", name="Set").click()
        row = page.get_by_role("row").filter(has_text=name)
        await expect(row).to_contain_text("0/2")
        await row.get_by_role("button", name="Change").click()
        assert await dialog.get_by_label("Size").input_value() == "2"
        await page.keyboard.press("Escape")
        await accessible(page)
        await shot(page, "limits")
        await row.get_by_role("button", name="Remove").click()
        await dialog.get_by_role("button", name="Remove").click()
        await expect(row).to_have_count(0)
        assert await page.get_by_role("button", name="Change").count() == 0  # quota and budget are an admin's


async def test_a_breaker_is_opened_and_closed_with_a_reason(stack: Stack, look: Looking) -> None:
    """The overview tells that it is open."""
    key = f"http https://{uuid.uuid4().hex[:8]}.example.org:443"
    async with look("/ui/breakers", width=390) as page:
        await page.get_by_role("button", name="Open one by hand").click()
        await page.get_by_label("Whom it guards").fill(key)
        await page.get_by_role("dialog").get_by_role("button", name="Open").click()
        row = page.get_by_role("row").filter(has_text=key)
        await expect(row.locator(".badge")).to_have_text("Open")
        await accessible(page)
        await fits(page)
        assert "circuit breaker is open" in (await stack("GET", "/ui/")).text
        await row.get_by_role("button", name="Close").click()
        await page.get_by_role("dialog").get_by_label("Why").fill("it is back")
        await page.get_by_role("dialog").get_by_role("button", name="Close").click()
        await expect(row.locator(".badge")).to_have_text("Closed")
        await expect(row).to_contain_text("it is back")


async def test_agents_schedules_and_webhooks(stack: Stack, look: Looking) -> None:
    """An agent drains, a schedule is made and paused, a webhook's secret is shown once."""
    mark = uuid.uuid4().hex[:6]
    agent = {"kind": "poll", "name": f"Reviewer {mark}", "capabilities": ["review"], "maxConcurrentTasks": 2}
    assert (await stack("PUT", f"/orchestrator/agents/reviewer-{mark}", json=agent)).status_code == 200
    plan = {"name": f"report-{mark}", "nodes": [{"nodeId": "a", "type": "noop"}]}
    assert (await stack("POST", "/orchestrator/plans", json=plan)).status_code == 201
    async with look("/ui/agents", dark=True) as page:
        row = page.get_by_role("row").filter(has_text=mark)
        await row.get_by_role("button", name="Drain").click()
        await expect(row.locator(".badge")).to_have_text("Draining")
        await accessible(page)
        await page.goto("/ui/schedules")
        await page.get_by_role("button", name="New schedule").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Name").fill(f"nightly-{mark}")
        await dialog.get_by_label("Plan").select_option(label=f"report-{mark}")
        await dialog.get_by_label("Cron").fill("0 3 * * MON-FRI")
        await dialog.get_by_role("button", name="Make it").click()
        row = page.get_by_role("row").filter(has_text=f"nightly-{mark}")
        await expect(row).to_contain_text("cron 0 3 * * MON-FRI")
        await row.get_by_role("button", name="Pause").click()
        await dialog.get_by_role("button", name="Pause").click()
        await expect(row.locator(".badge")).to_have_text("Paused")
        await accessible(page)
        await page.goto("/ui/webhooks")
        await page.get_by_role("button", name="New webhook").click()
        await dialog.get_by_label("Name").fill(f"pager-{mark}")
        await dialog.get_by_label("Address").fill("https://example.org/hook")
        await dialog.get_by_label("Events").fill("PLAN_FAILED, NODE_FAILED")
        await dialog.get_by_role("button", name="Make it").click()
        await expect(page.locator("#secret [data-answer]")).to_contain_text("whsec_")
        await accessible(page)
        await page.get_by_role("button", name="I have it").click()
        row = page.get_by_role("row").filter(has_text=f"pager-{mark}")
        await expect(row).to_contain_text("PLAN_FAILED")
        await accessible(page)
        await page.goto("/ui/queue")
        await accessible(page)
    async with look("/ui/schedules", as_=("acme", "viewer")) as page:
        assert await page.locator("main button:visible").count() == 0


def test_times_and_figures_are_told_short() -> None:
    """With their two largest units; the figures with thin spaces."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert [duration(one) for one in (0.25, 7.25, 61, 3_600, 93_780, None)] == [
        "250 ms",
        "7.2 s",
        "1 min 1 s",
        "1 h",
        "1 d 2 h",
        "–",
    ]
    told = [relative(now + timedelta(seconds=one), now) for one in (-10, 30, -90, 7_200, -86_400 * 400)]
    assert told == ["just now", "in a moment", "2 min ago", "in 2 h", "1 y ago"]
    assert number(1234567) == "1\u202f234\u202f567"
