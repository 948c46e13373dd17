"""The list of runs with ten thousand of them, its filters and views, many acted on at once; the overview above it."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect
from sqlalchemy import text

from dalang.api.ui.marks import RUN_MARKS
from dalang.statuses import RUN_ENDS, RunStatus
from dalang.store.engine import create_engine, transaction
from tests.ui.conftest import Looking, Stack, accessible, fits, shot

WAITS = {"name": "waits", "nodes": [{"nodeId": "wait", "type": "timer", "inputs": {"duration": "1h"}}]}
MANY = 10_000
_FILL = """
    WITH made AS (
      SELECT n, now() - n * interval '1 minute' AS at, CASE WHEN n % 1000 < cardinality(CAST(:statuses AS text[]))
        THEN (CAST(:statuses AS text[]))[1 + n % 1000] ELSE (CAST(:ended AS text[]))[1 + n % 3] END AS status
      FROM generate_series(0, :many - 1) n)
    INSERT INTO execution_runs (run_id, tenant_id, plan_id, plan_name, plan_version, plan_digest, status, created_by,
      temporal_run_id, created_at, started_at, completed_at, total_nodes, node_status_counts)
    SELECT gen_random_uuid(), 'globex', gen_random_uuid(), 'many ' || (n % 7), '1.0.0', 'd', status, 'kim',
      'none', at, at, CASE WHEN status = ANY(CAST(:ended AS text[])) THEN at + interval '20 seconds' END, 3,
      '{"SUCCESS": 2, "FAILED": 1}' FROM made
"""


@pytest.fixture(scope="module")
async def many(stack: Stack) -> None:
    """Ten thousand runs of the tenant globex, in every status there is."""
    engine = create_engine(stack.settings.database_url, pooled=False)
    given = {"statuses": list(RunStatus), "ended": sorted(RUN_ENDS), "many": MANY}
    async with transaction(engine, "globex") as conn:
        await conn.execute(text(_FILL), given)
    await engine.dispose()


async def test_ten_thousand_runs_are_paged(stack: Stack, many: None) -> None:
    """Pages follow each other without a run twice, and every status has its word on the first."""
    first = (await stack("GET", "/ui/runs", as_=("globex", "viewer"))).text
    assert [mark.word for mark in RUN_MARKS.values() if f"<span>{mark.word}</span>" not in first] == []
    seen: list[str] = []
    address = "/ui/runs"
    for _ in range(3):
        page = (await stack("GET", address, as_=("globex", "viewer"))).text
        seen += re.findall(r'data-key="([0-9a-f-]{36})"', page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        assert following is not None
        address = following[1].replace("&amp;", "&")
    assert len(seen) == len(set(seen)) == 150


async def test_runs_are_narrowed_and_the_view_is_kept(look: Looking, many: None) -> None:
    """By status, plan and who started them; the address is the view, and this browser may keep it."""
    async with look("/ui/runs", as_=("globex", "operator"), dark=True, width=390) as page:
        await fits(page)
        await accessible(page)
        await shot(page, "runs-phone")
        await page.get_by_label("Status").select_option(label="Failed")
        await page.wait_for_url("**status=FAILED**")
        await page.get_by_label("Plan or run id").fill("many 3")
        await page.get_by_role("button", name="Search").click()
        await page.wait_for_url("**many+3**")
        assert set(await page.locator("tbody .badge").all_inner_texts()) == {"Failed"}
        assert set(await page.locator("tbody .row-link").all_inner_texts()) == {"many 3"}
        await page.get_by_role("button", name="Keep this view").click()
        await page.goto("/ui/runs")
        await page.get_by_role("link", name="many 3, Failed").click()
        await page.wait_for_url("**many+3**")
        await page.get_by_role("button", name="Forget this view").click()
        await expect(page.get_by_role("link", name="many 3, Failed")).to_have_count(0)


async def test_the_overview_counts_what_ended(look: Looking, many: None) -> None:
    """The bars say in words how many runs ended how; each range has its own."""
    async with look("/ui/?range=week", as_=("globex", "operator")) as page:
        chart = page.locator("svg.chart")
        label = await chart.get_attribute("aria-label") or ""
        counts = [int(one) for one in re.findall(r"\d+", label)]
        assert len(counts) == 3
        assert all(count > 900 for count in counts)
        newest = page.locator("[data-live=newest] .table")
        assert await newest.evaluate("one => one.scrollWidth <= one.clientWidth"), "all columns are seen"
        await accessible(page)
        await shot(page, "overview")


async def test_a_list_says_that_it_may_be_old(stack: Stack, look: Looking) -> None:
    """While the server is away; what was missed is there as soon as it is back."""
    async with look(None) as page:
        await page.route("**/ui/live/**", lambda route: route.abort())
        await page.goto("/ui/runs")
        await expect(page.locator("#away")).to_be_visible()
        await accessible(page, contrast=True)
        run = await stack.execute({"name": "meanwhile", "nodes": [{"nodeId": "a", "type": "noop"}]})
        await page.unroute("**/ui/live/**")
        await expect(page.locator("#away")).to_be_hidden()
        await expect(page.locator(f"[data-key='{run}']")).to_be_visible()


async def test_labels_are_found(stack: Stack) -> None:
    """By the text or by the JSON value that it is, all of them; the same in REST and on the page."""
    plan = {"name": "labelled", "nodes": [{"nodeId": "a", "type": "noop"}]}
    run = await stack.execute(plan, metadata={"team": "payments", "urgent": True, "build": 7})
    for query in ("team=payments", "urgent=true", "build=7"):
        found = (await stack("GET", f"/orchestrator/runs?label={query}")).json()["items"]
        assert [one["runId"] for one in found] == [run]
    assert run in (await stack("GET", "/ui/runs?label=team=payments,build=7")).text
    assert run not in (await stack("GET", "/ui/runs?label=team=payments,build=8")).text
    assert (await stack("GET", f"/ui/runs?q={run}")).headers["location"] == f"/ui/runs/{run}"
    assert (await stack("GET", "/orchestrator/runs?label=nothing")).status_code == 422


async def test_many_runs_are_paused_and_cancelled_at_once(stack: Stack, look: Looking) -> None:
    """A run that begins appears by itself; what was chosen stays chosen, and is asked about before it is cancelled."""
    async with look("/ui/runs?q=waits") as page:
        runs = [await stack.execute(WAITS) for _ in range(2)]
        for run in runs:
            await page.locator(f"[data-tick='{run}']").check()
        await page.locator("[data-bulk]").get_by_role("button", name="Pause").click()
        for run in runs:
            await expect(page.locator(f"[data-key='{run}'] .badge")).to_have_text("Paused")
            await page.locator(f"[data-tick='{run}']").check()
        await page.locator("[data-bulk]").get_by_role("button", name="Cancel").click()
        await accessible(page)
        await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        for run in runs:
            await expect(page.locator(f"[data-key='{run}'] .badge")).to_have_text("Cancelled")
